// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
	"testing"
	"time"
)

// severalOutage is how long the network is gone: longer than the kernel has
// patience with a connection.
const severalOutage = 60 * time.Second

// TestP3_SeveralConnections: a kernel device with four connections in a guest
// with two CPUs, under verified load. The network is gone for a minute, and the
// initiator killed: no error, no lost and no late write. The kernel loses
// patience with its connections meanwhile and sends requests again.
func TestP3_SeveralConnections(t *testing.T) {
	l := New(t, bin)
	l.Target("v=16M")
	start := time.Now()
	g := l.BootQEMU("h1", 640, 2, "nbd")
	t.Logf("up after %.1f s", time.Since(start).Seconds())
	g.Initiator()
	dev := g.Ctl("attach v --nbd --connections 4")
	facts := strings.Fields(g.Sh("nproc; ls /sys/block/nbd0/mq | wc -l; cat /sys/block/nbd0/queue/io_timeout"))
	if len(facts) != 3 || facts[0] != "2" || facts[1] != "2" {
		t.Fatalf("CPUs, hardware queues and timer: %v", facts)
	}
	ms, err := strconv.Atoi(facts[2])
	if err != nil {
		t.Fatal(err)
	}
	timer := time.Duration(ms) * time.Millisecond
	soak := g.Soak("--file " + dev + " --workers 16 --blocks 32 --report-stall 300ms")
	time.Sleep(2 * time.Second)
	soak.Worst()

	g.Cut(0)
	g.Cut(1)
	time.Sleep(severalOutage)
	_, storm := g.resent(t)
	g.Heal(0)
	g.Heal(1)
	time.Sleep(4 * time.Second)
	worst := soak.Worst()
	resent, mended := g.resent(t)
	t.Logf("network gone for %v: longest stall %d ms; %d new connections meanwhile, %d until 4 s later", severalOutage, worst, storm, mended)
	if resent == 0 || mended == 0 {
		t.Errorf("the kernel's log tells of %d requests sent again: nothing was tested", resent)
	}

	g.Signal("KILL")
	took := g.Initiator()
	time.Sleep(timer + 2*time.Second) // the kernel sends again what was with the one that was killed
	worst = soak.Worst()
	_, again := g.resent(t)
	t.Logf("initiator killed, back after %v: longest stall %d ms at a timer of %v; %d new connections", took.Round(time.Millisecond), worst, timer, again-mended)
	r := soak.Stop()
	t.Logf("%d operations, %d blocks verified", r.Ops, r.Verified)
	g.compare(t, dev)
	g.Ctl("detach " + dev)
}

// resent counts in the kernel's log the requests that it sent again because
// they took too long (not all: it leaves out lines that come often), and the
// sockets it was given in place of dead ones.
func (g *Guest) resent(t *testing.T) (requests, sockets int) {
	t.Helper()
	log := g.Sh("dmesg | grep nbd0 || true")
	return strings.Count(log, "Connection timed out, retrying"), strings.Count(log, "reconnected socket")
}

// compare compares the guest's device with what the target has of volume v.
func (g *Guest) compare(t *testing.T, dev string) {
	t.Helper()
	image, err := g.l.CtlTry(g.l.TargetSock(), "volume", "export", "v", "-")
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(image))
	if here, there := strings.Fields(g.Sh("dd if=" + dev + " bs=1M iflag=direct 2>/dev/null | sha256sum"))[0], hex.EncodeToString(sum[:]); here != there {
		t.Errorf("the guest reads %s, the target has %s", here, there)
	}
}
