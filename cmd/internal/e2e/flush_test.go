// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"rsio/rsio/block"
	"rsio/rsio/blocktest"
	"rsio/rsio/layer/trace"
)

// TestP2_LoopFlush: a flush of a loop device reaches the volume as a flush,
// after the write it is for, and what it covered survives kill -9 of all.
func TestP2_LoopFlush(t *testing.T) {
	needFUSE(t)
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		blocktest.NotChecked(t, "the kernel has no loop devices")
	}
	l := NewLab(t, binDir)
	p := l.filePair()
	log := l.Path("trace")
	p.Ctl(p.Sock, "volume", "create", "v", "--size", "16M", "--layer", "trace:"+log)
	f, err := os.OpenFile(p.attachAs("v", "--loop"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	flushes := func() (after int) { // flushes after the last write
		entries, err := trace.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			switch e.Op {
			case block.OpWrite:
				after = 0
			case block.OpFlush:
				after++
			}
		}
		return after
	}
	want := bytes.Repeat([]byte{0xa5}, 1<<20)
	if _, err := f.WriteAt(want, 4<<20); err != nil { // into the page cache of the loop device
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if flushes() == 0 {
		t.Error("fsync of the loop device reached the volume as no flush")
	}
	p.Target.Kill()
	p.Initiator.Kill()
	p.Target.Start()
	p.Initiator.Start()
	got := pages(len(want))
	c, err := os.OpenFile(f.Name(), os.O_RDONLY|syscall.O_DIRECT, 0)
	if err == nil {
		_, err = c.ReadAt(got, 4<<20)
	}
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("after kill -9 of both: %v", err)
	}
	_, _ = c.Close(), f.Close()
	p.WaitPaths(2)
	p.Eventually("the device can be detached", func() bool { _, err := p.CtlTry(p.Sock, "detach", "v"); return err == nil })
}

// TestP13_FileFio: fio's own verification with O_DIRECT at depth 32, over kill
// -9 of both daemons.
func TestP13_FileFio(t *testing.T) {
	needFUSE(t)
	need(t, "fio")
	l := NewLab(t, binDir)
	p := l.filePair()
	p.Ctl(p.Sock, "volume", "create", "v", "--size", "64M")
	file := p.attachAs("v", "--fuse")
	cmd := exec.Command("fio", "--name=v", "--filename="+file, "--ioengine=libaio", "--direct=1", "--iodepth=32", "--rw=randwrite", "--bs=4k",
		"--size=64M", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--rate=40m", "--output-format=terse")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	for range 2 {
		time.Sleep(400 * time.Millisecond)
		p.Target.Kill()
		p.Target.Start()
		time.Sleep(400 * time.Millisecond)
		p.Initiator.Kill()
		p.Initiator.Start()
	}
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("fio: %v\n%s", err, out.Bytes())
		}
	case <-time.After(60 * time.Second):
		_ = cmd.Process.Kill()
		<-done
		t.Errorf("fio does not end\n%s", out.Bytes())
	}
}

// pages allocates n bytes for O_DIRECT.
func pages(n int) []byte {
	b := make([]byte, n+4096)
	skip := -uintptr(unsafe.Pointer(unsafe.SliceData(b))) % 4096
	return b[skip : skip+uintptr(n)]
}
