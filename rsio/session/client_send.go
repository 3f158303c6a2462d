// SPDX-License-Identifier: Apache-2.0

package session

import (
	"time"

	"rsio/rsio/block"
	"rsio/rsio/netio"
	"rsio/rsio/wire"
)

// pump starts what waits, as far as slots, credit and paths allow. c.mu is
// held.
func (c *Client) pump(fx *effects) {
	if len(c.paths) == 0 || !c.up || c.failed != block.StatusOK {
		return
	}
	if c.stranded {
		c.stranded = false
		for i := range c.slots {
			c.ensure(&c.slots[i], fx)
		}
	}
	now := c.cfg.Now()
	for len(c.ctl) > 0 && len(c.freeCtl) > 0 {
		p := c.choose(nil, 4096)
		if p == nil {
			return
		}
		ct := c.ctl[0]
		c.ctl = append(c.ctl[:0], c.ctl[1:]...)
		c.startCtl(ct, p, now, fx)
	}
	for tried := 0; tried < len(c.volumes); {
		v := c.volumes[c.next%len(c.volumes)]
		started, blocked := c.startNext(v, now, fx)
		if blocked {
			return
		}
		c.next++
		if started {
			tried = 0
		} else {
			tried++
		}
	}
}

// startNext starts the oldest waiting request of v. blocked means that no
// other volume could start one either.
func (c *Client) startNext(v *Volume, now time.Duration, fx *effects) (started, blocked bool) {
	q := v.runnable()
	r := q.Peek()
	if r == nil {
		return false, false
	}
	if v.lost && r.Op == block.OpFlush {
		c.pop(q)
		c.reported(v, fx)
		fx.finish(r, block.StatusLost)
		return true, false
	}
	if len(c.free) == 0 {
		return false, true
	}
	if v.inflight >= c.volumeSlots() {
		return false, false
	}
	cost := wire.Cost(r.Op, r.Len)
	if !c.credit(cost) {
		c.askCredit(cost, fx)
		return false, true
	}
	p := c.choose(nil, cost)
	if p == nil {
		return false, true
	}
	c.pop(q)
	c.start(v, r, q == &v.replay, p, now, fx)
	return true, false
}

// volumeSlots is the share of one volume: half of the data slots.
func (c *Client) volumeSlots() int {
	return max(1, (len(c.slots)-wire.ControlSlots)/2)
}

// start puts r into a free slot and sends it on p.
func (c *Client) start(v *Volume, r *block.Request, replay bool, p *Path, now time.Duration, fx *effects) {
	id := c.free[len(c.free)-1]
	c.free = c.free[:len(c.free)-1]
	sl := &c.slots[id]
	sl.seq++
	sl.req, sl.vol, sl.replay = r, v, replay && r.Op.Changes()
	sl.answered, sl.receiver, sl.status = false, nil, block.StatusOK
	sl.ackMark, sl.started = v.acked, now
	v.inflight++
	c.busy++
	c.sendCopy(sl, p, now, false, fx)
}

func (c *Client) startCtl(ct *Control, p *Path, now time.Duration, fx *effects) {
	id := c.freeCtl[len(c.freeCtl)-1]
	c.freeCtl = c.freeCtl[:len(c.freeCtl)-1]
	sl := &c.slots[id]
	sl.seq++
	sl.ctl, sl.answered, sl.receiver, sl.started = ct, false, nil, now
	c.sendCopy(sl, p, now, false, fx)
}

// sendCopy takes a free copy of the slot and has it built and sent after the
// lock is released. It reports false if connections hold all copies.
func (c *Client) sendCopy(sl *cslot, p *Path, now time.Duration, resent bool, fx *effects) bool {
	var cp *Copy
	for k := range sl.copies {
		if sl.copies[k].state == copyFree {
			cp = &sl.copies[k]
			break
		}
	}
	if cp == nil {
		return false
	}
	cost := sl.cost()
	cp.path, cp.seq, cp.cost, cp.state, cp.sentAt, cp.resent = p, sl.seq, cost, copyQueued, now, resent
	cp.orphan, cp.grant, cp.digest, cp.right = false, c.grant, c.digest, c.reserve
	c.queued++
	p.outstanding += uint64(cost)
	p.requests++
	p.bytes += uint64(cost)
	c.inflight += uint64(cost)
	cp.want = c.want() // with this one
	c.sentBytes += uint64(cost)
	if resent {
		c.resentBytes += uint64(cost)
	}
	if fx.last == nil {
		fx.send = cp
	} else {
		fx.last.next = cp
	}
	fx.last = cp
	fx.touch(p)
	return true
}

func (s *cslot) cost() uint32 {
	if s.ctl != nil {
		return 4096
	}
	return wire.Cost(s.req.Op, s.req.Len)
}

// emit builds the frame of a copy and queues it. It runs without c.mu: the
// request cannot end while a copy of it is queued.
func (c *Client) emit(cp *Copy, sl *cslot) {
	h := wire.Header{Kind: wire.KindRequest, Slot: cp.slot, Seq: cp.seq, Window: cp.want, Grant: cp.grant}
	body := []byte(nil)
	if ct := sl.ctl; ct != nil {
		h.Op, h.Volume, body = ct.Op, ct.Volume, ct.Payload
	} else {
		r := sl.req
		h.Op, h.Flags, h.Off, h.Len, h.Volume = r.Op, uint16(r.Flags), r.Off, r.Len, sl.vol.handle
		if sl.replay {
			h.Flags |= wire.FlagReplay
		}
		if r.Op == block.OpWrite || r.Op == block.OpCompareAndWrite {
			body = r.Buf
		}
		if cp.right {
			h.Right = r.Right
		}
	}
	h.PayloadLen = uint32(len(body))
	if cp.digest && len(body) > 0 {
		h.PayloadCRC = wire.Digest(body)
	}
	h.Put(cp.out.Head[:], cp.digest)
	cp.out.HeadLen, cp.out.Body = wire.HeaderLen, body
	if !cp.path.port.Send(&cp.out) {
		cp.Sent(&cp.out, netio.ErrClosed)
	}
}

// Sent is the connection's word that it has let go of the copy; netio.Sender.
func (cp *Copy) Sent(_ *netio.Out, err error) {
	c := cp.client
	var fx effects
	c.mu.Lock()
	cp.out.Body = nil
	c.queued--
	sl := cp.home
	if err != nil {
		cp.path.closing = true
	}
	switch {
	case cp.orphan:
		cp.state, cp.orphan = copyFree, false
		if sl.answered {
			c.settleIfFree(sl, &fx)
		}
	case err == nil:
		cp.state = copySent
	default:
		c.uncount(cp)
		cp.state = copyFree
		c.ensure(sl, &fx)
	}
	c.failAll(&fx)
	c.unlock(&fx)
}

// uncount takes a copy out of the books of its path and of the credit.
func (c *Client) uncount(cp *Copy) {
	cp.path.outstanding -= uint64(cp.cost)
	c.inflight -= uint64(cp.cost)
	c.adopt()
}

// ensure sends a request that no path carries any more again.
func (c *Client) ensure(sl *cslot, fx *effects) {
	if sl.idle() || sl.answered || sl.live() || c.failed != block.StatusOK || !c.up {
		return
	}
	p := c.choose(nil, sl.cost())
	if p != nil && !c.credit(sl.cost()) {
		c.askCredit(sl.cost(), fx)
		p = nil
	}
	if p == nil || !c.sendCopy(sl, p, c.cfg.Now(), true, fx) {
		c.stranded = true // every pump tries again
	}
}

// live reports whether a path carries the request.
func (s *cslot) live() bool {
	if s.receiver != nil {
		return true
	}
	for k := range s.copies {
		cp := &s.copies[k]
		if cp.state == copyQueued && !cp.orphan || cp.state == copySent {
			return true
		}
	}
	return false
}
