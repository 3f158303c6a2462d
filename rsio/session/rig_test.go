// SPDX-License-Identifier: Apache-2.0

package session

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"rsio/rsio/block"
	"rsio/rsio/netio"
	"rsio/rsio/wire"
)

// rig drives a Client by hand: time, connections and the target's answers are
// the test's. Everything happens on the test's goroutine.
type rig struct {
	t      testing.TB
	c      *Client
	now    time.Duration
	events []string
	logins uint64
	ports  []*fakePort
	gen    byte // of sessions
	handle uint32
	inc    uint64
	replay wire.Replay
	window uint32
	grant  uint32
	right  uint64 // 0: the target has no rights
	access block.Access
}

func newRig(t testing.TB) *rig {
	r := &rig{t: t, now: time.Hour, inc: 100, window: 1 << 20, grant: 1}
	r.c = NewClient(Config{Nexus: "h", Secret: wire.Secret{1}, Serial: r.serial, Target: "t", Events: r, Now: func() time.Duration { return r.now }})
	return r
}

// serial counts logins.
func (r *rig) serial() uint64 {
	r.logins++
	return r.logins
}

func (r *rig) Event(level, object, text string) {
	r.c.Failed() // must be called without locks
	r.events = append(r.events, level+" "+object+": "+text)
}

func (r *rig) VolumeChanged(v *Volume) { v.State() }

// told reports whether an event contains text.
func (r *rig) told(text string) bool {
	return strings.Contains(strings.Join(r.events, "\n"), text)
}

// login makes a session of the given number of data slots.
func (r *rig) login(slots uint32) {
	r.t.Helper()
	l, ok := r.c.LoginFor()
	if !ok || l.Mode != wire.LoginNew {
		r.t.Fatalf("LoginFor: mode %d, %v", l.Mode, ok)
	}
	r.gen++
	next := r.c.LoginDone(&l, block.StatusOK, &wire.LoginResponse{Version: 1, Features: r.features(), Instance: wire.ID{r.gen},
		Session: wire.ID{r.gen}, Slots: slots + wire.ControlSlots, Window: r.window, Grant: r.grant, MaxPayload: wire.MaxPayload})
	if next != NextUse {
		r.t.Fatalf("LoginDone: %d", next)
	}
}

func (r *rig) features() uint64 {
	if r.right == 0 {
		return wire.FeatureDigest
	}
	return wire.Features
}

// path adds a connection.
func (r *rig) path(name string) *fakePort {
	r.t.Helper()
	f := &fakePort{r: r, heard: r.now, silent: true, auto: true}
	f.p = r.c.PathUp(name, f, wire.ID{r.gen})
	if f.p == nil {
		r.t.Fatal("PathUp refuses")
	}
	r.ports = append(r.ports, f)
	return f
}

// up makes a session with paths and one volume that is ready.
func (r *rig) up(slots uint32, paths ...string) (*Volume, []*fakePort) {
	r.t.Helper()
	r.login(slots)
	var ports []*fakePort
	for _, n := range paths {
		ports = append(ports, r.path(n))
	}
	v := r.c.OpenVolume("ns", "vol", false, 0, nil)
	r.serve()
	if !v.Ready() {
		state, _, st := v.State()
		r.t.Fatalf("the volume is %s (%v)", state, st)
	}
	return v, ports
}

// serve answers opens, closes and reclaims until there are none.
func (r *rig) serve() {
	for again := true; again; {
		again = false
		for _, f := range r.ports {
			for _, s := range f.take(func(s *sent) bool { return s.h.Op == wire.OpOpen || s.h.Op == wire.OpReclaim || s.h.Op == wire.OpClose }) {
				again = true
				var p []byte
				if s.h.Op == wire.OpOpen {
					p = (&wire.OpenResponse{Handle: r.handle, Replay: r.replay, Incarnation: r.inc, Info: block.Info{Size: 1 << 30, BlockSize: 512,
						MaxLen: block.MaxLen, MaxZero: block.MaxZero, Features: block.CanFlush | block.CanFUA},
						Right: r.right, Access: r.access}).Append(nil)
					r.handle++
				}
				f.reply(s, block.StatusOK, p)
			}
		}
	}
}

// tick moves the clock in steps of TickEvery. Ports that are not mute are
// heard of.
func (r *rig) tick(d time.Duration) {
	for end := r.now + d; r.now < end; {
		r.now += TickEvery
		for _, f := range r.ports {
			if !f.mute {
				f.heard = r.now
			}
		}
		r.c.Tick()
	}
}

// sent is a frame that left a port.
type sent struct {
	h    wire.Header
	body string
}

// fakePort is a connection. With auto, Flush sends everything; else the test
// calls push.
type fakePort struct {
	r      *rig
	p      *Path
	queue  []*netio.Out
	half   *netio.Out
	sent   []*sent
	closed error
	auto   bool
	mute   bool // nothing is heard of it
	silent bool
	heard  time.Duration
	pings  int
}

func (f *fakePort) Send(o *netio.Out) bool {
	if f.closed != nil {
		return false
	}
	f.queue = append(f.queue, o)
	return true
}

func (f *fakePort) Unlink(o *netio.Out) netio.Withdrawn {
	if o == f.half {
		return netio.HalfSent
	}
	for i, q := range f.queue {
		if q == o {
			f.queue = append(f.queue[:i:i], f.queue[i+1:]...)
			return netio.Unlinked
		}
	}
	return netio.NotQueued
}

func (f *fakePort) Flush(bool) {
	for f.auto && len(f.queue) > 0 {
		f.push()
	}
}

func (f *fakePort) Close(reason error) {
	if f.closed == nil {
		f.closed = reason
	}
}

func (f *fakePort) Heard() time.Duration { return f.heard }
func (f *fakePort) Silent() bool         { return f.silent }

// begin sends the first bytes of the oldest frame.
func (f *fakePort) begin() {
	f.half, f.queue = f.queue[0], f.queue[1:]
}

// push sends the oldest frame, or the rest of the one that was begun.
func (f *fakePort) push() {
	if f.half == nil {
		f.begin()
	}
	o := f.half
	f.half = nil
	var h wire.Header
	if err := h.Parse(o.Head[:o.HeadLen], true); err != nil {
		f.r.t.Fatalf("a frame that does not parse: %v", err)
	}
	if wire.Digest(o.Body) != h.PayloadCRC && len(o.Body) > 0 || len(o.Body) != int(h.PayloadLen) {
		f.r.t.Fatalf("payload of %d bytes does not fit its header %+v", len(o.Body), h)
	}
	if h.Kind == wire.KindPing {
		f.pings++
	} else {
		f.sent = append(f.sent, &sent{h, string(o.Body)})
	}
	o.Owner.Sent(o, nil)
}

// down lets go of everything and reports the end.
func (f *fakePort) down() {
	f.Close(netio.ErrClosed)
	outs := f.queue
	if f.half != nil {
		outs = append([]*netio.Out{f.half}, outs...)
	}
	f.queue, f.half = nil, nil
	for _, o := range outs {
		o.Owner.Sent(o, netio.ErrClosed)
	}
	f.r.c.PathDown(f.p, f.closed)
	for i, q := range f.r.ports {
		if q == f {
			f.r.ports = append(f.r.ports[:i:i], f.r.ports[i+1:]...)
		}
	}
}

// take removes the sent frames that fit.
func (f *fakePort) take(fits func(*sent) bool) []*sent {
	var out, rest []*sent
	for _, s := range f.sent {
		if fits(s) {
			out = append(out, s)
		} else {
			rest = append(rest, s)
		}
	}
	f.sent = rest
	return out
}

// ops removes the sent frames of one op.
func (f *fakePort) ops(op block.Op) []*sent {
	return f.take(func(s *sent) bool { return s.h.Op == op })
}

// one returns the only frame of an op.
func (f *fakePort) one(op block.Op) *sent {
	f.r.t.Helper()
	list := f.ops(op)
	if len(list) != 1 {
		f.r.t.Fatalf("%d frames of op %s on %s, want 1", len(list), op, f.p.Name)
	}
	return list[0]
}

func answer(s *sent, st block.Status, payload []byte) wire.Header {
	return wire.Header{Kind: wire.KindResponse, Op: s.h.Op, Slot: s.h.Slot, Seq: s.h.Seq, Len: s.h.Len, Status: st, PayloadLen: uint32(len(payload))}
}

// reply answers a frame with the rig's present window.
func (f *fakePort) reply(s *sent, st block.Status, payload []byte) {
	f.r.t.Helper()
	h := answer(s, st, payload)
	h.Window, h.Grant = f.r.window, f.r.grant
	if err := f.r.c.Reply(f.p, &h, payload); err != nil {
		f.r.t.Fatalf("Reply: %v", err)
	}
}

// grants tells of a window.
func (f *fakePort) grants(window, grant uint32) {
	f.r.window, f.r.grant = window, grant
	f.r.c.Pong(f.p, &wire.Header{Kind: wire.KindPong, Window: window, Grant: grant})
}

// op is a request with its end.
type op struct {
	block.Request
	ends int
}

func (o *op) Complete(*block.Request) { o.ends++ }

func newOp(kind block.Op, n int) *op {
	o := &op{Request: block.Request{Op: kind, Len: uint32(n)}}
	if kind == block.OpRead || kind == block.OpWrite {
		o.Buf = make([]byte, n)
	}
	o.Done = o
	return o
}

func (r *rig) submit(v *Volume, kind block.Op, n int) *op {
	o := newOp(kind, n)
	v.Submit(&o.Request)
	return o
}

func (r *rig) many(v *Volume, kind block.Op, n, count int) []*op {
	var out []*op
	for range count {
		out = append(out, r.submit(v, kind, n))
	}
	return out
}

// ended fails unless o has ended exactly once, with st.
func (r *rig) ended(what string, o *op, st block.Status) {
	r.t.Helper()
	if o.ends != 1 || o.Status != st {
		r.t.Fatalf("%s: ended %d times with %v, want once with %v", what, o.ends, o.Status, st)
	}
}

func (r *rig) open(what string, o *op) {
	r.t.Helper()
	if o.ends != 0 {
		r.t.Fatalf("%s: ended with %v", what, o.Status)
	}
}

// clean fails if the books are not balanced while nothing is in flight.
func (r *rig) clean() {
	r.t.Helper()
	c := r.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inflight != 0 || c.waiting != 0 || c.busy != 0 || c.queued != 0 {
		r.t.Errorf("books: %d bytes in flight, %d waiting, %d slots, %d queued", c.inflight, c.waiting, c.busy, c.queued)
	}
	for _, p := range c.paths {
		if p.outstanding != 0 || p.ghosts != 0 {
			r.t.Errorf("path %s: %d outstanding, %d ghosts", p.Name, p.outstanding, p.ghosts)
		}
	}
	for _, v := range c.volumes {
		if v.inflight != 0 {
			r.t.Errorf("volume %s: %d in flight", v.name, v.inflight)
		}
	}
	if free := len(c.free) + len(c.freeCtl); free != len(c.slots) {
		r.t.Errorf("%d of %d slots are free", free, len(c.slots))
	}
}

func (r *rig) credit() (window, inflight uint64) {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	return r.c.window, r.c.inflight
}

func (s *sent) String() string { return fmt.Sprintf("%s slot %d seq %d", s.h.Op, s.h.Slot, s.h.Seq) }
