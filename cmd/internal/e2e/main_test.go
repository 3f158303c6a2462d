// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"rsio/rsio/blocktest"
)

// binDir holds the programs under test: RSIO_BIN, or a build of this tree.
var binDir string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, done, err := Programs()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer done()
	binDir = dir
	return m.Run()
}

// rounds returns how often a fault is repeated: few times in CI, RSIO_ROUNDS in
// a soak.
func rounds(ci int) int {
	if n, err := strconv.Atoi(os.Getenv("RSIO_ROUNDS")); err == nil && n > 0 {
		return n
	}
	return ci
}

// need ends the test if a program is missing.
func need(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			blocktest.Missing(t, "program "+p+" (make deps installs it)")
		}
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		blocktest.NotChecked(t, "it needs root, for network namespaces and mounts")
	}
}
