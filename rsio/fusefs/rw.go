// SPDX-License-Identifier: Apache-2.0

package fusefs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"rsio/rsio/block"
)

// span is a range of bytes as the device's blocks see it.
type span struct {
	off, end uint64 // what is asked for
	lo, hi   uint64 // the blocks around it
}

func newSpan(i block.Info, off, n uint64) span {
	mask := uint64(max(i.BlockSize, 1)) - 1
	return span{off: off, end: off + n, lo: off &^ mask, hi: (off + n + mask) &^ mask}
}

// whole reports whether the range is made of whole blocks.
func (s span) whole() bool { return s.off == s.lo && s.end == s.hi }

// parts cuts the range into a head and a tail, parts of one block each or
// empty, and whole blocks between them, [from, to). A range within one block
// is all head.
func (s span) parts(i block.Info) (head, tail span, from, to uint64) {
	bs := uint64(max(i.BlockSize, 1))
	from, to = s.lo, s.hi
	if s.off != s.lo || s.end < s.lo+bs {
		from = s.lo + bs
		head = span{off: s.off, end: min(s.end, from), lo: s.lo, hi: from}
	}
	if s.end != s.hi && s.end > from {
		to = s.hi - bs
		tail = span{off: to, end: s.end, lo: to, hi: s.hi}
	}
	return head, tail, from, max(from, to)
}

func (s span) empty() bool { return s.off == s.end }

// Read implements fuse.RawFileSystem. The device fills go-fuse's buffer.
func (r *raw) Read(_ <-chan struct{}, in *fuse.ReadIn, b []byte) (fuse.ReadResult, fuse.Status) {
	h := r.enter(in.Fh)
	if h == nil {
		return nil, fuse.EIO
	}
	defer h.f.in.Leave()
	c := r.fs.begin(h.f, in.Unique)
	defer r.fs.end(c)
	size := c.info.Size
	if in.Offset >= size {
		return fuse.ReadResultData(nil), fuse.OK
	}
	n := min(uint64(len(b)), size-in.Offset)
	if n == 0 {
		return fuse.ReadResultData(nil), fuse.OK
	}
	if st := c.read(r.fs, newSpan(c.info, in.Offset, n), b[:n]); st != block.StatusOK {
		return nil, errno(st)
	}
	if n == uint64(len(b)) {
		return nil, fuse.OK // all of b: saves the allocation of a result
	}
	return fuse.ReadResultData(b[:n]), fuse.OK
}

// read fills b. Blocks that are not wholly asked for are read aside.
func (c *call) read(s *FS, sp span, b []byte) block.Status {
	if sp.whole() {
		c.submit(s, block.OpRead, 0, sp.off, uint64(len(b)), b)
		return c.wait(s)
	}
	head, tail, from, to := sp.parts(c.info)
	c.readEdges(s, head, tail)
	if from < to {
		c.submit(s, block.OpRead, 0, from, to-from, b[from-sp.off:to-sp.off])
	}
	st := c.wait(s)
	if !head.empty() {
		copy(b, c.edges.head[head.off-head.lo:head.end-head.lo])
	}
	if !tail.empty() {
		copy(b[tail.off-sp.off:], c.edges.tail[:tail.end-tail.lo])
	}
	return st
}

// readEdges starts to read the blocks of a head and a tail.
func (c *call) readEdges(s *FS, head, tail span) {
	if !head.empty() {
		c.one(s, block.OpRead, 0, head.lo, uint32(head.hi-head.lo), c.edges.head[:head.hi-head.lo])
	}
	if !tail.empty() {
		c.one(s, block.OpRead, 0, tail.lo, uint32(tail.hi-tail.lo), c.edges.tail[:tail.hi-tail.lo])
	}
}

// writeEdges starts to write them.
func (c *call) writeEdges(s *FS, flags block.Flags, head, tail span) {
	if !head.empty() {
		c.one(s, block.OpWrite, flags, head.lo, uint32(head.hi-head.lo), c.edges.head[:head.hi-head.lo])
	}
	if !tail.empty() {
		c.one(s, block.OpWrite, flags, tail.lo, uint32(tail.hi-tail.lo), c.edges.tail[:tail.hi-tail.lo])
	}
}

// lock keeps partial changes of the same blocks away until unlock.
func (c *call) lock(sp span) {
	if c.info.BlockSize > 1 {
		c.hold.off, c.hold.end, c.hold.partial = sp.lo, sp.hi, !sp.whole()
		c.f.ranges.lock(&c.hold)
	}
}

func (c *call) unlock() {
	if c.info.BlockSize > 1 {
		c.f.ranges.unlock(&c.hold)
	}
}

// Writev implements fuse.RawFileSystem; a kernel sends one part.
func (r *raw) Writev(cancel <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	if len(data) != 1 {
		return 0, fuse.ENOSYS // go-fuse joins them and calls Write
	}
	return r.Write(cancel, in, data[0])
}

// Write implements fuse.RawFileSystem. The device reads go-fuse's buffer.
func (r *raw) Write(_ <-chan struct{}, in *fuse.WriteIn, b []byte) (uint32, fuse.Status) {
	h := r.enter(in.Fh)
	if h == nil {
		return 0, fuse.EIO
	}
	defer h.f.in.Leave()
	if !h.write {
		return 0, fuse.EBADF
	}
	c := r.fs.begin(h.f, in.Unique)
	defer r.fs.end(c)
	size := c.info.Size
	if len(b) == 0 {
		return 0, fuse.OK
	}
	if in.Offset >= size {
		return 0, fuse.Status(unix.ENOSPC)
	}
	b = b[:min(uint64(len(b)), size-in.Offset)]
	var flags block.Flags
	durable := in.Flags&unix.O_DSYNC != 0 // of the file or, RWF_DSYNC, of this write
	if durable && c.info.Has(block.CanFUA) {
		flags, durable = block.FlagFUA, false
	}
	st := c.write(r.fs, flags, newSpan(c.info, in.Offset, uint64(len(b))), b)
	if st == block.StatusOK && durable {
		st = c.flush(r.fs)
	}
	if st != block.StatusOK {
		return 0, errno(st)
	}
	return uint32(len(b)), fuse.OK
}

// write writes b. Blocks that are not wholly written are read before.
func (c *call) write(s *FS, flags block.Flags, sp span, b []byte) block.Status {
	c.lock(sp)
	defer c.unlock()
	if sp.whole() {
		c.submit(s, block.OpWrite, flags, sp.off, uint64(len(b)), b)
		return c.wait(s)
	}
	head, tail, from, to := sp.parts(c.info)
	c.readEdges(s, head, tail)
	if st := c.wait(s); st != block.StatusOK {
		return st
	}
	if !head.empty() {
		copy(c.edges.head[head.off-head.lo:], b[:head.end-head.off])
	}
	if !tail.empty() {
		copy(c.edges.tail[:], b[tail.off-sp.off:])
	}
	c.writeEdges(s, flags, head, tail)
	if from < to {
		c.submit(s, block.OpWrite, flags, from, to-from, b[from-sp.off:to-sp.off])
	}
	return c.wait(s)
}

// Fsync implements fuse.RawFileSystem.
func (r *raw) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	h := r.enter(in.Fh)
	if h == nil {
		return fuse.EIO
	}
	defer h.f.in.Leave()
	if h.f.ReadOnly {
		return fuse.OK // nothing was written through it
	}
	c := r.fs.begin(h.f, in.Unique)
	defer r.fs.end(c)
	return errno(c.flush(r.fs)) // of a handle for reading too: sync(1) opens so
}
