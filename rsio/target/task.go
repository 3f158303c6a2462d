// SPDX-License-Identifier: Apache-2.0

package target

import (
	"math/bits"
	"sync/atomic"

	"rsio/rsio/block"
	"rsio/rsio/netio"
	"rsio/rsio/session"
	"rsio/rsio/wire"
)

// task is one copy of a request from its header to the moment when the last
// connection has let go of its answer.
type task struct {
	req  block.Request
	out  netio.Out
	hdr  wire.Header // of the request
	s    *sess
	c    *conn       // it came on
	h    *handle     // nil: no such volume
	seat *block.Seat // entered
	buf  []byte
	cost int64
	side bool // a read that executes again
	held bool // a replayed write: Grace.EndReplay is due
	refs atomic.Int32
	next *task // free list
}

// execute hands the request to its volume's device, or completes it with the
// reason why not. The slot table says that it runs.
func (t *task) execute(side bool) {
	t.side = side
	r, hd := &t.req, &t.hdr
	r.Op, r.Flags, r.Off, r.Len = hd.Op, block.Flags(hd.Flags), hd.Off, hd.Len
	r.Buf, r.N, r.Depth, r.Status = t.buf, 0, 0, block.StatusOK
	t.h = t.s.handle(hd.Volume)
	if st := t.admit(); st != block.StatusOK {
		block.Finish(r, st)
		return
	}
	// Nothing between here and the device may hold a request back: the right
	// it was let in with could be gone.
	if st := t.enter(); st != block.StatusOK {
		block.Finish(r, st)
		return
	}
	t.h.dev.Submit(r)
}

// enter asks the seat, which counts the request as running from now on.
func (t *task) enter() block.Status {
	right := t.hdr.Right
	if !t.c.reserve {
		right = t.h.right
	}
	if st := t.h.seat.Enter(t.req.Op, right); st != block.StatusOK {
		t.h.v.stats.conflicts.Add(1)
		return st
	}
	t.seat = t.h.seat
	return block.StatusOK
}

// admit checks the request once, at the edge.
func (t *task) admit() block.Status {
	h, r := t.h, &t.req
	if h == nil {
		return block.StatusNotFound
	}
	info := h.dev.Info()
	info.ReadOnly = info.ReadOnly || h.readOnly
	if st := block.Check(info, r); st != block.StatusOK {
		t.h = nil // not counted
		return st
	}
	if t.hdr.Flags&wire.FlagReplay != 0 {
		if !h.v.grace.BeginReplay(t.s.Nexus) {
			t.h = nil
			return block.StatusUnknown
		}
		t.held = true
		return block.StatusOK
	}
	if r.Op.Changes() && !h.ready.Load() {
		t.h = nil
		return block.StatusInvalid
	}
	return block.StatusOK
}

// Complete takes the outcome from the device; block.Completer.
func (t *task) Complete(r *block.Request) {
	if t.seat != nil {
		t.seat.Leave(r.Op)
		t.seat = nil
	}
	if t.h != nil {
		t.h.v.stats.count(r.Op, r.Len, r.Status)
		if r.Status == block.StatusNoSpace {
			t.h.v.noSpace()
		}
	}
	if t.held {
		t.held = false
		t.h.v.grace.EndReplay()
	}
	if t.side {
		t.s.SideDone()
		t.answer(t.c, r.Status, t.payload())
		return
	}
	stored := session.Answer{Status: r.Status}
	if r.Status == block.StatusMiscompare {
		stored.Value = uint64(r.N)
	}
	paths := t.s.Slots.Complete(t.hdr.Slot, stored)
	// The number may be another connection's by now: the one it came on died,
	// its successor got the number and asked for the same request.
	if paths == 1<<t.c.path && t.s.conns[t.c.path].Load() == t.c {
		t.answer(t.c, r.Status, t.payload())
		return
	}
	t.answerAll(paths, r.Status)
}

// payload is the part of the buffer that goes into the answer.
func (t *task) payload() []byte {
	r := &t.req
	if r.Status != block.StatusOK {
		return nil
	}
	switch r.Op {
	case block.OpRead:
		return r.Buf
	case block.OpBlockStatus:
		return r.Buf[:r.N]
	}
	return nil
}

// extra is the answer of a task on a second path.
type extra struct {
	out netio.Out
	t   *task
}

// Sent lets go; netio.Sender.
func (e *extra) Sent(o *netio.Out, err error) { e.t.Sent(o, err) }

// answerAll answers on every path that asked. Only resent requests get here.
func (t *task) answerAll(paths uint64, st block.Status) {
	t.refs.Add(1) // ours, so that it does not end in between
	payload := t.payload()
	for ; paths != 0; paths &= paths - 1 {
		c := t.s.conns[bits.TrailingZeros64(paths)].Load()
		if c == nil {
			continue
		}
		e := &extra{t: t}
		e.out.Owner = e
		t.refs.Add(1)
		t.put(c, &e.out, st, payload)
		t.send(c, &e.out)
	}
	t.Sent(nil, nil)
}

// answer sends the answer on c; payload refers to the task's buffer.
func (t *task) answer(c *conn, st block.Status, payload []byte) {
	t.refs.Store(1)
	t.put(c, &t.out, st, payload)
	t.send(c, &t.out)
}

func (t *task) put(c *conn, o *netio.Out, st block.Status, payload []byte) {
	h := wire.Header{Kind: wire.KindResponse, Op: t.hdr.Op, Status: st, Slot: t.hdr.Slot, Seq: t.hdr.Seq,
		Len: t.hdr.Len, PayloadLen: uint32(len(payload))}
	switch {
	case st == block.StatusMiscompare:
		h.Off = uint64(t.req.N)
	case st == block.StatusConflict && c.reserve && t.h != nil:
		h.Right, _ = t.h.seat.Right()
	}
	h.Window, h.Grant = t.s.Window.Get()
	if c.digest && len(payload) > 0 {
		h.PayloadCRC = wire.Digest(payload)
	}
	h.Put(o.Head[:], c.digest)
	o.HeadLen, o.Body = wire.HeaderLen, payload
}

// send queues the answer. The reader flushes its own batch; other goroutines
// let the writer gather answers while more requests run, and send at once when
// this was the only one.
func (t *task) send(c *conn, o *netio.Out) {
	s := t.s
	c.nc.Queue(o)
	switch {
	case c.batching.Load():
	case s.Running() > 0:
		c.nc.Kick()
	default:
		c.nc.Flush()
	}
}

// Sent is told that a connection has let go of the answer; netio.Sender.
func (t *task) Sent(*netio.Out, error) {
	if t.refs.Add(-1) == 0 {
		t.release()
	}
}

// release gives buffer, credit and the task itself back.
func (t *task) release() {
	if t.buf != nil {
		t.s.t.pool.Put(t.buf)
		t.buf, t.req.Buf = nil, nil
	}
	t.out.Body = nil
	t.s.used.Add(-t.cost)
	t.h, t.c = nil, nil
	t.s.putTask(t)
}
