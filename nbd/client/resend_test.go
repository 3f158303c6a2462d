// SPDX-License-Identifier: Apache-2.0

package client

import (
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rsio/rsio/block"
)

// TestOrder: what was not answered is sent again in the order of submission, on
// every connection anew, and new requests come after it.
func TestOrder(t *testing.T) {
	const all, conns = 40, 5
	var mu sync.Mutex
	seen := make([][]uint64, conns)
	f := newFake(t, func(n int, p *peer) {
		if !p.hello() {
			return
		}
		if n >= conns {
			p.honest()
			return
		}
		for range all {
			r, ok := p.request()
			if !ok {
				return
			}
			mu.Lock()
			seen[n] = append(seen[n], r.off)
			mu.Unlock()
		}
	})
	d := f.open(t, Options{MaxInflight: all})
	calls := make([]*call, all)
	want := make([]uint64, all)
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range calls {
		op := []block.Op{block.OpRead, block.OpWrite, block.OpDiscard, block.OpWriteZeroes}[rng.IntN(4)]
		calls[i], want[i] = newCall(op, uint64(i)*4096, 4096), uint64(i)*4096
		d.Submit(&calls[i].Request)
	}
	for _, c := range calls {
		if st := c.wait(t); st != block.StatusOK {
			t.Errorf("%v at %d: %v", c.Op, c.Off, st)
		}
	}
	closeDevice(t, d)
	mu.Lock()
	defer mu.Unlock()
	for n, s := range seen {
		if !slices.Equal(s, want) {
			t.Errorf("connection %d got %v", n, s)
		}
	}
}

// slots is how many requests the client under test has in flight.
const slots = 16

// record is what a server that cuts its connections sees. Each request is
// numbered by its offset.
type record struct {
	t    *testing.T
	done []atomic.Bool // completed, by number

	mu       sync.Mutex
	again    int // requests that were seen on more than one connection
	seen     []bool
	problems int
}

// serve reads and answers some requests in any order, and breaks.
func (s *record) serve(n int, p *peer) {
	rng := rand.New(rand.NewPCG(uint64(n), 3))
	before := make([]bool, len(s.done)) // no request of a former connection ends from now on
	for i := range s.done {
		before[i] = s.done[i].Load()
	}
	if !p.hello() {
		return
	}
	last := -1
	var open []request
	for left := 1 + rng.IntN(60); (left > 0 && len(open) < slots) || n >= 100; left-- {
		r, ok := p.request()
		if !ok {
			return
		}
		k := int(r.off / 4096)
		s.note(n, k, last, before[k])
		last = k
		open = append(open, r)
		if n < 100 && rng.IntN(3) == 0 { // later, or never
			continue
		}
		at := rng.IntN(len(open))
		if !p.answer(open[at], 0) {
			return
		}
		open = slices.Delete(open, at, at+1)
		for n >= 100 && len(open) > 0 {
			p.answer(open[0], 0)
			open = open[1:]
		}
	}
	if rng.IntN(2) == 0 { // in the midst of an answer
		p.put(simple(0, 1<<32)[:rng.IntN(replyLen)])
	}
}

func (s *record) note(n, k, last int, before bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if before && s.problems < 5 {
		s.problems++
		s.t.Errorf("connection %d got request %d, which had been answered", n, k)
	}
	if k <= last && s.problems < 5 {
		s.problems++
		s.t.Errorf("connection %d got request %d after %d", n, k, last)
	}
	if s.seen[k] {
		s.again++
	}
	s.seen[k] = true
}

// numbered tells the record of its end.
type numbered struct {
	block.Request
	s    *record
	free chan *numbered
	ends atomic.Int32
}

// Complete implements block.Completer.
func (c *numbered) Complete(r *block.Request) {
	c.ends.Add(1)
	if r.Status != block.StatusOK {
		c.s.t.Errorf("%v at %d: %v", r.Op, r.Off, r.Status)
	}
	c.s.done[r.Off/4096].Store(true)
	c.free <- c
}

// TestAnsweredNeverAgain: over a hundred cut connections no request is sent
// again that was answered, each is answered once, and all arrive in order.
func TestAnsweredNeverAgain(t *testing.T) {
	const most, depth = 20_000, 48
	s := &record{t: t, done: make([]atomic.Bool, most), seen: make([]bool, most)}
	f := newFake(t, s.serve)
	d := f.open(t, Options{MaxInflight: slots})
	free := make(chan *numbered, depth)
	for range depth {
		free <- &numbered{s: s, free: free}
	}
	ops := []block.Op{block.OpWrite, block.OpRead, block.OpDiscard}
	buf := make([]byte, 4096)
	sent := 0
	for deadline := time.After(patience); f.connections() <= 100 && sent < most; sent++ {
		select {
		case c := <-free:
			op := ops[sent%len(ops)]
			c.Request = block.Request{Op: op, Off: uint64(sent) * 4096, Len: 512, Done: c}
			if op != block.OpDiscard {
				c.Buf = buf[:512]
			}
			if op == block.OpRead {
				c.Buf = make([]byte, 512)
			}
			d.Submit(&c.Request)
		case <-deadline:
			t.Fatalf("stuck after %d requests over %d connections", sent, f.connections())
		}
	}
	ends := int32(0)
	for range depth {
		select {
		case c := <-free:
			ends += c.ends.Load()
		case <-time.After(patience):
			t.Fatal("a request does not end")
		}
	}
	closeDevice(t, d)
	if int(ends) != sent {
		t.Errorf("%d requests completed %d times", sent, ends)
	}
	if s.again < 100 || f.connections() < 100 {
		t.Errorf("%d connections, %d requests sent again: nothing was tested", f.connections(), s.again)
	}
	t.Logf("%d requests, %d sent again, %d connections", sent, s.again, f.connections())
}

// TestFlush: nothing but a server's answer ends a flush: not that it was sent,
// nor that connections come and go, nor that a server shuts down.
func TestFlush(t *testing.T) {
	for _, row := range []struct {
		code uint32
		want block.Status
	}{{0, block.StatusOK}, {5, block.StatusIO}} {
		const cuts = 6
		var flush *call
		early := make(chan int, cuts)
		ready := make(chan struct{})
		f := newFake(t, func(n int, p *peer) {
			<-ready
			if !p.hello() {
				return
			}
			r, ok := p.request()
			if !flush.open() {
				early <- n
			}
			switch {
			case !ok:
			case n >= cuts:
				p.answer(r, row.code)
				p.honest()
			case n%3 == 0:
				p.answer(r, errShutdown)
				p.ended()
			case n%3 == 1: // an answer for another one
				p.put(simple(0, r.cookie+1))
				p.ended()
			}
		})
		flush = newCall(block.OpFlush, 0, 0)
		close(ready)
		d := f.open(t, Options{})
		d.Submit(&flush.Request)
		if st := flush.wait(t); st != row.want {
			t.Errorf("flush: %v, want %v", st, row.want)
		}
		closeDevice(t, d)
		select {
		case n := <-early:
			t.Errorf("the flush had ended when connection %d began", n)
		default:
		}
		if n := f.connections(); n != cuts+1 || !flush.open() {
			t.Errorf("%d connections, ended again: %v", n, !flush.open())
		}
	}
}
