// SPDX-License-Identifier: Apache-2.0

package target

import (
	"context"
	"errors"
	"math/bits"
	"time"

	"rsio/rsio/audit"
	"rsio/rsio/block"
	"rsio/rsio/netio"
	"rsio/rsio/session"
	"rsio/rsio/transport"
	"rsio/rsio/wire"
)

// reclaim is an initiator that waits for the grace of a volume to end.
type reclaim struct {
	s *sess
	h *handle
	d wire.Header
}

// maxUnread is the number of answers to control operations that a connection
// keeps for an initiator that does not read. A good one has no more than
// ControlSlots requests in flight; a bad one could ask for the same stored
// answer for ever.
const maxUnread = 4 * wire.ControlSlots

// ctlAnswer is the answer to a control operation on one connection.
type ctlAnswer struct {
	out netio.Out
	c   *conn
}

// Sent lets go; netio.Sender.
func (a *ctlAnswer) Sent(*netio.Out, error) { a.c.unread.Add(-1) }

// control takes one control operation. It is executed by a control worker, at
// most once, as the slot table says.
func (c *conn) control(h *wire.Header) error {
	if c.unread.Load() > maxUnread {
		return errUnread
	}
	if c.s.t.ctlBytes.Add(int64(h.PayloadLen)) > maxControlBytes {
		c.s.t.ctlBytes.Add(-int64(h.PayloadLen))
		return errControl
	}
	payload := make([]byte, h.PayloadLen)
	if len(c.nc.Buffered()) < int(h.PayloadLen) {
		c.endBatch()
	}
	if err := transport.ReadPayload(c.nc, h, payload, c.digest); err != nil {
		c.s.t.ctlBytes.Add(-int64(h.PayloadLen))
		return err
	}
	s, d := c.s, *h
	v, a := s.Claim(h, c.path)
	if v != session.Execute {
		s.t.ctlBytes.Add(-int64(h.PayloadLen))
	}
	switch v {
	case session.Execute:
		select {
		case s.t.ctl <- func() { s.execute(d, payload); s.t.ctlBytes.Add(-int64(d.PayloadLen)) }:
			return nil // the worker gives the bytes back
		default:
			s.t.ctlBytes.Add(-int64(d.PayloadLen))
			s.answer(d, session.Answer{Status: block.StatusBusy})
		}
	case session.Repeat:
		c.sendControl(d, a)
	case session.Stale:
		c.sendControl(d, session.Answer{Status: block.StatusStale}) // gives its credit back
	case session.Attached, session.ReadAgain:
	case session.Refused:
		return errReplaced
	case session.Violation:
		return wire.ErrSequence
	}
	return nil
}

func (c *conn) sendControl(d wire.Header, a session.Answer) {
	h := wire.Header{Kind: wire.KindResponse, Op: d.Op, Slot: d.Slot, Seq: d.Seq, Len: d.Len, Status: a.Status,
		PayloadLen: uint32(len(a.Payload))}
	h.Window, h.Grant = c.s.Window.Get()
	if c.digest && len(a.Payload) > 0 {
		h.PayloadCRC = wire.Digest(a.Payload)
	}
	out := &ctlAnswer{c: c}
	h.Put(out.out.Head[:], c.digest)
	out.out.HeadLen, out.out.Body, out.out.Owner = wire.HeaderLen, a.Payload, out
	c.unread.Add(1)
	c.nc.Queue(&out.out)
	c.nc.Flush()
}

// answer stores and sends the outcome of a control operation.
func (s *sess) answer(d wire.Header, a session.Answer) {
	for paths := s.Slots.Complete(d.Slot, a); paths != 0; paths &= paths - 1 {
		if c := s.conns[bits.TrailingZeros64(paths)].Load(); c != nil {
			c.sendControl(d, a)
		}
	}
}

func (t *Target) ctlWorker() {
	defer t.bg.Done()
	for {
		select {
		case fn := <-t.ctl:
			fn()
		case <-t.stop:
			return
		}
	}
}

// execute runs one control operation on a control worker.
func (s *sess) execute(d wire.Header, payload []byte) {
	if s.control && (d.Op == wire.OpOpen || d.Op == wire.OpClose || d.Op == wire.OpReclaim) {
		s.answer(d, session.Answer{Status: block.StatusDenied})
		return
	}
	switch d.Op {
	case wire.OpOpen:
		out, err := s.open(payload, s.rights.Load())
		s.answer(d, session.Answer{Status: statusOf(err), Payload: out})
	case wire.OpClose:
		s.answer(d, session.Answer{Status: statusOf(s.closeHandle(d.Volume))})
	case wire.OpReclaim:
		s.reclaim(d)
	case wire.OpReserveIn:
		s.reserveIn(d, payload)
	case wire.OpReserveOut:
		s.reserveOut(d, payload)
	case wire.OpAdmin:
		if s.t.admin == nil {
			s.answer(d, session.Answer{Status: block.StatusUnsupported})
			return
		}
		s.call(d, payload)
	case wire.OpLogout:
		s.answer(d, session.Answer{})
		s.awaitSent()
		s.Leave()
		s.giveUp()
	default:
		s.answer(d, session.Answer{Status: block.StatusUnsupported})
	}
}

// sentTimeout is how long the answer to a logout has to leave.
const sentTimeout = 200 * time.Millisecond

// awaitSent waits until the connections of the session have nothing to send:
// what is queued goes with them.
func (s *sess) awaitSent() {
	for end := netio.Now() + sentTimeout; netio.Now() < end; time.Sleep(200 * time.Microsecond) {
		idle := true
		for i := range s.conns {
			if c := s.conns[i].Load(); c != nil && c.nc.Err() == nil && c.nc.Queued() > 0 {
				idle = false
			}
		}
		if idle {
			return
		}
	}
}

// maxCalls is the number of calls of the control API that execute at a time.
// They may wait, for a disk that hangs: not on a worker.
const maxCalls = 64

// call executes a call of the control API.
func (s *sess) call(d wire.Header, payload []byte) {
	t := s.t
	if t.calls.Add(1) > maxCalls {
		t.calls.Add(-1)
		s.answer(d, session.Answer{Status: block.StatusBusy})
		return
	}
	t.bg.Go(func() {
		defer t.calls.Add(-1)
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		stop := context.AfterFunc(t.life, cancel) // the end of the target
		defer stop()
		go func() { // ends with ctx
			select {
			case <-s.quit:
				cancel()
			case <-ctx.Done():
			}
		}()
		out := t.admin(ctx, s.caller(), payload)
		if len(out) > wire.MaxControl {
			s.answer(d, session.Answer{Status: block.StatusInvalid})
			return
		}
		s.answer(d, session.Answer{Payload: out})
	})
}

// open opens a volume for the session.
func (s *sess) open(payload []byte, reserve bool) ([]byte, error) {
	var o wire.Open
	if err := o.Parse(payload); err != nil {
		return nil, block.StatusProtocol
	}
	s.opening.Lock()
	defer s.opening.Unlock()
	v := s.t.find(string(o.Namespace), string(o.Volume))
	if v == nil {
		return nil, block.StatusNotFound
	}
	h := s.handleOf(v)
	if h == nil {
		dev, err := v.open()
		if err != nil {
			s.t.opt.Events.Add(audit.Error, v.name(), err.Error())
			return nil, err
		}
		h = &handle{v: v, dev: dev, seat: s.t.gate.Seat(v.uuid, s.Nexus), readOnly: o.Flags&wire.OpenReadOnly != 0}
		h.right, _ = h.seat.Right()
		if !s.addHandle(h) {
			h.drop(s.Nexus)
			return nil, block.StatusBusy
		}
	}
	info := h.dev.Info()
	info.ReadOnly = info.ReadOnly || h.readOnly
	info.Features &^= block.NeverBlocks
	info.MaxLen, info.MaxZero = min(info.MaxLen, wire.MaxPayload), min(info.MaxZero, block.MaxZero)
	r := wire.OpenResponse{Handle: h.id, Info: info, Incarnation: v.incarnation(s.t.poolInc)}
	if reserve {
		r.Right, r.Access = h.seat.Right()
	}
	if o.Flags&wire.OpenRecover != 0 {
		r.Replay = wire.ReplayLate
		if v.grace.MayReplay(s.Nexus) {
			r.Replay = wire.ReplayAllowed
		}
	}
	return r.Append(nil), nil
}

func (s *sess) closeHandle(id uint32) error {
	s.opening.Lock()
	defer s.opening.Unlock()
	h := s.handle(id)
	if h == nil {
		return block.StatusNotFound
	}
	s.removeHandle(id)
	h.drop(s.Nexus)
	if h.readOnly {
		return nil
	}
	err := h.v.dropWriter(s.Nexus)
	if errors.Is(err, block.StatusNotFound) {
		return nil // deleted meanwhile
	}
	return err
}

// reclaim notes that the nexus has sent everything again, and answers when all
// others on record have too, or the grace is over.
func (s *sess) reclaim(d wire.Header) {
	h := s.handle(d.Volume)
	if h == nil {
		s.answer(d, session.Answer{Status: block.StatusNotFound})
		return
	}
	h.v.grace.Reclaimed(s.Nexus)
	r := &reclaim{s: s, h: h, d: d}
	if r.try(netio.Now()) {
		return
	}
	s.t.mu.Lock()
	s.t.waiting = append(s.t.waiting, r)
	s.t.mu.Unlock()
}

// try answers if the grace is over for the session. Who may write is on
// record, durably, before the answer, and not earlier: somebody who is late
// and has not taken the answer to his open yet must not be taken for a writer
// that may send again after the next restart.
func (r *reclaim) try(now time.Duration) bool {
	v := r.h.v
	r.s.opening.Lock()
	defer r.s.opening.Unlock()
	if r.s.handle(r.h.id) != r.h { // closed meanwhile: it is off the record and stays so
		r.s.answer(r.d, session.Answer{Status: block.StatusNotFound})
		return true
	}
	if !r.h.readOnly {
		if !v.mayWrite(r.s.Nexus, now) {
			return false
		}
		if err := v.recordWriter(r.s.Nexus); err != nil {
			r.s.t.opt.Events.Add(audit.Error, v.name(), "recording the writer "+r.s.Nexus+": "+err.Error())
			r.s.answer(r.d, session.Answer{Status: statusOf(err)})
			return true
		}
	}
	r.h.ready.Store(true)
	r.s.answer(r.d, session.Answer{})
	return true
}

// houseEvery is how often the housekeeper looks.
const houseEvery = 10 * time.Millisecond

// housekeep ends graces, closes the volumes of drained sessions, shrinks idle
// windows and closes silent connections.
func (t *Target) housekeep() {
	defer t.bg.Done()
	tick := time.NewTicker(houseEvery)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-t.stop:
			return
		case <-tick.C:
		}
		t.tryWaiting()
		if n%100 == 0 {
			t.sweep()
		}
		t.endSessions()
	}
}

func (t *Target) tryWaiting() {
	t.mu.Lock()
	list := t.waiting
	t.waiting = nil
	t.mu.Unlock()
	if len(list) == 0 {
		return
	}
	now := netio.Now()
	var rest []*reclaim
	for _, r := range list {
		if !r.try(now) {
			rest = append(rest, r)
		}
	}
	t.mu.Lock()
	t.waiting = append(t.waiting, rest...)
	t.mu.Unlock()
}

// endSessions closes the volumes of sessions that are drained.
func (t *Target) endSessions() {
	var done []*sess
	t.mu.Lock()
	for ss, s := range t.sess {
		if ss.Closed() && ss.Drained() {
			delete(t.sess, ss)
			done = append(done, s)
		}
	}
	t.mu.Unlock()
	for _, s := range done {
		s.closeConns(errReplaced)
		s.end()
	}
}

// sweep runs about once a second.
func (t *Target) sweep() {
	t.sessions.Sweep()
	now := netio.Now()
	t.mu.Lock()
	sessions := make([]*sess, 0, len(t.sess))
	for _, s := range t.sess {
		sessions = append(sessions, s)
	}
	t.mu.Unlock()
	for _, s := range sessions {
		if s.active.Swap(false) || s.used.Load() != 0 {
			continue
		}
		s.Window.Shrink() // the next pong says so
		if len(s.paths()) == 0 {
			s.Window.Orphan()
			if s.empty() && now-s.LastHeard() > EmptyTimeout {
				s.Leave()
			}
		}
	}
	for _, c := range t.paths() {
		if now-c.nc.LastRead() > SilentTimeout && c.nc.Unread() == 0 {
			c.nc.Close(errSilent)
		}
	}
}
