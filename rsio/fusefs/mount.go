// SPDX-License-Identifier: Apache-2.0

package fusefs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// mount is one life of an FS as a mount.
type mount struct {
	dir    string // absolute
	server *fuse.Server
	root   bool          // made by mount(2), not by fusermount3
	conn   uint32        // number of the connection in /sys/fs/fuse/connections
	ended  chan struct{} // closed when the mount has ended and no handler runs
}

// Mount mounts the FS on an existing directory and serves it until Unmount,
// or until somebody else unmounts it. A dead mount that a killed process left
// there is taken away first. Root needs no program for it; other users need
// fusermount3.
func (s *FS) Mount(dir string) error {
	s.mountMu.Lock()
	defer s.mountMu.Unlock()
	s.mu.RLock()
	m := s.mount
	s.mu.RUnlock()
	if m != nil {
		return fmt.Errorf("%s %w", m.dir, ErrMounted)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if err := s.bury(dir); err != nil {
		return err
	}
	m = &mount{dir: dir, root: os.Geteuid() == 0, ended: make(chan struct{})}
	at := dir
	if m.root {
		if at, err = s.direct(dir); err != nil {
			return err
		}
	} else if err := s.checkHelper(); err != nil {
		return fmt.Errorf("mount %s: %w", dir, err)
	}
	m.server, err = fuse.NewServer(&raw{RawFileSystem: fuse.NewDefaultRawFileSystem(), fs: s}, at, s.options())
	if err != nil {
		if m.root {
			_ = unix.Unmount(dir, unix.MNT_DETACH) // nobody serves it
		}
		return fmt.Errorf("mount %s: %w", dir, err)
	}
	s.mu.Lock()
	s.mount = m
	s.mu.Unlock()
	go func() { // joined by whoever waits for ended
		m.server.Serve()
		s.over(m)
	}()
	if err := m.settle(); err != nil {
		err = errors.Join(err, m.abort())
		<-m.ended
		return err
	}
	return nil
}

// options is what the kernel is asked for.
func (s *FS) options() *fuse.MountOptions {
	return &fuse.MountOptions{
		AllowOther:    !s.opt.Private,
		Options:       []string{"default_permissions"},
		MaxBackground: s.opt.MaxBackground,
		MaxWrite:      maxIO,
		FsName:        "rsio",
		Name:          "rsio",
		Logger:        slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
		// Reads fill go-fuse's buffers; there is no file to splice from.
		DisableSplice: true,
		// Otherwise each write asks for security.capability.
		IgnoreSecurityLabels: true,
		DisableReadDirPlus:   true,
		// Without it the kernel waits for each request of an AIO with
		// O_DIRECT before it sends the next.
		ExtraCapabilities: fuse.CAP_ASYNC_DIO,
		// Requests through io_uring would need queues that go-fuse does not
		// serve; a page cache of any kind would show old data.
		DisabledCapabilities: fuse.CAP_OVER_IO_URING | fuse.CAP_WRITEBACK_CACHE | fuse.CAP_DIRECT_IO_ALLOW_MMAP | fuse.CAP_PASSTHROUGH,
	}
}

// direct mounts as root and returns the name of the connection for go-fuse,
// which itself would leave it open in every child of this process.
func (s *FS) direct(dir string) (string, error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("mount %s: /dev/fuse: %w: load the kernel module fuse, or give the container the device", dir, err)
	}
	opts := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,max_read=%d,default_permissions", fd, maxIO)
	if !s.opt.Private {
		opts += ",allow_other"
	}
	if err := unix.Mount("rsio", dir, "fuse.rsio", unix.MS_NOSUID|unix.MS_NODEV, opts); err != nil {
		_ = unix.Close(fd) // nothing was written
		if errors.Is(err, unix.EPERM) {
			err = fmt.Errorf("%w: root needs CAP_SYS_ADMIN for it", err)
		}
		return "", fmt.Errorf("mount %s: %w", dir, err)
	}
	return "/dev/fd/" + strconv.Itoa(fd), nil
}

// checkHelper says what a mount by another user than root lacks.
func (s *FS) checkHelper() error {
	if _, err := exec.LookPath("fusermount3"); err != nil {
		return errors.New("fusermount3 is missing, which mounts for users other than root: install the package fuse3")
	}
	if s.opt.Private {
		return nil
	}
	conf, err := os.ReadFile("/etc/fuse.conf")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for line := range strings.Lines(string(conf)) {
		if strings.TrimSpace(line) == "user_allow_other" {
			return nil
		}
	}
	return errors.New("other users may not be let in: add the line user_allow_other to /etc/fuse.conf, mount as root, or keep them out (Private)")
}

// bury takes away mounts on dir whose server has died.
func (s *FS) bury(dir string) error {
	for range 8 {
		var st unix.Stat_t
		err := unix.Stat(dir, &st)
		if err == nil {
			if st.Mode&unix.S_IFMT != unix.S_IFDIR {
				return fmt.Errorf("mount %s: %w", dir, unix.ENOTDIR)
			}
			return nil
		}
		if !errors.Is(err, unix.ENOTCONN) {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
		s.log.Warn("a dead mount is taken away", "dir", dir)
		if err := detach(dir, os.Geteuid() == 0); err != nil {
			return fmt.Errorf("mount %s: a dead mount is there: %w: unmount it", dir, err)
		}
	}
	return fmt.Errorf("mount %s: more dead mounts are there than one can take away", dir)
}

// settle makes the mount safe to use from this process too and learns the
// number of the connection.
func (m *mount) settle() error {
	// Without an answer to a poll here, the first os.Open of a file by this
	// process would ask for one on a thread that the runtime does not know to
	// be blocked. go-fuse answers for this name.
	if fd, err := unix.Open(filepath.Join(m.dir, ".go-fuse-epoll-hack"), unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0) // that it was asked is enough
		_ = unix.Close(fd)                                                       // nothing was written
	}
	var st unix.Stat_t
	if err := unix.Stat(m.dir, &st); err != nil {
		return fmt.Errorf("mount %s: %w", m.dir, err)
	}
	m.conn = unix.Minor(st.Dev)
	return nil
}

// over runs when the mount has ended and the last handler has returned: the
// kernel has forgotten all nodes and handles.
func (s *FS) over(m *mount) {
	s.mu.Lock()
	s.mount = nil
	for _, f := range s.files {
		clear(f.handles)
		f.wakeIdle()
		f.lookups = 0
		s.forget(f, 0)
	}
	clear(s.handles)
	s.mu.Unlock()
	close(m.ended)
}

// Done returns a channel that is closed when the present mount has ended, by
// Unmount or by somebody else; nil if there is none.
func (s *FS) Done() <-chan struct{} {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.mount == nil {
		return nil
	}
	return s.mount.ended
}

// Unmount ends the mount and returns when no request is in flight any more.
// While a file is open, or a process works in a directory, it is refused with
// an InUseError, unless force is set: then whatever is done with open files is
// ECONNABORTED or ENOTCONN from now on. If ctx ends first, the mount is gone
// and devices may still have requests in flight; Unmount may be called again
// to wait for them. The files stay: Mount shows them again.
func (s *FS) Unmount(ctx context.Context, force bool) error {
	s.mountMu.Lock()
	defer s.mountMu.Unlock()
	s.mu.RLock()
	m := s.mount
	s.mu.RUnlock()
	if m == nil {
		return fmt.Errorf("unmount: %w", ErrNotMounted)
	}
	if err := s.leave(m, force); err != nil {
		return fmt.Errorf("unmount %s: %w", m.dir, err)
	}
	select {
	case <-m.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("unmount %s: requests are still in flight: %w", m.dir, ctx.Err())
	}
}

// leave takes the mount out of the tree.
func (s *FS) leave(m *mount, force bool) error {
	if force {
		return m.abort()
	}
	var err error
	for end := time.Now().Add(releaseGrace); ; time.Sleep(10 * time.Millisecond) {
		if m.root {
			err = unix.Unmount(m.dir, unix.UMOUNT_NOFOLLOW)
		} else {
			err = helper("-u", m.dir)
		}
		if err == nil || errors.Is(err, unix.EINVAL) { // it may have been taken away by somebody else
			return nil
		}
		if time.Now().After(end) {
			break
		}
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	var all []*file
	for _, f := range s.files {
		all = append(all, f)
	}
	if open := openers(all...); len(open) > 0 || errors.Is(err, unix.EBUSY) {
		return &InUseError{What: "the mount", Openers: open}
	}
	return err
}

// abort makes the kernel answer all requests itself, and detaches.
func (m *mount) abort() error {
	if m.root {
		err := unix.Unmount(m.dir, unix.MNT_FORCE|unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) { // somebody detached it before: files are open
			err = m.abortConn()
		}
		return err
	}
	return errors.Join(m.abortConn(), helper("-u", "-z", m.dir))
}

func (m *mount) abortConn() error {
	path := fmt.Sprintf("/sys/fs/fuse/connections/%d/abort", m.conn)
	err := os.WriteFile(path, []byte("1\n"), 0o200)
	if errors.Is(err, os.ErrNotExist) { // the connection has ended, or fusectl is not mounted
		return nil
	}
	return err
}

// detach takes whatever is mounted on dir out of the tree.
func detach(dir string, root bool) error {
	if root {
		return unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
	return helper("-u", "-z", dir)
}

// helper runs fusermount3.
func helper(args ...string) error {
	out, err := exec.Command("fusermount3", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("fusermount3: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
