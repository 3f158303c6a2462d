// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"sync/atomic"

	"rsio/rsio/block"
	"rsio/rsio/buf"
	"rsio/rsio/netio"
)

// Limits of a connection in bytes.
const (
	readBufMax = 256 << 10 // largest read buffer; idle connections have netio.ReadBufMin
	copyMax    = 32 << 10  // writes up to here are read with what follows them and copied
	batchMax   = 256 << 10 // replies queued before a batch is sent early
)

// slot is a request in flight, or a piece of a large one. It is taken by the
// reader and comes back when its reply has been sent.
type slot struct {
	req  block.Request
	out  netio.Out
	c    *conn
	next *slot // in a list of free slots

	buf  []byte // from the pool, or nil
	size int64  // what buf takes from the pool

	// What the client sent.
	header
	kind kind

	// Pieces and steps.
	head   *slot // the slot of the whole; nil if this is it
	pieces []*slot
	left   atomic.Int32  // pieces that have not completed, and one for the reader
	failed atomic.Uint32 // status of the first piece that failed
	at     uint64        // end of the step that runs

	phase atomic.Uint32 // of a changing request, see orphan.go
}

// kind says what the completion of a slot means.
type kind uint8

const (
	kindWhole  kind = iota // the request is answered
	kindSteps              // the next step starts, or the request is answered
	kindStatus             // the extents are sent
	kindChunk              // piece of a read that is sent at once
	kindPart               // piece of a write
	kindGather             // piece of a read that waits for the others
)

// pause ends a batch: what is queued is sent. The reader calls it before
// anything that may block; resume begins the next batch.
func (c *conn) pause() {
	c.parsing.Store(false)
	c.batched = 0
	c.nc.Flush()
}

func (c *conn) resume() { c.parsing.Store(true) }

// takeOp returns a slot for a request, waiting while MaxInflight are out.
func (c *conn) takeOp(h *header) *slot {
	limit := uint64(c.srv.opt.MaxInflight)
	if c.opsTaken-c.opsBack >= limit {
		c.await(func() bool { return c.opsTaken-c.opsBack < limit })
	}
	c.opsTaken++
	s := c.take(nil)
	s.header = *h
	return s
}

// take returns a free slot, or a new one: the caller keeps to the limits.
func (c *conn) take(head *slot) *slot {
	if c.free == nil {
		c.mu.Lock()
		c.free, c.freed = c.freed, nil
		c.mu.Unlock()
	}
	s := c.free
	if s == nil {
		s = &slot{c: c}
		s.out.Owner = s
		s.req.Done = s
		s.req.Nexus = c.export.Nexus
		c.mu.Lock()
		c.all = append(c.all, s)
		c.mu.Unlock()
	} else {
		c.free = s.next
	}
	c.out.Add(1)
	s.next, s.head, s.kind = nil, head, kindWhole
	return s
}

// await flushes and waits until ok, which is asked with c.mu held and the
// reader's counts up to date.
func (c *conn) await(ok func() bool) {
	if c.refresh(ok, false) {
		return
	}
	c.pause()
	c.refresh(ok, true)
	c.resume()
}

func (c *conn) refresh(ok func() bool, wait bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		c.opsBack, c.bytesBack = c.opsOver, c.bytesOver
		if ok() {
			return true
		}
		if !wait {
			return false
		}
		c.waiting = true
		c.cond.Wait()
		c.waiting = false
	}
}

// room waits until the connection may take n more bytes.
func (c *conn) room(n int64) {
	limit := c.srv.opt.ConnBytes - n
	if c.bytesTaken-c.bytesBack > limit {
		c.await(func() bool { return c.bytesTaken-c.bytesBack <= limit })
	}
}

// attach gives s a buffer of n bytes (1..buf.MaxLen), waiting for room and for
// the pool.
func (c *conn) attach(s *slot, n int) []byte {
	size := buf.Size(n)
	c.room(size)
	b := c.srv.pool.TryGet(n)
	if b == nil {
		c.pause()
		b = c.srv.pool.Get(n)
		c.resume()
	}
	c.bytesTaken += size
	s.buf, s.size = b, size
	return b
}

// release takes s back; nobody may use it afterwards.
func (c *conn) release(s *slot) {
	if s.buf != nil {
		c.srv.pool.Put(s.buf)
		s.buf, s.out.Body = nil, nil
	}
	c.mu.Lock()
	s.next, c.freed = c.freed, s
	c.out.Add(-1)
	if s.head == nil {
		c.opsOver++
	}
	c.bytesOver += s.size
	s.size = 0
	waiting := c.waiting
	c.mu.Unlock()
	if waiting {
		c.cond.Signal()
	}
}

// Sent implements netio.Sender: the reply is out, or never will be.
func (s *slot) Sent(*netio.Out, error) { s.c.release(s) }

// submit hands [off, off+n) of the request to the device, from the reader.
func (s *slot) submit(i block.Info, op block.Op, off uint64, n uint32, b []byte) {
	r := &s.req
	r.Op, r.Flags, r.Depth, r.N = op, s.blockFlags(op), 0, 0
	r.Off, r.Len, r.Buf, r.Right = off, n, b, s.c.rights.request
	r.Next, r.Parent = nil, nil
	if st := block.Check(i, r); st != block.StatusOK {
		block.Finish(r, st)
		return
	}
	s.c.submitting = s
	s.start()
	s.c.submitting = nil
}

// start submits s.req unless it has to wait for an orphan or may not run.
func (s *slot) start() {
	if s.req.Op.Changes() && !s.c.vol.admit(s) {
		return
	}
	s.c.export.Device.Submit(&s.req)
}

// blockFlags translates the flags of the client's request.
func (s *slot) blockFlags(op block.Op) block.Flags {
	if !op.Changes() {
		return 0 // FUA is allowed everywhere and means nothing here
	}
	h := s.header
	if s.head != nil {
		h = s.head.header
	}
	var f block.Flags
	if h.flags&flagFUA != 0 {
		f |= block.FlagFUA
	}
	if h.flags&flagNoHole != 0 {
		f |= block.FlagNoHole
	}
	if h.flags&flagFastZero != 0 {
		f |= block.FlagFastZero
	}
	return f
}
