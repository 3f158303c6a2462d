// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestDriver runs the tests of nbd/kernel in a guest, whose kernel has the
// driver.
func TestDriver(t *testing.T) {
	l := New(t, bin)
	g := l.Boot("g", 256, "nbd")
	cmd := exec.Command("go", "test", "-c", "-o", filepath.Join(g.Dir, "kernel.test"), "rsio/nbd/kernel")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, code := g.Start("mkdir -p /tmp/t && cd /tmp/t && TMPDIR=/tmp/t /host/kernel.test -test.v -test.timeout 100s").Wait(2 * time.Minute)
	if code != 0 || strings.Contains(out, "NOT CHECKED") || strings.Count(out, "--- PASS: TestReal") < 6 {
		t.Errorf("exit code %d\n%s\n%s", code, out, g.console())
	}
	t.Log(out)
}
