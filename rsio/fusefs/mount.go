// SPDX-License-Identifier: Apache-2.0

package fusefs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
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
	fd, err := connect(dir, s.opt.Private)
	if err != nil {
		return fmt.Errorf("mount %s: %w", dir, err)
	}
	// go-fuse takes a connection that is there by this name.
	m.server, err = fuse.NewServer(&raw{RawFileSystem: fuse.NewDefaultRawFileSystem(), fs: s}, "/dev/fd/"+strconv.Itoa(fd), s.options())
	if err != nil {
		return fmt.Errorf("mount %s: %w", dir, errors.Join(err, detach(dir, m.root)))
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
		MaxBackground: s.opt.MaxBackground,
		MaxWrite:      maxIO,
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
		f.rights.state.Store(&rightState{now: f.rights.state.Load().now}) // numbers begin again
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
