// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"encoding/binary"
	"math/bits"
	"sort"
	"time"

	"rsio/rsio/block"
	"rsio/rsio/session"
	"rsio/rsio/wire"
)

const (
	blockLen = 16 // bytes of a simulated block: its value and a filler
	nBlocks  = 12
	volSize  = nBlocks * blockLen
)

// server is the target: the real session code over a simulated disk.
type server struct {
	w        *World
	run      int // number of this start; zero while down
	starts   int
	up       bool
	frozen   bool
	instance wire.ID
	sessions *session.Sessions
	budget   *session.Budget
	srv      map[*session.Session]*srvSession
	grace    *session.Grace
	writers  map[string]bool // on record, survives everything
	disk     image           // page cache
	durable  image
	version  uint64
	incarn   uint64
	conns    []*conn
}

// image is the content of a disk, each block with the order of its last write.
type image [nBlocks]struct{ id, version uint64 }

// srvSession is what the target adds to a session.
type srvSession struct {
	s     *session.Session
	conns [session.MaxPaths]*conn
	used  uint64 // payload bytes in flight
}

func newServer(w *World) *server {
	return &server{w: w, writers: make(map[string]bool), incarn: 1}
}

// rngReader makes IDs of the run's random numbers.
type rngReader struct{ w *World }

func (r rngReader) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(r.w.rng.Uint32())
	}
	return len(p), nil
}

func (s *server) start() {
	s.starts++
	s.run, s.up = s.starts, true
	s.w.hist.restarts = append(s.w.hist.restarts, s.w.now)
	_, _ = rngReader{s.w}.Read(s.instance[:]) // cannot fail
	s.budget = session.NewBudget(4 << 20)
	s.srv = make(map[*session.Session]*srvSession)
	s.sessions = session.NewSessions(s.budget, wire.ControlSlots+16, rngReader{s.w}, func(old *session.Session) {
		s.w.hist.result.Takeovers++
		s.dropConns(old)
	})
	names := make([]string, 0, len(s.writers))
	for n := range s.writers {
		names = append(names, n)
	}
	sort.Strings(names)
	if s.w.opt.Bugs.NoGrace {
		names = nil
	}
	s.grace = session.NewGrace(names, s.w.now)
	s.w.trace("server starts, run %d, writers on record %v", s.run, names)
}

func (s *server) dropConns(old *session.Session) {
	if ss := s.srv[old]; ss != nil {
		for _, c := range ss.conns {
			if c != nil {
				c.closeSrv()
			}
		}
	}
}

// kill is kill -9; with power the page cache is lost too, but for a random
// part that had been written back.
func (s *server) kill(power bool) {
	s.up, s.frozen = false, false
	for _, c := range s.conns {
		c.closeSrv()
	}
	s.conns = nil
	if power {
		for b := range s.disk {
			if s.w.chance(2) {
				s.disk[b] = s.durable[b]
			}
		}
		s.durable = s.disk
		if !s.w.opt.Bugs.GoodLostFlush {
			s.incarn++
		}
		s.w.hist.powerLoss()
		s.w.hist.result.PowerLosses++
	}
	s.w.hist.result.Restarts++
	s.w.trace("server killed, power loss %v", power)
}

// receive takes a frame from a connection.
func (s *server) receive(c *conn, f frame) {
	if !s.up || c.run != s.run {
		return
	}
	if f.end {
		s.endConn(c)
		return
	}
	if c.srvEnd {
		return
	}
	var h wire.Header
	if err := h.Parse(f.data, true); err != nil {
		s.w.fail("server: %v", err)
		return
	}
	payload := f.data[wire.HeaderLen:]
	if len(payload) > 0 && wire.Digest(payload) != h.PayloadCRC {
		s.w.fail("server: payload digest of slot %d seq %d", h.Slot, h.Seq)
		return
	}
	if c.sess != nil {
		c.sess.s.Heard(s.w.now)
	}
	switch h.Kind {
	case wire.KindLogin:
		s.loginFrame(c, payload)
	case wire.KindPing:
		c.sess.s.Window.Heard(h.Window, h.Grant)
		s.answer(c, wire.Header{Kind: wire.KindPong, Seq: h.Seq}, nil)
	case wire.KindRequest:
		s.request(c, &h, payload)
	}
}

func (s *server) endConn(c *conn) {
	c.closeSrv()
	if c.sess != nil && c.sess.conns[c.pathNo] == c {
		c.sess.conns[c.pathNo] = nil
		c.sess.s.DropPath(c.pathNo)
	}
}

func (s *server) loginFrame(c *conn, payload []byte) {
	var l wire.Login
	if err := l.Parse(payload); err != nil {
		s.w.fail("server: login: %v", err)
		return
	}
	sess, st := s.sessions.Login(&l, s.w.now)
	if st == block.StatusDraining && s.w.opt.Bugs.NoDrain {
		s.sessions = session.NewSessions(s.budget, wire.ControlSlots+16, rngReader{s.w}, nil)
		sess, st = s.sessions.Login(&l, s.w.now)
	}
	s.w.trace("server: login of %s mode %d: %v", l.Nexus, l.Mode, st)
	r := wire.LoginResponse{Version: 1, Features: wire.Features, Instance: s.instance, MaxPayload: wire.MaxPayload}
	if st == block.StatusOK {
		ss := s.srv[sess]
		if ss == nil {
			ss = &srvSession{s: sess}
			s.srv[sess] = ss
		}
		no, ok := sess.AddPath()
		if !ok {
			st = block.StatusBusy
		} else {
			c.sess, c.pathNo = ss, no
			ss.conns[no] = c
			r.Session, r.Slots = sess.ID, uint32(sess.Len())
			r.Window, r.Grant = sess.Window.Get()
		}
		if l.Mode == wire.LoginNew {
			s.w.hist.sessionBegins(string(l.Nexus))
		}
	}
	s.answer(c, wire.Header{Kind: wire.KindLoginResponse, Status: st}, r.Append(nil))
	if st != block.StatusOK {
		c.closeSrv()
	}
}

func (s *server) answer(c *conn, h wire.Header, payload []byte) {
	if c == nil || c.srvEnd {
		return
	}
	if c.sess != nil && h.Kind != wire.KindLoginResponse {
		h.Window, h.Grant = c.sess.s.Window.Get()
	}
	data := make([]byte, wire.HeaderLen, wire.HeaderLen+len(payload))
	h.PayloadLen, h.PayloadCRC = uint32(len(payload)), 0
	if len(payload) > 0 {
		h.PayloadCRC = wire.Digest(payload)
	}
	h.Put(data, true)
	c.push(&c.toCli, append(data, payload...), false)
}

// request decides about one copy and has it executed.
func (s *server) request(c *conn, h *wire.Header, payload []byte) {
	ss := c.sess
	if ss == nil {
		s.w.fail("server: request before login")
		return
	}
	ss.s.Window.Heard(h.Window, h.Grant)
	cost := uint64(wire.Cost(h.Op, h.Len))
	if ss.s.Executing(h) {
		cost = 0 // a copy of what executes takes no memory
	}
	ss.used += cost
	if limit := ss.s.Window.Reserved(); ss.used > limit && !wire.IsControl(h.Op) {
		s.w.fail("P11: %s has %d bytes in flight, granted %d", ss.s.Nexus, ss.used, limit)
	}
	v, a := ss.s.Claim(h, c.pathNo)
	s.plant(ss, h, payload, v)
	hd := *h
	hd.Kind, hd.Flags, hd.Window, hd.Grant, hd.Off, hd.PayloadLen = wire.KindResponse, 0, 0, 0, 0, 0
	switch v {
	case session.Execute, session.ReadAgain:
		s.execute(c, ss, hd, h.Flags, h.Off, payload, v == session.ReadAgain)
		return
	case session.Attached:
		s.w.hist.result.Attached++
		ss.used -= cost
	case session.Repeat:
		s.w.hist.result.Repeats++
		hd.Status = a.Status
		ss.used -= cost
		s.answer(c, hd, a.Payload)
	case session.Stale:
		s.w.hist.result.Stale++
		hd.Status = block.StatusStale
		ss.used -= cost
		s.answer(c, hd, nil)
	case session.Refused:
		c.closeSrv()
	case session.Violation:
		s.w.fail("server: slot %d seq %d is out of order", h.Slot, h.Seq)
	}
}

// plant makes the mistakes that Bugs asks for and reports whether it did.
func (s *server) plant(ss *srvSession, h *wire.Header, payload []byte, v session.Verdict) {
	old := v == session.Stale && s.w.opt.Bugs.AcceptOld
	twice := (v == session.Repeat || v == session.Attached) && s.w.opt.Bugs.ExecuteTwice
	if h.Op != block.OpWrite || !old && !twice {
		return
	}
	run, off := s.run, h.Off
	s.w.after(s.execTime(), func() {
		if s.run == run && s.up {
			s.apply(off, payload, false, ss.s.Nexus, false)
		}
	})
}

// execTime is how long a request takes: mostly short, sometimes very long.
func (s *server) execTime() time.Duration {
	switch {
	case s.w.chance(60) && !s.w.calm:
		return s.w.between(0, 3*time.Second) // hung disk
	case s.w.chance(10):
		return s.w.between(0, 20*time.Millisecond)
	}
	return s.w.between(5*time.Microsecond, 300*time.Microsecond)
}

func (s *server) execute(c *conn, ss *srvSession, hd wire.Header, flags uint16, off uint64, payload []byte, side bool) {
	run := s.run
	nexus := ss.s.Nexus
	if wire.IsControl(hd.Op) {
		s.control(ss, hd, payload)
		return
	}
	replay := flags&wire.FlagReplay != 0
	if replay && !s.grace.BeginReplay(nexus) && !s.w.opt.Bugs.NoGrace {
		s.done(c, ss, hd, block.StatusUnknown, nil, side)
		return
	}
	var snapshot image
	if hd.Op == block.OpFlush {
		snapshot = s.disk // adversarial: only what was there when it began
	}
	s.w.after(s.execTime(), func() {
		if s.run != run || !s.up {
			return
		}
		s.thawed(func() {
			if s.run != run || !s.up {
				return
			}
			var out []byte
			switch hd.Op {
			case block.OpWrite:
				s.apply(off, payload, flags&uint16(block.FlagFUA) != 0, nexus, replay)
			case block.OpRead:
				out = s.read(off, hd.Len)
			case block.OpFlush:
				for b := range snapshot {
					if snapshot[b].version > s.durable[b].version {
						s.durable[b] = snapshot[b]
					}
				}
			}
			if replay && !s.w.opt.Bugs.NoGrace {
				s.grace.EndReplay()
			}
			s.done(c, ss, hd, block.StatusOK, out, side)
		})
	})
}

// thawed runs fn when the server is not frozen.
func (s *server) thawed(fn func()) {
	if s.frozen {
		s.w.after(5*time.Millisecond, func() { s.thawed(fn) })
		return
	}
	fn()
}

func (s *server) apply(off uint64, payload []byte, fua bool, nexus string, replay bool) {
	b := off / blockLen
	id := binary.BigEndian.Uint64(payload)
	s.w.hist.executed(id, int(b), nexus, replay)
	s.version++
	s.disk[b].id, s.disk[b].version = id, s.version
	if fua {
		s.durable[b] = s.disk[b]
	}
}

func (s *server) read(off uint64, n uint32) []byte {
	out := make([]byte, n)
	for i := uint64(0); i < uint64(n)/blockLen; i++ {
		binary.BigEndian.PutUint64(out[i*blockLen:], s.disk[off/blockLen+i].id)
	}
	return out
}

func (s *server) done(c *conn, ss *srvSession, hd wire.Header, st block.Status, out []byte, side bool) {
	hd.Status = st
	ss.used -= uint64(wire.Cost(hd.Op, hd.Len))
	if side {
		ss.s.SideDone()
		s.answer(c, hd, out)
		return
	}
	for paths := ss.s.Complete(hd.Slot, session.Answer{Status: st}); paths != 0; paths &= paths - 1 {
		s.answer(ss.conns[bits.TrailingZeros64(paths)], hd, out)
	}
}

// control answers control operations; reclaim waits for the grace.
func (s *server) control(ss *srvSession, hd wire.Header, payload []byte) {
	run := s.run
	finish := func(st block.Status, out []byte) {
		hd.Status = st
		ss.used -= uint64(wire.Cost(hd.Op, hd.Len))
		for paths := ss.s.Complete(hd.Slot, session.Answer{Status: st, Payload: out}); paths != 0; paths &= paths - 1 {
			s.answer(ss.conns[bits.TrailingZeros64(paths)], hd, out)
		}
	}
	switch hd.Op {
	case wire.OpOpen:
		var o wire.Open
		if err := o.Parse(payload); err != nil {
			s.w.fail("server: open: %v", err)
			return
		}
		r := wire.OpenResponse{Handle: 7, Incarnation: s.incarn, Replay: wire.ReplayNone, Info: block.Info{Size: volSize, BlockSize: blockLen,
			MaxLen: block.MaxLen, MaxZero: block.MaxZero, Features: block.CanFlush | block.CanFUA}}
		if o.Flags&wire.OpenRecover != 0 {
			r.Replay = wire.ReplayLate
			if s.grace.MayReplay(ss.s.Nexus) || s.w.opt.Bugs.NoGrace {
				r.Replay = wire.ReplayAllowed
			}
		}
		finish(block.StatusOK, r.Append(nil))
	case wire.OpReclaim:
		s.grace.Reclaimed(ss.s.Nexus)
		var poll func()
		poll = func() {
			if s.run != run || !s.up {
				return
			}
			open := !s.frozen && s.grace.Open(ss.s.Nexus, s.w.now)
			if late := s.grace.Late(); !s.frozen && len(late) > 0 {
				for _, n := range late {
					delete(s.writers, n)
				}
				s.grace.Recorded(late)
			}
			if !open {
				s.w.after(5*time.Millisecond, poll)
				return
			}
			s.writers[ss.s.Nexus] = true
			finish(block.StatusOK, nil)
		}
		poll()
	}
}

// sortedSessions returns the sessions in an order that the seed decides alone.
func (s *server) sortedSessions() []*srvSession {
	out := make([]*srvSession, 0, len(s.srv))
	for _, ss := range s.srv {
		out = append(out, ss)
	}
	sort.Slice(out, func(i, j int) bool { return string(out[i].s.ID[:]) < string(out[j].s.ID[:]) })
	return out
}
