// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rsio/rsio/layer/trace"
)

// cluster configures OCFS2's own cluster stack, o2cb, in a guest: the nodes and
// short timeouts, through configfs (Documentation/filesystems/ocfs2 and
// fs/ocfs2/cluster of the kernel). Node n has the guest address n in the first
// network.
func (g *Guest) cluster(nodes ...*Guest) {
	g.l.T.Helper()
	var b strings.Builder
	b.WriteString("set -e\necho 0 > /proc/sys/kernel/panic\nC=/sys/kernel/config/cluster/rsio; mkdir -p $C\n")
	for _, n := range nodes {
		fmt.Fprintf(&b, "N=$C/node/%s; mkdir $N; echo 7777 > $N/ipv4_port; echo %s > $N/ipv4_address; echo %d > $N/num\n", n.Name, guestAddr(0, n.N), n.N)
	}
	fmt.Fprintf(&b, "echo 1 > $C/node/%s/local\n", g.Name)
	// A node is dead after 5 beats of 2 s that others do not see.
	b.WriteString("echo 5 > $C/heartbeat/dead_threshold\necho 8000 > $C/idle_timeout_ms\necho 1500 > $C/keepalive_delay_ms\necho 1000 > $C/reconnect_delay_ms\n")
	b.WriteString("echo o2cb > /sys/fs/ocfs2/cluster_stack\n")
	g.Sh(b.String())
}

// TestP4_ClusterFS: two guests with OCFS2 on one volume, each under its own
// nexus, both writing. One is fenced: its writes fail from then on, the other
// goes on, and the file system is clean.
func TestP4_ClusterFS(t *testing.T) {
	l := New(t, bin)
	l.Target()
	trail := l.Path("trace")
	l.Ctl(l.TargetSock(), "volume", "create", "shared", "--size", "300M", "--layer", "trace:"+trail)
	mods := []string{"nbd", "configfs", "ocfs2", "ocfs2_stackglue", "ocfs2_stack_o2cb", "ocfs2_dlm", "ocfs2_nodemanager"}
	guests := l.BootAll([]string{"h1", "h2"}, 256, mods...)
	a, b := guests[0], guests[1]
	for _, g := range []*Guest{a, b} {
		g.Initiator()
		if dev := g.Ctl("attach shared --nbd"); dev != "/dev/nbd0" {
			t.Fatalf("attached as %s", dev)
		}
		g.cluster(a, b)
	}
	t.Logf("%s", a.Sh("mkfs.ocfs2 --cluster-stack=o2cb --cluster-name=rsio --cluster-size=4K --fs-feature-level=max-compat -N 2 -L shared -J size=8M -x -F /dev/nbd0 76000 2>&1 | tail -5"))
	for _, g := range []*Guest{a, b} {
		start := time.Now()
		g.Sh("mkdir -p /mnt/s && mount -t ocfs2 -o noatime /dev/nbd0 /mnt/s || { dmesg | tail -30; exit 1; }")
		t.Logf("%s mounted after %.1f s", g.Name, time.Since(start).Seconds())
	}
	a.Sh("echo from-a > /mnt/s/a && sync")
	b.Sh("grep from-a /mnt/s/a && echo from-b > /mnt/s/b && sync")
	a.Sh("grep from-b /mnt/s/b")
	a.Ctl("reservation register shared")
	b.Ctl("reservation register shared")
	a.Ctl("reservation reserve shared --type wero")
	load := "--size 8M --workers 4 --blocks 32 --report-stall 1s"
	sa, sb := a.Soak("--file /mnt/s/load-a "+load), b.Soak("--file /mnt/s/load-b "+load)
	time.Sleep(6 * time.Second)
	if log := sb.hostLog(); strings.Contains(log, "error") {
		t.Errorf("before the fence: %s", log)
	}

	const write = "dd if=/dev/zero of=/dev/nbd0 bs=4096 count=1 seek=76799 oflag=direct" // behind the file system
	b.Sh(write)
	start := time.Now()
	a.Ctl("reservation preempt-abort shared --victim h2")
	answered := monotonic(t)
	t.Logf("fenced after %d ms, rsioctl in the guest included", time.Since(start).Milliseconds())
	if out, code := b.Try(write); code == 0 {
		t.Errorf("the victim can write to its device: %s", out)
	}
	l.Eventually("the victim's load gets errors", func() bool { return strings.Contains(sb.hostLog(), "error") })
	// The victim sees that its heartbeat fails and ends itself; the other sees
	// that it is gone, and recovers its journal.
	l.Eventually("the other recovers", func() bool {
		out, _ := a.Try("dmesg")
		return strings.Contains(out, "Begin replay journal") || strings.Contains(out, "ocfs2: Finishing") || strings.Contains(out, "End replay journal")
	})
	t.Logf("recovered after %.1f s", time.Since(start).Seconds())
	time.Sleep(3 * time.Second)
	r := sa.Stop()
	t.Logf("the other: %d operations, longest %.0f ms", r.Ops, r.WorstMS)
	b.Kill()
	if err := lateWrites(trail, "h2", answered); err != nil {
		t.Error(err)
	}
	a.Sh("test -s /mnt/s/b && umount /mnt/s")
	out := a.Sh("fsck.ocfs2 -fn /dev/nbd0 2>&1")
	if !strings.Contains(out, "All passes succeeded") {
		t.Errorf("fsck: %s", out)
	}
	a.Ctl("detach shared")
}

// hostLog reads the load's log without the guest, which may be dead.
func (s *Soak) hostLog() string {
	b, _ := os.ReadFile(filepath.Join(s.g.Dir, fmt.Sprintf("soak.%d.log", s.n))) // what there is
	return string(b)
}

// monotonic is the clock of the trace layer.
func monotonic(t *testing.T) time.Duration {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

// lateWrites returns an error if a nexus changed the volume after a point in
// time, or never before.
func lateWrites(log, nexus string, after time.Duration) error {
	entries, err := trace.ReadFile(log)
	if err != nil {
		return err
	}
	seen := 0
	for _, e := range entries {
		if !e.Op.Changes() || e.Nexus != nexus {
			continue
		}
		if seen++; e.Mono > after {
			return fmt.Errorf("P4: a change of %s %v after the answer: %v", nexus, e.Mono-after, e)
		}
	}
	if seen == 0 {
		return fmt.Errorf("the log has no write of %s: nothing was tested", nexus)
	}
	return nil
}
