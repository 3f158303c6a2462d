// SPDX-License-Identifier: Apache-2.0

package present

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"rsio/nbd/kernel"
	"rsio/rsio/admin/api"
	"rsio/rsio/blocktest"
	"rsio/rsio/store/mem"
)

// asInitiator gives this process the name of an initiator: its loop devices
// open files.
func asInitiator(t *testing.T) {
	t.Helper()
	const comm = "/proc/self/comm"
	was, err := os.ReadFile(comm)
	if err == nil {
		err = os.WriteFile(comm, []byte("rsio-initiator"), 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.WriteFile(comm, was, 0) }) // the name is for those who look
}

// sleeper starts a process that has a file open, until end is called.
func sleeper(t *testing.T, path string) (end func()) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	cmd := exec.Command("sleep", "1000")
	cmd.ExtraFiles = []*os.File{f}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end = func() {
		_ = cmd.Process.Kill() // it may have been called
		_ = cmd.Wait()         // killed
	}
	t.Cleanup(end)
	return end
}

// gone fails if something is left of what was shown; the mount may be on its way.
func gone(t *testing.T, s api.Shown) {
	t.Helper()
	for _, path := range []string{s.File, s.Link} {
		eventually(t, "the end of "+path, func() bool {
			_, err := os.Lstat(path)
			return path == "" || errors.Is(err, os.ErrNotExist)
		})
	}
	if f := loopFile(s.Loop); s.Loop != "" && f != "" {
		t.Errorf("%s is on %s", s.Loop, f)
	}
}

// TestFileAndLoop: one after the other is asked for, used, refused to go, and
// taken over by a successor; in the end nothing is left, and going again is no
// error.
func TestFileAndLoop(t *testing.T) {
	r := newRig(t)
	asInitiator(t)
	d := memory(t, 4<<20).(*mem.Device)
	r.vols["v"] = d
	file := r.present(api.Show{File: true, Owner: "1000:50", Mode: 0o640})
	if file.File != filepath.Join(r.dir, "files", r.ns, "v") || file.Link != "" || file.Loop != "" || file.Trouble != "" {
		t.Fatalf("%+v", file)
	}
	both := r.present(api.Show{Loop: true, Owner: "1000:50", Mode: 0o640})
	if again := r.present(api.Show{Loop: true, Owner: "1000:50", Mode: 0o640}); again.File != file.File || again.Loop != both.Loop || both.Loop == "" {
		t.Fatalf("%+v, and again %+v", both, again)
	}
	if to, err := os.Readlink(both.Link); err != nil || to != both.Loop || both.Link != "/dev/rsio/"+r.ns+"/v" {
		t.Errorf("%s leads to %s, %v", both.Link, to, err)
	}
	for _, path := range []string{both.File, both.Loop} {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil || st.Uid != 1000 || st.Gid != 50 || st.Mode&0o777 != 0o640 {
			t.Errorf("%s: %+v, %v", path, st, err)
		}
	}
	dev, err := os.OpenFile(both.Link, os.O_WRONLY|os.O_SYNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = dev.WriteAt([]byte("some data"), 8192)
	if err = errors.Join(err, dev.Close()); err != nil {
		t.Error(err)
	}
	got := make([]byte, 9)
	f, err := os.Open(both.File)
	if err == nil {
		_, err = f.ReadAt(got, 8192)
		err = errors.Join(err, f.Close())
	}
	if err != nil || string(got) != "some data" {
		t.Errorf("%q, %v", got, err)
	}
	if u := r.p.Users("v"); len(u) != 0 {
		t.Errorf("used by %q", u)
	}
	r.stop() // an upgrade
	r.start()
	if s := r.present(api.Show{Loop: true, Owner: "1000:50", Mode: 0o640}); s.Loop != both.Loop || s.File != both.File {
		t.Errorf("a successor presents %+v, before %+v", s, both)
	}
	if err := d.Resize(8 << 20); err != nil {
		t.Fatal(err)
	}
	r.p.Resized("v")
	eventually(t, "the new size of the loop device", func() bool { return kernelSize(both.Loop) == 8<<20 })
	for range 2 {
		if err := r.withdraw(false); err != nil {
			t.Fatal(err)
		}
		gone(t, both)
	}
	eventually(t, "the end of the files' process", func() bool { return !r.mounted() })
	if s := r.p.Shown("v"); s.File != "" || s.Loop != "" || s.Link != "" {
		t.Errorf("shown after all: %+v", s)
	}
}

// kernelSize returns the size of a block device in bytes.
func kernelSize(dev string) int64 {
	f, err := os.Open(dev)
	if err != nil {
		return -1
	}
	defer func() { _ = f.Close() }()
	n, err := f.Seek(0, 2)
	if err != nil {
		return -1
	}
	return n
}

// TestInUse: who has a file or the loop device on it open is named, and stays
// unharmed until force is used.
func TestInUse(t *testing.T) {
	r := newRig(t)
	asInitiator(t)
	r.vols["v"] = memory(t, 4<<20)
	s := r.present(api.Show{Loop: true})
	for _, row := range []struct{ desc, path, want string }{
		{"the device", s.Loop, s.Loop + ": process"},
		{"the stable name", s.Link, s.Loop + ": process"},
	} {
		end := sleeper(t, row.path)
		if u := r.p.Users("v"); len(u) != 1 || !strings.Contains(u[0], row.want) || !strings.Contains(u[0], "(sleep)") {
			t.Errorf("%s: used by %q", row.desc, u)
		}
		err := r.withdraw(false)
		var e *api.Error
		if !errors.As(err, &e) || e.Kind != api.Exists || !strings.Contains(err.Error(), row.want) || !strings.Contains(err.Error(), "--force") {
			t.Errorf("%s: %v", row.desc, err)
		}
		if now := r.p.Shown("v"); now.Loop != s.Loop || now.File != s.File || loopFile(s.Loop) != s.File {
			t.Errorf("%s: after the refusal %+v", row.desc, now)
		}
		end()
	}
	end := sleeper(t, s.Loop)
	if err := r.withdraw(true); err != nil {
		t.Errorf("by force: %v", err)
	}
	end() // a device that somebody has open goes when they close it
	eventually(t, "the end of the loop device", func() bool { return loopFile(s.Loop) == "" })
	gone(t, s)
}

// look is one look of the mender at the attachment.
func (r *rig) look() {
	r.p.change.Lock()
	defer r.p.change.Unlock()
	for _, s := range r.p.all() {
		r.p.mendOne(r.t.Context(), s)
	}
}

// TestFilesKilled: the files' process dies. Its successor is started and has
// the file; the loop device has lost it, which is said until somebody attaches
// anew, or detaches; no device and no name stays behind.
func TestFilesKilled(t *testing.T) {
	for _, again := range []bool{true, false} {
		r := newRig(t)
		asInitiator(t)
		r.vols["v"] = memory(t, 4<<20)
		s := r.present(api.Show{Loop: true})
		r.kill()
		trouble := func() string { return r.p.Shown("v").Trouble }
		for range 2 { // it is said again and again
			eventually(t, "what became of the loop device", func() bool { return strings.Contains(trouble(), s.Loop+" has lost it") })
			r.look()
		}
		if f, err := os.OpenFile(s.File, os.O_RDWR, 0); err != nil {
			t.Errorf("the file that was made again: %v", err)
		} else {
			_ = f.Close()
		}
		all := []api.Shown{s}
		if again {
			now := r.present(api.Show{Loop: true})
			if now.Loop == "" || now.Trouble != "" || loopFile(now.Loop) != s.File {
				t.Errorf("attached again: %+v, on %q", now, loopFile(now.Loop))
			}
			if to, err := os.Readlink(s.Link); err != nil || to != now.Loop {
				t.Errorf("%s leads to %s, %v", s.Link, to, err)
			}
			all = append(all, now)
		}
		if err := r.withdraw(!again); err != nil {
			t.Error(err)
		}
		for _, s := range all {
			gone(t, s)
		}
	}
}

// TestOthersMount: a mount of the device in another mount namespace is found.
func TestOthersMount(t *testing.T) {
	r := newRig(t)
	asInitiator(t)
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		blocktest.Missing(t, "mkfs.ext4 (make deps installs it)")
	}
	r.vols["v"] = memory(t, 16<<20)
	s := r.present(api.Show{Loop: true})
	if out, err := exec.Command("mkfs.ext4", "-q", s.Loop).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	mnt := filepath.Join(t.TempDir(), "a b")
	if err := os.Mkdir(mnt, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", `mount --make-rprivate / && mount -t ext4 "$0" "$1" && echo mounted && exec sleep 1000`, s.Loop, mnt)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	end := func() {
		_ = cmd.Process.Kill() // it may have been called
		_ = cmd.Wait()         // killed
	}
	t.Cleanup(end)
	word := make([]byte, 7)
	if n, err := out.Read(word); string(word[:n]) != "mounted" {
		end()
		blocktest.NotChecked(t, "a mount namespace with a mount: "+string(word[:n])+", "+err.Error())
	}
	if u := r.p.Users("v"); !slices.ContainsFunc(u, func(s string) bool { return strings.Contains(s, "mounted on "+mnt) }) {
		t.Errorf("used by %q", u)
	}
	if err := r.withdraw(false); err == nil || !strings.Contains(err.Error(), "mounted on "+mnt) {
		t.Errorf("%v", err)
	}
	end()
	eventually(t, "nobody uses it", func() bool { return len(r.p.Users("v")) == 0 })
	if err := r.withdraw(false); err != nil {
		t.Error(err)
	}
	gone(t, s)
}

// TestNoDriver: a kernel device on a kernel without the driver: the error says
// what to use instead, and the file that is there stays.
func TestNoDriver(t *testing.T) {
	r := newRig(t)
	if d, err := kernel.Open(); err == nil || kernel.Old() {
		if err == nil {
			_ = d.Close()
		}
		blocktest.NotChecked(t, "this kernel has an nbd driver")
	}
	r.vols["v"] = memory(t, 4<<20)
	s := r.present(api.Show{File: true})
	err := r.p.Present(t.Context(), r.presented(api.Show{File: true, NBD: true}))
	if err == nil || !strings.Contains(err.Error(), "--loop") || !strings.Contains(err.Error(), "--fuse") {
		t.Errorf("%v", err)
	}
	if now := r.p.Shown("v"); now.File != s.File || now.Device != "" || now.Trouble == "" && err == nil {
		t.Errorf("%+v", now)
	}
	if err := r.withdraw(false); err != nil {
		t.Error(err)
	}
	gone(t, s)
}
