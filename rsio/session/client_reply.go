// SPDX-License-Identifier: Apache-2.0

package session

import (
	"rsio/rsio/block"
	"rsio/rsio/netio"
	"rsio/rsio/wire"
)

// InlinePayload is the largest payload in bytes that Reply copies under the
// lock; larger ones go through BeginReply and EndReply.
const InlinePayload = 16 << 10

// Reply takes a response whose payload (if any) is in memory and has the right
// digest; payload may be reused when it returns. A response that nobody waits
// for is dropped. An error means that the peer broke the protocol and that the
// path must be closed.
func (c *Client) Reply(p *Path, h *wire.Header, payload []byte) error {
	var fx effects
	c.mu.Lock()
	sl, err := c.match(p, h, &fx)
	if sl != nil {
		if sl.ctl != nil {
			sl.ctl.Reply = append(sl.ctl.Reply[:0], payload...)
		} else if h.Status == block.StatusMiscompare {
			sl.req.N = uint32(min(h.Off, block.AtomicLen))
		} else if len(payload) > 0 {
			sl.req.N = uint32(copy(sl.req.Buf, payload))
			if sl.req.Op == block.OpBlockStatus { // the caller may have room for fewer extents
				sl.req.N -= sl.req.N % block.ExtentLen
			}
		}
		if h.Status == block.StatusConflict && sl.req != nil {
			c.refused(sl.vol, sl.req, h.Right, &fx)
		}
		c.accept(sl, p, h.Status, &fx)
	}
	c.granted(h, &fx)
	c.unlock(&fx)
	return err
}

// BeginReply announces a response whose payload is still in the socket. It
// returns where to read it to, or nil to read it and throw it away. After a
// buffer was returned the caller calls EndReply, whatever happens; until then
// no other answer to the request is taken.
func (c *Client) BeginReply(p *Path, h *wire.Header) ([]byte, error) {
	var fx effects
	c.mu.Lock()
	sl, err := c.match(p, h, &fx)
	var dst []byte
	if sl != nil && sl.req != nil && int(h.PayloadLen) <= len(sl.req.Buf) {
		sl.receiver = p
		dst = sl.req.Buf[:h.PayloadLen]
	} else if sl != nil {
		err = wire.ErrLength
	}
	c.granted(h, &fx)
	c.unlock(&fx)
	return dst, err
}

// EndReply ends BeginReply: ok says that the payload is in and its digest is
// right. Without ok the path must be closed.
func (c *Client) EndReply(p *Path, h *wire.Header, ok bool) {
	var fx effects
	c.mu.Lock()
	if int(h.Slot) < len(c.slots) {
		sl := &c.slots[h.Slot]
		if sl.receiver == p && sl.seq == h.Seq {
			sl.receiver = nil
			if ok {
				sl.req.N = h.PayloadLen
				c.accept(sl, p, h.Status, &fx)
			}
		}
	}
	c.unlock(&fx)
}

// match finds the slot a response answers. A response to something that has
// been answered already gives its credit back and matches nothing.
func (c *Client) match(p *Path, h *wire.Header, fx *effects) (*cslot, error) {
	if int(h.Slot) >= len(c.slots) {
		return nil, wire.ErrSlot
	}
	sl := &c.slots[h.Slot]
	if sl.idle() || sl.answered || sl.seq != h.Seq || h.Status == block.StatusStale {
		if h.Seq > sl.seq {
			return nil, wire.ErrSequence
		}
		c.unghost(p, wire.Cost(h.Op, h.Len), fx)
		return nil, nil
	}
	if sl.receiver != nil {
		// Another path is in the middle of the same answer. If that one fails
		// the request is sent again.
		c.dropCopy(sl, p)
		return nil, nil
	}
	if sl.ctl != nil {
		if h.Op != sl.ctl.Op {
			return nil, wire.ErrOp
		}
		return sl, nil
	}
	r := sl.req
	if h.Op != r.Op || h.Len != r.Len {
		return nil, wire.ErrOp
	}
	return sl, nil
}

// unghost gives back the credit of a copy that was still under way when its
// request was answered on another path.
func (c *Client) unghost(p *Path, cost uint32, fx *effects) {
	n := min(uint64(cost), p.ghosts)
	p.ghosts -= n
	p.outstanding -= n
	c.inflight -= n
	c.adopt()
	c.pump(fx)
}

// dropCopy forgets the copy that p answered.
func (c *Client) dropCopy(sl *cslot, p *Path) {
	for k := range sl.copies {
		cp := &sl.copies[k]
		if cp.path == p && !cp.orphan && (cp.state == copySent || cp.state == copyQueued) {
			c.uncount(cp)
			if cp.state == copySent {
				cp.state = copyFree
			} else {
				cp.orphan = true
			}
			return
		}
	}
}

// accept takes the answer of a slot. The request completes at once, or when
// the connections have let go of its other copies.
func (c *Client) accept(sl *cslot, p *Path, st block.Status, fx *effects) {
	now := c.cfg.Now()
	sl.answered, sl.status = true, st
	for k := range sl.copies {
		cp := &sl.copies[k]
		if cp.state == copyFree || cp.orphan {
			continue
		}
		if cp.path == p {
			if !cp.resent || cp.state == copySent {
				p.measure(now-cp.sentAt, cp.cost)
			}
			c.dropCopy(sl, p)
			continue
		}
		c.abandon(cp)
	}
	c.settleIfFree(sl, fx)
}

// abandon lets go of a copy whose request another path answered.
func (c *Client) abandon(cp *Copy) {
	switch cp.state {
	case copyQueued:
		switch cp.path.port.Unlink(&cp.out) {
		case netio.Unlinked:
			c.uncount(cp)
			c.queued--
			cp.state, cp.out.Body = copyFree, nil
		case netio.HalfSent:
			// The frame refers to the buffer that is about to be reused:
			// only closing stops it.
			c.uncount(cp)
			cp.orphan = true
			cp.path.close(errTakenOver)
		case netio.NotQueued: // being built or just sent; Sent will be called
			if cp.path.down { // it will not be sent, and nobody gives a ghost back
				c.uncount(cp)
			} else {
				cp.path.ghosts += uint64(cp.cost)
			}
			cp.orphan = true
		}
	case copySent:
		// The target will answer it too; until then its credit is in use.
		cp.path.ghosts += uint64(cp.cost)
		cp.state = copyFree
	}
}

// settleIfFree completes an answered request that no connection refers to.
func (c *Client) settleIfFree(sl *cslot, fx *effects) {
	for k := range sl.copies {
		if sl.copies[k].state != copyFree {
			return
		}
	}
	id := sl.copies[0].slot
	if sl.ctl != nil {
		ct := sl.ctl
		sl.ctl = nil
		c.freeCtl = append(c.freeCtl, id)
		fx.finishCtl(ct, sl.status)
	} else {
		sl.vol.inflight--
		c.busy--
		c.settle(sl, fx)
		sl.req = nil
		c.free = append(c.free, id)
	}
	c.pump(fx)
}

// settle does the books of the volume and completes the request.
func (c *Client) settle(sl *cslot, fx *effects) {
	v, r, st := sl.vol, sl.req, sl.status
	v.stats.count(r, st, c.cfg.Now()-sl.started)
	if st == block.StatusOK {
		v.rights.access |= block.Needs(r.Op) // what is known may be old
	}
	switch {
	case st != block.StatusOK:
	case r.Op == block.OpFlush:
		v.durable = max(v.durable, sl.ackMark)
	case r.Op.Changes() && r.Flags&block.FlagFUA == 0:
		v.acked++
	}
	fx.finish(r, st)
	c.afterReplay(v, fx)
	if v.state == volClosed && v.inflight == 0 {
		c.tellClosed(v)
	}
}
