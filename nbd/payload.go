// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"rsio/rsio/block"
	"rsio/rsio/buf"
)

// read starts a read of any length up to Server.payload.
func (c *conn) read(s *slot, i block.Info) {
	step := pieceLen(i)
	switch {
	case s.length <= step:
		n := int(s.length)
		s.submit(i, block.OpRead, s.off, uint32(n), c.attach(s, n))
		c.early(n)
	case c.chunks && s.flags&flagDF == 0:
		c.readChunks(s, i, step)
	default:
		c.readGather(s, i, step)
	}
}

// readChunks answers every piece by itself. While it waits for a buffer, the
// pieces that are out give theirs back.
func (c *conn) readChunks(s *slot, i block.Info, step uint64) {
	s.begin()
	for done := uint64(0); done < s.length; done += step {
		n := min(step, s.length-done)
		p := c.take(s)
		p.kind = kindChunk
		b := c.attach(p, int(n))
		s.left.Add(1)
		p.submit(i, block.OpRead, s.off+done, uint32(n), b)
		c.early(int(n))
	}
	s.part(block.StatusOK)
}

// readGather collects all buffers first, then submits all pieces.
func (c *conn) readGather(s *slot, i block.Info, step uint64) {
	total := int64(s.length/step) * buf.Size(int(step))
	if rest := s.length % step; rest != 0 {
		total += buf.Size(int(rest))
	}
	if total > c.srv.opt.ConnBytes {
		s.answer(errnoInval, "length is above what this server can gather")
		return
	}
	c.room(total)
	s.begin()
	s.pieces = s.pieces[:0]
	c.collect(s, step)
	for k, p := range s.pieces {
		off := s.off + uint64(k)*step
		s.left.Add(1)
		p.submit(i, block.OpRead, off, uint32(len(p.buf)), p.buf)
	}
	s.part(block.StatusOK)
}

// collect takes the pieces of s and their buffers. Only one connection at a
// time waits here holding buffers; everybody else who has some is not waiting.
func (c *conn) collect(s *slot, step uint64) {
	if !c.srv.gather.TryLock() {
		c.pause()
		c.srv.gather.Lock()
		c.resume()
	}
	defer c.srv.gather.Unlock()
	for done := uint64(0); done < s.length; done += step {
		p := c.take(s)
		p.kind = kindGather
		c.attach(p, int(min(step, s.length-done)))
		s.pieces = append(s.pieces, p)
	}
}

// write reads the payload and starts the write.
func (c *conn) write(s *slot, i block.Info) error {
	step := pieceLen(i)
	if s.length > step {
		return c.writeParts(s, i, step)
	}
	b := c.attach(s, int(s.length))
	if err := c.payload(b); err != nil {
		c.release(s)
		return err
	}
	s.submit(i, block.OpWrite, s.off, uint32(s.length), b)
	return nil
}

// writeParts starts every piece as soon as its payload is in.
func (c *conn) writeParts(s *slot, i block.Info, step uint64) error {
	s.begin()
	for done := uint64(0); done < s.length; done += step {
		n := min(step, s.length-done)
		if s.failed.Load() != 0 {
			err := c.skip(s.length - done)
			s.part(block.StatusOK)
			return err
		}
		p := c.take(s)
		p.kind = kindPart
		b := c.attach(p, int(n))
		if err := c.payload(b); err != nil {
			c.release(p)
			s.part(block.StatusProtocol)
			return err
		}
		s.left.Add(1)
		p.submit(i, block.OpWrite, s.off+done, uint32(n), b)
	}
	s.part(block.StatusOK)
	return nil
}

// payload reads len(b) bytes into b: small ones together with the requests
// behind them, large ones straight from the socket.
func (c *conn) payload(b []byte) error {
	if len(b) <= copyMax {
		if err := c.fill(len(b)); err != nil {
			return err
		}
	}
	if len(c.nc.Buffered()) >= len(b) {
		return c.nc.ReadFull(b) // copies
	}
	c.pause()
	err := c.nc.ReadFull(b)
	c.resume()
	c.probed = false
	return err
}

// status starts a BLOCK_STATUS. What is beyond the largest length of a device
// is left out of the answer: the client asks again.
func (c *conn) status(s *slot, i block.Info) {
	s.kind = kindStatus
	n := min(s.length, zeroLen(i))
	size := buf.Align
	if s.flags&flagReqOne != 0 {
		size = block.ExtentLen
	}
	b := c.attach(s, size)
	if i.Has(block.CanBlockStatus) {
		s.submit(i, block.OpBlockStatus, s.off, uint32(n), b)
		return
	}
	s.req.N = 0
	s.req.Buf, s.req.Off, s.req.Len, s.req.Op = b, s.off, uint32(n), block.OpBlockStatus
	block.AppendExtent(&s.req, block.Extent{Len: n})
	block.Finish(&s.req, block.StatusOK)
}
