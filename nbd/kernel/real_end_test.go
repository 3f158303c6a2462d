// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"errors"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rsio/nbd/client"
	"rsio/rsio/block"
)

// freezer is a device that keeps writes until it thaws.
type freezer struct {
	block.Device
	mu   sync.Mutex
	on   bool
	held []*block.Request
}

func (f *freezer) Submit(r *block.Request) {
	f.mu.Lock()
	hold := f.on && r.Op == block.OpWrite
	if hold {
		f.held = append(f.held, r)
	}
	f.mu.Unlock()
	if !hold {
		f.Device.Submit(r)
	}
}

func (f *freezer) set(on bool) {
	f.mu.Lock()
	list := f.held
	f.on, f.held = on, nil
	f.mu.Unlock()
	for _, r := range list {
		f.Device.Submit(r)
	}
}

// freeze puts a freezer under r's server, of a device that no request was sent
// to yet.
func (r *rig) freeze() *freezer {
	f := &freezer{Device: r.dev.Device, on: true}
	r.dev.Device = f
	r.t.Cleanup(func() { f.set(false) }) // before the server is stopped
	return f
}

// flood starts writes of 64 KiB that do not end, and returns what waits for
// them.
func flood(t *testing.T, n, writes int) (wait func()) {
	t.Helper()
	f := open(t, n, os.O_RDWR|unix.O_DIRECT)
	var wg sync.WaitGroup
	for k := range writes {
		wg.Go(func() { _, _ = f.WriteAt(aligned(64<<10), int64(k)<<20) }) // fails or not, as the test has it
	}
	time.Sleep(500 * time.Millisecond)
	return func() {
		wg.Wait()
		_ = f.Close() // nothing of it counts
	}
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// TestRealHold: a device that nobody has open is empty at once, with an opener
// of ours that keeps others off too; somebody else's keeps it.
func TestRealHold(t *testing.T) {
	r := newRig(t)
	for range 2 {
		n := r.connect("hold")
		h := open(t, n, os.O_RDONLY|unix.O_EXCL)
		if f, err := os.OpenFile(Path(n), os.O_RDONLY|unix.O_EXCL, 0); !errors.Is(err, unix.EBUSY) {
			t.Errorf("another can hold it: %v", err)
			_ = f.Close()
		}
		if err := r.d.Disconnect(within(t, 10*time.Second), n, h); err != nil || Connected(n) || Size(n) != 0 {
			t.Errorf("%v, size %d", err, Size(n))
		}
		if err := h.Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("what held it is open: %v", err)
		}
	}
	n := r.connect("held")
	f := open(t, n, os.O_RDONLY)
	if err := r.d.Disconnect(within(t, 200*time.Millisecond), n, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a device that somebody has open: %v", err)
	}
	if _, err := f.ReadAt(make([]byte, 512), 32<<20); err == nil {
		t.Error("a disconnected device can be read")
	}
	_ = f.Close()
	if err := r.d.Disconnect(within(t, 10*time.Second), n, nil); err != nil || Connected(n) {
		t.Errorf("once more, when it is closed: %v", err)
	}
}

// TestRealFrozen: requests that the server has and does not answer fail at once.
func TestRealFrozen(t *testing.T) {
	r := newRig(t)
	r.freeze()
	n := r.connect("frozen")
	wait := flood(t, n, 2)
	start := time.Now()
	if err := r.d.Disconnect(within(t, time.Second), n, nil); !errors.Is(err, context.DeadlineExceeded) { // flood has it open
		t.Error(err)
	}
	wait()
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("they take %v to fail", took)
	}
	if err := r.d.Disconnect(within(t, 10*time.Second), n, nil); err != nil || Connected(n) {
		t.Errorf("once more: %v", err)
	}
}

// TestRealStuck: a server that does not read, and so much sent that the kernel
// waits for it. Disconnect is back when its time is over, and the device goes
// when the server ends the connection.
func TestRealStuck(t *testing.T) {
	r := newRig(t)
	r.stop()
	r.inflight = 2
	r.start()
	r.freeze()
	n := r.connect("stuck")
	wait := flood(t, n, 16)
	start := time.Now()
	err := r.d.Disconnect(within(t, time.Second), n, nil)
	if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || took > 5*time.Second {
		t.Errorf("after %v: %v", took, err)
	}
	r.stop()
	defer r.start()
	wait()
	if err := r.d.Disconnect(within(t, 10*time.Second), n, nil); err != nil || Connected(n) {
		t.Errorf("after the server's end: %v", err)
	}
}

// attach attaches a device by ioctl.
func (r *rig) attach() *Ioctl {
	r.t.Helper()
	c, info, err := client.Dial(r.t.Context(), r.socket, "v")
	if err != nil {
		r.t.Fatal(err)
	}
	d, err := AttachIoctl(within(r.t, 10*time.Second), c, info.Size, info.Flags, 512)
	if err != nil {
		r.t.Fatal(err)
	}
	return d
}

// TestRealIoctlStuck: the same for a device that was attached by ioctl.
func TestRealIoctlStuck(t *testing.T) {
	r := newRig(t)
	r.stop()
	r.inflight = 2
	r.start()
	r.freeze()
	d := r.attach()
	wait := flood(t, d.Index, 16)
	start := time.Now()
	err := d.Detach()
	t.Logf("detached in %v", time.Since(start))
	if took := time.Since(start); err != nil || took > 8*time.Second {
		t.Errorf("after %v: %v", took, err)
	}
	wait()
}

// TestRealIoctlDies: without its server the device's requests fail, and another
// can be attached.
func TestRealIoctlDies(t *testing.T) {
	r := newRig(t)
	d := r.attach()
	f := open(t, d.Index, os.O_RDWR|unix.O_DIRECT)
	r.stop()
	r.start()
	select {
	case <-d.Done():
	case <-time.After(10 * time.Second):
		t.Error("nobody is told")
	}
	if _, err := f.WriteAt(aligned(4096), 0); err == nil {
		t.Error("a write without a server succeeds")
	}
	_ = f.Close()
	if err := d.Detach(); err != nil {
		t.Error(err)
	}
	if err := r.attach().Detach(); err != nil {
		t.Errorf("another: %v", err)
	}
}

// TestRealIoctlFails leaves nothing behind.
func TestRealIoctlFails(t *testing.T) {
	r := newRig(t)
	was := runtime.NumGoroutine()
	for _, row := range []struct {
		desc      string
		blockSize uint32
		timeout   time.Duration
	}{{"wrong block size", 300, 10 * time.Second}, {"no time", 512, 0}} {
		c, info, err := client.Dial(t.Context(), r.socket, "v")
		if err != nil {
			t.Fatal(err)
		}
		if d, err := AttachIoctl(within(t, row.timeout), c, info.Size, info.Flags, row.blockSize); err == nil {
			t.Errorf("%s: attached as %d", row.desc, d.Index)
		}
	}
	for end := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > was && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	if n := runtime.NumGoroutine(); n > was {
		b := make([]byte, 64<<10)
		t.Errorf("%d goroutines, were %d\n%s", n, was, b[:runtime.Stack(b, true)])
	}
	if err := r.attach().Detach(); err != nil {
		t.Errorf("after them: %v", err)
	}
}

// TestRealIoctlSignals: the process may get signals.
func TestRealIoctlSignals(t *testing.T) {
	r := newRig(t)
	for range 4 {
		d := r.attach()
		f := open(t, d.Index, os.O_RDWR|unix.O_DIRECT)
		for range 100 {
			for _, s := range []unix.Signal{unix.SIGCHLD, unix.SIGWINCH, unix.SIGURG} {
				if err := unix.Kill(os.Getpid(), s); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(time.Millisecond)
		}
		if _, err := f.WriteAt(aligned(4096), 0); err != nil {
			t.Error(err)
		}
		_ = f.Close()
		if err := d.Detach(); err != nil {
			t.Error(err)
		}
	}
}
