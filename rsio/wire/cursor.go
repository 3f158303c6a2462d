// SPDX-License-Identifier: Apache-2.0

package wire

import "encoding/binary"

// cursor reads fields from a payload; the first failure sticks.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) take(n int) []byte {
	if c.bad || n > len(c.b) {
		c.bad = true
		return nil
	}
	p := c.b[:n]
	c.b = c.b[n:]
	return p
}

func (c *cursor) u8() uint8 {
	if p := c.take(1); p != nil {
		return p[0]
	}
	return 0
}

func (c *cursor) u16() uint16 {
	if p := c.take(2); p != nil {
		return binary.BigEndian.Uint16(p)
	}
	return 0
}

func (c *cursor) u32() uint32 {
	if p := c.take(4); p != nil {
		return binary.BigEndian.Uint32(p)
	}
	return 0
}

func (c *cursor) u64() uint64 {
	if p := c.take(8); p != nil {
		return binary.BigEndian.Uint64(p)
	}
	return 0
}

// text reads a length byte and that many bytes; the result refers to the
// payload.
func (c *cursor) text() []byte { return c.take(int(c.u8())) }

// done returns the error of the whole payload: cut short or too long.
func (c *cursor) done() error {
	if c.bad {
		return ErrShort
	}
	if len(c.b) != 0 {
		return ErrLength
	}
	return nil
}

// appendText appends a length byte and s, cut to MaxText bytes.
func appendText(b, s []byte) []byte {
	s = s[:min(len(s), MaxText)]
	b = append(b, byte(len(s)))
	return append(b, s...)
}
