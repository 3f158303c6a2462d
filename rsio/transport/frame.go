// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"rsio/rsio/netio"
	"rsio/rsio/wire"
)

// ReadHeader reads the next header, waiting for it if need be.
func ReadHeader(c *netio.Conn, h *wire.Header, digest bool) error {
	if err := c.Fill(wire.HeaderLen); err != nil {
		return err
	}
	if err := h.Parse(c.Buffered(), digest); err != nil {
		return err
	}
	c.Advance(wire.HeaderLen)
	return nil
}

// ReadPayload fills dst with the payload of h and checks its digest.
func ReadPayload(c *netio.Conn, h *wire.Header, dst []byte, digest bool) error {
	if err := c.ReadFull(dst); err != nil {
		return err
	}
	return CheckPayload(h, dst, digest)
}

// SkipPayload reads the payload of h, throws it away and checks its digest.
func SkipPayload(c *netio.Conn, h *wire.Header, digest bool) error {
	sum := uint32(0)
	for left := int(h.PayloadLen); left > 0; {
		if err := c.Fill(1); err != nil {
			return err
		}
		b := c.Buffered()
		b = b[:min(len(b), left)]
		if digest {
			sum = wire.DigestMore(sum, b)
		}
		left -= len(b)
		c.Advance(len(b))
	}
	if sum != h.PayloadCRC {
		return wire.ErrPayload
	}
	return nil
}

// CheckPayload compares the digest of a payload.
func CheckPayload(h *wire.Header, payload []byte, digest bool) error {
	want := uint32(0)
	if digest && len(payload) > 0 {
		want = wire.Digest(payload)
	}
	if h.PayloadCRC != want {
		return wire.ErrPayload
	}
	return nil
}

// Frame is one control frame with its own payload, for logins and events: it
// is allocated per use.
type Frame struct {
	out netio.Out
}

// Send queues a frame, flushes it and does not wait for it.
func Send(c *netio.Conn, h wire.Header, payload []byte, digest bool) {
	f := &Frame{}
	h.PayloadLen = uint32(len(payload))
	if digest && len(payload) > 0 {
		h.PayloadCRC = wire.Digest(payload)
	}
	h.Put(f.out.Head[:], digest)
	f.out.HeadLen, f.out.Body, f.out.Owner = wire.HeaderLen, payload, f
	c.Queue(&f.out)
	c.Flush()
}

// Sent lets the frame go; netio.Sender.
func (f *Frame) Sent(*netio.Out, error) {}
