// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"strings"
	"testing"
	"time"
)

// TestP4_Kernel: writes in the queue of a kernel device whose nexus is fenced
// meanwhile never land, though everybody may write again: the initiator is
// frozen, or dead and a successor starts.
func TestP4_Kernel(t *testing.T) {
	l := New(t, bin)
	l.Target()
	trail := l.Path("trace")
	host := func(args ...string) string { t.Helper(); return l.Ctl(l.TargetSock(), args...) }
	host("volume", "create", "shared", "--size", "32M", "--layer", "trace:"+trail)
	g := l.Boot("h1", 192, "nbd")
	g.Initiator()
	g.Ctl("attach shared --nbd")
	const write = "dd if=/dev/zero of=/dev/nbd0 bs=4096 count=1 seek=%d oflag=direct 2>/dev/null"
	one := strings.ReplaceAll(write, "%d", "100")
	for _, row := range []struct {
		desc      string
		stop, run func()
	}{
		{"initiator frozen", func() { g.Sh("kill -STOP $(cat /run/initiator.pid)") }, func() { g.Sh("kill -CONT $(cat /run/initiator.pid)") }},
		{"initiator killed", func() { g.Signal("KILL") }, func() { g.Initiator() }},
	} {
		g.Ctl("pr register shared")
		g.Ctl("pr reserve shared --type wero")
		host("pr", "register", "shared", "--as", "h2")
		g.Sh("for i in $(seq 100); do " + one + " && exit 0; usleep 100000; done; exit 1")
		row.stop()
		job := g.Start("for i in $(seq 16); do (" + strings.ReplaceAll(write, "%d", "$i") + " || echo fenced) & done; wait")
		time.Sleep(2 * time.Second) // they are in the queue
		host("pr", "preempt-abort", "shared", "--as", "h2", "--victim", "h1")
		answered := monotonic(t)
		host("pr", "clear", "shared", "--as", "h2") // everybody may write again
		row.run()
		out, code := job.Wait(time.Minute)
		if code != 0 || strings.Count(out, "fenced") != 16 {
			t.Errorf("%s: exit code %d, want 16 times fenced:\n%s", row.desc, code, out)
		}
		if err := lateWrites(trail, "h1", answered); err != nil {
			t.Errorf("%s: %v", row.desc, err)
		}
		start := time.Now()
		g.Sh("for i in $(seq 100); do " + one + " && exit 0; usleep 100000; done; exit 1")
		t.Logf("%s: writes again after %d ms", row.desc, time.Since(start).Milliseconds())
	}
	g.Ctl("detach shared")
}
