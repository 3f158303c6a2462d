// SPDX-License-Identifier: Apache-2.0

// Package sim runs the session layer of both sides in a simulated world: one
// goroutine, virtual time, a network and a disk that fail in all the ways the
// design must survive. One seed replays a run exactly.
//
// What is real: session.Client, session.Sessions with Slots, Window and Grace,
// and the codec. What is simulated: connections (delay, stalls in either
// direction, half-sent frames, cuts that deliver what was under way much
// later), processes (frozen, killed, restarted), power loss, the disk and the
// callers.
//
// What is checked (history.go):
//   - no write executes after its end was reported, nor before it began (P3)
//   - a read returns no value that a newer acknowledged write replaced (P1)
//   - what a good flush covered survives power loss (P2)
//   - after all faults are healed everything has completed, and without an
//     error except those the design allows (P8)
//   - the payload a session has in flight never exceeds what was granted (P11)
package sim

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"time"
)

// Bugs are mistakes to plant, so that a test can show that the checks find
// them.
type Bugs struct {
	AcceptOld     bool // execute a copy whose sequence number is old
	ExecuteTwice  bool // execute a duplicate instead of answering it
	NoDrain       bool // let a successor in while old requests run
	NoGrace       bool // let everybody go on at once after a restart
	GoodLostFlush bool // keep the incarnation over a power loss
}

// Options select what a run does.
type Options struct {
	Bugs  Bugs
	Trace func(format string, args ...any) // nil: silent
}

// World is one run.
type World struct {
	opt    Options
	rng    *rand.Rand
	now    time.Duration
	seq    uint64
	events eventHeap
	hist   *history
	server *server
	hosts  []*host
	calm   bool // no more faults
	fails  []string
	steps  int
}

type simEvent struct {
	at  time.Duration
	seq uint64
	fn  func()
}

type eventHeap []simEvent

func (h eventHeap) Len() int { return len(h) }
func (h eventHeap) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].seq < h[j].seq
}
func (h eventHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *eventHeap) Push(x any)   { *h = append(*h, x.(simEvent)) }
func (h *eventHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = simEvent{}
	*h = old[:len(old)-1]
	return e
}

// after schedules fn.
func (w *World) after(d time.Duration, fn func()) {
	w.seq++
	heap.Push(&w.events, simEvent{w.now + d, w.seq, fn})
}

// between returns a random duration in [a, b).
func (w *World) between(a, b time.Duration) time.Duration {
	return a + time.Duration(w.rng.Int64N(int64(b-a)))
}

// chance is true in one of n cases.
func (w *World) chance(n int) bool { return w.rng.IntN(n) == 0 }

func (w *World) trace(format string, args ...any) {
	if w.opt.Trace != nil {
		w.opt.Trace("%10.3fms "+format, append([]any{float64(w.now) / 1e6}, args...)...)
	}
}

func (w *World) fail(format string, args ...any) {
	if len(w.fails) < 5 {
		w.fails = append(w.fails, fmt.Sprintf(format, args...))
	}
	w.trace("VIOLATION "+format, args...)
}

// maxSteps bounds a run that would not end.
const maxSteps = 400_000

// runUntil executes events up to a time.
func (w *World) runUntil(end time.Duration) {
	for len(w.events) > 0 && w.events[0].at <= end {
		if w.steps++; w.steps > maxSteps {
			w.fail("run does not end: %d events by %v", w.steps, w.now)
			return
		}
		e := heap.Pop(&w.events).(simEvent)
		w.now = e.at
		e.fn()
		if len(w.fails) > 0 {
			return
		}
	}
	w.now = end
}

// Result is what a run did, beside being right.
type Result struct {
	Writes, Reads, Flushes, Unknown, Lost  int
	Resent, Stale, Attached, Repeats       int
	Restarts, PowerLosses, Cuts, Takeovers int
}

// Add sums results up.
func (r *Result) Add(o Result) {
	r.Writes += o.Writes
	r.Reads += o.Reads
	r.Flushes += o.Flushes
	r.Unknown += o.Unknown
	r.Lost += o.Lost
	r.Resent += o.Resent
	r.Stale += o.Stale
	r.Attached += o.Attached
	r.Repeats += o.Repeats
	r.Restarts += o.Restarts
	r.PowerLosses += o.PowerLosses
	r.Cuts += o.Cuts
	r.Takeovers += o.Takeovers
}

// Run executes one seed. The error describes what was violated.
func Run(seed uint64, opt Options) (Result, error) {
	w := &World{opt: opt, rng: rand.New(rand.NewPCG(seed, 0x5253))}
	w.hist = newHistory(w)
	w.server = newServer(w)
	for i := range 1 + w.rng.IntN(3) {
		w.hosts = append(w.hosts, newHost(w, fmt.Sprintf("h%d", i+1), 1+w.rng.IntN(4)))
	}
	w.server.start()
	for _, h := range w.hosts {
		h.start()
	}
	w.scheduleFaults()
	w.runUntil(w.between(4*time.Second, 15*time.Second))
	w.heal()
	w.runUntil(w.now + 30*time.Second)
	w.finish()
	res := w.hist.result
	if len(w.fails) > 0 {
		return res, fmt.Errorf("seed %d: %s", seed, w.fails[0])
	}
	return res, nil
}

// finish checks that all came to an end and reads everything back.
func (w *World) finish() {
	if len(w.fails) > 0 {
		return
	}
	for _, h := range w.hosts {
		if n := h.outstanding; n > 0 {
			w.fail("P8: %d requests of %s never completed (%s)", n, h.name, h.describe())
		}
	}
	w.hist.check()
}
