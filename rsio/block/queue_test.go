// SPDX-License-Identifier: Apache-2.0

package block

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// count counts completions.
type count struct{ n atomic.Int64 }

func (c *count) Complete(*Request) { c.n.Add(1) }

func TestQueue(t *testing.T) {
	var q Queue
	if q.Pop() != nil || q.Peek() != nil || q.Len() != 0 {
		t.Fatal("an empty queue is not empty")
	}
	rs := make([]Request, 5)
	for i := range rs {
		rs[i].Next = &rs[0] // left over: Push clears it
		q.Push(&rs[i])
	}
	if q.Len() != 5 || q.Peek() != &rs[0] {
		t.Fatalf("length %d", q.Len())
	}
	if q.Pop() != &rs[0] || rs[0].Next != nil {
		t.Error("not first in, first out, or a link is left")
	}
	rest := q.Take()
	if q.Len() != 0 || q.Pop() != nil || rest.Len() != 4 {
		t.Error("Take left something")
	}
	q.Push(&rs[0])
	for i := 1; i < 5; i++ {
		if rest.Pop() != &rs[i] {
			t.Errorf("request %d is not next", i)
		}
	}
	if q.Pop() != &rs[0] || q.Pop() != nil {
		t.Error("a queue does not work after Take")
	}
}

// requeue puts what completes into a queue again, as a retry does.
type requeue struct {
	q    *Queue
	left int
}

func (c *requeue) Complete(r *Request) {
	if c.left--; c.left > 0 {
		c.q.Push(r)
	}
}

func TestFinishAllMayPush(t *testing.T) {
	var q Queue
	c := &requeue{q: &q, left: 10}
	q.Push(&Request{Done: c})
	q.FinishAll(StatusBusy)
	if c.left != 0 || q.Len() != 0 {
		t.Errorf("%d completions left, %d queued", c.left, q.Len())
	}
}

// loop submits again from inside Complete through a Finisher.
type loop struct {
	f      *Finisher
	left   int
	deep   int
	pcs    [500]uintptr
	inline int // completions at depth 0
	done   chan struct{}
}

func (l *loop) Complete(r *Request) {
	l.deep = max(l.deep, runtime.Callers(0, l.pcs[:]))
	if r.Depth == 0 {
		l.inline++
	}
	if l.left--; l.left == 0 {
		close(l.done)
		return
	}
	r.Depth++
	l.f.Finish(r, StatusOK)
}

func TestFinisher(t *testing.T) {
	var f Finisher
	const n = 9000
	for range 2 { // the second time after Close
		l := &loop{f: &f, left: n, done: make(chan struct{})}
		f.Finish(&Request{Done: l}, StatusOK)
		<-l.done
		f.Close()
		if l.deep >= 100 {
			t.Errorf("the stack has %d frames", l.deep)
		}
		if want := n / MaxInline; l.inline != want {
			t.Errorf("%d of %d completions started a stack, want %d", l.inline, n, want)
		}
	}
}

func TestFinisherCloseWaits(t *testing.T) {
	var f Finisher
	var c count
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 1000 {
				f.Finish(&Request{Depth: MaxInline, Done: &c}, StatusOK)
			}
		})
		wg.Go(f.Close)
	}
	wg.Wait()
	f.Close()
	if n := c.n.Load(); n != 4000 {
		t.Errorf("%d of 4000 have completed", n)
	}
}

func TestWorkers(t *testing.T) {
	var running, most atomic.Int64
	block := make(chan struct{})
	w := NewWorkers(3, func(r *Request) Status {
		for n := running.Add(1); n > most.Load(); {
			most.Store(n)
		}
		<-block
		running.Add(-1)
		return Status(r.Tag)
	})
	var c count
	rs := make([]Request, 100)
	for i := range rs {
		rs[i] = Request{Done: &c, Tag: uint64(i % 5), Depth: 5}
		w.Submit(&rs[i])
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := w.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Close while all workers are busy: %v", err)
	}
	late := Request{Done: &c}
	w.Submit(&late)
	if late.Status != StatusClosed {
		t.Errorf("Submit after Close: %v", late.Status)
	}
	close(block)
	if err := w.Close(context.Background()); err != nil {
		t.Error(err)
	}
	if n := c.n.Load(); n != 101 {
		t.Errorf("%d of 101 have completed", n)
	}
	if n := most.Load(); n > 3 {
		t.Errorf("%d workers ran, want at most 3", n)
	}
	for i := range rs {
		if rs[i].Status != Status(i%5) || rs[i].Depth != 0 {
			t.Errorf("request %d: %v at depth %d", i, rs[i].Status, rs[i].Depth)
		}
	}
}

// A caller that submits again on StatusClosed must not grow the stack: rule 5
// holds on closed workers too.
type insist struct {
	w    *Workers
	left int
	deep int
	pcs  [500]uintptr
	done chan struct{}
}

func (c *insist) Complete(r *Request) {
	c.deep = max(c.deep, runtime.Callers(0, c.pcs[:]))
	if c.left--; c.left == 0 {
		close(c.done)
		return
	}
	r.Depth++
	c.w.Submit(r)
}

func TestWorkersRefuseFlat(t *testing.T) {
	w := NewWorkers(1, func(*Request) Status { return StatusOK })
	w.Close(context.Background())
	c := &insist{w: w, left: 1000, done: make(chan struct{})}
	w.Submit(&Request{Done: c})
	<-c.done
	if c.deep >= 100 {
		t.Errorf("the stack has %d frames", c.deep)
	}
}

func TestWorkersBound(t *testing.T) {
	block := make(chan struct{})
	w := NewWorkers(1, func(*Request) Status { <-block; return StatusOK })
	var c count
	rs := make([]Request, MaxQueued+2)
	busy := 0
	for i := range rs {
		rs[i].Done = &c
		w.Submit(&rs[i])
	}
	close(block)
	w.Close(context.Background())
	for i := range rs {
		if rs[i].Status == StatusBusy {
			busy++
		}
	}
	if busy < 1 || busy > 2 || c.n.Load() != int64(len(rs)) {
		t.Errorf("%d of %d were refused, %d completed", busy, len(rs), c.n.Load())
	}
}

func TestDo(t *testing.T) {
	d := Serve(Info{Size: 42}, 2, func(r *Request) Status { return Status(r.Off) })
	if d.Info().Size != 42 {
		t.Error("Serve lost the Info")
	}
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for range 200 {
				r := Request{Off: uint64(w), Depth: 77}
				if st := Do(d, &r); st != Status(w) {
					t.Errorf("got %v, want %v", st, Status(w))
				}
			}
		})
	}
	wg.Wait()
	d.Close(context.Background())
	if st := Do(d, &Request{}); st != StatusClosed {
		t.Errorf("after Close: %v", st)
	}
}

func TestChildren(t *testing.T) {
	var pool Children
	var c count
	p := &Request{Op: OpWrite, Off: 5, Len: 3, Buf: []byte("abc"), Nexus: "h", Tag: 8, Next: &Request{}}
	r := pool.Get(p, &c)
	if r.Op != p.Op || r.Off != 5 || r.Len != 3 || &r.Buf[0] != &p.Buf[0] || r.Nexus != "h" {
		t.Errorf("child is %+v", r)
	}
	if r.Parent != p || r.Done != &c || r.Next != nil || r.Tag != 0 {
		t.Errorf("child is linked as %+v", r)
	}
	pool.Put(r)
	if r.Buf != nil || r.Parent != nil || r.Done != nil {
		t.Error("a child in the pool keeps memory alive")
	}
}

func TestInflight(t *testing.T) {
	var f Inflight
	for range 2 {
		if !f.Enter() {
			t.Fatal("an open device refuses")
		}
	}
	var released atomic.Int32
	bad := errors.New("bad")
	release := func() error { released.Add(1); return bad }
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Close(ctx, release); err != context.Canceled {
		t.Errorf("Close with two inside: %v", err)
	}
	if f.Enter() {
		t.Error("a closed device lets somebody in")
	}
	f.Hold()
	f.Leave()
	f.Leave()
	if released.Load() != 0 {
		t.Error("released while somebody is inside")
	}
	f.Leave()
	for range 3 {
		if err := f.Close(t.Context(), release); err != bad {
			t.Errorf("Close: %v", err)
		}
		if err := f.Close(ctx, release); err != bad {
			t.Errorf("Close with an ended context after the drain: %v", err)
		}
		f.Enter()
	}
	if n := released.Load(); n != 1 {
		t.Errorf("released %d times", n)
	}
}

func TestInflightHammer(t *testing.T) {
	for range 50 {
		var f Inflight
		var inside, seen atomic.Int64
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for f.Enter() {
					inside.Add(1)
					runtime.Gosched()
					inside.Add(-1)
					f.Leave()
				}
			})
		}
		runtime.Gosched()
		for range 2 {
			wg.Go(func() {
				f.Close(context.Background(), func() error { seen.Store(inside.Load()); return nil })
			})
		}
		wg.Wait()
		if seen.Load() != 0 {
			t.Fatalf("%d inside while the device was released", seen.Load())
		}
	}
}

func TestExtents(t *testing.T) {
	r := &Request{Buf: make([]byte, 2*ExtentLen+3)}
	rows := []struct {
		desc string
		e    Extent
		ok   bool
		n    uint32
	}{
		{"first", Extent{Len: 10, Flags: ExtentHole}, true, 16},
		{"merged", Extent{Len: 5, Flags: ExtentHole}, true, 16},
		{"second", Extent{Len: 7}, true, 32},
		{"no room", Extent{Len: 1, Flags: ExtentZero}, false, 32},
		{"merged though full", Extent{Len: 1 << 40}, true, 32},
	}
	for _, row := range rows {
		if ok := AppendExtent(r, row.e); ok != row.ok || r.N != row.n {
			t.Errorf("%s: %v, N is %d", row.desc, ok, r.N)
		}
	}
	if e := GetExtent(r.Buf); e != (Extent{15, ExtentHole}) {
		t.Errorf("first extent is %+v", e)
	}
	if e := GetExtent(r.Buf[16:]); e != (Extent{1<<40 + 7, 0}) {
		t.Errorf("second extent is %+v", e)
	}
	want := [ExtentLen]byte{0, 0, 0, 0, 0, 0, 0, 15, 0, 0, 0, 1, 0, 0, 0, 0}
	if got := [ExtentLen]byte(r.Buf); got != want {
		t.Errorf("encoded as %v, want %v", got, want)
	}
}
