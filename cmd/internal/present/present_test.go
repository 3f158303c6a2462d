// SPDX-License-Identifier: Apache-2.0

package present

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"rsio/nbd"
	"rsio/nbd/kernel"
	"rsio/rsio/admin/api"
	"rsio/rsio/audit"
	"rsio/rsio/blocktest"
	"rsio/rsio/initiator"
)

func presenter(t *testing.T) *Presenter {
	t.Helper()
	p := New(Options{Run: t.TempDir(), Events: audit.New(nil), Command: []string{"/bin/false"}})
	p.Start(nbd.NewServer(nbd.Options{Exports: p}))
	t.Cleanup(p.Shut)
	return p
}

func TestOwner(t *testing.T) {
	for _, row := range []struct {
		in       string
		uid, gid int
		ok       bool
	}{
		{"", os.Getuid(), os.Getgid(), true},
		{"root", 0, 0, true},
		{"root:root", 0, 0, true},
		{"1000", 1000, 1000, true},
		{"1000:50", 1000, 50, true},
		{"nobody-of-that-name", 0, 0, false},
		{"root:nobody-of-that-name", 0, 0, false},
		{"-5", 0, 0, false},
		{":", 0, 0, false},
	} {
		uid, gid, err := owner(row.in)
		if (err == nil) != row.ok || row.ok && (uid != row.uid || gid != row.gid) {
			t.Errorf("%q: %d:%d, %v", row.in, uid, gid, err)
		}
	}
	if permissions(api.Show{}) != 0o600 || permissions(api.Show{Mode: 0o664}) != 0o664 {
		t.Error("permissions")
	}
}

func TestLink(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ns", "v~a")
	for _, dev := range []string{"/dev/nbd0", "/dev/nbd0", "/dev/nbd7"} { // made, there, moved
		if err := link(path, dev); err != nil {
			t.Fatal(err)
		}
		if to, err := os.Readlink(path); err != nil || to != dev {
			t.Errorf("leads to %q, %v", to, err)
		}
	}
	unlink(path, "/dev/nbd0") // it leads to another one now
	if _, err := os.Lstat(path); err != nil {
		t.Error("somebody else's link is gone")
	}
	unlink(path, "/dev/nbd7")
	if _, err := os.Stat(filepath.Dir(path)); err == nil {
		t.Error("the empty folder stays")
	}
	unlink(path, "/dev/nbd7") // once more
}

// TestCoherent: a second device with a page cache on one volume is refused.
func TestCoherent(t *testing.T) {
	there := initiator.Presented{Name: "v~a", Namespace: "default", Volume: "v", VM: "a", Target: "t"}
	more := func(change func(*initiator.Presented)) initiator.Presented {
		w := initiator.Presented{Name: "v~b", Namespace: "default", Volume: "v", VM: "b", Target: "t"}
		change(&w)
		return w
	}
	for _, row := range []struct {
		desc string
		loop string // what is there
		nbd  int
		want initiator.Presented
		ok   bool
	}{
		{"nbd beside nbd", "", 0, more(func(w *initiator.Presented) { w.Show.NBD = true }), false},
		{"loop beside nbd", "", 0, more(func(w *initiator.Presented) { w.Show.Loop = true }), false},
		{"nbd beside loop", "/dev/loop9", -1, more(func(w *initiator.Presented) { w.Show.NBD = true }), false},
		{"file beside loop", "/dev/loop9", -1, more(func(w *initiator.Presented) { w.Show.File = true }), true},
		{"loop beside a file", "", -1, more(func(w *initiator.Presented) { w.Show.Loop = true }), true},
		{"said to be cared for", "", 0, more(func(w *initiator.Presented) { w.Show.NBD, w.Show.Shared = true, true }), true},
		{"read-only", "", 0, more(func(w *initiator.Presented) { w.Show.NBD, w.ReadOnly = true, true }), false},
		{"another volume", "", 0, more(func(w *initiator.Presented) { w.Show.NBD, w.Volume = true, "w" }), true},
		{"another target", "", 0, more(func(w *initiator.Presented) { w.Show.NBD, w.Target = true, "u" }), true},
		{"itself", "", 0, more(func(w *initiator.Presented) { w.Show.NBD, w.Name = true, "v~a" }), true},
	} {
		p := presenter(t)
		p.change.Lock()
		p.shown["v~a"] = &shown{Presented: there, index: row.nbd, loop: row.loop}
		err := p.coherent(row.want)
		delete(p.shown, "v~a") // or the mender would look for the device
		p.change.Unlock()
		if (err == nil) != row.ok || err != nil && !strings.Contains(err.Error(), "--shared") {
			t.Errorf("%s: %v", row.desc, err)
		}
	}
}

// TestCoherentReadOnly: devices that nobody writes to may be several; beside one
// that can be written to a reader would see old data.
func TestCoherentReadOnly(t *testing.T) {
	for _, row := range []struct {
		desc      string
		is, wants bool // read-only
		ns        string
		ok        bool
	}{
		{"both read-only", true, true, "default", true},
		{"a reader beside a writer", false, true, "default", false},
		{"a writer beside a reader", true, false, "default", false},
		{"two writers", false, false, "default", false},
		{"two writers of volumes in two namespaces", false, false, "other", true},
	} {
		p := presenter(t)
		p.change.Lock()
		p.shown["v~a"] = &shown{Presented: initiator.Presented{Name: "v~a", Namespace: "default", Volume: "v", VM: "a", Target: "t", ReadOnly: row.is}, index: 0}
		err := p.coherent(initiator.Presented{Name: "v~b", Namespace: row.ns, Volume: "v", VM: "b", Target: "t", ReadOnly: row.wants, Show: api.Show{NBD: true}})
		delete(p.shown, "v~a") // or the mender would look for the device
		p.change.Unlock()
		if (err == nil) != row.ok {
			t.Errorf("%s: %v", row.desc, err)
		}
	}
}

// TestPresentFails: what cannot be made leaves nothing, and says why.
func TestPresentFails(t *testing.T) {
	p := presenter(t)
	want := initiator.Presented{Name: "v", Namespace: "default", Volume: "v", Target: "t", Show: api.Show{File: true}}
	err := p.Present(t.Context(), want)
	if err == nil || !strings.Contains(err.Error(), "did not start") || !strings.Contains(err.Error(), "files.log") {
		t.Errorf("a files' process that ends at once: %v", err)
	}
	if !kernel.Old() {
		want.Show = api.Show{NBD: true}
		if err := p.Present(t.Context(), want); err == nil || !strings.Contains(err.Error(), "--loop") || !strings.Contains(err.Error(), "--fuse") {
			t.Errorf("a kernel device without the driver: %v", err)
		}
	}
	if s := p.Shown("v"); s.File != "" || s.Device != "" || s.Link != "" || len(p.Users("v")) != 0 {
		t.Errorf("%+v", s)
	}
	for range 2 {
		if err := p.Withdraw(t.Context(), "v", false); err != nil {
			t.Errorf("withdrawn: %v", err)
		}
	}
	checks := p.Checks()
	for _, name := range []string{"kernel nbd", "FUSE", "loop devices"} {
		if !slices.ContainsFunc(checks, func(c api.Check) bool { return c.Name == name && c.State != "" && c.Text != "" }) {
			t.Errorf("no check of %s: %+v", name, checks)
		}
	}
}

// TestUsers: mounts and processes of a loop device of our own are found.
func TestUsers(t *testing.T) {
	if os.Geteuid() != 0 {
		blocktest.NotChecked(t, "it needs root, for a loop device")
	}
	if _, err := os.Stat(loopControl); err != nil {
		blocktest.NotChecked(t, "the kernel has no loop devices")
	}
	file := filepath.Join(t.TempDir(), "img")
	if err := os.WriteFile(file, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", file).CombinedOutput(); err != nil {
		blocktest.NotChecked(t, "mkfs.ext4: "+string(out))
	}
	dev, err := loopAttach(file, false)
	if err != nil {
		blocktest.NotChecked(t, err.Error()) // direct I/O is not possible everywhere
	}
	gone := false
	t.Cleanup(func() {
		if !gone {
			_ = exec.Command("losetup", "-d", dev).Run()
		}
	})
	if again, err := loopAttach(file, false); err != nil || again != dev || loopOf(file) != dev {
		t.Errorf("attached again: %s, %v, want %s", again, err, dev)
	}
	if u := deviceUsers(dev); len(u) != 0 {
		t.Errorf("used by %q", u)
	}
	mnt := t.TempDir()
	if err := unix.Mount(dev, mnt, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	if u := deviceUsers(dev); !slices.Contains(u, "mounted on "+mnt) {
		t.Errorf("mounted, used by %q", u)
	}
	if _, err := hold(dev, false); err == nil {
		t.Error("a mounted device can be held")
	}
	if err := unix.Unmount(mnt, 0); err != nil {
		t.Fatal(err)
	}
	cat := exec.Command("sleep", "60")
	f, err := os.Open(dev)
	if err != nil {
		t.Fatal(err)
	}
	cat.ExtraFiles = []*os.File{f}
	if err := cat.Start(); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	if u := deviceUsers(dev); len(u) != 1 || !strings.Contains(u[0], "(sleep)") {
		t.Errorf("open in a process, used by %q", u)
	}
	_ = cat.Process.Kill()
	_ = cat.Wait()
	h, err := hold(dev, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := loopDetach(dev, h); err != nil || loopOf(file) != "" {
		t.Errorf("detached: %v, still %q", err, loopOf(file))
	}
	gone = true
}
