// SPDX-License-Identifier: Apache-2.0

package fusefs

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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

// need ends a test that lacks a program.
func need(t testing.TB, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			blocktest.Missing(t, p)
		}
	}
}

// rig is a mounted FS. It is unmounted by force when the test ends.
type rig struct {
	t   testing.TB
	fs  *FS
	dir string
}

func newRig(t testing.TB, opt Options) *rig {
	t.Helper()
	needMount(t)
	r := &rig{t: t, fs: New(opt), dir: t.TempDir()}
	if err := os.Chmod(r.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := r.fs.Mount(r.dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.unmount)
	return r
}

// unmount never hangs: what a test left open or in flight is cut off.
func (r *rig) unmount() {
	if r.fs.Done() == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := r.fs.Unmount(ctx, true); err != nil {
		r.t.Errorf("unmount: %v", err)
	}
}

// add presents a device as default/name and returns the path.
func (r *rig) add(name string, d block.Device) string {
	r.t.Helper()
	return r.addFile(File{Namespace: "default", Name: name, Device: d, Nexus: "host"})
}

func (r *rig) addFile(f File) string {
	r.t.Helper()
	if err := r.fs.Add(f); err != nil {
		r.t.Fatal(err)
	}
	return filepath.Join(r.dir, f.Namespace, f.Name)
}

// remove takes a file away that nobody uses.
func (r *rig) remove(name string) {
	r.t.Helper()
	if err := r.fs.Remove(ctx(r.t), "default", name, false); err != nil {
		r.t.Fatal(err)
	}
}

// ctx ends with patience.
func ctx(t testing.TB) context.Context {
	c, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return c
}

func memory(t testing.TB, size uint64, bs uint32) *mem.Device {
	t.Helper()
	d, err := mem.New(mem.Options{Size: size, BlockSize: bs})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(ctx(t)); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return d
}

// slow puts a layer with faults over a device.
func slow(t testing.TB, d block.Device, rules ...fault.Rule) *fault.Device {
	f := fault.New(d, rules...)
	t.Cleanup(func() {
		if err := f.Close(ctx(t)); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return f
}

// open opens a file and closes it when the test ends.
func open(t testing.TB, path string, flags int) int {
	t.Helper()
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("open %s: %v", path, err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) }) // may be closed by the test
	return fd
}

// run runs a program and returns what it said; it may not fail.
func run(t testing.TB, args ...string) string {
	t.Helper()
	out, err := try(t, args...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// try is run that may fail.
func try(t testing.TB, args ...string) (string, error) {
	t.Helper()
	c, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(c, args[0], args[1:]...)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// within runs f and fails if it takes longer than patience.
func within(t testing.TB, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("%s takes longer than %v", what, patience)
	}
}
