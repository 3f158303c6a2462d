// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"rsio/cmd/internal/e2e"
)

// bin holds the programs under test.
var bin string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, done, err := e2e.Programs()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer done()
	bin = dir
	return m.Run()
}

// TestGuest: what the other tests take for granted.
func TestGuest(t *testing.T) {
	l := New(t, bin)
	g := l.Boot("g", 192, "nbd", "fuse", "loop")
	out := g.Sh("ping -c 1 -W 5 " + Addr(0) + " && ping -c 1 -W 5 " + Addr(1) + " && rsioctl version && ls -d /sys/module/nbd /sys/module/fuse")
	if !strings.Contains(out, "/sys/module/nbd") {
		t.Errorf("%s", out)
	}
	t.Logf("uptime when it was ready %s s, memory %d MiB", strings.TrimSpace(g.Sh("cat /host/up")), g.PSS()>>20)
	if out, code := g.Try("echo no; exit 7"); code != 7 || out != "no\n" {
		t.Errorf("exit code %d, %q", code, out)
	}
}

func containsAny(s string, words ...string) bool {
	for _, w := range words {
		if strings.Contains(s, w) {
			return true
		}
	}
	return false
}
