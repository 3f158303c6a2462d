// SPDX-License-Identifier: Apache-2.0

package fusefs

import (
	"sync"
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"rsio/rsio/block"
)

// call is what one request of the kernel asks of a device: some block requests
// that run at once, and somebody who waits for all of them. It is used by one
// handler at a time and pooled, so that a request allocates nothing.
type call struct {
	f     *file
	info  block.Info // as it was when the request came
	right uint64     // what its block requests carry

	first  piece        // most need only one
	used   bool         // first is
	more   []*piece     // the others
	left   atomic.Int32 // pieces that run, and one for the handler
	failed atomic.Uint32
	wake   chan struct{}

	hold  hold  // of f.ranges
	edges edges // blocks that are not wholly part of the request
}

// edges are buffers for two blocks, in memory that O_DIRECT may use if the
// allocator was kind; a device that needs it copies otherwise.
type edges struct {
	head, tail [block.MaxBlockSize]byte
}

// piece is one block request.
type piece struct {
	req block.Request
	c   *call
}

// Complete implements block.Completer.
func (p *piece) Complete(r *block.Request) {
	c := p.c
	if r.Status != block.StatusOK {
		c.failed.CompareAndSwap(0, uint32(r.Status))
	}
	if c.left.Add(-1) == 0 {
		c.wake <- struct{}{} // has room: one handler waits, once
	}
}

// pools of what requests use; every FS has its own.
type pools struct {
	calls  sync.Pool
	pieces sync.Pool
}

// begin returns a call for a request of f with the kernel's number; end takes
// it back.
func (s *FS) begin(f *file, unique uint64) *call {
	c, _ := s.pools.calls.Get().(*call)
	if c == nil {
		c = &call{wake: make(chan struct{}, 1)}
		c.first.c = c
		c.hold.wake = make(chan struct{}, 1)
	}
	c.f, c.info, c.right = f, f.Device.Info(), f.rights.of(unique)
	c.left.Store(1)
	return c
}

func (s *FS) end(c *call) {
	c.f = nil
	s.pools.calls.Put(c)
}

// submit starts op on [off, off+n), in as many pieces as the device wants; b
// has n bytes or is nil.
func (c *call) submit(s *FS, op block.Op, flags block.Flags, off, n uint64, b []byte) {
	step := pieceLen(c.info, op)
	for n > 0 {
		l := min(n, step)
		var p []byte
		if b != nil {
			p, b = b[:l], b[l:]
		}
		c.one(s, op, flags, off, uint32(l), p)
		off, n = off+l, n-l
	}
}

// pieceLen returns the most bytes of one block request.
func pieceLen(i block.Info, op block.Op) uint64 {
	n := uint64(i.MaxLen)
	if op != block.OpRead && op != block.OpWrite {
		n = uint64(i.MaxZero)
	}
	bs := uint64(max(i.BlockSize, 1))
	return max(n-n%bs, bs)
}

// one starts one block request.
func (c *call) one(s *FS, op block.Op, flags block.Flags, off uint64, n uint32, b []byte) {
	p := &c.first
	if c.used {
		p, _ = s.pools.pieces.Get().(*piece)
		if p == nil {
			p = new(piece)
		}
		p.c = c
		c.more = append(c.more, p)
	}
	c.used = true
	p.req = block.Request{Op: op, Flags: flags, Off: off, Len: n, Buf: b, Nexus: c.f.Nexus, Right: c.right, Done: p}
	c.left.Add(1)
	if st := block.Check(c.info, &p.req); st != block.StatusOK {
		block.Finish(&p.req, st)
		return
	}
	c.f.Device.Submit(&p.req)
}

// wait returns when all that was submitted has completed, with the status of
// one that failed. The call may then be used for more. There is no way to give
// up: the devices own the buffers (rule 7).
func (c *call) wait(s *FS) block.Status {
	if c.left.Add(-1) != 0 {
		<-c.wake
	}
	c.left.Store(1)
	for i, p := range c.more {
		p.c, p.req.Buf = nil, nil
		s.pools.pieces.Put(p)
		c.more[i] = nil
	}
	c.more, c.used, c.first.req.Buf = c.more[:0], false, nil
	return block.Status(c.failed.Swap(0))
}

// flush makes all completed writes durable.
func (c *call) flush(s *FS) block.Status {
	if !c.info.Has(block.CanFlush) || c.info.ReadOnly {
		return block.StatusOK
	}
	c.one(s, block.OpFlush, 0, 0, 0, nil)
	return c.wait(s)
}

// errno translates the outcome of a request for a process.
func errno(st block.Status) fuse.Status {
	switch st {
	case block.StatusOK:
		return fuse.OK
	case block.StatusNoSpace:
		return fuse.Status(unix.ENOSPC)
	case block.StatusReadOnly:
		return fuse.EROFS
	case block.StatusConflict:
		return fuse.Status(unix.EBADE)
	case block.StatusTimeout:
		return fuse.Status(unix.ETIMEDOUT)
	case block.StatusInvalid:
		return fuse.EINVAL
	case block.StatusUnsupported:
		return fuse.Status(unix.EOPNOTSUPP)
	case block.StatusDenied:
		return fuse.EACCES
	}
	return fuse.EIO
}
