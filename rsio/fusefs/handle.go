// SPDX-License-Identifier: Apache-2.0

package fusefs

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// openFlags: no page cache, close does not flush, and writes to one file run
// at once where the kernel can do it.
const openFlags = fuse.FOPEN_DIRECT_IO | fuse.FOPEN_NOFLUSH | fuse.FOPEN_PARALLEL_DIRECT_WRITES

// Open implements fuse.RawFileSystem. Permissions have been checked by the
// kernel.
func (r *raw) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	h := &handle{
		uid: in.Uid, pid: process(in.Pid),
		write: in.Flags&unix.O_ACCMODE != unix.O_RDONLY, sync: in.Flags&unix.O_DSYNC != 0,
	}
	s := r.fs
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.files[in.NodeId]
	if f == nil || f.removed {
		return fuse.ENOENT
	}
	if h.write && (f.ReadOnly || f.Device.Info().ReadOnly) {
		return fuse.EROFS
	}
	h.f = f
	s.nextFh++
	s.handles[s.nextFh], f.handles[s.nextFh] = h, h
	out.Fh, out.OpenFlags = s.nextFh, openFlags
	return fuse.OK
}

// Release implements fuse.RawFileSystem.
func (r *raw) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	s := r.fs
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.handles[in.Fh]
	if h == nil {
		return
	}
	delete(s.handles, in.Fh)
	delete(h.f.handles, in.Fh)
	if len(h.f.handles) == 0 {
		h.f.wakeIdle()
		s.forget(h.f, 0)
	}
}

// wakeIdle tells a Remove that the file is closed; FS.mu is held.
func (f *file) wakeIdle() {
	if f.idle != nil {
		close(f.idle)
		f.idle = nil
	}
}

// Flush implements fuse.RawFileSystem: close does not flush. It is called by
// kernels that do not know FOPEN_NOFLUSH.
func (r *raw) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.OK }

// enter returns the handle of a request and counts the request until the
// caller leaves h.f.in; nil if the file was removed.
func (r *raw) enter(fh uint64) *handle {
	r.fs.mu.RLock()
	h := r.fs.handles[fh]
	r.fs.mu.RUnlock()
	if h == nil || !h.f.in.Enter() {
		return nil
	}
	return h
}

// process returns the process of a thread: the kernel names the thread that
// opens, which waits for the answer and so exists.
func process(thread uint32) uint32 {
	if thread == 0 {
		return 0
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", thread))
	if err != nil {
		return thread
	}
	for line := range bytes.Lines(status) {
		if v, ok := bytes.CutPrefix(line, []byte("Tgid:")); ok {
			if n, err := strconv.ParseUint(string(bytes.TrimSpace(v)), 10, 32); err == nil {
				return uint32(n)
			}
		}
	}
	return thread
}

// Resized tells the kernel that the size of a file's device is another one:
// the next fstat shows it. The caller need not wait for anybody to ask.
func (s *FS) Resized(namespace, name string) {
	s.mu.RLock()
	f, m := s.lookup(namespace, name), s.mount
	s.mu.RUnlock()
	if f == nil || m == nil {
		return
	}
	m.server.InodeNotify(f.node, -1, 0) // attributes only; refused if the kernel did not know it
	// Reads and writes rely on the size that the kernel got when somebody last
	// asked: ask for those that do not, as a loop device.
	var st unix.Stat_t
	_ = unix.Stat(filepath.Join(m.dir, namespace, name), &st) // if it was unmounted meanwhile, nobody reads
}
