// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"strings"
	"testing"
	"time"
)

// TestP13_Kernel: one guest with ext4 on a kernel device under verified load.
// Daemons die and come back, paths are cut, the volume grows: no error.
func TestP13_Kernel(t *testing.T) {
	l := New(t, bin)
	target := l.Target("v=256M")
	g := l.Boot("h1", 256, "nbd", "ext4")
	g.Initiator()
	dev := g.Ctl("attach v --nbd")
	if dev != "/dev/nbd0" || g.Ctl("attach v --nbd") != dev {
		t.Fatalf("attached as %q", dev)
	}
	t.Logf("%s", g.Sh("cd /sys/block/nbd0; echo size $(cat size) ro $(cat ro) fua $(cat queue/fua) cache $(cat queue/write_cache) discard $(cat queue/discard_max_bytes) block $(cat queue/logical_block_size) timer $(cat queue/io_timeout); cat backend; ls -l /dev/rsio/default/v"))
	g.Sh("mkfs.ext4 -q -E nodiscard,lazy_itable_init=1 /dev/nbd0 && mkdir -p /mnt/v && mount -t ext4 /dev/nbd0 /mnt/v")
	soak := g.Soak("--file /mnt/v/data --size 32M --workers 16 --report-stall 200ms")
	for _, step := range []struct {
		what string
		do   func()
	}{
		{"target killed, back after 1 s", func() { target.Kill(); time.Sleep(time.Second); target.Start() }},
		{"one path cut for 2 s", func() { g.Cut(0); time.Sleep(2 * time.Second); g.Heal(0) }},
		{"both paths cut for 20 s", func() {
			g.Cut(0)
			g.Cut(1)
			time.Sleep(20 * time.Second)
			g.Heal(0)
			g.Heal(1)
		}},
		{"initiator killed", func() { g.Signal("KILL"); g.Initiator() }},
		{"initiator upgraded", func() { g.Signal("TERM"); g.Initiator() }},
		{"volume grown", func() {
			g.Ctl("volume resize v --size 384M")
			g.Sh("for i in $(seq 200); do [ $(cat /sys/block/nbd0/size) = 786432 ] && break; usleep 50000; done; [ $(cat /sys/block/nbd0/size) = 786432 ] && resize2fs /dev/nbd0 && [ $(df -k /mnt/v | awk 'END{print $2}') -gt 300000 ]")
		}},
	} {
		time.Sleep(time.Second)
		soak.Worst()
		step.do()
		time.Sleep(3 * time.Second)
		t.Logf("%s: longest stall %d ms", step.what, soak.Worst())
	}
	r := soak.Stop()
	t.Logf("%d operations, %d blocks verified, longest %.0f ms", r.Ops, r.Verified, r.WorstMS)
	g.Ctl("attach v --nbd --owner box --mode 0640")
	if out := strings.TrimSpace(g.Sh("stat -c '%U %G %a' /dev/nbd0")); out != "box box 640" {
		t.Errorf("owner and mode: %s", out)
	}
	if out, code := g.Try("rsioctl --admin unix:/run/rsio/admin.sock detach v"); code != 4 || !strings.Contains(out, "mounted on /mnt/v") {
		t.Errorf("detach of a mounted device: %d, %s", code, out)
	}
	g.Sh("umount /mnt/v && e2fsck -fn /dev/nbd0")
	g.Ctl("detach /dev/nbd0")
	if out := g.Sh("cat /sys/block/nbd0/size; ls /dev/rsio/default/v 2>&1 || true; dmesg | tail -20"); !strings.HasPrefix(out, "0\n") {
		t.Errorf("after detach: %s", out)
	}
}
