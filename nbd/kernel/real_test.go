// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"rsio/nbd"
	"rsio/nbd/client"
	"rsio/rsio/block"
	"rsio/rsio/blocktest"
	"rsio/rsio/store/mem"
)

// counter counts what reaches a device.
type counter struct {
	block.Device
	reads, writes, fuas, flushes, discards atomic.Int64
}

func (c *counter) Submit(r *block.Request) {
	switch r.Op {
	case block.OpRead:
		c.reads.Add(1)
	case block.OpWrite:
		c.writes.Add(1)
		if r.Flags&block.FlagFUA != 0 {
			c.fuas.Add(1)
		}
	case block.OpFlush:
		c.flushes.Add(1)
	case block.OpDiscard:
		c.discards.Add(1)
	}
	c.Device.Submit(r)
}

// rig is a server and a driver.
type rig struct {
	t        *testing.T
	d        *Driver
	dev      *counter
	readOnly bool
	inflight int // of a connection of the next server; 0: as usual
	socket   string
	srv      *nbd.Server
	end      chan error
}

func (r *rig) List() []nbd.ExportInfo { return nil }

func (r *rig) Open(name string) (*nbd.Export, error) {
	return &nbd.Export{Name: name, Device: r.dev, ReadOnly: r.readOnly}, nil
}

func newRig(t *testing.T) *rig {
	t.Helper()
	d, err := Open()
	if errors.Is(err, ErrNoDriver) {
		blocktest.NotChecked(t, "this kernel has no nbd driver; cmd/internal/guest runs it in one that has")
	}
	if err != nil {
		t.Fatal(err)
	}
	m, err := mem.New(mem.Options{Size: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, d: d, dev: &counter{Device: m}, socket: filepath.Join(t.TempDir(), "s")}
	r.start()
	t.Cleanup(func() {
		r.stop()
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *rig) start() {
	r.t.Helper()
	_ = os.Remove(r.socket) // of one that was stopped
	l, err := net.Listen("unix", r.socket)
	if err != nil {
		r.t.Fatal(err)
	}
	r.srv, r.end = nbd.NewServer(nbd.Options{Exports: r, MaxInflight: r.inflight}), make(chan error, 1)
	go func() { r.end <- r.srv.Serve(l) }()
}

// stop cuts all connections.
func (r *rig) stop() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = r.srv.Close(ctx) // ctx has ended
	<-r.end
}

func (r *rig) dial() (*os.File, client.Info) {
	r.t.Helper()
	c, info, err := client.Dial(r.t.Context(), r.socket, "v")
	if err != nil {
		r.t.Fatal(err)
	}
	f, err := c.File()
	if err = errors.Join(err, c.Close()); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = f.Close() })
	return f, info
}

// connect attaches a device that is disconnected at the end.
func (r *rig) connect(identifier string) int {
	r.t.Helper()
	s, info := r.dial()
	n, err := r.d.Connect(Config{Index: -1, Size: info.Size, BlockSize: 512, Flags: info.Flags, Sockets: []*os.File{s}, Identifier: identifier})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if err := r.d.Disconnect(context.Background(), n, nil); err != nil {
			r.t.Error(err)
		}
	})
	return n
}

func open(t *testing.T, n, flag int) *os.File {
	t.Helper()
	f, err := os.OpenFile(Path(n), flag, 0)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func aligned(n int) []byte {
	b := make([]byte, n+4096)
	skip := -uintptr(unsafe.Pointer(unsafe.SliceData(b))) % 4096
	return b[skip : skip+uintptr(n)]
}

// TestRealTrace: what is done to the device reaches the server as what it is.
func TestRealTrace(t *testing.T) {
	r := newRig(t)
	n := r.connect("rsio:test:ns/v")
	if got, err := Find("rsio:test:ns/v"); err != nil || got != n {
		t.Errorf("found as %d, %v, want %d", got, err, n)
	}
	if b, err := os.ReadFile(strings.Replace(Path(n), "/dev", "/sys/block", 1) + "/queue/logical_block_size"); err != nil || string(b) != "512\n" {
		t.Errorf("logical block size %q, %v", b, err)
	}
	if got, _ := Find("rsio:test:ns/w"); got != -1 || Size(n) != 64<<20 || !Connected(n) {
		t.Errorf("found another, %d; size %d", got, Size(n))
	}
	checkTrace(t, r.dev, n)
}

func checkTrace(t *testing.T, c *counter, n int) {
	t.Helper()
	f := open(t, n, os.O_RDWR|unix.O_DIRECT)
	b := aligned(4096)
	if _, err := f.WriteAt(b, 8192); err != nil {
		t.Fatal(err)
	}
	if c.writes.Load() != 1 || c.fuas.Load() != 0 {
		t.Errorf("a write arrives as %d writes, %d FUA", c.writes.Load(), c.fuas.Load())
	}
	was := c.flushes.Load()
	if err := f.Sync(); err != nil || c.flushes.Load() <= was {
		t.Errorf("fsync: %v, %d flushes", err, c.flushes.Load()-was)
	}
	sync := open(t, n, os.O_RDWR|unix.O_DIRECT|unix.O_DSYNC)
	if _, err := sync.WriteAt(b, 0); err != nil || c.fuas.Load() != 1 {
		t.Errorf("a write with O_DSYNC: %v, %d FUA", err, c.fuas.Load())
	}
	span := [2]uint64{1 << 20, 1 << 20}
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKDISCARD, uintptr(unsafe.Pointer(&span))); e != 0 || c.discards.Load() == 0 {
		t.Errorf("discard: %v, %d arrive", e, c.discards.Load())
	}
	_, _ = f.Close(), sync.Close()
}

// TestRealReadOnly: an export that must not be changed is a device that cannot.
func TestRealReadOnly(t *testing.T) {
	r := newRig(t)
	r.readOnly = true
	n := r.connect("ro")
	if f, err := os.OpenFile(Path(n), os.O_RDWR, 0); err == nil {
		if _, err := f.WriteAt(make([]byte, 512), 0); err == nil && f.Sync() == nil {
			t.Error("a read-only device can be written")
		}
		_ = f.Close()
	}
	if b, err := os.ReadFile(strings.Replace(Path(n), "/dev", "/sys/block", 1) + "/ro"); err != nil || string(b) != "1\n" {
		t.Errorf("ro is %q, %v", b, err)
	}
}

// TestRealResize: up and down.
func TestRealResize(t *testing.T) {
	r := newRig(t)
	n := r.connect("size")
	for _, size := range []uint64{128 << 20, 32 << 20, 64 << 20} {
		if err := r.d.Resize(n, "size", size); err != nil {
			t.Fatal(err)
		}
		for range 100 {
			if Size(n) == size {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if Size(n) != size {
			t.Errorf("the size is %d, want %d", Size(n), size)
		}
	}
	if err := r.d.Resize(n, "other", 1<<20); err == nil {
		t.Error("somebody else's device can be resized")
	}
}

// TestRealServerDies: a reader and a writer see no error while the server is
// gone, and the watcher is told.
func TestRealServerDies(t *testing.T) {
	r := newRig(t)
	var dead atomic.Int64
	if err := r.d.Watch(func(int) { dead.Add(1) }); err != nil {
		t.Fatal(err)
	}
	n := r.connect("dies")
	s, _ := r.dial()
	if err := r.d.Reconfigure(Config{Index: n, Identifier: "dies", Sockets: []*os.File{s}}); err != nil {
		t.Errorf("a new socket while the old one lives: %v", err)
	}
	_ = s.Close()
	for range 500 { // the kernel has not taken it
		if r.srv.Stats().Exports["v"] == 1 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if n := r.srv.Stats().Exports["v"]; n != 1 {
		t.Errorf("%d connections, want the first alone", n)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w := range 4 {
		f := open(t, n, os.O_RDWR|unix.O_DIRECT)
		wg.Go(func() {
			defer func() { _ = f.Close() }()
			b := aligned(4096)
			for k := 0; ; k++ {
				select {
				case <-stop:
					return
				default:
				}
				b[0] = byte(k)
				_, err := f.WriteAt(b, int64(w)*4096)
				got := aligned(4096)
				if err == nil {
					_, err = f.ReadAt(got, int64(w)*4096)
				}
				if err != nil || got[0] != byte(k) {
					t.Errorf("worker %d: %v, %d, want %d", w, err, got[0], byte(k))
					return
				}
			}
		})
	}
	for range 3 {
		time.Sleep(200 * time.Millisecond)
		was := dead.Load()
		r.stop()
		for range 500 {
			if dead.Load() > was {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if dead.Load() == was {
			t.Error("nobody was told that the connection is dead")
		}
		r.start()
		s, _ := r.dial()
		if err := r.d.Reconfigure(Config{Index: n, Identifier: "other", Sockets: []*os.File{s}}); err == nil {
			t.Error("somebody else's device takes a socket")
		}
		if err := r.d.Reconfigure(Config{Index: n, Identifier: "dies", Sockets: []*os.File{s}}); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(300 * time.Millisecond)
	close(stop)
	wg.Wait()
	if err := Barrier(n); err != nil {
		t.Error(err)
	}
}

// TestRealDisconnect: with the server dead and requests in flight they fail,
// and the device is empty.
func TestRealDisconnect(t *testing.T) {
	r := newRig(t)
	n := r.connect("gone")
	f := open(t, n, os.O_RDWR|unix.O_DIRECT)
	r.stop()
	failed := make(chan error, 1)
	go func() {
		_, err := f.WriteAt(aligned(4096), 0)
		failed <- errors.Join(err, f.Close())
	}()
	time.Sleep(200 * time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := r.d.Disconnect(ctx, n, nil); err != nil {
		t.Error(err)
	}
	if err := <-failed; err == nil {
		t.Error("a write to a disconnected device succeeds")
	}
	if Connected(n) {
		t.Error("the device is not empty")
	}
	r.start()
}

// TestRealIoctl: the old way sends flushes too.
func TestRealIoctl(t *testing.T) {
	r := newRig(t)
	c, info, err := client.Dial(t.Context(), r.socket, "v")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	d, err := AttachIoctl(ctx, c, info.Size, info.Flags, 512)
	if err != nil {
		t.Fatal(err)
	}
	if Size(d.Index) != info.Size {
		t.Errorf("size %d", Size(d.Index))
	}
	checkTrace(t, r.dev, d.Index)
	if err := d.Detach(); err != nil {
		t.Error(err)
	}
	if err := d.Detach(); err != nil {
		t.Errorf("once more: %v", err)
	}
}
