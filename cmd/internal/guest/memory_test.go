// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"testing"
	"time"
)

// TestLittleMemory: a guest dirties several times the memory it has through its
// own initiator, by a kernel device and by a loop device on a file: writing back
// never waits for itself.
func TestLittleMemory(t *testing.T) {
	l := New(t, bin)
	l.Target("v=512M", "w=512M")
	g := l.Boot("h1", 128, "nbd", "ext4", "fuse", "loop")
	g.Initiator()
	t.Logf("%s", g.Sh("grep -E 'MemTotal|MemAvailable' /proc/meminfo; rsioctl --admin unix:/run/rsio/admin.sock doctor || true"))
	for _, row := range []struct{ desc, volume, how string }{
		{"a kernel device", "v", "--nbd"},
		{"a loop device", "w", "--loop"},
	} {
		dev := g.Ctl("attach " + row.volume + " " + row.how)
		start := time.Now()
		job := g.Start("mkfs.ext4 -q -E nodiscard,lazy_itable_init=1 " + dev + " && mkdir -p /mnt/" + row.volume + " && mount -t ext4 " + dev + " /mnt/" + row.volume +
			" && cd /mnt/" + row.volume + " && for i in 1 2 3; do dd if=/dev/zero of=f$i bs=1M count=110 2>/dev/null || exit 1; done && sync && cd / && umount /mnt/" + row.volume + " && e2fsck -fn " + dev)
		out, code := job.Wait(2 * time.Minute)
		if code != 0 {
			t.Fatalf("%s: exit code %d: %s\n%s", row.desc, code, out, g.console())
		}
		t.Logf("330 MiB through %s in %.1f s", row.desc, time.Since(start).Seconds())
		g.Ctl("detach " + dev)
	}
	if out := g.Sh("dmesg"); containsAny(out, "Out of memory", "hung_task", "blocked for more than", "page allocation failure") {
		t.Errorf("%s", out)
	}
}
