// SPDX-License-Identifier: Apache-2.0

package fusefs

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rsio/rsio/block"
	"rsio/rsio/layer/fault"
)

// TestRemove: an open file is not removed; a removed one is gone at once, and
// its name is free for another one.
func TestRemove(t *testing.T) {
	r := newRig(t, Options{})
	path := r.add("vol", memory(t, 1<<20, 512))
	var before, after unix.Stat_t
	if err := unix.Stat(path, &before); err != nil {
		t.Fatal(err)
	}
	child := exec.Command("sleep", "100")
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	child.Stdin = f
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	err = r.fs.Remove(ctx(t), "default", "vol", false)
	var inUse *InUseError
	if !errors.Is(err, ErrInUse) || !errors.As(err, &inUse) || len(inUse.Openers) != 1 || inUse.Openers[0].PID != uint32(os.Getpid()) {
		t.Errorf("open: %v", err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // it was killed
	r.remove("vol")
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the name is there: %v", err)
	}
	if _, err := os.Stat(filepath.Dir(path)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the namespace is there: %v", err)
	}
	if err := r.fs.Remove(ctx(t), "default", "vol", false); !errors.Is(err, ErrNotFound) {
		t.Errorf("twice: %v", err)
	}
	r.add("vol", memory(t, 2<<20, 512))
	if err := unix.Stat(path, &after); err != nil || after.Ino == before.Ino || after.Size != 2<<20 {
		t.Errorf("%v %d %d", err, after.Ino, after.Size)
	}
}

// TestRemoveForced: open handles are dead, those of a new file of the name are
// not, and nothing is in flight when Remove returns.
func TestRemoveForced(t *testing.T) {
	r := newRig(t, Options{})
	d := slow(t, memory(t, 1<<20, 512), fault.Rule{Op: block.OpRead, Do: fault.Delay, MinMS: 300, MaxMS: 301})
	path := r.add("vol", d)
	fd := open(t, path, unix.O_RDWR)
	read := make(chan error, 1)
	go func() {
		_, err := unix.Pread(fd, make([]byte, 512), 0)
		read <- err
	}()
	time.Sleep(50 * time.Millisecond)
	began := time.Now()
	if err := r.fs.Remove(ctx(t), "default", "vol", true); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(began); d < 150*time.Millisecond {
		t.Errorf("Remove returned after %v: a request was in flight", d)
	}
	if err := <-read; err != nil {
		t.Errorf("the request in flight: %v", err)
	}
	other := open(t, r.add("vol", memory(t, 2<<20, 512)), unix.O_RDWR)
	p := make([]byte, 512)
	for what, do := range map[string]func() error{
		"read":  func() error { _, err := unix.Pread(fd, p, 0); return err },
		"write": func() error { _, err := unix.Pwrite(fd, p, 0); return err },
		"fsync": func() error { return unix.Fsync(fd) },
		"punch": func() error {
			return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 512)
		},
		"seek": func() error { _, err := unix.Seek(fd, 0, unix.SEEK_DATA); return err },
	} {
		if err := do(); err != unix.EIO {
			t.Errorf("%s of a removed file: %v", what, err)
		}
	}
	if _, err := unix.Pwrite(other, p, 0); err != nil {
		t.Error(err)
	}
}

// TestHung: a device that does not answer holds up neither other files, nor
// the removal of its name, nor for ever the end of the mount.
func TestHung(t *testing.T) {
	r := newRig(t, Options{})
	need(t, "fio")
	d := slow(t, memory(t, 1<<20, 512), fault.Rule{Op: block.OpWrite, Do: fault.Hang})
	hung := r.add("hung", d)
	fd := open(t, hung, unix.O_RDWR)
	const stuck = 64
	ended := make(chan error, stuck)
	for i := range stuck {
		go func() {
			_, err := unix.Pwrite(fd, make([]byte, 512), int64(i*512))
			ended <- err
		}()
	}
	aio := exec.Command("fio", "--name=x", "--filename="+hung, "--direct=1", "--ioengine=libaio", "--rw=randwrite", "--bs=4k", "--iodepth=200", "--size=1m", "--time_based", "--runtime=60")
	if err := aio.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(700 * time.Millisecond)
	path := r.add("vol", memory(t, 1<<20, 512))
	run(t, "fio", "--name=x", "--filename="+path, "--direct=1", "--ioengine=libaio", "--rw=randrw", "--bs=4k", "--iodepth=32", "--size=1m", "--loops=4")
	if _, err := os.Stat(hung); err != nil {
		t.Error(err)
	}
	short, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if err := r.fs.Remove(short, "default", "hung", true); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Remove of a hung file: %v", err)
	}
	if _, err := os.Stat(hung); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its name: %v", err)
	}
	short, cancel = context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if err := r.fs.Unmount(short, true); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Unmount: %v", err)
	}
	for range stuck { // the kernel has let them go, though the device has their buffers
		select {
		case err := <-ended:
			if err == nil {
				t.Error("a write that hangs succeeded")
			}
		case <-time.After(patience):
			t.Fatal("a write is still waiting after the end of the mount")
		}
	}
	d.Set()
	d.Release()
	if err := r.fs.Remove(ctx(t), "default", "hung", true); err != nil && !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if err := r.fs.Unmount(ctx(t), true); err != nil && !errors.Is(err, ErrNotMounted) {
		t.Error(err)
	}
	_ = aio.Process.Kill()
	_ = aio.Wait() // it was killed, or failed
}

// TestResized: who has a file open sees that it has grown.
func TestResized(t *testing.T) {
	r := newRig(t, Options{})
	d := memory(t, 1<<20, 512)
	fd := open(t, r.add("vol", d), unix.O_RDWR)
	p := make([]byte, 512)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Size != 1<<20 {
		t.Fatal(st.Size, err)
	}
	if _, err := unix.Pwrite(fd, p, 1<<20); err != unix.ENOSPC {
		t.Error(err)
	}
	if err := d.Resize(3 << 20); err != nil {
		t.Fatal(err)
	}
	r.fs.Resized("default", "vol")
	if err := unix.Fstat(fd, &st); err != nil || st.Size != 3<<20 || st.Blocks != 3<<20/512 {
		t.Error(st.Size, st.Blocks, err)
	}
	if n, err := unix.Pwrite(fd, p, 3<<20-512); n != 512 || err != nil {
		t.Error(n, err)
	}
	if end, err := unix.Seek(fd, 0, unix.SEEK_END); end != 3<<20 || err != nil {
		t.Error(end, err)
	}
	r.fs.Resized("default", "nothing") // no such file: nothing to do
}

// TestInterrupt: a process that is killed during a request does not take the
// buffer away from the device.
func TestInterrupt(t *testing.T) {
	r := newRig(t, Options{})
	d := slow(t, memory(t, 1<<20, 512), fault.Rule{Op: block.OpWrite, Do: fault.Delay, MinMS: 400, MaxMS: 401})
	path := r.add("vol", d)
	input := filepath.Join(t.TempDir(), "in")
	if err := os.WriteFile(input, []byte(strings.Repeat("x", 64<<10)), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("dd", "if="+input, "of="+path, "bs=64k", "oflag=direct", "conv=notrunc", "status=none")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(150 * time.Millisecond)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	// Others use the buffers that are free meanwhile.
	other := open(t, r.add("other", memory(t, 1<<20, 512)), unix.O_RDWR)
	for i := range 200 {
		if _, err := unix.Pwrite(other, []byte(strings.Repeat("y", 64<<10)), int64(i%8)<<16); err != nil {
			t.Fatal(err)
		}
	}
	_ = cmd.Wait() // it was killed
	if err := r.fs.Remove(ctx(t), "default", "vol", false); err != nil {
		t.Fatal(err)
	}
	fd := open(t, r.add("vol", d), unix.O_RDONLY)
	p := make([]byte, 64<<10)
	if n, err := unix.Pread(fd, p, 0); n != len(p) || err != nil || strings.Trim(string(p), "x") != "" {
		t.Errorf("%d %v: not what was written", n, err)
	}
}
