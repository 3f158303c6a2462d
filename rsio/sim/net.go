// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"encoding/binary"
	"time"

	"rsio/rsio/block"
	"rsio/rsio/netio"
)

// conn is one connection. Each direction delivers in order; a held direction
// delivers nothing until it is released. A cut end gets its error at once;
// what is under way to the other end is still delivered, perhaps much later.
type conn struct {
	w      *World
	host   *host
	run    int // of the server it was accepted by
	link   *link
	toSrv  pipe
	toCli  pipe
	sess   *srvSession
	pathNo uint
	srvEnd bool // the server's end is closed
	cliEnd bool
	port   *port
}

// pipe is one direction.
type pipe struct {
	queue  []frame
	last   time.Duration // arrival of the last frame
	active bool
}

type frame struct {
	at   time.Duration
	data []byte
	end  bool // end of the stream
}

// link is the cable of a path: all connections of the path use it.
type link struct {
	heldUp, heldDown bool // to the server, to the initiator
	slow             time.Duration
}

func (c *conn) push(p *pipe, data []byte, end bool) {
	delay := c.w.between(20*time.Microsecond, 400*time.Microsecond) + c.link.slow
	if c.w.chance(50) {
		delay += c.w.between(0, 20*time.Millisecond)
	}
	at := max(p.last, c.w.now+delay)
	p.last = at
	p.queue = append(p.queue, frame{at, data, end})
	c.kick(p)
}

// kick delivers what is due; a held direction asks again later.
func (c *conn) kick(p *pipe) {
	if p.active || len(p.queue) == 0 {
		return
	}
	p.active = true
	c.w.after(max(0, p.queue[0].at-c.w.now), func() { c.deliver(p) })
}

func (c *conn) deliver(p *pipe) {
	p.active = false
	if len(p.queue) == 0 {
		return
	}
	up := p == &c.toSrv
	frozen := up && c.w.server.frozen || !up && c.host.frozen
	if up && c.link.heldUp || !up && c.link.heldDown || frozen {
		p.active = true
		c.w.after(5*time.Millisecond, func() { c.deliver(p) })
		return
	}
	f := p.queue[0]
	p.queue = p.queue[1:]
	if up {
		c.w.server.receive(c, f)
	} else {
		c.host.receive(c, f)
	}
	c.kick(p)
}

// closeSrv closes the server's end: the initiator sees the end of the stream
// behind what was sent.
func (c *conn) closeSrv() {
	if !c.srvEnd {
		c.srvEnd = true
		c.push(&c.toCli, nil, true)
	}
}

// closeCli closes the initiator's end at once; what it has sent still arrives.
func (c *conn) closeCli() {
	if !c.cliEnd {
		c.cliEnd = true
		c.push(&c.toSrv, nil, true)
	}
}

// port is the initiator's end as session.Port.
type port struct {
	c       *conn
	queue   []*netio.Out
	sending *netio.Out // half sent
	heard   time.Duration
	closed  bool
	reason  error
	// receiving: the reader is in the middle of a payload; the path is down
	// only when it has let go of the buffer.
	receiving bool
}

// Send queues a frame.
func (p *port) Send(o *netio.Out) bool {
	if p.closed {
		return false
	}
	p.queue = append(p.queue, o)
	if block.Op(o.Head[3]) == block.OpWrite {
		p.c.w.hist.queued(binary.BigEndian.Uint64(o.Body))
	}
	return true
}

// Unlink takes a frame back.
func (p *port) Unlink(o *netio.Out) netio.Withdrawn {
	if o == p.sending {
		return netio.HalfSent
	}
	for i, q := range p.queue {
		if q == o {
			p.queue = append(p.queue[:i:i], p.queue[i+1:]...)
			return netio.Unlinked
		}
	}
	return netio.NotQueued
}

// Flush starts sending.
func (p *port) Flush(bool) { p.sendNext() }

func (p *port) sendNext() {
	if p.closed || p.sending != nil || len(p.queue) == 0 {
		return
	}
	w := p.c.w
	// A held link fills the socket buffer after some frames.
	if p.c.link.heldUp && len(p.c.toSrv.queue) > 6 {
		w.after(5*time.Millisecond, p.sendNext)
		return
	}
	p.sending = p.queue[0]
	p.queue = p.queue[1:]
	took := w.between(time.Microsecond, 30*time.Microsecond)
	if w.chance(40) {
		took = w.between(0, 300*time.Millisecond) // the socket is full in mid-frame
	}
	// The first half is copied now, the second when the socket has room.
	o := p.sending
	data := append([]byte(nil), o.Head[:o.HeadLen]...)
	half := len(o.Body) / 2
	data = append(data, o.Body[:half]...)
	w.after(took, func() { p.sent(o, data, half) })
}

func (p *port) sent(o *netio.Out, data []byte, half int) {
	if p.sending != o {
		return // closed meanwhile
	}
	p.sending = nil
	data = append(data, o.Body[half:]...)
	p.c.push(&p.c.toSrv, data, false)
	o.Owner.Sent(o, nil)
	p.sendNext()
}

// Close ends the connection; PathDown follows.
func (p *port) Close(reason error) {
	if p.closed {
		return
	}
	p.closed, p.reason = true, reason
	p.c.closeCli()
	p.c.w.after(p.c.w.between(0, 200*time.Microsecond), func() { p.c.host.portDown(p) })
}

// letGo gives every frame back.
func (p *port) letGo() {
	outs := p.queue
	if p.sending != nil {
		outs = append([]*netio.Out{p.sending}, outs...)
	}
	p.queue, p.sending = nil, nil
	for _, o := range outs {
		o.Owner.Sent(o, netio.ErrClosed)
	}
}

// Heard returns when the last frame arrived.
func (p *port) Heard() time.Duration { return p.heard }

// Silent reports whether nothing waits to be read: the initiator reads at
// once unless it is frozen.
func (p *port) Silent() bool {
	q := p.c.toCli.queue
	return len(q) == 0 || q[0].at > p.c.w.now || p.c.link.heldDown
}
