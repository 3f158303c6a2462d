// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"rsio/rsio/blocktest"
)

// binDir holds the programs under test: RSIO_BIN, or a build of this tree.
var binDir string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	binDir = os.Getenv("RSIO_BIN")
	if binDir == "" {
		dir, err := os.MkdirTemp("", "rsio-bin-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer func() { _ = os.RemoveAll(dir) }()
		args := []string{"build", "-o", dir}
		if os.Getenv("RSIO_RACE") != "" {
			args = append(args, "-race")
		}
		cmd := exec.Command("go", append(args, "rsio/cmd/...")...)
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		if err := cmd.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "build:", err)
			return 1
		}
		binDir = dir
	}
	var err error
	if binDir, err = filepath.Abs(binDir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
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
