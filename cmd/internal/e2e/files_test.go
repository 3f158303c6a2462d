// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rsio/rsio/admin/api"
	"rsio/rsio/blocktest"
)

func needFUSE(t *testing.T) {
	t.Helper()
	needRoot(t)
	if _, err := os.Stat("/dev/fuse"); err != nil {
		blocktest.NotChecked(t, "there is no /dev/fuse")
	}
}

// attachAs attaches and returns the line that was printed.
func (p *Pair) attachAs(args ...string) string {
	p.T.Helper()
	return strings.TrimSpace(p.Ctl(p.Sock, append([]string{"attach"}, args...)...))
}

func (p *Pair) attachment(name string) api.Attachment {
	p.T.Helper()
	var list []api.Attachment
	p.CtlJSON(&list, p.Sock, "attachment", "list")
	for _, a := range list {
		if a.Name == name {
			return a
		}
	}
	p.T.Fatalf("there is no attachment %s: %+v", name, list)
	return api.Attachment{}
}

func (l *Lab) filePair() *Pair {
	l.T.Helper()
	return l.NewPair(PairOptions{Portals: []string{"unix:" + l.Path("a.sock"), "unix:" + l.Path("b.sock")}, InMemory: true})
}

// TestP13_File: whoever has a file of the mount open sees no error while the
// daemons are killed, restarted and upgraded.
func TestP13_File(t *testing.T) {
	needFUSE(t)
	l := NewLab(t, binDir)
	p := l.filePair()
	p.Ctl(p.Sock, "volume", "create", "v", "--size", "64M")
	file := p.attachAs("v", "--fuse")
	if again := p.attachAs("v", "--fuse"); again != file {
		t.Errorf("attached again: %q, at first %q", again, file)
	}
	soak := l.StartSoak(file, "--workers", "16")
	for range rounds(4) {
		time.Sleep(300 * time.Millisecond)
		p.Initiator.Kill()
		p.Initiator.Start()
		p.WaitPaths(2)
		time.Sleep(300 * time.Millisecond)
		p.Target.Kill()
		p.Target.Start()
		p.WaitPaths(2)
		time.Sleep(300 * time.Millisecond)
		if err := p.Initiator.Stop(); err != nil { // an upgrade
			t.Errorf("the initiator's orderly end: %v", err)
		}
		p.Initiator.Start()
		p.WaitPaths(2)
	}
	time.Sleep(300 * time.Millisecond)
	r := soak.Stop()
	t.Logf("%d operations, %d blocks verified, longest request %.0f ms", r.Ops, r.Verified, r.WorstMS)

	hold, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.CtlTry(p.Sock, "detach", "v")
	if err == nil || !strings.Contains(out, "in use") || !strings.Contains(out, "process") {
		t.Errorf("detach of an open file: %v, %s", err, out)
	}
	if a := p.attachment("v"); len(a.OpenBy) != 1 || a.File != file || a.State != "ok" {
		t.Errorf("after the refusal: %+v", a)
	}
	if _, err := hold.WriteAt(make([]byte, 4096), 0); err != nil {
		t.Errorf("after the refusal: %v", err)
	}
	p.Ctl(p.Sock, "detach", file, "--force")
	if _, err := hold.WriteAt(make([]byte, 4096), 0); err == nil {
		t.Error("a write to a file that was taken away by force succeeds")
	}
	_ = hold.Close() // the file is gone
	if _, err := os.Stat(file); err == nil {
		t.Error("the file is there after detach")
	}
	p.Eventually("the files' process ends with its last file", func() bool {
		_, err := os.Stat(l.Path("run/files.pid"))
		return err != nil
	})
}

// TestFileOwner: owner and mode, attributes, size, a second attachment of the
// same volume.
func TestFileOwner(t *testing.T) {
	needFUSE(t)
	l := NewLab(t, binDir)
	if err := os.Chmod(l.Dir, 0o755); err != nil { // others must get to the mount
		t.Fatal(err)
	}
	p := l.filePair()
	p.Ctl(p.Sock, "volume", "create", "v", "--size", "8M")
	a := p.attachAs("v", "--as", "box1", "--fuse", "--owner", "65534:65534", "--mode", "0640")
	b := p.attachAs("v", "--as", "box2", "--fuse")
	if filepath.Base(a) != "v~box1" || filepath.Base(b) != "v~box2" || filepath.Base(filepath.Dir(a)) != "default" {
		t.Errorf("files %s and %s", a, b)
	}
	var st unix.Stat_t
	if err := unix.Stat(a, &st); err != nil || st.Uid != 65534 || st.Gid != 65534 || st.Mode != unix.S_IFREG|0o640 || st.Size != 8<<20 {
		t.Errorf("%s: %+v, %v", a, st, err)
	}
	attr := make([]byte, 64)
	if n, err := unix.Getxattr(a, "user.rsio.nexus", attr); err != nil || string(attr[:n]) != "h1/box1" {
		t.Errorf("user.rsio.nexus: %q, %v", attr[:max(n, 0)], err)
	}
	fa, err := os.OpenFile(a, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = fa.Close() }()
	fb, err := os.OpenFile(b, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = fb.Close() }()
	got := make([]byte, 5)
	for _, s := range []string{"first", "other"} { // neither has a page cache
		if _, err := fa.WriteAt([]byte(s), 4096); err != nil {
			t.Fatal(err)
		}
		if _, err := fb.ReadAt(got, 4096); err != nil || string(got) != s {
			t.Errorf("the other attachment reads %q, %v, want %q", got, err, s)
		}
	}
	p.Ctl(p.Sock, "volume", "resize", "v", "--size", "16M")
	p.Eventually("the file has grown", func() bool { return unix.Fstat(int(fa.Fd()), &st) == nil && st.Size == 16<<20 })
	if _, err := fa.WriteAt([]byte("behind"), 12<<20); err != nil {
		t.Errorf("a write behind the former end: %v", err)
	}
}

// TestP13_Loop: file systems on a loop device see no error while the daemons
// are killed; detach refuses while one is mounted.
func TestP13_Loop(t *testing.T) {
	needFUSE(t)
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		blocktest.NotChecked(t, "the kernel has no loop devices")
	}
	l := NewLab(t, binDir)
	p := l.filePair()
	for _, row := range []struct {
		fs          string
		mkfs, check []string
	}{
		{"ext4", []string{"mkfs.ext4", "-q"}, []string{"e2fsck", "-fn"}},
		{"xfs", []string{"mkfs.xfs", "-q"}, []string{"xfs_repair", "-n"}},
		{"btrfs", []string{"mkfs.btrfs", "-q"}, []string{"btrfs", "check", "--readonly"}},
	} {
		t.Run(row.fs, func(t *testing.T) {
			need(t, row.mkfs[0], row.check[0])
			p.T = t
			defer func() { p.T = l.T }()
			p.loopRound(row.fs, row.mkfs, row.check)
		})
	}
}

func (p *Pair) loopRound(fs string, mkfs, check []string) {
	t := p.T
	t.Helper()
	p.Ctl(p.Sock, "volume", "create", fs, "--size", "512M")
	dev := p.attachAs(fs, "--loop")
	p.Run(append(mkfs, dev)...)
	mnt := p.Path("mnt-" + fs)
	if err := os.Mkdir(mnt, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", fs, dev, mnt).CombinedOutput(); err != nil {
		if strings.Contains(string(out), "unknown filesystem") {
			p.Ctl(p.Sock, "detach", fs)
			blocktest.NotChecked(t, "this kernel cannot mount "+fs)
		}
		t.Fatalf("mount: %v\n%s", err, out)
	}
	mounted := true
	defer func() {
		if mounted {
			_ = unix.Unmount(mnt, unix.MNT_DETACH)
		}
	}()
	soak := p.StartSoak(filepath.Join(mnt, "data"), "--size", "64M", "--workers", "8")
	time.Sleep(500 * time.Millisecond)
	p.Initiator.Kill()
	p.Initiator.Start()
	time.Sleep(700 * time.Millisecond)
	p.Target.Kill()
	p.Target.Start()
	time.Sleep(700 * time.Millisecond)
	if out, err := p.CtlTry(p.Sock, "detach", fs); err == nil || !strings.Contains(out, "mounted on "+mnt) {
		t.Errorf("detach of a mounted device: %v, %s", err, out)
	}
	r := soak.Stop()
	t.Logf("%s: %d operations, longest %.0f ms", fs, r.Ops, r.WorstMS)
	p.Run("umount", mnt)
	mounted = false
	p.Run(append(check, dev)...)
	if out, err := os.Readlink("/dev/rsio/default/" + fs); err != nil || out != dev {
		t.Errorf("stable name: %q, %v, want %q", out, err, dev)
	}
	p.Ctl(p.Sock, "detach", dev)
	if _, err := os.Lstat("/dev/rsio/default/" + fs); err == nil {
		t.Error("the stable name is there after detach")
	}
}

// TestFilesKilled: kill -9 of the process that serves files ends the mount; the
// initiator makes it again, and says so.
func TestFilesKilled(t *testing.T) {
	needFUSE(t)
	l := NewLab(t, binDir)
	p := l.filePair()
	p.Ctl(p.Sock, "volume", "create", "v", "--size", "8M")
	file := p.attachAs("v", "--fuse")
	if err := os.WriteFile(file, []byte("kept"), 0o600); err == nil {
		t.Error("a file of a volume was truncated")
	}
	write := func() error {
		f, err := os.OpenFile(file, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		_, err = f.WriteAt([]byte("kept"), 512)
		return err
	}
	if err := write(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		b, err := os.ReadFile(l.Path("run/files.pid"))
		pid, err2 := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		p.Eventually("the file is there again", func() bool { return write() == nil })
	}
	out := p.Ctl(p.Sock, "events")
	if !strings.Contains(out, "was gone and has been made again") {
		t.Errorf("no event says so: %s", out)
	}
	p.Ctl(p.Sock, "detach", "v")
}
