// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"encoding/binary"

	"rsio/rsio/block"
	"rsio/rsio/netio"
)

// Complete implements block.Completer.
func (s *slot) Complete(r *block.Request) {
	if r.Op.Changes() && s.phase.Swap(phaseIdle) == phaseOrphan {
		s.c.vol.settle(s, r.Depth)
	}
	st := r.Status
	switch s.kind {
	case kindWhole:
		if st == block.StatusOK && r.Op == block.OpRead {
			s.data(chunkDone)
		} else {
			s.answerStatus(st)
		}
	case kindSteps:
		s.step(r.Depth)
	case kindStatus:
		s.extents()
	case kindChunk:
		head := s.head
		if st == block.StatusOK {
			s.data(0)
		} else {
			s.c.release(s)
		}
		head.part(st)
	case kindPart:
		head := s.head
		s.c.release(s)
		head.part(st)
	case kindGather:
		s.head.part(st)
	}
}

// begin makes s the head of pieces; the reader is counted as one of them.
func (s *slot) begin() {
	s.failed.Store(0)
	s.left.Store(1)
}

// part is told of the end of a piece. The last one answers the request.
func (s *slot) part(st block.Status) {
	if st != block.StatusOK {
		s.failed.CompareAndSwap(0, uint32(st))
	}
	if s.left.Add(-1) != 0 {
		return
	}
	st = block.Status(s.failed.Load())
	if s.cmd == cmdRead && len(s.pieces) > 0 {
		s.gathered(st)
		return
	}
	s.answerStatus(st)
}

// gathered answers a read whose pieces were collected, in one sequence of
// frames that no other reply interrupts.
func (s *slot) gathered(st block.Status) {
	c, pieces := s.c, s.pieces
	if st != block.StatusOK {
		for _, p := range pieces {
			c.release(p)
		}
		s.pieces = pieces[:0]
		s.answerStatus(st)
		return
	}
	o := &s.out
	o.Body = nil
	o.HeadLen = s.dataHead(s, chunkDone, s.off, int(s.length))
	c.sendMu.Lock()
	for _, p := range pieces {
		p.out.HeadLen, p.out.Body = 0, p.buf
	}
	// s and its list may be used again as soon as s is sent: it goes first
	// over the wire, so its slice is kept in a variable and given up here.
	s.pieces = nil
	c.nc.Queue(o)
	for _, p := range pieces {
		c.nc.Queue(&p.out)
	}
	c.sendMu.Unlock()
	c.push()
}

// dataHead encodes what precedes n bytes of data of s at off in the reply to
// the request head and returns its length.
func (s *slot) dataHead(head *slot, flags uint16, off uint64, n int) int {
	b := s.out.Head[:]
	if !s.c.chunks {
		return putSimple(b, head.cookie, errnoOK)
	}
	k := putChunk(b, s.c.ext, flags, chunkData, head.cookie, head.off, 8+n)
	binary.BigEndian.PutUint64(b[k:], off)
	return k + 8
}

// data sends the buffer of s, the whole answer or a chunk of it.
func (s *slot) data(flags uint16) {
	head := s
	if s.head != nil {
		head = s.head
	}
	s.out.HeadLen = s.dataHead(head, flags, s.req.Off, len(s.buf))
	s.out.Body = s.buf
	s.c.send(&s.out)
}

// answerStatus answers a request that carries no data.
func (s *slot) answerStatus(st block.Status) {
	if st == block.StatusOK {
		s.answer(errnoOK, "")
		return
	}
	s.answer(s.errno(st), st.Error())
}

// answer sends success or an error, with a text where the client can take it.
func (s *slot) answer(e errno, text string) {
	c, o := s.c, &s.out
	b := o.Head[:]
	o.Body = nil
	switch {
	case !c.chunks || e == errnoOK && !c.ext && s.cmd != cmdRead:
		o.HeadLen = putSimple(b, s.cookie, e)
	case e == errnoOK:
		o.HeadLen = putChunk(b, c.ext, chunkDone, chunkNone, s.cookie, s.off, 0)
	default:
		k := putChunk(b, c.ext, chunkDone, chunkError, s.cookie, s.off, 6+len(text))
		binary.BigEndian.PutUint32(b[k:], uint32(e))
		binary.BigEndian.PutUint16(b[k+4:], uint16(len(text)))
		o.HeadLen, o.Body = k+6, []byte(text) // errors may allocate
	}
	c.send(o)
}

// errno translates a status for the request of s.
func (s *slot) errno(st block.Status) errno {
	switch st {
	case block.StatusOK:
		return errnoOK
	case block.StatusConflict, block.StatusReadOnly, block.StatusDenied:
		return errnoPerm
	case block.StatusNoSpace:
		return errnoNoSpace
	case block.StatusInvalid:
		return errnoInval
	case block.StatusUnsupported:
		if s.flags&flagFastZero != 0 {
			return errnoNotSup
		}
		return errnoInval
	case block.StatusClosed, block.StatusDraining, block.StatusNoSession:
		return errnoShutdown
	}
	return errnoIO
}

// send queues a frame and sees to it that it is sent.
func (c *conn) send(o *netio.Out) {
	c.sendMu.Lock()
	c.nc.Queue(o)
	c.sendMu.Unlock()
	c.push()
}

// push sends what is queued. While the reader parses a batch that is left to
// it: it clears parsing before it flushes, so one of both sends. With more
// requests in flight it is left to the writer, which takes along what follows;
// a single one is sent at once.
//
// Measured (4 KiB reads from a device behind two workers, both ends' CPU for a
// request): depth 32 always Flush 3.2 us, always Kick 1.7 us, this 1.8 us;
// depth 1 20.8 us, 21.2 us, 20.6 us.
func (c *conn) push() {
	switch {
	case c.parsing.Load():
	case c.out.Load() > 1:
		c.nc.Kick()
	default:
		c.nc.Flush()
	}
}

// step goes on with a request that is executed in steps.
func (s *slot) step(depth uint8) {
	r := &s.req
	end := s.off + s.length
	if r.Status != block.StatusOK || s.at >= end {
		s.answerStatus(r.Status)
		return
	}
	i := s.c.export.info()
	n := zeroLen(i)
	if r.Op == block.OpRead {
		n = uint64(len(s.buf))
	}
	n = min(n, end-s.at)
	r.Off, r.Len, r.Depth, r.Next, r.Parent = s.at, uint32(n), depth+1, nil, nil
	if r.Op == block.OpRead {
		r.Buf = s.buf[:n]
	}
	s.at += n
	if st := block.Check(i, r); st != block.StatusOK {
		s.answerStatus(st)
		return
	}
	s.start()
}

// extents sends the answer to BLOCK_STATUS. The extents of the device, 16
// bytes each, are encoded in place for the wire, which takes no more.
func (s *slot) extents() {
	r, c := &s.req, s.c
	if r.Status != block.StatusOK {
		s.answerStatus(r.Status)
		return
	}
	limit := uint64(r.Len)
	n, out := 0, s.buf[:0]
	for in := s.buf[:r.N]; len(in) >= block.ExtentLen && limit > 0; in = in[block.ExtentLen:] {
		e := block.GetExtent(in)
		e.Len = min(e.Len, limit)
		limit -= e.Len
		if c.ext {
			out = binary.BigEndian.AppendUint64(out, e.Len)
			out = binary.BigEndian.AppendUint64(out, uint64(e.Flags))
		} else {
			out = binary.BigEndian.AppendUint32(out, uint32(e.Len))
			out = binary.BigEndian.AppendUint32(out, e.Flags)
		}
		n++
		if s.flags&flagReqOne != 0 {
			break
		}
	}
	if n == 0 { // a defect of the device; the protocol wants at least one
		s.answerStatus(block.StatusIO)
		return
	}
	o := &s.out
	b := o.Head[:]
	if c.ext {
		k := putChunk(b, true, chunkDone, chunkStatusExt, s.cookie, s.off, 8+len(out))
		binary.BigEndian.PutUint32(b[k:], contextID)
		binary.BigEndian.PutUint32(b[k+4:], uint32(n))
		o.HeadLen = k + 8
	} else {
		k := putChunk(b, false, chunkDone, chunkStatus, s.cookie, s.off, 4+len(out))
		binary.BigEndian.PutUint32(b[k:], contextID)
		o.HeadLen = k + 4
	}
	o.Body = out
	c.send(o)
}
