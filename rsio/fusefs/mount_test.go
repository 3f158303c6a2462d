// SPDX-License-Identifier: Apache-2.0

package fusefs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rsio/rsio/blocktest"
	"rsio/rsio/store/mem"
)

// TestMain lets the program be started by a test as one that mounts.
func TestMain(m *testing.M) {
	if dir := os.Getenv("RSIO_FUSEFS_MOUNT"); dir != "" {
		serve(dir)
	}
	go watchdog() // ends with the process
	os.Exit(m.Run())
}

// serve mounts a file system with one file and waits for its end, or for that
// of stdin.
func serve(dir string) {
	d, err := mem.New(mem.Options{Size: 1 << 20})
	s := New(Options{Private: os.Geteuid() != 0})
	if err == nil {
		err = errors.Join(s.Add(File{Namespace: "default", Name: "vol", Device: d, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}), s.Mount(dir))
	}
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
	fmt.Println("up")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	force := os.Getenv("RSIO_FUSEFS_FORCE") != ""
	c, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	fmt.Println("ended:", s.Unmount(c, force))
	os.Exit(0)
}

// start runs serve in a process, as another user if uid is not 0.
func start(t *testing.T, dir string, uid uint32, env ...string) (cmd *exec.Cmd, said func() string, end func() string) {
	t.Helper()
	self := "/proc/self/exe"
	if uid != 0 { // the binary's directory need not be open to others
		raw, err := os.ReadFile(self)
		if err != nil {
			t.Fatal(err)
		}
		self = filepath.Join(filepath.Dir(dir), "serve")
		if err := os.WriteFile(self, raw, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd = exec.Command(self)
	cmd.Env = append(os.Environ(), append([]string{"RSIO_FUSEFS_MOUNT=" + dir}, env...)...)
	if uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = unix.Unmount(dir, unix.MNT_FORCE|unix.MNT_DETACH) // if the test failed
	})
	lines := bufio.NewReader(out)
	said = func() string {
		var line string
		within(t, "the other process", func() { line, _ = lines.ReadString('\n') })
		return strings.TrimSpace(line)
	}
	end = func() string {
		_ = in.Close()
		return said()
	}
	return cmd, said, end
}

// openDir is a directory that others may pass.
func openDir(t *testing.T) string {
	t.Helper()
	top, err := os.MkdirTemp("", "fusefs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(top) })
	dir := filepath.Join(top, "mnt")
	if err := errors.Join(os.Chmod(top, 0o755), os.Mkdir(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestDeadMount: the mount of a process that was killed is taken away by the
// next one.
func TestDeadMount(t *testing.T) {
	needMount(t)
	dir := openDir(t)
	cmd, said, _ := start(t, dir, 0)
	if got := said(); got != "up" {
		t.Fatal(got)
	}
	fd := open(t, filepath.Join(dir, "default", "vol"), unix.O_RDWR)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	if _, err := unix.Pread(fd, make([]byte, 10), 0); err == nil {
		t.Error("a read from a dead process succeeds")
	}
	s := New(Options{})
	if err := errors.Join(s.Add(File{Namespace: "default", Name: "vol", Device: memory(t, 2<<20, 1)}), s.Mount(dir)); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "default", "vol"), &st); err != nil || st.Size != 2<<20 {
		t.Error(st.Size, err)
	}
	if err := s.Unmount(ctx(t), true); err != nil {
		t.Error(err)
	}
}

// TestOtherUser: a user who is not root mounts through fusermount3.
func TestOtherUser(t *testing.T) {
	needMount(t)
	if _, err := exec.LookPath("fusermount3"); err != nil {
		blocktest.NotChecked(t, "it needs fusermount3 (package fuse3)")
	}
	if st, err := os.Stat("/dev/fuse"); err != nil || st.Mode().Perm()&0o006 != 0o006 {
		if err := os.Chmod("/dev/fuse", 0o666); err != nil {
			blocktest.NotChecked(t, "other users may not open /dev/fuse")
		}
		t.Cleanup(func() { _ = os.Chmod("/dev/fuse", st.Mode()) })
	}
	const uid = 65534 // nobody: fusermount3 wants one who has a name
	for _, force := range []string{"", "1"} {
		dir := openDir(t)
		if err := os.Chown(dir, uid, uid); err != nil {
			t.Fatal(err)
		}
		_, said, end := start(t, dir, uid, "RSIO_FUSEFS_FORCE="+force)
		if got := said(); got != "up" {
			t.Fatal(got)
		}
		cmd := exec.Command("dd", "if=/dev/zero", "of="+filepath.Join(dir, "default", "vol"), "bs=4k", "count=1", "conv=notrunc,fsync", "status=none")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		if got := end(); got != "ended: <nil>" {
			t.Error(got)
		}
	}
	// Without the program it says what is missing.
	dir := openDir(t)
	_, said, _ := start(t, dir, uid, "PATH=/nonexistent")
	if got := said(); !strings.Contains(got, "fuse3") {
		t.Error(got)
	}
}

// TestUnmount: refused while a file is open, unless it is forced; the files
// are there at the next mount.
func TestUnmount(t *testing.T) {
	r := newRig(t, Options{})
	path := r.add("vol", memory(t, 1<<20, 1))
	fd := open(t, path, unix.O_RDWR)
	if err := r.fs.Mount(r.dir); !errors.Is(err, ErrMounted) {
		t.Errorf("twice: %v", err)
	}
	var inUse *InUseError
	if err := r.fs.Unmount(ctx(t), false); !errors.As(err, &inUse) || len(inUse.Openers) != 1 {
		t.Errorf("with an open file: %v", err)
	}
	if _, err := unix.Pwrite(fd, []byte("abc"), 0); err != nil {
		t.Error(err)
	}
	if err := r.fs.Unmount(ctx(t), true); err != nil {
		t.Error(err)
	}
	if _, err := unix.Pwrite(fd, []byte("abc"), 0); err == nil {
		t.Error("a write after the end of the mount succeeds")
	}
	if err := r.fs.Unmount(ctx(t), true); !errors.Is(err, ErrNotMounted) {
		t.Error(err)
	}
	if err := r.fs.Mount(r.dir); err != nil {
		t.Fatal(err)
	}
	if o := r.fs.Openers("default", "vol"); len(o) != 0 {
		t.Error(o)
	}
	if b, err := os.ReadFile(path); err != nil || string(b[:3]) != "abc" {
		t.Error(err)
	}
	done := r.fs.Done()
	run(t, "umount", r.dir) // by somebody else
	select {
	case <-done:
	case <-time.After(patience):
		t.Error("the end of the mount is not seen")
	}
	if err := New(Options{}).Mount(filepath.Join(r.dir, "nothing")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// TestLeaks: a mount leaves neither goroutines nor descriptors behind, and
// gives none to children.
func TestLeaks(t *testing.T) {
	needMount(t)
	dir := t.TempDir()
	once := func() {
		s := New(Options{})
		d := memory(t, 1<<20, 512)
		if err := errors.Join(s.Mount(dir), s.Add(File{Namespace: "default", Name: "vol", Device: d})); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(filepath.Join(dir, "default", "vol"), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 100 {
			if _, err := f.WriteAt([]byte("abc"), int64(i*301)); err != nil {
				t.Error(err)
			}
		}
		if out := run(t, "ls", "-l", "/proc/self/fd"); strings.Contains(out, "/dev/fuse") {
			t.Errorf("a child has the connection: %s", out)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		if err := s.Remove(ctx(t), "default", "vol", false); err != nil {
			t.Error(err)
		}
		if err := s.Unmount(ctx(t), false); err != nil {
			t.Error(err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.files) != 0 || len(s.handles) != 0 || len(s.draining) != 0 {
			t.Errorf("%d files, %d handles, %d that drain", len(s.files), len(s.handles), len(s.draining))
		}
	}
	once()
	goroutines, fds := runtime.NumGoroutine(), countFDs(t)
	for range 5 {
		once()
	}
	for end := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > goroutines+1 || countFDs(t) > fds; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			buf := make([]byte, 64<<10)
			t.Fatalf("%d goroutines, then %d; %d descriptors, then %d\n%s", goroutines, runtime.NumGoroutine(), fds, countFDs(t), buf[:runtime.Stack(buf, true)])
		}
	}
}

func countFDs(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}
