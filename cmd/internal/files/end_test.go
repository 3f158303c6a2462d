// SPDX-License-Identifier: Apache-2.0

package files

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rsio/rsio/fusefs"
)

// TestQuit: it is refused while there are files, and ends everything else.
func TestQuit(t *testing.T) {
	before := runtime.NumGoroutine()
	r := newRig(t)
	socket := filepath.Join(r.run, Socket)
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- New(Options{Mount: r.mount, NBD: r.nbd}).Run(t.Context(), l, func() { close(ready) }) }()
	select {
	case <-ready:
	case <-time.After(patience):
		t.Fatal("it does not get ready")
	}
	c := NewClient(socket)
	defer c.Close()
	r.put(c, "v")
	if err := c.Quit(t.Context()); err == nil || !strings.Contains(err.Error(), "1 files") {
		t.Errorf("with a file: %v", err)
	}
	if !r.mounted() {
		t.Error("a refused quit unmounts")
	}
	if err := c.Delete(t.Context(), "ns/v", false); err != nil {
		t.Error(err)
	}
	if err := c.Quit(t.Context()); err != nil {
		t.Errorf("without files: %v", err)
	}
	if err := r.wait(ended); err != nil {
		t.Errorf("Run: %v", err)
	}
	if r.mounted() {
		t.Error("it is mounted after quit")
	}
	if err := c.Quit(t.Context()); err == nil {
		t.Error("somebody answers after quit")
	}
	if _, err := os.Stat(socket); err == nil {
		t.Error("the socket is there after quit")
	}
	c.Close()
	r.cut()
	eventually(t, "the goroutines have ended", func() bool { return runtime.NumGoroutine() <= before })
}

// TestEnd: however it is ended, and whatever hangs, it is unmounted, in
// finite time, and whoever has a file open gets errors.
func TestEnd(t *testing.T) {
	for _, row := range []struct {
		desc string
		do   func(r *rig, c *Client) // before the end
		ok   func(err error) bool
	}{
		{"nothing there", func(*rig, *Client) {}, func(err error) bool { return err == nil }},
		{"a file", func(r *rig, c *Client) { r.put(c, "v") }, func(err error) bool { return err == nil }},
		{"a file without the initiator", func(r *rig, c *Client) {
			r.put(c, "v")
			r.cut()
		}, func(err error) bool { return err == nil }},
		{"an open file", func(r *rig, c *Client) { r.open(r.put(c, "v")) }, func(err error) bool { return errors.Is(err, fusefs.ErrInUse) }},
		{"a write that waits for the initiator", func(r *rig, c *Client) {
			f := r.open(r.put(c, "v"))
			r.cut()
			r.writes(f)
		}, func(err error) bool { return errors.Is(err, fusefs.ErrInUse) }},
		{"a write that hangs", func(r *rig, c *Client) {
			r.ex.set("v", hung(r.t))
			r.writes(r.open(r.put(c, "v")))
		}, func(err error) bool { return errors.Is(err, fusefs.ErrInUse) }},
	} {
		t.Run(row.desc, func(t *testing.T) {
			r := newRig(t)
			c, stop := r.start()
			row.do(r, c)
			if err := stop(); !row.ok(err) {
				t.Errorf("Run: %v", err)
			}
			if r.mounted() {
				t.Error("it is mounted after the end")
			}
		})
	}
}

// writes starts a write that will fail, and must end before the test does.
func (r *rig) writes(f *os.File) {
	ended := make(chan error, 1)
	go func() {
		_, err := f.WriteAt(make([]byte, 4096), 0)
		ended <- err
	}()
	time.Sleep(20 * time.Millisecond) // most likely it is on its way
	r.t.Cleanup(func() {
		if err := r.wait(ended); err == nil {
			r.t.Error("the write succeeded")
		}
	})
}

// TestTakenOff: somebody else unmounts: it ends and says so.
func TestTakenOff(t *testing.T) {
	r := newRig(t)
	l, err := net.Listen("unix", filepath.Join(r.run, Socket))
	if err != nil {
		t.Fatal(err)
	}
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- New(Options{Mount: r.mount, NBD: r.nbd}).Run(t.Context(), l, func() { close(ready) }) }()
	select {
	case <-ready:
	case <-time.After(patience):
		t.Fatal("it does not get ready")
	}
	if err := unix.Unmount(r.mount, 0); err != nil {
		t.Fatal(err)
	}
	if err := r.wait(ended); err == nil || !strings.Contains(err.Error(), "taken off") {
		t.Errorf("Run: %v", err)
	}
}

// TestCannotMount: Run says what is in the way, and does not call ready.
func TestCannotMount(t *testing.T) {
	r := newRig(t)
	if err := os.WriteFile(r.mount, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(r.run, Socket))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err = New(Options{Mount: r.mount, NBD: r.nbd}).Run(ctx, l, func() { t.Error("ready") })
	if err == nil || !strings.Contains(err.Error(), r.mount) {
		t.Errorf("%v", err)
	}
}

// TestNobody: a client of a process that is not there fails, with the path.
func TestNobody(t *testing.T) {
	c := NewClient(filepath.Join(t.TempDir(), "s"))
	defer c.Close()
	if _, err := c.List(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// TestSilentProcess: a process that is frozen costs no more than the context.
func TestSilentProcess(t *testing.T) {
	dir, err := os.MkdirTemp("", "files") // t.TempDir can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	c := NewClient(socket)
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.Fence(ctx, "ns/v", 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

func TestMountedAt(t *testing.T) {
	line := func(dir, kind string) string {
		return "36 35 0:45 / " + dir + " rw,nosuid,nodev - " + kind + " rsio rw,user_id=0\n"
	}
	for _, row := range []struct {
		desc, info, dir string
		want            bool
	}{
		{"nothing", "", "/a", false},
		{"ours", line("/a", "fuse.rsio"), "/a", true},
		{"ours, with optional fields", "36 35 0:45 / /a rw master:1 propagate_from:2 - fuse.rsio rsio rw\n", "/a", true},
		{"below it", line("/a/b", "fuse.rsio"), "/a", false},
		{"above it", line("/", "fuse.rsio"), "/a", false},
		{"of others", line("/a", "fuse.sshfs"), "/a", false},
		{"a disk", line("/a", "ext4"), "/a", false},
		{"others below ours", line("/a", "ext4") + line("/a", "fuse.rsio"), "/a", true},
		{"ours below others", line("/a", "fuse.rsio") + line("/a", "ext4"), "/a", false},
		{"ours below others and on top", line("/a", "fuse.rsio") + line("/a", "ext4") + line("/a", "fuse.rsio"), "/a", true},
		{"a name with spaces", line(`/a\040b\134`, "fuse.rsio"), `/a b\`, true},
		{"a line that is cut", "36 35 0:45 / /a\n", "/a", false},
	} {
		if got := mountedAt(row.info, row.dir); got != row.want {
			t.Errorf("%s: %v", row.desc, got)
		}
	}
}
