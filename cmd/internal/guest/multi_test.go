// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"testing"
	"time"
)

// TestP3_SeveralConnections: a kernel device with four connections in a guest
// with two CPUs. The network is gone for a minute under load: no error, and no
// late write. The kernel loses patience with its connections meanwhile and
// sends requests again.
func TestP3_SeveralConnections(t *testing.T) {
	l := New(t, bin)
	l.Target("v=128M")
	start := time.Now()
	g := l.BootQEMU("h1", 640, 2, "nbd")
	t.Logf("up after %.1f s", time.Since(start).Seconds())
	g.Initiator()
	dev := g.Ctl("attach v --nbd --connections 4")
	t.Logf("%s", g.Sh("nproc; ls /sys/block/nbd0/mq | wc -l; cat /sys/block/nbd0/queue/io_timeout"))
	soak := g.Soak("--file " + dev + " --workers 16 --report-stall 300ms")
	time.Sleep(5 * time.Second)
	soak.Worst()
	g.Cut(0)
	g.Cut(1)
	time.Sleep(60 * time.Second)
	g.Heal(0)
	g.Heal(1)
	time.Sleep(5 * time.Second)
	t.Logf("network gone for 60 s: longest stall %d ms", soak.Worst())
	g.Signal("KILL")
	g.Initiator()
	time.Sleep(5 * time.Second)
	t.Logf("initiator killed: longest stall %d ms", soak.Worst())
	r := soak.Stop()
	t.Logf("%d operations, %d blocks verified", r.Ops, r.Verified)
	g.Ctl("detach " + dev)
	t.Logf("%s", g.Sh("dmesg | grep -i nbd | tail -30; dmesg | grep -c 'Possible stuck' || true; dmesg | grep -c 'timed out' || true"))
}
