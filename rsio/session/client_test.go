// SPDX-License-Identifier: Apache-2.0

package session

import (
	"bytes"
	"testing"
	"time"

	"rsio/rsio/block"
	"rsio/rsio/netio"
	"rsio/rsio/wire"
)

func TestReadAndWrite(t *testing.T) {
	r := newRig(t)
	v, ports := r.up(8, "p0")
	w := newOp(block.OpWrite, 4096)
	copy(w.Buf, "payload")
	w.Off, w.Flags = 8192, block.FlagFUA
	v.Submit(&w.Request)
	s := ports[0].one(block.OpWrite)
	if s.h.Off != 8192 || s.h.Len != 4096 || s.h.Flags != uint16(block.FlagFUA) || s.h.Seq != 1 || s.h.Slot < wire.ControlSlots || s.body != string(w.Buf) {
		t.Fatalf("sent %+v", s.h)
	}
	r.open("before the answer", w)
	ports[0].reply(s, block.StatusNoSpace, nil)
	r.ended("write", w, block.StatusNoSpace)

	small := r.submit(v, block.OpRead, 4096)
	s = ports[0].one(block.OpRead)
	want := bytes.Repeat([]byte{7}, 4096)
	ports[0].reply(s, block.StatusOK, want)
	r.ended("read", small, block.StatusOK)
	if !bytes.Equal(small.Buf, want) {
		t.Error("the read has other bytes")
	}
	big := r.submit(v, block.OpRead, 1<<20)
	s = ports[0].one(block.OpRead)
	h := answer(s, block.StatusOK, big.Buf)
	dst, err := r.c.BeginReply(ports[0].p, &h)
	if err != nil || len(dst) != 1<<20 || &dst[0] != &big.Buf[0] {
		t.Fatalf("BeginReply: %d bytes, %v", len(dst), err)
	}
	r.open("half received", big)
	r.c.EndReply(ports[0].p, &h, true)
	r.ended("large read", big, block.StatusOK)
	if got := v.Stats(); got.Reads != 2 || got.Writes != 1 || got.Errors != 1 || got.ReadBytes != 1<<20+4096 {
		t.Errorf("stats %+v", got)
	}
	r.clean()
}

// TestFirstAnswerWins: the second answer is dropped, and gives its credit
// back.
func TestFirstAnswerWins(t *testing.T) {
	r := newRig(t)
	v, ports := r.up(8, "a", "b")
	rd := r.submit(v, block.OpRead, 4096)
	a, b := ports[0], ports[1]
	if len(a.sent) == 0 {
		a, b = b, a
	}
	first := a.one(block.OpRead)
	a.mute = true
	r.tick(SuspectAfter + TickEvery)
	second := b.one(block.OpRead)
	if first.h.Seq != second.h.Seq || first.h.Slot != second.h.Slot {
		t.Fatalf("the copy is another request: %v, %v", first, second)
	}
	b.reply(second, block.StatusOK, bytes.Repeat([]byte{2}, 4096))
	r.ended("read", rd, block.StatusOK)
	if _, inflight := r.credit(); inflight != 4096 {
		t.Errorf("%d bytes in flight, want those of the ghost", inflight)
	}
	next := r.submit(v, block.OpRead, 4096)
	a.reply(first, block.StatusOK, bytes.Repeat([]byte{1}, 4096))
	if rd.Buf[0] != 2 || next.Buf[0] != 0 || rd.ends != 1 {
		t.Error("a late answer reached a buffer")
	}
	r.open("the next request", next)
	b.reply(b.one(block.OpRead), block.StatusOK, next.Buf)
	r.ended("the next request", next, block.StatusOK)
	r.clean()
}

// TestGhostsEndWithTheirPath: credit of copies whose answer never comes.
func TestGhostsEndWithTheirPath(t *testing.T) {
	r := newRig(t)
	v, ports := r.up(8, "a", "b")
	a, b := ports[0], ports[1]
	ops := r.many(v, block.OpRead, 4096, 4)
	a.mute = true
	r.tick(SuspectAfter + TickEvery)
	for _, s := range b.ops(block.OpRead) {
		b.reply(s, block.StatusOK, make([]byte, 4096))
	}
	for _, o := range ops {
		r.ended("read", o, block.StatusOK)
	}
	n := len(a.ops(block.OpRead))
	if _, inflight := r.credit(); n == 0 || inflight != uint64(n)*4096 {
		t.Fatalf("%d bytes in flight with %d ghosts", inflight, n)
	}
	a.down()
	r.clean()
}

// TestReceiverKeepsOthersOut: while one path reads a payload into the buffer,
// an answer on another path must not complete the request.
func TestReceiverKeepsOthersOut(t *testing.T) {
	r := newRig(t)
	v, ports := r.up(8, "a", "b")
	rd := r.submit(v, block.OpRead, 1<<17)
	a, b := ports[0], ports[1]
	if len(a.sent) == 0 {
		a, b = b, a
	}
	sa := a.one(block.OpRead)
	a.mute = true
	r.tick(SuspectAfter + TickEvery)
	sb := b.one(block.OpRead)
	h := answer(sb, block.StatusOK, rd.Buf)
	if dst, err := r.c.BeginReply(b.p, &h); dst == nil || err != nil {
		t.Fatalf("BeginReply: %v", err)
	}
	if dst, err := r.c.BeginReply(a.p, &h); dst != nil || err != nil {
		t.Fatalf("a second receiver: %v, %v", dst != nil, err)
	}
	r.open("one is receiving", rd)
	// The receiver fails: the request goes out again, on the other path.
	r.c.EndReply(b.p, &h, false)
	r.open("the digest was wrong", rd)
	a.mute = false
	r.tick(TickEvery)
	b.down()
	again := a.one(block.OpRead)
	if again.h.Seq != sa.h.Seq {
		t.Fatalf("sent again as %v", again)
	}
	a.reply(again, block.StatusIO, nil)
	r.ended("read", rd, block.StatusIO)
	r.clean()
}

// TestReceivingPathIsClosed: a path that stops in the middle of a payload
// holds the buffer; only its end frees the request.
func TestReceivingPathIsClosed(t *testing.T) {
	r := newRig(t)
	v, ports := r.up(8, "a", "b")
	rd := r.submit(v, block.OpRead, 1<<17)
	a, b := ports[0], ports[1]
	if len(a.sent) == 0 {
		a, b = b, a
	}
	s := a.one(block.OpRead)
	h := answer(s, block.StatusOK, rd.Buf)
	if dst, err := r.c.BeginReply(a.p, &h); dst == nil || err != nil {
		t.Fatal(err)
	}
	a.mute = true
	r.tick(SuspectAfter + TickEvery)
	if a.closed == nil {
		t.Fatal("a path with a half-received frame stays open")
	}
	if n := len(b.ops(block.OpRead)); n != 0 {
		t.Fatal("sent again while the old path may still write into the buffer")
	}
	r.c.EndReply(a.p, &h, false)
	a.down()
	b.reply(b.one(block.OpRead), block.StatusOK, rd.Buf)
	r.ended("read", rd, block.StatusOK)
	r.clean()
}

// TestTakeOver: what hangs on a silent path goes elsewhere; what was not sent
// is unlinked, a half-sent frame closes the path.
func TestTakeOver(t *testing.T) {
	for _, row := range []struct {
		desc   string
		before func(f *fakePort)
		closed bool
		copies uint64 // bytes in flight after
	}{
		{"not sent", func(*fakePort) {}, false, 4096},
		{"half sent", func(f *fakePort) { f.begin() }, true, 4096},
		{"sent", func(f *fakePort) { f.push() }, false, 8192},
	} {
		t.Run(row.desc, func(t *testing.T) {
			r := newRig(t)
			v, ports := r.up(8, "a")
			a := ports[0]
			a.auto = false
			w := r.submit(v, block.OpWrite, 4096)
			row.before(a)
			b := r.path("b")
			a.mute = true
			r.tick(SuspectAfter - TickEvery)
			if len(b.sent) != 0 {
				t.Fatal("taken over before the path is suspect")
			}
			r.tick(2 * TickEvery)
			if (a.closed != nil) != row.closed {
				t.Fatalf("closed: %v", a.closed)
			}
			if row.closed {
				if n := len(b.ops(block.OpWrite)); n != 0 {
					t.Fatal("sent again while the old path holds the buffer")
				}
				a.down()
			}
			s := b.one(block.OpWrite)
			if _, inflight := r.credit(); inflight != row.copies {
				t.Errorf("%d bytes in flight, want %d", inflight, row.copies)
			}
			b.reply(s, block.StatusOK, nil)
			r.ended("write", w, block.StatusOK)
			if !row.closed {
				for _, s := range a.ops(block.OpWrite) {
					a.reply(s, block.StatusOK, nil)
				}
			}
			a.auto = true
			a.Flush(false)
			r.clean()
		})
	}
}

// TestBufferIsHeld: a request that another path answered completes only when
// the first connection has let go of its buffer.
func TestBufferIsHeld(t *testing.T) {
	r := newRig(t)
	v, ports := r.up(8, "a", "b")
	a, b := ports[0], ports[1]
	w := r.submit(v, block.OpWrite, 4096)
	if len(a.sent) == 0 {
		a, b = b, a
	}
	s := a.one(block.OpWrite)
	a.mute = true
	b.auto = false
	r.tick(SuspectAfter + TickEvery)
	for b.half == nil || b.half.Body == nil { // pings go first
		if b.half != nil {
			b.push()
		}
		b.begin()
	}
	a.reply(s, block.StatusOK, nil)
	r.open("a frame with its buffer is half sent", w)
	if b.closed == nil {
		t.Fatal("the path with the half-sent frame stays open")
	}
	b.down()
	r.ended("write", w, block.StatusOK)
	r.clean()
}

// TestAnswerBeforeSent: the answer may be quicker than the word that the frame
// was sent.
func TestAnswerBeforeSent(t *testing.T) {
	r := newRig(t)
	v, ports := r.up(8, "a")
	f := ports[0]
	f.auto = false
	w := r.submit(v, block.OpWrite, 4096)
	var h wire.Header
	o := f.queue[0]
	if err := h.Parse(o.Head[:], true); err != nil {
		t.Fatal(err)
	}
	f.queue = nil
	f.reply(&sent{h: h}, block.StatusOK, nil)
	r.open("the kernel may still read the buffer", w)
	o.Owner.Sent(o, nil)
	r.ended("write", w, block.StatusOK)
	r.clean()
}

// TestSupervision: pings, suspicion, recovery, the end; bytes that wait in the
// socket and a sleep of our own are no silence.
func TestSupervision(t *testing.T) {
	r := newRig(t)
	_, ports := r.up(8, "a", "b")
	a := ports[0]
	r.tick(time.Second)
	if a.pings < 3 || a.pings > 5 {
		t.Errorf("%d pings in a second", a.pings)
	}
	info := func() PathInfo { return a.p.Describe() }
	a.mute = true
	r.tick(SuspectAfter - TickEvery)
	if info().Suspect {
		t.Error("suspect too early")
	}
	r.tick(TickEvery)
	if !info().Suspect || !r.told("is silent") {
		t.Error("not suspect")
	}
	a.mute = false
	r.tick(TickEvery)
	if info().Suspect || !r.told("answers again") {
		t.Error("suspect for ever")
	}
	a.mute, a.silent = true, false
	r.tick(2 * CloseAfter)
	if info().Suspect || a.closed != nil {
		t.Error("unread bytes count as silence")
	}
	a.silent = true
	a.heard = r.now
	r.now += time.Minute // we slept
	r.c.Tick()
	if info().Suspect || a.closed != nil {
		t.Error("our own sleep counts as silence")
	}
	r.tick(CloseAfter - TickEvery)
	if a.closed != nil {
		t.Error("closed too early")
	}
	r.tick(TickEvery)
	if a.closed == nil {
		t.Error("silent for ever")
	}
}

// TestOnePathStays: a sole silent path keeps its requests.
func TestOnePathStays(t *testing.T) {
	r := newRig(t)
	v, ports := r.up(8, "a")
	w := r.submit(v, block.OpWrite, 4096)
	s := ports[0].one(block.OpWrite)
	ports[0].mute = true
	r.tick(3 * time.Second)
	if ports[0].closed != nil || len(ports[0].ops(block.OpWrite)) != 0 {
		t.Fatal("taken over with nowhere to go")
	}
	ports[0].mute = false
	r.tick(TickEvery)
	ports[0].reply(s, block.StatusOK, nil)
	r.ended("write", w, block.StatusOK)
	r.clean()
}

// TestResendCap: a path that flaps cannot double the traffic for ever.
func TestResendCap(t *testing.T) {
	r := newRig(t)
	r.window = 32 << 20
	v, ports := r.up(64, "a", "b")
	a, b := ports[0], ports[1]
	for round := 0; a.closed == nil; round++ {
		if round > 100 {
			t.Fatal("never capped")
		}
		b.mute, a.mute = false, false
		r.tick(2 * TickEvery)
		ops := r.many(v, block.OpWrite, 1<<20, 8)
		a.mute = true
		r.tick(SuspectAfter + TickEvery)
		for _, f := range []*fakePort{b, a} { // b answers first, a's answers are ghosts
			for _, s := range f.ops(block.OpWrite) {
				f.reply(s, block.StatusOK, nil)
			}
		}
		for _, o := range ops {
			if a.closed == nil {
				r.ended("write", o, block.StatusOK)
			}
		}
	}
	r.c.mu.Lock()
	sentB, resent := r.c.sentBytes, r.c.resentBytes
	r.c.mu.Unlock()
	if resent > sentB/4+resendBurst+1<<20 {
		t.Errorf("%d bytes of %d were sent again", resent, sentB)
	}
	a.down()
	for _, s := range b.ops(block.OpWrite) {
		b.reply(s, block.StatusOK, nil)
	}
	r.clean()
}

// TestHalfOfTheSlots: one volume leaves room for the others.
func TestHalfOfTheSlots(t *testing.T) {
	r := newRig(t)
	v, ports := r.up(8, "a")
	v2 := r.c.OpenVolume("ns", "second", false, 0, nil)
	r.serve()
	ops := r.many(v, block.OpRead, 4096, 10)
	first := ports[0].ops(block.OpRead)
	if len(first) != 4 {
		t.Fatalf("%d of 8 slots for one volume", len(first))
	}
	if in, wait := v.Load(); in != 4 || wait != 6 {
		t.Errorf("load %d, %d", in, wait)
	}
	ops = append(ops, r.many(v2, block.OpRead, 4096, 10)...)
	second := ports[0].ops(block.OpRead)
	if len(second) != 4 {
		t.Fatalf("%d slots for the other volume", len(second))
	}
	for list := append(first, second...); len(list) > 0; list = ports[0].ops(block.OpRead) {
		for _, s := range list {
			ports[0].reply(s, block.StatusOK, make([]byte, 4096))
		}
		if in, _ := v.Load(); in > 4 {
			t.Fatalf("%d in flight of one volume", in)
		}
	}
	for _, o := range ops {
		r.ended("read", o, block.StatusOK)
	}
	r.clean()
}

// TestLeastOutstanding: a slow path gets less.
func TestLeastOutstanding(t *testing.T) {
	r := newRig(t)
	r.window = 32 << 20
	v, ports := r.up(64, "a", "b")
	count := [2]int{}
	for range 200 {
		r.submit(v, block.OpWrite, 4096)
		for i, f := range ports {
			for _, s := range f.ops(block.OpWrite) {
				count[i]++
				r.now += []time.Duration{100 * time.Microsecond, 10 * time.Millisecond}[i]
				f.reply(s, block.StatusOK, nil)
			}
		}
	}
	if count[0] < 10*count[1] {
		t.Errorf("%d requests on the quick path, %d on the slow one", count[0], count[1])
	}
	r.clean()
}

// TestLeave: a path that the target will close takes nothing new, what it has
// goes on.
func TestLeave(t *testing.T) {
	r := newRig(t)
	v, ports := r.up(8, "a", "b")
	a, b := ports[0], ports[1]
	w := r.submit(v, block.OpWrite, 4096)
	if len(a.sent) == 0 {
		a, b = b, a
	}
	r.c.Leave(a.p)
	r.many(v, block.OpWrite, 4096, 3)
	if len(b.sent) != 3 {
		t.Errorf("%d of 3 on the path that stays", len(b.sent))
	}
	a.reply(a.one(block.OpWrite), block.StatusOK, nil)
	r.ended("on the leaving path", w, block.StatusOK)
}

// TestParking: with no path I/O waits, and goes on with the same numbers.
func TestParking(t *testing.T) {
	r := newRig(t)
	v, ports := r.up(8, "a")
	f := ports[0]
	w := r.submit(v, block.OpWrite, 4096)
	s := f.one(block.OpWrite)
	f.down()
	if !r.told("all paths of h are lost") {
		t.Error("no event")
	}
	late := r.submit(v, block.OpWrite, 4096)
	r.tick(time.Minute)
	r.open("parked", w)
	r.open("submitted without a path", late)
	if l, ok := r.c.LoginFor(); !ok || l.Mode != wire.LoginJoin || l.Session != (wire.ID{r.gen}) || l.Serial != 0 {
		t.Fatalf("LoginFor: %+v, %v", l, ok)
	}
	f = r.path("b")
	list := f.ops(block.OpWrite)
	if len(list) != 2 || list[0].h.Seq != s.h.Seq || list[0].h.Slot != s.h.Slot || list[0].h.Flags&wire.FlagReplay != 0 {
		t.Fatalf("sent %v, before %v", list, s)
	}
	if !r.told("is back, I/O goes on") {
		t.Error("no event")
	}
	for _, s := range list {
		f.reply(s, block.StatusOK, nil)
	}
	r.ended("parked", w, block.StatusOK)
	r.ended("late", late, block.StatusOK)
	r.clean()
}

// TestBrokenAnswers: a target that breaks the protocol costs its path, and
// completes nothing.
func TestBrokenAnswers(t *testing.T) {
	rows := []struct {
		desc string
		with func(h *wire.Header)
		bad  bool
	}{
		{"a slot that does not exist", func(h *wire.Header) { h.Slot = 4000 }, true},
		{"a number that was never sent", func(h *wire.Header) { h.Seq++ }, true},
		{"the largest number", func(h *wire.Header) { h.Seq = 1<<64 - 1 }, true},
		{"an older number", func(h *wire.Header) { h.Seq-- }, false},
		{"a slot in which nothing is", func(h *wire.Header) { h.Slot, h.Seq = wire.ControlSlots, 0 }, false},
		{"another operation", func(h *wire.Header) { h.Op = block.OpFlush }, true},
		{"a control operation", func(h *wire.Header) { h.Op = wire.OpOpen }, true},
		{"another length", func(h *wire.Header) { h.Len /= 2 }, true},
		{"stale", func(h *wire.Header) { h.Status = block.StatusStale }, false},
	}
	for _, row := range rows {
		t.Run(row.desc, func(t *testing.T) {
			r := newRig(t)
			v, ports := r.up(8, "a")
			w := r.submit(v, block.OpWrite, 4096)
			s := ports[0].one(block.OpWrite)
			h := answer(s, block.StatusOK, nil)
			row.with(&h)
			if err := r.c.Reply(ports[0].p, &h, nil); (err != nil) != row.bad {
				t.Errorf("Reply: %v", err)
			}
			r.open("a wrong answer", w)
			ports[0].reply(s, block.StatusOK, nil)
			r.ended("the right one", w, block.StatusOK)
			r.clean()
		})
	}
}

// instant is a Port that sends at once and keeps the last header; nothing of
// it allocates.
type instant struct {
	outs [64]*netio.Out
	n    int
	last [wire.HeaderLen]byte
}

func (f *instant) Send(o *netio.Out) bool {
	f.outs[f.n] = o
	f.n++
	return true
}
func (f *instant) Unlink(*netio.Out) netio.Withdrawn { return netio.NotQueued }
func (f *instant) Flush(bool) {
	for ; f.n > 0; f.n-- {
		o := f.outs[f.n-1]
		copy(f.last[:], o.Head[:])
		o.Owner.Sent(o, nil)
	}
}
func (f *instant) Close(error)          {}
func (f *instant) Heard() time.Duration { return time.Hour }
func (f *instant) Silent() bool         { return true }

// TestNoAllocations: a request costs no garbage, from Submit to Complete.
func TestNoAllocations(t *testing.T) {
	for _, kind := range []block.Op{block.OpRead, block.OpWrite, block.OpFlush} {
		r := newRig(t)
		v, ports := r.up(64, "a")
		ports[0].down()
		f := &instant{}
		p := r.c.PathUp("b", f, wire.ID{r.gen})
		n := 4096
		if kind == block.OpFlush {
			n = 0
		}
		o := newOp(kind, n)
		payload := []byte(nil)
		if kind == block.OpRead {
			payload = make([]byte, n)
		}
		allocs := testing.AllocsPerRun(500, func() {
			v.Submit(&o.Request)
			var h wire.Header
			if err := h.Parse(f.last[:], true); err != nil {
				t.Fatal(err)
			}
			h.Kind, h.Status, h.PayloadLen, h.Window, h.Grant = wire.KindResponse, block.StatusOK, uint32(len(payload)), r.window, r.grant
			if err := r.c.Reply(p, &h, payload); err != nil {
				t.Fatal(err)
			}
		})
		if allocs != 0 || o.ends != 501 {
			t.Errorf("%s: %v allocations, %d ends", kind, allocs, o.ends)
		}
		r.clean()
	}
}
