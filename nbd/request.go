// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"math/bits"

	"rsio/rsio/block"
	"rsio/rsio/buf"
)

// fill waits until n bytes are buffered, ending the batch if they are not.
func (c *conn) fill(n int) error {
	if len(c.nc.Buffered()) >= n {
		return nil
	}
	c.pause()
	err := c.nc.Fill(n)
	c.resume()
	c.probed = false
	return err
}

// loop reads and starts requests until the connection ends.
func (c *conn) loop() error {
	c.resume()
	for {
		if err := c.awaitRequest(); err != nil {
			return err
		}
		h, err := parseRequest(c.nc.Buffered(), c.ext)
		if err != nil {
			return err
		}
		c.nc.Advance(c.reqLen)
		if h.cmd == cmdDisc {
			return errDisc
		}
		if err := c.dispatch(&h); err != nil {
			return err
		}
	}
}

// early sends what is queued in the middle of a batch when n more bytes of
// replies make it large.
func (c *conn) early(n int) {
	if c.batched += n; c.batched > batchMax {
		c.batched = 0
		c.nc.Flush()
	}
}

// dispatch checks a request and starts it. An error ends the connection.
func (c *conn) dispatch(h *header) error {
	i := c.export.info()
	s := c.takeOp(h)
	if e, text := c.check(i, h); e != errnoOK {
		err := c.skip(h.payload(c.ext))
		s.answer(e, text)
		return err
	}
	switch h.cmd {
	case cmdRead:
		c.read(s, i)
		return nil
	case cmdFlush:
		s.submit(i, block.OpFlush, 0, 0, nil)
		return nil
	case cmdBlockStatus:
		c.status(s, i)
		return nil
	case cmdCache:
		step := min(h.length, pieceLen(i))
		s.kind, s.at = kindSteps, h.off+step
		s.submit(i, block.OpRead, h.off, uint32(step), c.attach(s, int(step)))
		return nil
	}
	if !c.probed {
		c.probed = true
		c.vol.probe(c)
	}
	if h.cmd == cmdWrite {
		return c.write(s, i)
	}
	op := block.OpDiscard
	if h.cmd == cmdWriteZeroes {
		op = block.OpWriteZeroes
	}
	step := min(h.length, zeroLen(i))
	s.kind, s.at = kindSteps, h.off+step
	s.submit(i, op, h.off, uint32(step), nil)
	return nil
}

// skip throws n bytes of payload away.
func (c *conn) skip(n uint64) error {
	if n == 0 {
		return nil
	}
	c.pause()
	err := c.nc.Skip(int(n)) // at most maxPayload
	c.resume()
	c.probed = false
	return err
}

// pieceLen returns the length of the pieces of large reads and writes: a power
// of two, so that a buffer of the pool is filled by one.
func pieceLen(i block.Info) uint64 {
	n := uint64(min(i.MaxLen, buf.MaxLen))
	if n == 0 {
		n = block.MaxLen
	}
	return 1 << (bits.Len64(n) - 1)
}

// zeroLen returns the length of the steps of discard and zeroes.
func zeroLen(i block.Info) uint64 {
	n := uint64(min(i.MaxZero, block.MaxZero))
	if n < uint64(i.BlockSize) || n == 0 {
		n = block.MaxZero
	}
	return n - n%max(uint64(i.BlockSize), 1)
}

// check returns why a request cannot be executed, or errnoOK.
func (c *conn) check(i block.Info, h *header) (errno, string) {
	e, changes, flags := errnoInval, false, uint16(0)
	ok := true
	switch h.cmd {
	case cmdRead:
		if c.chunks {
			flags = flagDF
		}
	case cmdWrite:
		e, changes = errnoNoSpace, true
		if c.ext {
			flags = flagPayload
			ok = h.flags&flagPayload != 0
		}
	case cmdFlush:
		ok = i.Has(block.CanFlush)
	case cmdTrim:
		changes, ok = true, i.Has(block.CanDiscard)
	case cmdWriteZeroes:
		e, changes, ok = errnoNoSpace, true, i.Has(block.CanZero)
		flags = flagNoHole
		if i.Has(block.CanFastZero) {
			flags |= flagFastZero
		}
	case cmdCache:
	case cmdBlockStatus:
		ok, flags = c.meta, flagReqOne
	default:
		return errnoInval, "unknown command"
	}
	if i.Has(block.CanFUA) {
		flags |= flagFUA // valid with every command
	}
	switch {
	case changes && i.ReadOnly:
		return errnoPerm, "export is read-only"
	case !ok:
		return errnoInval, "command is not available on this export"
	case h.flags&^flags != 0:
		return errnoInval, "flag is not valid for this command"
	case h.cmd == cmdFlush:
		if h.off != 0 || h.length != 0 {
			return errnoInval, "flush has no offset and no length"
		}
		return errnoOK, ""
	case h.off > i.Size || h.length > i.Size-h.off:
		return e, "range ends behind the end of the export"
	}
	return c.checkLen(i, h)
}

// checkLen is the part of check about a range inside of the export.
func (c *conn) checkLen(i block.Info, h *header) (errno, string) {
	switch {
	case h.length == 0:
		return errnoInval, "length is zero"
	case (h.off|h.length)&(uint64(max(i.BlockSize, 1))-1) != 0:
		return errnoInval, "range is not a multiple of the minimum block size"
	case h.length <= c.srv.payload:
	case h.cmd == cmdWrite:
		return errnoInval, "payload is too long"
	case h.cmd == cmdRead && c.chunks:
		return errnoOverflow, "length is above the maximum payload"
	case h.cmd == cmdRead:
		return errnoInval, "length is above the maximum payload"
	}
	return errnoOK, ""
}
