// SPDX-License-Identifier: Apache-2.0

package fusefs

import (
	"os"
	"runtime"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"rsio/rsio/block"
)

// righted is a device with a right, which remembers what the last write
// carried.
type righted struct {
	block.Device
	right atomic.Uint64
	last  atomic.Uint64
}

func (d *righted) Info() block.Info {
	i := d.Device.Info()
	i.Right = d.right.Load()
	return i
}

func (d *righted) Submit(r *block.Request) {
	if r.Op.Changes() {
		d.last.Store(r.Right)
	}
	d.Device.Submit(r)
}

// TestFence: requests carry the right that was in force when they were sent.
func TestFence(t *testing.T) {
	r := newRig(t, Options{})
	d := &righted{Device: memory(t, 1<<20, 512)}
	d.right.Store(5)
	path := r.add("vol", d)
	fd := open(t, path, unix.O_RDWR)
	carried := func() uint64 {
		t.Helper()
		if _, err := unix.Pwrite(fd, []byte("abc"), 3); err != nil {
			t.Fatal(err)
		}
		return d.last.Load()
	}
	if n := carried(); n != 5 {
		t.Errorf("at first: %d", n)
	}
	d.right.Store(6)
	if n := carried(); n != 5 {
		t.Errorf("nobody said that it is another one: %d", n)
	}
	if _, err := os.Stat(path); err != nil { // somebody else's getattr means nothing
		t.Error(err)
	}
	if n := carried(); n != 5 {
		t.Errorf("after a stat: %d", n)
	}
	if err := r.fs.Fence("default", "vol"); err != nil {
		t.Fatal(err)
	}
	if n := carried(); n != 6 {
		t.Errorf("after the fence: %d", n)
	}
	r.fs.mu.RLock()
	f := r.fs.lookup("default", "vol")
	r.fs.mu.RUnlock()
	upto := f.rights.state.Load().upto
	if upto == 0 || f.rights.of(upto) != 5 || f.rights.of(upto+2) != 6 {
		t.Errorf("queued before the fence: %d, after: %d", f.rights.of(upto), f.rights.of(upto+2))
	}
	if err := r.fs.Unmount(ctx(t), true); err != nil {
		t.Fatal(err)
	}
	d.right.Store(7)
	if err := r.fs.Fence("default", "vol"); err != nil {
		t.Error(err)
	}
	if err := r.fs.Mount(r.dir); err != nil {
		t.Fatal(err)
	}
	fd = open(t, path, unix.O_RDWR)
	if n := carried(); n != 7 {
		t.Errorf("after another mount: %d", n)
	}
}

// TestNumbers: the kernel numbers requests in the order in which it queues
// them, on whatever processor. Fence rests on it.
func TestNumbers(t *testing.T) {
	r := newRig(t, Options{})
	d := &righted{Device: memory(t, 1<<20, 512)}
	r.add("vol", d)
	r.fs.mu.RLock()
	f := r.fs.lookup("default", "vol")
	r.fs.mu.RUnlock()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.SchedSetaffinity(0, &all) }() // as it was
	var cpus []int
	for i := range 1024 {
		if all.IsSet(i) {
			cpus = append(cpus, i)
		}
	}
	last := uint64(0)
	for i := range uint64(200) {
		var one unix.CPUSet
		one.Set(cpus[int(i)%len(cpus)])
		if err := unix.SchedSetaffinity(0, &one); err != nil {
			t.Fatal(err)
		}
		d.right.Store(i + 1)
		if err := r.fs.Fence("default", "vol"); err != nil {
			t.Fatal(err)
		}
		upto := f.rights.state.Load().upto
		if upto <= last {
			t.Fatalf("request %d came after request %d", upto, last)
		}
		last = upto
	}
}
