// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Programs returns the directory of the programs under test: RSIO_BIN, or a
// build of this tree, statically linked unless RSIO_RACE is set, that done
// removes.
func Programs() (dir string, done func(), err error) {
	if dir = os.Getenv("RSIO_BIN"); dir != "" {
		dir, err = filepath.Abs(dir)
		return dir, func() {}, err
	}
	if dir, err = os.MkdirTemp("", "rsio-bin-"); err != nil {
		return "", nil, err
	}
	done = func() { _ = os.RemoveAll(dir) }
	args, env := []string{"build", "-o", dir}, "CGO_ENABLED=0"
	if os.Getenv("RSIO_RACE") != "" {
		args, env = append(args, "-race"), "CGO_ENABLED=1"
	}
	cmd := exec.Command("go", append(args, "rsio/cmd/...")...)
	cmd.Env = append(os.Environ(), env)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		done()
		return "", nil, fmt.Errorf("build: %w", err)
	}
	return dir, done, nil
}
