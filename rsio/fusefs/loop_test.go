// SPDX-License-Identifier: Apache-2.0

package fusefs

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"rsio/rsio/block"
	"rsio/rsio/blocktest"
)

// loop makes a loop device of a file; it is taken away when the test ends.
func loop(t *testing.T, path string, sector int) string {
	t.Helper()
	out, err := try(t, "losetup", "-f", "--show", "--direct-io=on", "--sector-size", strconv.Itoa(sector), path)
	if err != nil {
		t.Fatalf("losetup: %v: %s", err, out)
	}
	dev := strings.TrimSpace(out)
	t.Cleanup(func() {
		run(t, "losetup", "-d", dev)
	})
	return dev
}

// mounted mounts a file system and unmounts it when the test ends at the
// latest.
func mounted(t *testing.T, kind, dev string) (dir string, done func()) {
	t.Helper()
	dir = t.TempDir()
	if err := unix.Mount(dev, dir, kind, 0, ""); err != nil {
		t.Fatalf("mount %s: %v", kind, err)
	}
	up := true
	done = func() {
		if up {
			up = false
			if err := unix.Unmount(dir, 0); err != nil {
				t.Error(err)
				_ = unix.Unmount(dir, unix.MNT_DETACH) // for what comes after
			}
		}
	}
	t.Cleanup(done)
	return dir, done
}

// TestLoop: what a loop device and a file system on it ask for arrives.
func TestLoop(t *testing.T) {
	r := newRig(t, Options{})
	need(t, "losetup", "mkfs.ext4", "e2fsck", "fstrim")
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		blocktest.NotChecked(t, "no loop devices here: "+err.Error())
	}
	d := &counter{Device: memory(t, 64<<20, 4096)}
	path := r.add("vol", d)
	dev := loop(t, path, 512) // smaller than the device's blocks
	if out := run(t, "losetup", "-n", "-O", "DIO", dev); strings.TrimSpace(out) != "1" {
		t.Errorf("O_DIRECT of the loop device: %q", out)
	}
	run(t, "mkfs.ext4", "-q", "-E", "nodiscard", dev)
	dir, umount := mounted(t, "ext4", dev)
	run(t, "cp", "-r", ".", dir)
	before := d.count(block.OpFlush)
	f, err := os.Create(filepath.Join(dir, "file"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(make([]byte, 8<<20)); err != nil {
		t.Error(err)
	}
	if err := f.Sync(); err != nil {
		t.Error(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if n := d.count(block.OpFlush) - before; n == 0 {
		t.Error("fsync of a file on a loop device is no flush of the volume")
	}
	if err := os.Remove(f.Name()); err != nil {
		t.Error(err)
	}
	run(t, "sync", "-f", dir)
	before = d.count(block.OpDiscard)
	run(t, "fstrim", dir)
	if n := d.count(block.OpDiscard) - before; n == 0 {
		t.Error("fstrim is no discard of the volume")
	}
	umount()
	run(t, "e2fsck", "-fn", dev)
	before = d.count(block.OpWriteZeroes)
	run(t, "fallocate", "-z", "-o", "0", "-l", "1M", dev)
	if n := d.count(block.OpWriteZeroes) - before; n == 0 {
		t.Error("zeroes for a loop device are no zeroes for the volume")
	}
	// The volume grows under the loop device.
	if err := d.Device.(interface{ Resize(uint64) error }).Resize(96 << 20); err != nil {
		t.Fatal(err)
	}
	r.fs.Resized("default", "vol")
	run(t, "losetup", "-c", dev)
	if out := run(t, "blockdev", "--getsize64", dev); strings.TrimSpace(out) != strconv.Itoa(96<<20) {
		t.Errorf("the loop device after growth: %s", out)
	}
	if out, err := exec.Command("dd", "if="+dev, "of=/dev/null", "bs=1M", "skip=95", "count=1", "iflag=direct", "status=none").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// TestFilesystems: others than ext4.
func TestFilesystems(t *testing.T) {
	r := newRig(t, Options{})
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		blocktest.NotChecked(t, "no loop devices here: "+err.Error())
	}
	for _, row := range []struct {
		kind  string
		mkfs  []string
		check []string
	}{
		{"xfs", []string{"mkfs.xfs", "-q", "-f"}, []string{"xfs_repair", "-n"}},
		{"btrfs", []string{"mkfs.btrfs", "-q", "-f"}, []string{"btrfs", "check", "--readonly"}},
	} {
		t.Run(row.kind, func(t *testing.T) {
			need(t, "losetup", row.mkfs[0], row.check[0])
			dev := loop(t, r.add(row.kind, memory(t, 400<<20, 4096)), 4096)
			t.Cleanup(func() { _ = r.fs.Remove(ctx(t), "default", row.kind, true) }) // before the device is closed
			run(t, append(row.mkfs, dev)...)
			dir, umount := mounted(t, row.kind, dev)
			run(t, "cp", "-r", ".", dir)
			run(t, "dd", "if=/dev/urandom", "of="+filepath.Join(dir, "file"), "bs=1M", "count=32", "conv=fsync", "status=none")
			sum := run(t, "md5sum", filepath.Join(dir, "file"))
			umount()
			run(t, append(row.check, dev)...)
			dir, umount = mounted(t, row.kind, dev)
			if again := run(t, "md5sum", filepath.Join(dir, "file")); strings.Fields(again)[0] != strings.Fields(sum)[0] {
				t.Errorf("%s, then %s", sum, again)
			}
			umount()
		})
	}
}

// TestFioVerify: what fio wrote it reads, at depth 32 through libaio.
func TestFioVerify(t *testing.T) {
	r := newRig(t, Options{})
	need(t, "fio")
	for _, bs := range []uint32{1, 4096} {
		name := "vol" + strconv.Itoa(int(bs))
		path := r.add(name, memory(t, 32<<20, bs))
		for _, kind := range [][]string{
			{"--bs=4k", "--size=8m"},
			{"--bs=512", "--size=1m"},
			{"--bs=1000", "--direct=0", "--size=1000000"}, // parts of blocks
			{"--bsrange=4k-128k", "--serialize_overlap=1", "--size=8m"},
		} {
			run(t, append([]string{"fio", "--name=x", "--filename=" + path, "--direct=1", "--ioengine=libaio", "--iodepth=32", "--rw=randwrite",
				"--verify=crc32c", "--verify_fatal=1", "--do_verify=1"}, kind...)...)
		}
		r.remove(name)
	}
}
