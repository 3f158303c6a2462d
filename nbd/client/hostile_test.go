// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"testing"
	"time"

	"rsio/rsio/block"
)

// TestHostileAnswers: an answer that cannot be costs the connection; the
// request is sent again on the next one, and answered there.
func TestHostileAnswers(t *testing.T) {
	junk := func(b []byte) func(*peer, request) { return func(p *peer, _ request) { p.put(b) } }
	cookie := func(f func(uint64) uint64) func(*peer, request) {
		return func(p *peer, r request) { p.put(simple(0, f(r.cookie)), data(4096)) }
	}
	for _, row := range []struct {
		desc string
		say  func(p *peer, r request)
	}{
		{"a wrong magic", junk(be(uint32(magicSimple+1), uint64(0), uint32(0)))},
		{"a request", junk(be(uint32(magicRequest), uint64(0), uint32(0)))},
		{"a structured reply", junk(be(uint32(0x668e33ef), uint64(0), uint64(0)))},
		{"zeroes", junk(make([]byte, 1<<16))},
		{"a slot that nobody has", cookie(func(c uint64) uint64 { return c | 4 })},
		{"the slot -1", cookie(func(c uint64) uint64 { return c | 1<<32 - 1 })},
		{"a slot that is free", cookie(func(c uint64) uint64 { return c ^ 1 })},
		{"a later use of the slot", cookie(func(c uint64) uint64 { return c + 1<<32 })},
		{"an earlier use of the slot", cookie(func(c uint64) uint64 { return c - 1<<32 })},
		{"the cookie 0", cookie(func(uint64) uint64 { return 0 })},
		{"half an answer", func(p *peer, r request) {
			p.put(simple(0, r.cookie)[:9])
			_ = p.Close()
		}},
		{"half the data", func(p *peer, r request) {
			p.put(simple(0, r.cookie), data(2000))
			_ = p.Close()
		}},
		{"no data", func(p *peer, r request) {
			p.put(simple(0, r.cookie))
			_ = p.Close()
		}},
		{"no answer", func(p *peer, _ request) { _ = p.Close() }},
		{"shutting down", func(p *peer, r request) { p.answer(r, errShutdown) }},
		{"shutting down, of another request", func(p *peer, r request) { p.put(simple(errShutdown, r.cookie+9)) }},
	} {
		t.Run(row.desc, func(t *testing.T) {
			closed := make(chan bool, 1)
			f := newFake(t, func(n int, p *peer) {
				if !p.hello() {
					return
				}
				if n == 0 {
					if r, ok := p.request(); ok {
						row.say(p, r)
					}
					closed <- p.ended()
					return
				}
				p.honest()
			})
			d := f.open(t, Options{MaxInflight: 4})
			c := newCall(block.OpRead, 4096, 4096)
			d.Submit(&c.Request)
			if st := c.wait(t); st != block.StatusOK || !bytes.Equal(c.Buf, data(4096)) {
				t.Errorf("the request ends with %v and %x...", st, c.Buf[:4])
			}
			if !<-closed {
				t.Error("the connection was not closed")
			}
			closeDevice(t, d)
			if n := f.connections(); n != 2 || !c.open() {
				t.Errorf("%d connections, completed again: %v", n, !c.open())
			}
		})
	}
}

// TestSecondAnswer: an answer that comes twice, or after the slot has another
// user, ends no other request.
func TestSecondAnswer(t *testing.T) {
	for _, row := range []struct {
		desc string
		then func(p *peer, first request)
	}{
		{"at once", func(p *peer, first request) { p.answer(first, 0) }},
		{"while the slot has its next user", func(p *peer, first request) {
			if _, ok := p.request(); ok {
				p.answer(first, 0)
			}
		}},
		{"data behind an error", func(p *peer, _ request) { p.put(data(4096)) }},
	} {
		t.Run(row.desc, func(t *testing.T) {
			f := newFake(t, func(n int, p *peer) {
				if !p.hello() {
					return
				}
				if n == 0 {
					if r, ok := p.request(); ok && p.answer(r, 5) { // an error: EIO
						row.then(p, r)
						p.ended()
					}
					return
				}
				p.honest()
			})
			d := f.open(t, Options{MaxInflight: 1})
			a, b := newCall(block.OpRead, 0, 4096), newCall(block.OpWrite, 0, 4096)
			d.Submit(&a.Request)
			d.Submit(&b.Request)
			if st := a.wait(t); st != block.StatusIO {
				t.Errorf("the first: %v", st)
			}
			if st := b.wait(t); st != block.StatusOK {
				t.Errorf("the second: %v", st)
			}
			closeDevice(t, d)
			if !a.open() || !b.open() {
				t.Error("a request completed twice")
			}
			if n := f.connections(); n != 2 {
				t.Errorf("%d connections", n)
			}
		})
	}
}

// TestAnsweredUnsent: an answer to a write that was not sent yet ends it only when
// nothing refers to its data any more, and a second one costs the connection.
func TestAnsweredUnsent(t *testing.T) {
	const all = 16
	ends := make(chan bool, all)
	closed := make(chan bool, 1)
	var last *call
	ready := make(chan struct{})
	f := newFake(t, func(n int, p *peer) {
		if !p.hello() {
			return
		}
		if n > 0 {
			p.honest()
			return
		}
		<-ready // nothing is read: the socket is full
		p.put(simple(0, 1<<32|(all-1)), simple(0, 1<<32))
		time.Sleep(20 * time.Millisecond) // most likely the client has seen them
		ends <- last.open()
		p.put(simple(0, 1<<32|(all-1)))
		closed <- p.ended()
	})
	d := f.open(t, Options{MaxInflight: all})
	calls := make([]*call, all)
	for i := range calls {
		calls[i] = newCall(block.OpWrite, uint64(i)<<20, 1<<20)
		d.Submit(&calls[i].Request)
	}
	last = calls[all-1]
	close(ready)
	for _, c := range calls {
		if st := c.wait(t); st != block.StatusOK {
			t.Errorf("write at %d: %v", c.Off, st)
		}
	}
	if !<-ends {
		t.Error("a write ended before it was sent")
	}
	if !<-closed {
		t.Error("the connection was not closed")
	}
	closeDevice(t, d)
	for _, c := range calls {
		if !c.open() {
			t.Errorf("write at %d ended twice", c.Off)
		}
	}
	if n := f.connections(); n != 2 {
		t.Errorf("%d connections", n)
	}
}

// TestErrors: what an error of the wire becomes.
func TestErrors(t *testing.T) {
	code := make(chan uint32, 1)
	f := newFake(t, func(_ int, p *peer) {
		for ok := p.hello(); ok; {
			var r request
			if r, ok = p.request(); ok {
				ok = p.answer(r, <-code)
			}
		}
	})
	d := f.open(t, Options{})
	for _, row := range []struct {
		desc string
		op   block.Op
		code uint32
		want block.Status
	}{
		{"success", block.OpWrite, 0, block.StatusOK},
		{"EPERM", block.OpWrite, 1, block.StatusConflict},
		{"EIO", block.OpRead, 5, block.StatusIO},
		{"ENOMEM", block.OpRead, 12, block.StatusIO},
		{"EINVAL of a write", block.OpWrite, 22, block.StatusInvalid},
		{"EINVAL of zeroes", block.OpWriteZeroes, 22, block.StatusUnsupported},
		{"EINVAL of a discard", block.OpDiscard, 22, block.StatusUnsupported},
		{"ENOSPC", block.OpWrite, 28, block.StatusNoSpace},
		{"EOVERFLOW", block.OpRead, 75, block.StatusIO},
		{"ENOTSUP", block.OpWriteZeroes, 95, block.StatusUnsupported},
		{"EIO of a flush", block.OpFlush, 5, block.StatusIO},
		{"a number nobody knows", block.OpFlush, 1<<32 - 1, block.StatusIO},
	} {
		c := newCall(row.op, 0, 4096)
		if row.op == block.OpFlush {
			c.Len = 0
		}
		code <- row.code
		d.Submit(&c.Request)
		if st := c.wait(t); st != row.want {
			t.Errorf("%s: %v, want %v", row.desc, st, row.want)
		}
	}
	closeDevice(t, d)
	if n := f.connections(); n != 1 {
		t.Errorf("%d connections: an error of a request is no reason to break one", n)
	}
}

// TestWire: every request as it is on the wire.
func TestWire(t *testing.T) {
	got := make(chan request, 1)
	f := newFake(t, func(_ int, p *peer) {
		for ok := p.hello(); ok; {
			var r request
			if r, ok = p.request(); ok {
				got <- r
				ok = p.answer(r, 0)
			}
		}
	})
	d := f.open(t, Options{})
	for _, row := range []struct {
		op    block.Op
		flags block.Flags
		want  request
	}{
		{block.OpRead, 0, request{cmd: 0, off: 4096, n: 512}},
		{block.OpWrite, block.FlagFUA, request{cmd: 1, flags: 1, off: 4096, n: 512}},
		{block.OpFlush, 0, request{cmd: 3}},
		{block.OpDiscard, block.FlagFUA, request{cmd: 4, flags: 1, off: 4096, n: 512}},
		{block.OpWriteZeroes, block.FlagNoHole | block.FlagFastZero | block.FlagFUA, request{cmd: 6, flags: 1 | 2 | 16, off: 4096, n: 512}},
	} {
		c := newCall(row.op, row.want.off, int(row.want.n))
		c.Flags = row.flags
		d.Submit(&c.Request)
		r := <-got
		if r.cookie = 0; r != row.want {
			t.Errorf("%v %v: %+v, want %+v", row.op, row.flags, r, row.want)
		}
		if st := c.wait(t); st != block.StatusOK {
			t.Errorf("%v: %v", row.op, st)
		}
	}
	closeDevice(t, d)
}

// TestNoSpin: a server that breaks every connection is not asked without a
// pause.
func TestNoSpin(t *testing.T) {
	for _, row := range []struct {
		desc string
		do   func(p *peer)
	}{
		{"closes at once", func(*peer) {}},
		{"closes after the handshake", func(p *peer) { p.hello() }},
		{"is always shutting down", func(p *peer) {
			if p.hello() {
				p.put(simple(errShutdown, 0))
				p.ended()
			}
		}},
	} {
		t.Run(row.desc, func(t *testing.T) {
			f := newFake(t, func(n int, p *peer) {
				if n == 0 {
					p.hello()
					return
				}
				row.do(p)
			})
			d := f.open(t, Options{})
			time.Sleep(400 * time.Millisecond)
			if n := f.connections(); n > 100 { // with the backoff it is about 7
				t.Errorf("%d connections in less than half a second", n)
			}
			closeDevice(t, d)
		})
	}
}
