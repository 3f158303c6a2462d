// SPDX-License-Identifier: Apache-2.0

package fusefs

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// How long the kernel may rely on what it was told. Changes are notified; a
// device that grows without a call of Resized is seen after attrValid.
const (
	entryValid = 60 * time.Second
	attrValid  = time.Second
)

const (
	blockSize = 4096 // bytes; of statfs, and the granularity of discards of loop devices
	bestIO    = 1 << 20
	dirMode   = unix.S_IFDIR | 0o755
)

// raw is the FS as the kernel calls it. What is not here is answered ENOSYS,
// which the kernel remembers or has a default for: permissions are its own
// (default_permissions), there are no ioctls, copy_file_range copies.
type raw struct {
	fuse.RawFileSystem
	fs *FS
}

// String implements fuse.RawFileSystem.
func (r *raw) String() string { return "rsio" }

// Lookup implements fuse.RawFileSystem.
func (r *raw) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	s := r.fs
	s.mu.Lock()
	defer s.mu.Unlock()
	out.SetEntryTimeout(entryValid)
	out.SetAttrTimeout(attrValid)
	if h.NodeId == fuse.FUSE_ROOT_ID {
		d := s.spaces[name]
		if d == nil || len(d.files) == 0 {
			return fuse.ENOENT
		}
		out.NodeId = d.node
		dirAttr(&out.Attr, d.node)
		return fuse.OK
	}
	d := s.dirs[h.NodeId]
	if d == nil {
		return fuse.ENOENT
	}
	f := d.files[name]
	if f == nil {
		return fuse.ENOENT
	}
	f.lookups++
	out.NodeId = f.node
	f.attr(&out.Attr)
	return fuse.OK
}

// Forget implements fuse.RawFileSystem.
func (r *raw) Forget(node, n uint64) {
	r.fs.mu.Lock()
	defer r.fs.mu.Unlock()
	if f := r.fs.files[node]; f != nil {
		r.fs.forget(f, n)
	}
}

// find returns the file of a node, nil for a directory.
func (r *raw) find(node uint64) (*file, fuse.Status) {
	r.fs.mu.RLock()
	defer r.fs.mu.RUnlock()
	if f := r.fs.files[node]; f != nil {
		if f.removed {
			return nil, fuse.EIO
		}
		return f, fuse.OK
	}
	if node == fuse.FUSE_ROOT_ID || r.fs.dirs[node] != nil {
		return nil, fuse.OK
	}
	return nil, fuse.ENOENT
}

func dirAttr(a *fuse.Attr, node uint64) {
	*a = fuse.Attr{Ino: node, Mode: dirMode, Nlink: 2, Blksize: blockSize}
}

// attr asks the device for its size: Info never blocks.
func (f *file) attr(a *fuse.Attr) {
	size := f.Device.Info().Size
	*a = fuse.Attr{
		Ino: f.node, Size: size, Blocks: size / 512, Blksize: bestIO,
		Mode: unix.S_IFREG | f.Mode, Nlink: 1, Owner: fuse.Owner{Uid: f.UID, Gid: f.GID},
	}
	a.SetTimes(&f.since, &f.since, &f.since)
}

// GetAttr implements fuse.RawFileSystem.
func (r *raw) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	f, st := r.find(in.NodeId)
	if st != fuse.OK {
		return st
	}
	out.SetTimeout(attrValid)
	if f == nil {
		dirAttr(&out.Attr, in.NodeId)
	} else {
		if t := f.rights.barrier.Load(); t != 0 && t == in.Pid {
			f.renew(in.Unique)
		}
		f.attr(&out.Attr)
	}
	return fuse.OK
}

// SetAttr implements fuse.RawFileSystem: what is set already may be set again.
func (r *raw) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	f, st := r.find(in.NodeId)
	if st != fuse.OK {
		return st
	}
	if f == nil {
		return fuse.EPERM
	}
	out.SetTimeout(attrValid)
	f.attr(&out.Attr)
	if size, ok := in.GetSize(); ok && size != out.Size {
		r.fs.log.Warn("truncate is refused: the volume has a fixed size; open without O_TRUNC (dd: conv=notrunc), or resize the volume",
			"file", f.dir.name+"/"+f.Name, "size", out.Size, "wanted", size, "pid", in.Pid)
		return fuse.EPERM
	}
	if mode, ok := in.GetMode(); ok && mode&0o7777 != f.Mode {
		return fuse.EPERM
	}
	if uid, ok := in.GetUID(); ok && uid != f.UID {
		return fuse.EPERM
	}
	if gid, ok := in.GetGID(); ok && gid != f.GID {
		return fuse.EPERM
	}
	return fuse.OK
}

// OpenDir implements fuse.RawFileSystem.
func (r *raw) OpenDir(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status { return fuse.OK }

// ReadDir implements fuse.RawFileSystem. The offset of an entry is its node
// plus 2: it stays the same whatever is added or removed between two calls.
func (r *raw) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	r.fs.mu.RLock()
	defer r.fs.mu.RUnlock()
	list := []fuse.DirEntry{
		{Name: ".", Mode: unix.S_IFDIR, Ino: in.NodeId, Off: 1},
		{Name: "..", Mode: unix.S_IFDIR, Ino: fuse.FUSE_ROOT_ID, Off: 2},
	}
	if in.NodeId == fuse.FUSE_ROOT_ID {
		for _, d := range r.fs.spaces {
			if len(d.files) > 0 {
				list = append(list, fuse.DirEntry{Name: d.name, Mode: unix.S_IFDIR, Ino: d.node, Off: d.node + 2})
			}
		}
	} else if d := r.fs.dirs[in.NodeId]; d != nil {
		for _, f := range d.files {
			list = append(list, fuse.DirEntry{Name: f.Name, Mode: unix.S_IFREG, Ino: f.node, Off: f.node + 2})
		}
	} else {
		return fuse.Status(unix.ENOTDIR)
	}
	slices.SortFunc(list, func(a, b fuse.DirEntry) int { return int(int64(a.Off - b.Off)) })
	for _, e := range list {
		if e.Off > in.Offset && !out.AddDirEntry(e) {
			break
		}
	}
	return fuse.OK
}

// StatFs implements fuse.RawFileSystem: all volumes together, full.
func (r *raw) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	r.fs.mu.RLock()
	defer r.fs.mu.RUnlock()
	*out = fuse.StatfsOut{Bsize: blockSize, Frsize: blockSize, NameLen: 255}
	for _, d := range r.fs.spaces {
		for _, f := range d.files {
			out.Blocks += f.Device.Info().Size / blockSize
			out.Files++
		}
	}
	return fuse.OK
}

// attributes returns the extended attributes of a node, not nil.
func (r *raw) attributes(node uint64) (map[string]string, fuse.Status) {
	f, st := r.find(node)
	if st != fuse.OK || f == nil || f.Attr == nil {
		return map[string]string{}, st
	}
	return f.Attr(), fuse.OK
}

// GetXAttr implements fuse.RawFileSystem.
func (r *raw) GetXAttr(_ <-chan struct{}, h *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	if !strings.HasPrefix(name, "user.") { // such as those that the kernel asks for by itself
		return 0, fuse.ENODATA
	}
	all, st := r.attributes(h.NodeId)
	if st != fuse.OK {
		return 0, st
	}
	v, ok := all[name]
	if !ok {
		return 0, fuse.ENODATA
	}
	return answer(dest, v)
}

// ListXAttr implements fuse.RawFileSystem.
func (r *raw) ListXAttr(_ <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	all, st := r.attributes(h.NodeId)
	if st != fuse.OK {
		return 0, st
	}
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(all)) {
		b.WriteString(name)
		b.WriteByte(0)
	}
	return answer(dest, b.String())
}

func answer(dest []byte, v string) (uint32, fuse.Status) {
	if len(v) > len(dest) {
		return uint32(len(v)), fuse.ERANGE
	}
	return uint32(copy(dest, v)), fuse.OK
}
