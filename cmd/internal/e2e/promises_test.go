// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestP14_Shutdown ends daemons in an orderly way under load: what runs is
// finished and answered.
func TestP14_Shutdown(t *testing.T) {
	l := NewLab(t, binDir)
	p := l.NewPair(PairOptions{Portals: []string{"unix:" + l.Path("p1"), "unix:" + l.Path("p2")}})
	load := &Load{Network: "unix", Addr: p.Volume("v", "64M"), Export: "v", Workers: 16, Blocks: 16}
	load.Start()
	for range rounds(5) {
		time.Sleep(150 * time.Millisecond)
		if err := p.Target.Stop(); err != nil {
			t.Fatalf("the target ends with %v", err)
		}
		p.Target.Start()
		p.WaitPaths(2)
	}
	if err := load.Stop(); err != nil {
		t.Fatal(err)
	}
	load.Reconnect = true
	load.Start()
	for range rounds(5) {
		time.Sleep(150 * time.Millisecond)
		if err := p.Initiator.Stop(); err != nil {
			t.Fatalf("the initiator ends with %v", err)
		}
		p.Initiator.Start()
		p.WaitPaths(2)
	}
	if err := load.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := load.Verify(); err != nil {
		t.Fatal(err)
	}
}

// TestP8_NoPath takes all paths away for a while: I/O waits and goes on.
func TestP8_NoPath(t *testing.T) {
	l := NewLab(t, binDir)
	p := l.NewPair(PairOptions{Portals: []string{"unix:" + l.Path("p1"), "unix:" + l.Path("p2")}})
	load := &Load{Network: "unix", Addr: p.Volume("v", "64M"), Export: "v", Workers: 8, Blocks: 16}
	load.Start()
	for range rounds(2) {
		p.Ctl(p.Sock, "path", "disable", "st1/0")
		p.Ctl(p.Sock, "path", "disable", "st1/1")
		time.Sleep(1200 * time.Millisecond)
		if out := p.Ctl(p.Sock, "status"); !strings.Contains(out, "waits") {
			t.Errorf("status does not say that I/O waits:\n%s", out)
		}
		p.Ctl(p.Sock, "path", "enable", "st1/0")
		p.WaitPaths(1)
		before := load.Ops()
		l.Eventually("I/O goes on", func() bool { return load.Ops() > before+100 })
		p.Ctl(p.Sock, "path", "enable", "st1/1")
		p.WaitPaths(2)
	}
	if err := load.Stop(); err != nil {
		t.Fatal(err)
	}
}

// TestP9_Frozen freezes daemons and wakes them again.
func TestP9_Frozen(t *testing.T) {
	l := NewLab(t, binDir)
	p := l.NewPair(PairOptions{Portals: []string{"unix:" + l.Path("p1"), "unix:" + l.Path("p2")}})
	load := &Load{Network: "unix", Addr: p.Volume("v", "64M"), Export: "v", Workers: 8, Blocks: 16}
	load.Start()
	for r := range rounds(3) {
		for _, d := range []*Daemon{p.Target, p.Initiator} {
			time.Sleep(150 * time.Millisecond)
			d.Signal(syscall.SIGSTOP)
			time.Sleep(time.Duration(r+1) * 700 * time.Millisecond)
			d.Signal(syscall.SIGCONT)
			before := load.Ops()
			l.Eventually("I/O goes on", func() bool { return load.Ops() > before+100 || load.Failed() != nil })
		}
	}
	if err := load.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := load.Verify(); err != nil {
		t.Fatal(err)
	}
}

// TestP10_FullPool fills the file system of the pool: a clear error, what was
// written stays, and with room again writes go on.
func TestP10_FullPool(t *testing.T) {
	needRoot(t)
	l := NewLab(t, binDir)
	pool := l.Path("pool")
	if err := os.Mkdir(pool, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("rsio-test", pool, "tmpfs", 0, "size=8m"); err != nil {
		t.Fatalf("mount a small tmpfs: %v", err)
	}
	p := (*Pair)(nil)
	t.Cleanup(func() {
		if p != nil {
			p.Target.end()
		}
		if err := syscall.Unmount(pool, 0); err != nil {
			t.Error(err)
		}
	})
	p = l.NewPair(PairOptions{Portals: []string{"unix:" + l.Path("p1")}})
	sock := p.Volume("v", "64M")
	c, err := Dial("unix", sock, "v")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := make([]byte, stampLen)
	full := uint64(0)
	for blk := uint64(0); blk < 4096; blk++ {
		stamp(b, blk, 1, 0)
		err := c.Start(cmdWrite, 0, blk*stampLen, b).Wait()
		if err != nil {
			if code := ErrNBD(0); !errors.As(err, &code) || code != 28 {
				t.Fatalf("a full pool ends a write with %v, want ENOSPC", err)
			}
			full = blk
			break
		}
	}
	if full == 0 {
		t.Fatal("16 MiB fit into 8")
	}
	for blk := range full {
		if seq := readSeq(t, sock, "v", blk); seq != 1 {
			t.Fatalf("P10: block %d holds write %d after the pool was full", blk, seq)
		}
	}
	if out := p.Ctl(p.TargetSock, "events"); !strings.Contains(out, "full") {
		t.Errorf("no event says that the pool is full:\n%s", out)
	}
	if err := syscall.Mount("", pool, "", syscall.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
	stamp(b, full, 2, 0)
	if err := c.Start(cmdWrite, 0, full*stampLen, b).Wait(); err != nil {
		t.Errorf("with room again: %v", err)
	}
	if err := c.Start(cmdFlush, 0, 0, nil).Wait(); err != nil {
		t.Errorf("flush with room again: %v", err)
	}
}

// TestP12_ClaimedIdentity lets nobody in over a network who only claims to be
// somebody, unless --insecure says so.
func TestP12_ClaimedIdentity(t *testing.T) {
	needRoot(t)
	need(t, "ip", "nsenter")
	l := NewLab(t, binDir)
	n := l.NewNet(1)
	tsock := l.Path("t.sock")
	args := []string{"--data", l.Path("pool"), "--admin", "unix:" + tsock, "--name", "st1", "--listen", n.Remote(0) + ":8861"}
	target := l.Daemon("target", n.T, "rsio-target", args...)
	target.Start()
	i := l.Daemon("initiator", n.I, "rsio-initiator", "--run", l.Path("run"), "--name", "h1", "--target", "st1="+n.Remote(0))
	i.Start()
	sock := l.Path("run/admin.sock")
	l.Eventually("the refusal shows", func() bool {
		out, err := l.CtlTry(sock, "path", "list")
		return err == nil && strings.Contains(out, "--insecure")
	})
	l.Ctl(tsock, "volume", "create", "secret", "--size", "4M")
	out, err := l.CtlTry(sock, "attach", "secret")
	if err == nil || !strings.Contains(out, "claimed identity") {
		t.Errorf("attach without a proven identity: %v\n%s", err, out)
	}
	if out, err := l.CtlTry(sock, "volume", "list"); err == nil || strings.Contains(out, "secret") {
		t.Errorf("P12: a volume shows to a stranger: %v\n%s", err, out)
	}
	if out, err := l.Try(append([]string{l.bin + "/rsio-target", "--nbd", "192.0.2.1:10809"}, args...)...); err == nil || !strings.Contains(out, "--insecure") {
		t.Errorf("NBD for everybody without --insecure: %v\n%s", err, out)
	}
}
