// SPDX-License-Identifier: Apache-2.0

package fusefs

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"rsio/rsio/block"
)

// releaseGrace is how long Remove waits for a file that is open: the kernel
// tells of a close after it has returned.
const releaseGrace = 200 * time.Millisecond

// FS is a set of files and their mount. New makes one; all methods may be
// called from any goroutine.
type FS struct {
	opt Options
	log *slog.Logger

	mountMu sync.Mutex // one Mount or Unmount at a time

	mu       sync.RWMutex
	nextNode uint64
	nextFh   uint64
	spaces   map[string]*namespace
	dirs     map[uint64]*namespace // by node
	files    map[uint64]*file      // by node; removed ones too while the kernel knows them
	handles  map[uint64]*handle    // by the kernel's file handle
	draining map[string]*file      // removed ones whose requests have not ended, by path
	mount    *mount                // nil: not mounted

	pools pools
}

// namespace is a directory. It stays for the life of the FS, so that somebody
// who is in it stays there, and can be seen while it has files.
type namespace struct {
	node  uint64
	name  string
	files map[string]*file
}

// file is a File in the tree. What changes is guarded by FS.mu.
type file struct {
	File
	node    uint64
	dir     *namespace
	since   time.Time
	in      block.Inflight // requests; closed when the file is removed
	ranges  ranges
	rights  rights
	removed bool
	lookups uint64 // references that the kernel has
	handles map[uint64]*handle
	idle    chan struct{} // closed when the last handle goes; nil: nobody waits
}

// handle is one open of a file.
type handle struct {
	f     *file
	pid   uint32
	uid   uint32
	write bool
	sync  bool // O_SYNC or O_DSYNC
}

// New returns an FS without files that is not mounted.
func New(opt Options) *FS {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.MaxBackground <= 0 || opt.MaxBackground > 1<<16-1 {
		opt.MaxBackground = DefaultBackground
	}
	return &FS{
		opt: opt, log: opt.Log, nextNode: fuse.FUSE_ROOT_ID + 1,
		spaces: make(map[string]*namespace), dirs: make(map[uint64]*namespace),
		files: make(map[uint64]*file), handles: make(map[uint64]*handle), draining: make(map[string]*file),
	}
}

// Add makes a file appear; its name must be free (ErrExists).
func (s *FS) Add(add File) error {
	if err := add.check(); err != nil {
		return err
	}
	if add.Mode == 0 {
		add.Mode = 0o600
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.spaces[add.Namespace]
	if d == nil {
		d = &namespace{node: s.node(), name: add.Namespace, files: make(map[string]*file)}
		s.spaces[d.name], s.dirs[d.node] = d, d
	}
	if d.files[add.Name] != nil {
		return fmt.Errorf("file %s/%s: %w", add.Namespace, add.Name, ErrExists)
	}
	f := &file{File: add, node: s.node(), dir: d, since: time.Now(), handles: make(map[uint64]*handle)}
	f.ranges.init()
	f.rights.state.Store(&rightState{now: f.Device.Info().Right})
	d.files[f.Name], s.files[f.node] = f, f
	return nil
}

// node returns a new inode number; none is ever used again. mu is held.
func (s *FS) node() uint64 {
	n := s.nextNode
	s.nextNode++
	return n
}

// Remove makes a file vanish and returns when no request of it is in flight,
// so that its device can be closed. A file that is open is refused with an
// InUseError, unless force is set: then all that is done with its handles is
// EIO from now on. If ctx ends while requests are in flight, the name is gone
// and ctx.Err is returned; Remove may be called again to wait for the rest.
func (s *FS) Remove(ctx context.Context, namespace, name string, force bool) error {
	path := namespace + "/" + name
	f, err := s.unlink(ctx, path, namespace, name, force)
	if err != nil {
		return err
	}
	if err := f.in.Close(ctx, func() error { return nil }); err != nil {
		return fmt.Errorf("file %s is removed, but its device has requests in flight: %w", path, err)
	}
	s.mu.Lock()
	if s.draining[path] == f {
		delete(s.draining, path)
	}
	s.mu.Unlock()
	return nil
}

// unlink takes the name away, if that is allowed.
func (s *FS) unlink(ctx context.Context, path, namespace, name string, force bool) (*file, error) {
	grace := time.NewTimer(releaseGrace)
	defer grace.Stop()
	for late := false; ; {
		s.mu.Lock()
		f := s.lookup(namespace, name)
		if f == nil {
			f = s.draining[path]
			s.mu.Unlock()
			if f == nil {
				return nil, fmt.Errorf("file %s: %w", path, ErrNotFound)
			}
			return f, nil
		}
		if len(f.handles) == 0 || force {
			delete(f.dir.files, name)
			empty := len(f.dir.files) == 0
			f.removed = true
			s.draining[path] = f
			s.forget(f, 0)
			m := s.mount
			s.mu.Unlock()
			s.vanished(m, f, empty)
			return f, nil
		}
		if late {
			open := openers(f)
			s.mu.Unlock()
			return nil, &InUseError{What: "file " + path, Openers: open}
		}
		if f.idle == nil {
			f.idle = make(chan struct{})
		}
		idle := f.idle
		s.mu.Unlock()
		select {
		case <-idle:
		case <-grace.C:
			late = true
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// vanished tells the kernel that names do not exist any more. It does not
// wait for requests of the file: only the directory is locked meanwhile.
func (s *FS) vanished(m *mount, f *file, empty bool) {
	if m == nil {
		return
	}
	m.server.EntryNotify(f.dir.node, f.Name) // refused if the kernel did not know it: nothing to forget
	if empty {
		m.server.EntryNotify(fuse.FUSE_ROOT_ID, f.dir.name)
	}
}

// lookup returns a file by its name or nil; mu is held.
func (s *FS) lookup(namespace, name string) *file {
	if d := s.spaces[namespace]; d != nil {
		return d.files[name]
	}
	return nil
}

// forget takes n of the kernel's references away and drops a removed file
// that nobody refers to any more; mu is held.
func (s *FS) forget(f *file, n uint64) {
	f.lookups -= min(n, f.lookups)
	if f.removed && f.lookups == 0 && len(f.handles) == 0 {
		delete(s.files, f.node)
	}
}

// Openers tells who has a file open, by process; none if there is no such
// file.
func (s *FS) Openers(namespace, name string) []Opener {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if f := s.lookup(namespace, name); f != nil {
		return openers(f)
	}
	return nil
}

// openers sums the handles of files up; mu is held.
func openers(files ...*file) []Opener {
	var list []Opener
	for _, f := range files {
		for _, h := range f.handles {
			i := slices.IndexFunc(list, func(o Opener) bool { return o.PID == h.pid && o.UID == h.uid })
			if i < 0 {
				i = len(list)
				list = append(list, Opener{PID: h.pid, UID: h.uid})
			}
			list[i].Handles++
			list[i].Writes = list[i].Writes || h.write
		}
	}
	slices.SortFunc(list, func(a, b Opener) int {
		return cmp.Or(cmp.Compare(a.PID, b.PID), cmp.Compare(a.UID, b.UID))
	})
	return list
}

// Files returns all files, sorted by namespace and name.
func (s *FS) Files() []File {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var list []File
	for _, d := range s.spaces {
		for _, f := range d.files {
			list = append(list, f.File)
		}
	}
	slices.SortFunc(list, func(a, b File) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return list
}
