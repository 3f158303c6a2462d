// SPDX-License-Identifier: Apache-2.0

package blocktest

import (
	"fmt"
	"os"
	"testing"
)

// NotChecked ends a test that cannot run here, and says so where it is seen:
// on stderr, and in the file that RSIO_NOT_CHECKED names, which `make test`
// prints at its end (go test shows nothing of a package that passes).
func NotChecked(t testing.TB, why string) {
	t.Helper()
	line := fmt.Sprintf("NOT CHECKED: %s: %s\n", t.Name(), why)
	fmt.Fprint(os.Stderr, line)
	if path := os.Getenv("RSIO_NOT_CHECKED"); path != "" {
		f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(line); err != nil {
			t.Error(err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	t.SkipNow()
}

// Missing ends a test that lacks a program: as a failure where the program
// could have been installed (root), unless RSIO_ALLOW_MISSING is set, else with
// NotChecked.
func Missing(t testing.TB, what string) {
	t.Helper()
	if os.Geteuid() == 0 && os.Getenv("RSIO_ALLOW_MISSING") == "" {
		t.Fatalf("%s needs %s", t.Name(), what)
	}
	NotChecked(t, "it needs "+what)
}
