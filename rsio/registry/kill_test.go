// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

const childEnv = "RSIO_REGISTRY_CHILD"

// TestKill kills a process that changes the registry all the time: what it
// had acknowledged is there afterwards.
func TestKill(t *testing.T) {
	if dir := os.Getenv(childEnv); dir != "" {
		child(t, dir)
		return
	}
	dir := t.TempDir()
	acked, gen := 0, uint64(0)
	for round := range 12 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKill$")
		cmd.Env = append(os.Environ(), childEnv+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		timer := time.AfterFunc(time.Duration(30+17*round)*time.Millisecond, func() { _ = cmd.Process.Kill() })
		for s := bufio.NewScanner(out); s.Scan(); {
			if n, ok := strings.CutPrefix(s.Text(), "acked "); ok {
				if acked, err = strconv.Atoi(n); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait() // it was killed
		timer.Stop()
		r, err := Open(dir)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		n := len(r.List())
		if n < acked || n > acked+1 || r.Generation() < gen {
			t.Fatalf("round %d: %d volumes, %d acknowledged; generation %d after %d", round, n, acked, r.Generation(), gen)
		}
		gen, acked = r.Generation(), n
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if acked < 5 {
		t.Fatalf("only %d changes: the test tested nothing", acked)
	}
}

func child(t *testing.T, dir string) {
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	for n := len(r.List()); ; n++ {
		if err := r.Create(Volume{Namespace: "a", Name: fmt.Sprint("v", n)}); err != nil {
			t.Fatal(err)
		}
		fmt.Printf("acked %d\n", n+1)
	}
}
