// SPDX-License-Identifier: Apache-2.0

package session

import (
	"sync"
	"sync/atomic"

	"rsio/rsio/block"
	"rsio/rsio/wire"
)

// Verdict is what a target does with a copy of a request whose payload is in.
type Verdict uint8

// The verdicts of Slots.Claim.
const (
	Execute   Verdict = iota // new: execute it, then Complete
	ReadAgain                // finished read: execute it on the side, then SideDone
	Attached                 // running: the answer goes out on this path too
	Repeat                   // finished: send the stored answer on this path
	Stale                    // older than the slot: refuse it, execute nothing
	Refused                  // the gate is closed: execute nothing
	Violation                // skips a number, or a new one while the last runs
)

// Answer is a stored outcome, for Repeat.
type Answer struct {
	Status  block.Status
	Value   uint64 // of a miscompare: the place of the first difference
	Payload []byte // of control operations; owned by the slot, valid until the next number
}

// Slots is the slot table of one session at the target, after RFC 8881
// section 2.10: each slot executes a sequence number at most once, and only
// the one that follows the last finished one. That is what makes it safe to
// send a request again on another path at once.
//
// The interleaving this stands against: write W1 is sent on path A, A stalls,
// W1 is sent again on B and answered, the client writes W2 to the same block,
// then A delivers the first copy of W1. Without the check it would overwrite
// W2. (Linux NVMe/TCP had this; see its TP8028 series.)
type Slots struct {
	slots   []slot
	closed  atomic.Bool
	running atomic.Int64
}

type slot struct {
	mu      sync.Mutex
	seq     uint64 // last number claimed; zero before the first
	running bool
	read    bool   // reads store no result and execute again
	paths   uint64 // paths that wait for the answer, one bit each
	answer  Answer
}

// NewSlots returns a table of n slots.
func NewSlots(n int) *Slots { return &Slots{slots: make([]slot, n)} }

// Len returns the number of slots.
func (s *Slots) Len() int { return len(s.slots) }

// Claim decides about one copy that arrived on a path (0..63), at the moment
// when its whole payload is in and its digest is right. After Execute the
// caller must call Complete, after ReadAgain SideDone.
//
// Running is raised before the gate is looked at: Close lowers the gate first
// and then looks at running, so that no request slips between the two.
func (s *Slots) Claim(h *wire.Header, path uint) (Verdict, Answer) {
	if int(h.Slot) >= len(s.slots) {
		return Violation, Answer{}
	}
	s.running.Add(1)
	if s.closed.Load() {
		s.running.Add(-1)
		return Refused, Answer{}
	}
	sl := &s.slots[h.Slot]
	sl.mu.Lock()
	v := sl.claim(h, path)
	a := sl.answer
	sl.mu.Unlock()
	if v != Execute && v != ReadAgain {
		s.running.Add(-1)
	}
	return v, a
}

// Executing reports whether h is a copy of the request that executes in its
// slot now: whatever becomes of that, this copy will not be executed as new.
func (s *Slots) Executing(h *wire.Header) bool {
	if int(h.Slot) >= len(s.slots) {
		return false
	}
	sl := &s.slots[h.Slot]
	sl.mu.Lock()
	defer sl.mu.Unlock()
	return sl.running && sl.seq == h.Seq
}

func (sl *slot) claim(h *wire.Header, path uint) Verdict {
	bit := uint64(1) << path
	switch {
	case h.Seq == sl.seq+1 && !sl.running:
		sl.seq, sl.running, sl.paths, sl.answer = h.Seq, true, bit, Answer{}
		sl.read = h.Op == block.OpRead || h.Op == block.OpBlockStatus
		return Execute
	case h.Seq > sl.seq:
		return Violation
	case h.Seq < sl.seq || h.Seq == 0:
		return Stale
	case sl.running:
		sl.paths |= bit
		return Attached
	case sl.read:
		return ReadAgain
	}
	return Repeat
}

// Complete stores the outcome of the request that Claim said to Execute and
// returns the paths that wait for it, one bit each. Payload is kept until the
// slot's next number; only control operations have one.
func (s *Slots) Complete(slotID uint32, a Answer) (paths uint64) {
	sl := &s.slots[slotID]
	sl.mu.Lock()
	sl.running, sl.answer = false, a
	paths, sl.paths = sl.paths, 0
	sl.mu.Unlock()
	s.running.Add(-1)
	return paths
}

// SideDone ends what Claim answered with ReadAgain.
func (s *Slots) SideDone() { s.running.Add(-1) }

// Close shuts the gate: every later Claim is Refused. What runs goes on.
func (s *Slots) Close() { s.closed.Store(true) }

// Closed reports whether the gate is shut.
func (s *Slots) Closed() bool { return s.closed.Load() }

// Running returns the number of requests that execute.
func (s *Slots) Running() int { return int(s.running.Load()) }

// Drained reports whether the gate is shut and nothing runs any more. It stays
// true.
func (s *Slots) Drained() bool { return s.closed.Load() && s.running.Load() == 0 }
