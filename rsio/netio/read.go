// SPDX-License-Identifier: Apache-2.0

package netio

import (
	"errors"
	"io"
)

// ErrTooLong is returned by Fill for more bytes than the buffer can hold.
var ErrTooLong = errors.New("frame is larger than the read buffer")

// Buffered returns the bytes that were read and not advanced over. They stay
// valid until the next Fill or ReadFull.
func (c *Conn) Buffered() []byte { return c.rbuf[c.r:c.w] }

// Advance drops the first n bytes of Buffered.
func (c *Conn) Advance(n int) { c.r += n }

// Fill reads until at least n bytes are buffered. At the end of the stream it
// returns io.EOF if nothing is buffered, else io.ErrUnexpectedEOF.
func (c *Conn) Fill(n int) error {
	if c.w-c.r >= n {
		return nil
	}
	if n > c.rmax {
		return ErrTooLong
	}
	c.makeRoom(n)
	for c.w-c.r < n {
		got, err := c.read(c.rbuf[c.w:])
		c.w += got
		c.grow = c.w == len(c.rbuf)
		if err != nil && c.w-c.r < n {
			if err == io.EOF && c.w > c.r {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// makeRoom moves the rest to the front and grows a buffer that reads fill.
func (c *Conn) makeRoom(n int) {
	size := len(c.rbuf)
	if c.grow {
		size = min(2*size, c.rmax)
	}
	for size < n {
		size *= 2
	}
	dst := c.rbuf
	if size > len(c.rbuf) {
		dst = make([]byte, size)
	}
	if c.r > 0 || len(dst) > len(c.rbuf) {
		c.w = copy(dst, c.rbuf[c.r:c.w])
		c.r = 0
	}
	c.rbuf = dst
}

// ReadFull fills p: from the buffer first, then straight from the socket.
func (c *Conn) ReadFull(p []byte) error {
	n := copy(p, c.rbuf[c.r:c.w])
	c.r += n
	for n < len(p) {
		got, err := c.read(p[n:])
		n += got
		if err != nil && n < len(p) {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// Skip reads n bytes and throws them away.
func (c *Conn) Skip(n int) error {
	for n > 0 {
		step := min(n, len(c.rbuf))
		if err := c.Fill(min(step, 1)); err != nil {
			return err
		}
		step = min(n, c.w-c.r)
		c.r += step
		n -= step
	}
	return nil
}

func (c *Conn) read(p []byte) (int, error) {
	c.waiting.Store(true)
	n, err := c.nc.Read(p)
	c.waiting.Store(false)
	if n > 0 {
		c.total += uint64(n)
		c.lastReadNs.Store(int64(Now()))
	}
	return n, err
}
