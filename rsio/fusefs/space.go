// SPDX-License-Identifier: Apache-2.0

package fusefs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"rsio/rsio/block"
)

// maxZeroes is the number of discards or zeroes of one fallocate that run at
// once.
const maxZeroes = 8

// Fallocate implements fuse.RawFileSystem.
func (r *raw) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	h := r.enter(in.Fh)
	if h == nil {
		return fuse.EIO
	}
	defer h.f.in.Leave()
	if !h.write {
		return fuse.EBADF
	}
	c := r.fs.begin(h.f, in.Unique)
	defer r.fs.end(c)
	keep := in.Mode&unix.FALLOC_FL_KEEP_SIZE != 0
	end := in.Offset + in.Length
	if end < in.Offset || end > c.info.Size && !keep {
		return fuse.Status(unix.ENOSPC)
	}
	if end = min(end, c.info.Size); in.Offset >= end {
		return fuse.OK
	}
	op, flags := block.OpWriteZeroes, block.Flags(0)
	switch in.Mode &^ unix.FALLOC_FL_KEEP_SIZE {
	case 0:
		return fuse.OK // a volume has its space, or cannot promise it
	case unix.FALLOC_FL_PUNCH_HOLE:
		if c.info.Has(block.CanDiscard) {
			op = block.OpDiscard
		}
	case unix.FALLOC_FL_ZERO_RANGE:
		flags = block.FlagNoHole
	default:
		return fuse.Status(unix.EOPNOTSUPP)
	}
	if op == block.OpWriteZeroes && !c.info.Has(block.CanZero) {
		return fuse.Status(unix.EOPNOTSUPP) // the caller knows how to write zeroes
	}
	st := c.zero(r.fs, op, flags, newSpan(c.info, in.Offset, end-in.Offset))
	if st == block.StatusOK && h.sync {
		st = c.flush(r.fs)
	}
	return errno(st)
}

// zero makes a range read as zeroes: whole blocks by op, the others by writes.
func (c *call) zero(s *FS, op block.Op, flags block.Flags, sp span) block.Status {
	c.lock(sp)
	defer c.unlock()
	head, tail, from, to := sp.parts(c.info)
	if !sp.whole() {
		c.readEdges(s, head, tail)
		if st := c.wait(s); st != block.StatusOK {
			return st
		}
		if !head.empty() {
			clear(c.edges.head[head.off-head.lo : head.end-head.lo])
		}
		if !tail.empty() {
			clear(c.edges.tail[:tail.end-tail.lo])
		}
		c.writeEdges(s, 0, head, tail)
	}
	batch := maxZeroes * pieceLen(c.info, op)
	for from < to {
		n := min(to-from, batch)
		c.submit(s, op, flags, from, n, nil)
		from += n
		if from < to {
			if st := c.wait(s); st != block.StatusOK {
				return st
			}
		}
	}
	return c.wait(s)
}

// Lseek implements fuse.RawFileSystem, for SEEK_DATA and SEEK_HOLE: the kernel
// does the others.
func (r *raw) Lseek(cancel <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	h := r.enter(in.Fh)
	if h == nil {
		return fuse.EIO
	}
	defer h.f.in.Leave()
	c := r.fs.begin(h.f, in.Unique)
	defer r.fs.end(c)
	hole := in.Whence == unix.SEEK_HOLE
	if !hole && in.Whence != unix.SEEK_DATA {
		return fuse.EINVAL
	}
	size := c.info.Size
	if in.Offset >= size {
		return fuse.Status(unix.ENXIO)
	}
	if !c.info.Has(block.CanBlockStatus) {
		out.Offset = in.Offset
		if hole {
			out.Offset = size
		}
		return fuse.OK
	}
	at := in.Offset
	for at < size {
		select {
		case <-cancel: // nothing is in flight between two questions
			return fuse.EINTR
		default:
		}
		next, found, st := c.seek(r.fs, at, hole)
		if st != block.StatusOK {
			return errno(st)
		}
		if found {
			out.Offset = next
			return fuse.OK
		}
		at = next
	}
	if !hole {
		return fuse.Status(unix.ENXIO)
	}
	out.Offset = size // there always is a hole at the end
	return fuse.OK
}

// seek asks for the extents from at on and returns the place of the first that
// is wanted, or how far it got.
func (c *call) seek(s *FS, at uint64, hole bool) (next uint64, found bool, st block.Status) {
	sp := newSpan(c.info, at, 1)
	n := min(c.info.Size-sp.lo, pieceLen(c.info, block.OpBlockStatus))
	c.one(s, block.OpBlockStatus, 0, sp.lo, uint32(n), c.edges.head[:])
	if st := c.wait(s); st != block.StatusOK {
		return 0, false, st
	}
	off := sp.lo
	for b := c.edges.head[:c.first.req.N]; len(b) >= block.ExtentLen; b = b[block.ExtentLen:] {
		e := block.GetExtent(b)
		// A hole is what reads as zeroes, whether it has space or not.
		if zero := e.Flags&block.ExtentZero != 0; zero == hole && off+e.Len > at {
			return max(off, at), true, block.StatusOK
		}
		off += e.Len
	}
	if off <= at {
		return 0, false, block.StatusIO // the device breaks its contract: do not ask forever
	}
	return min(off, c.info.Size), false, block.StatusOK
}
