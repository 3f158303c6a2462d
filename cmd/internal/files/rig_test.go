// SPDX-License-Identifier: Apache-2.0

package files

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rsio/nbd"
	"rsio/rsio/block"
	"rsio/rsio/blocktest"
	"rsio/rsio/layer/fault"
	"rsio/rsio/store/mem"
)

// patience is how long anything in a test may take that should take no time.
const patience = 20 * time.Second

// needMount ends a test where nothing can be mounted.
func needMount(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		blocktest.NotChecked(t, "it mounts, which needs root")
	}
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		blocktest.NotChecked(t, "/dev/fuse: "+err.Error())
	}
	_ = unix.Close(fd)
}

// exports are what the initiator's NBD server has, by name.
type exports struct {
	mu   sync.Mutex
	devs map[string]block.Device
}

func (e *exports) List() []nbd.ExportInfo { return nil }

func (e *exports) Open(name string) (*nbd.Export, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	d := e.devs[name]
	if d == nil {
		return nil, block.StatusNotFound
	}
	return &nbd.Export{Name: name, Device: d}, nil
}

// set makes an export another device.
func (e *exports) set(name string, d block.Device) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.devs[name] = d
}

// rig is a folder with the sockets and the mount, and an NBD server.
type rig struct {
	t     testing.TB
	run   string
	mount string
	nbd   string
	ex    *exports

	srv *nbd.Server
	end chan error
}

// newRig makes one with the exports v and w of 1 MiB.
func newRig(t testing.TB) *rig {
	t.Helper()
	needMount(t)
	dir, err := os.MkdirTemp("", "files") // t.TempDir can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, run: dir, mount: filepath.Join(dir, "mnt"), nbd: filepath.Join(dir, "nbd"), ex: &exports{devs: map[string]block.Device{}}}
	r.ex.set("v", memory(t, 1<<20))
	r.ex.set("w", memory(t, 1<<20))
	r.serve()
	t.Cleanup(func() {
		for r.mounted() && unix.Unmount(r.mount, unix.MNT_DETACH) == nil {
			t.Errorf("%s was still mounted", r.mount)
		}
		r.cut()
		_ = os.RemoveAll(dir)
	})
	return r
}

func memory(t testing.TB, size uint64) block.Device {
	t.Helper()
	d, err := mem.New(mem.Options{Size: size})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// hung is a device of which all writes hang until the test ends.
func hung(t testing.TB) block.Device {
	t.Helper()
	rule, err := fault.Parse("op=write,do=hang")
	if err != nil {
		t.Fatal(err)
	}
	d := fault.New(memory(t, 1<<20), rule)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		d.Release()
		if err := d.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return d
}

// serve starts the NBD server.
func (r *rig) serve() {
	r.t.Helper()
	_ = os.Remove(r.nbd) // a dead one
	l, err := net.Listen("unix", r.nbd)
	if err != nil {
		r.t.Fatal(err)
	}
	r.srv, r.end = nbd.NewServer(nbd.Options{Exports: r.ex}), make(chan error, 1)
	go func() { r.end <- r.srv.Serve(l) }()
}

// cut ends it, with whatever is in flight.
func (r *rig) cut() {
	if r.srv == nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = r.srv.Close(ctx) // ctx has ended: connections are cut
	<-r.end
	r.srv = nil
}

// mounted reports whether something is mounted at r.mount.
func (r *rig) mounted() bool {
	b, err := os.ReadFile("/proc/self/mountinfo")
	return err == nil && strings.Contains(string(b), " "+r.mount+" ")
}

// path is that of a file of the mount.
func (r *rig) path(name string) string { return filepath.Join(r.mount, name) }

// start runs a server of files and returns its client; stop ends it and
// returns what Run did.
func (r *rig) start() (c *Client, stop func() error) {
	r.t.Helper()
	socket := filepath.Join(r.run, Socket)
	l, err := net.Listen("unix", socket)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- New(Options{Mount: r.mount, NBD: r.nbd}).Run(ctx, l, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-ended:
		r.t.Fatal(err)
	case <-time.After(patience):
		r.t.Fatal("it does not get ready")
	}
	c = NewClient(socket)
	var once sync.Once
	var result error
	stop = func() error {
		once.Do(func() {
			cancel()
			c.Close()
			result = r.wait(ended)
		})
		return result
	}
	r.t.Cleanup(func() { _ = stop() }) // what the test did not want to know
	return c, stop
}

func (r *rig) wait(ended <-chan error) error {
	r.t.Helper()
	select {
	case err := <-ended:
		return err
	case <-time.After(patience):
		r.t.Error("Run does not return")
		return nil
	}
}

// put adds the file ns/NAME with the export NAME.
func (r *rig) put(c *Client, name string) string {
	r.t.Helper()
	if err := c.Put(r.t.Context(), file(name)); err != nil {
		r.t.Fatal(err)
	}
	return r.path("ns/" + name)
}

func file(name string) File {
	return File{Path: "ns/" + name, Export: name, Volume: "ns/" + name, Nexus: "h1", Target: "t", UID: 1000, GID: 50, Mode: 0o640}
}

// open opens a file and closes it at the end of the test.
func (r *rig) open(path string) *os.File {
	r.t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = f.Close() }) // it may have been closed
	return f
}

// eventually waits for something.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not seen: %s", what)
		}
	}
}
