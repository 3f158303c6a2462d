// SPDX-License-Identifier: Apache-2.0

package session

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"rsio/rsio/block"
	"rsio/rsio/wire"
)

// TestSlots plays scripts against one table: every verdict and what follows.
func TestSlots(t *testing.T) {
	const slot = wire.ControlSlots
	type step struct {
		do   string // claim, complete, side, close
		op   block.Op
		seq  uint64
		path uint
		want Verdict
		st   block.Status // complete: stored; claim with Repeat: expected
		bits uint64       // complete: paths expected
	}
	const w, r, s = block.OpWrite, block.OpRead, block.OpBlockStatus
	rows := []struct {
		desc  string
		steps []step
	}{
		{"new numbers follow each other", []step{
			{do: "claim", op: w, seq: 1, want: Execute}, {do: "complete", bits: 1},
			{do: "claim", op: w, seq: 2, path: 5, want: Execute}, {do: "complete", bits: 1 << 5}}},
		{"a duplicate of a running request attaches, and all paths are answered", []step{
			{do: "claim", op: w, seq: 1, want: Execute}, {do: "claim", op: w, seq: 1, path: 3, want: Attached},
			{do: "claim", op: w, seq: 1, path: 63, want: Attached}, {do: "complete", bits: 1 | 1<<3 | 1<<63}}},
		{"a duplicate on the same path is answered once", []step{
			{do: "claim", op: w, seq: 1, path: 2, want: Execute}, {do: "claim", op: w, seq: 1, path: 2, want: Attached}, {do: "complete", bits: 1 << 2}}},
		{"a finished write is answered again with what is on record", []step{
			{do: "claim", op: w, seq: 1, want: Execute}, {do: "complete", st: block.StatusNoSpace, bits: 1},
			{do: "claim", op: w, seq: 1, path: 1, want: Repeat, st: block.StatusNoSpace},
			{do: "claim", op: w, seq: 1, path: 1, want: Repeat, st: block.StatusNoSpace}}},
		{"a finished read executes again", []step{
			{do: "claim", op: r, seq: 1, want: Execute}, {do: "complete", bits: 1},
			{do: "claim", op: r, seq: 1, path: 1, want: ReadAgain}, {do: "side"},
			{do: "claim", op: r, seq: 2, want: Execute}, {do: "complete", bits: 1}}},
		{"a finished block status executes again", []step{
			{do: "claim", op: s, seq: 1, want: Execute}, {do: "complete", bits: 1}, {do: "claim", op: s, seq: 1, want: ReadAgain}, {do: "side"}}},
		{"a new number is not held up by a read on the side", []step{
			{do: "claim", op: r, seq: 1, want: Execute}, {do: "complete", bits: 1}, {do: "claim", op: r, seq: 1, path: 1, want: ReadAgain},
			{do: "claim", op: w, seq: 2, want: Execute}, {do: "side"}, {do: "complete", bits: 1}}},
		{"an older number is stale while the next runs and after", []step{
			{do: "claim", op: w, seq: 1, want: Execute}, {do: "complete", bits: 1}, {do: "claim", op: w, seq: 2, want: Execute},
			{do: "claim", op: w, seq: 1, path: 1, want: Stale}, {do: "complete", bits: 1}, {do: "claim", op: w, seq: 1, path: 1, want: Stale}}},
		{"number 0 never executes", []step{
			{do: "claim", op: w, seq: 0, want: Stale}, {do: "claim", op: r, seq: 0, want: Stale}, {do: "claim", op: w, seq: 1, want: Execute}, {do: "complete", bits: 1}}},
		{"a skipped number is a violation and changes nothing", []step{
			{do: "claim", op: w, seq: 2, want: Violation}, {do: "claim", op: w, seq: 1<<64 - 1, want: Violation},
			{do: "claim", op: w, seq: 1, want: Execute}, {do: "claim", op: w, seq: 3, want: Violation}, {do: "complete", bits: 1}}},
		{"the next number while the last runs is a violation", []step{
			{do: "claim", op: w, seq: 1, want: Execute}, {do: "claim", op: w, seq: 2, want: Violation}, {do: "complete", bits: 1},
			{do: "claim", op: w, seq: 2, want: Execute}, {do: "complete", bits: 1}}},
		{"after Close nothing is claimed, what runs goes on", []step{
			{do: "claim", op: w, seq: 1, want: Execute}, {do: "close"}, {do: "claim", op: w, seq: 1, path: 1, want: Refused},
			{do: "claim", op: w, seq: 2, want: Refused}, {do: "complete", bits: 1}, {do: "claim", op: r, seq: 1, want: Refused}}},
		{"a read on the side keeps the table from being drained", []step{
			{do: "claim", op: r, seq: 1, want: Execute}, {do: "complete", bits: 1}, {do: "claim", op: r, seq: 1, path: 1, want: ReadAgain}, {do: "close"}, {do: "side"}}},
	}
	for _, row := range rows {
		t.Run(row.desc, func(t *testing.T) {
			tab := NewSlots(slot + 2)
			running := 0
			for i, st := range row.steps {
				switch st.do {
				case "claim":
					v, a := tab.Claim(&wire.Header{Op: st.op, Slot: slot, Seq: st.seq}, st.path)
					if v != st.want {
						t.Fatalf("step %d: verdict %d, want %d", i, v, st.want)
					}
					if v == Repeat && a.Status != st.st {
						t.Fatalf("step %d: answer %v, want %v", i, a.Status, st.st)
					}
					if v == Execute || v == ReadAgain {
						running++
					}
				case "complete":
					running--
					if bits := tab.Complete(slot, Answer{Status: st.st}); bits != st.bits {
						t.Fatalf("step %d: paths %b, want %b", i, bits, st.bits)
					}
				case "side":
					running--
					tab.SideDone()
				case "close":
					tab.Close()
				}
				if tab.Running() != running || tab.Drained() != (tab.Closed() && running == 0) {
					t.Fatalf("step %d: %d run, want %d; drained %v", i, tab.Running(), running, tab.Drained())
				}
			}
		})
	}
}

// TestSlotsRange: slots that do not exist, and slots that do not touch each
// other.
func TestSlotsRange(t *testing.T) {
	tab := NewSlots(20)
	for _, id := range []uint32{20, 21, wire.MaxSlots, 1<<31 - 1} {
		if v, _ := tab.Claim(&wire.Header{Op: block.OpWrite, Slot: id, Seq: 1}, 0); v != Violation {
			t.Errorf("slot %d: %d", id, v)
		}
	}
	for id := range uint32(20) {
		if v, _ := tab.Claim(&wire.Header{Op: block.OpWrite, Slot: id, Seq: 1}, 0); v != Execute {
			t.Errorf("slot %d: %d", id, v)
		}
	}
	if tab.Running() != 20 || tab.Len() != 20 {
		t.Errorf("%d of %d run", tab.Running(), tab.Len())
	}
}

// TestSlotsControlAnswer: the payload of a control operation is kept for a
// repetition, until the slot's next number.
func TestSlotsControlAnswer(t *testing.T) {
	tab := NewSlots(1)
	h := wire.Header{Op: wire.OpAdmin, Seq: 1}
	tab.Claim(&h, 0)
	tab.Complete(0, Answer{Payload: []byte("answer")})
	if v, a := tab.Claim(&h, 1); v != Repeat || string(a.Payload) != "answer" {
		t.Errorf("%d, %q", v, a.Payload)
	}
	h.Seq = 2
	tab.Claim(&h, 0)
	if v, a := tab.Claim(&h, 1); v != Attached || a.Payload != nil {
		t.Errorf("the next number: %d, %q", v, a.Payload)
	}
}

// TestP3_SlotsHammer has goroutines, as paths, send copies of the same
// requests while the table is closed at some time. A (slot, sequence) executes
// at most once, never two of a slot at once, and once the table is drained
// nothing runs or begins.
func TestP3_SlotsHammer(t *testing.T) {
	const slots, paths, seqs, rounds = 4, 6, 200, 30
	for round := range rounds {
		tab := NewSlots(slots)
		var executed [slots][seqs + 2]atomic.Int32
		var inSlot [slots]atomic.Int32
		var runs atomic.Int64
		var last [slots]atomic.Uint64 // finished
		var drained atomic.Bool
		fail := make(chan string, 100)
		note := func(format string, args ...any) {
			select {
			case fail <- fmt.Sprintf(format, args...):
			default:
			}
		}
		var wg sync.WaitGroup
		for p := range paths {
			rng := rand.New(rand.NewPCG(uint64(round), uint64(p)))
			wg.Go(func() {
				for range slots * seqs * 2 {
					id := rng.IntN(slots)
					seq := last[id].Load() + uint64(rng.IntN(3)) // the last, the next, one too far
					if seq > seqs {
						continue
					}
					op := block.OpWrite
					if seq%3 == 0 {
						op = block.OpRead
					}
					v, _ := tab.Claim(&wire.Header{Op: op, Slot: uint32(id), Seq: seq}, uint(p))
					switch v {
					case Execute:
						runs.Add(1)
						if drained.Load() {
							note("(%d, %d) executes after the table was drained", id, seq)
						}
						if n := executed[id][seq].Add(1); n != 1 {
							note("(%d, %d) executed %d times", id, seq, n)
						}
						if n := inSlot[id].Add(1); n != 1 {
							note("%d requests of slot %d at once", n, id)
						}
						if tab.Drained() {
							note("drained while (%d, %d) executes", id, seq)
						}
						inSlot[id].Add(-1)
						last[id].Store(seq)
						runs.Add(-1)
						if bits := tab.Complete(uint32(id), Answer{}); bits&(1<<p) == 0 {
							note("(%d, %d): the path that executed it gets no answer", id, seq)
						}
					case ReadAgain:
						if op != block.OpRead {
							note("(%d, %d) is a write and executes again", id, seq)
						}
						runs.Add(1)
						if tab.Drained() || drained.Load() {
							note("drained while (%d, %d) is read again", id, seq)
						}
						runs.Add(-1)
						tab.SideDone()
					}
				}
			})
		}
		wg.Go(func() {
			for range rng(round).IntN(3000) {
				if tab.Drained() {
					note("drained before Close")
				}
			}
			tab.Close()
			for !tab.Drained() {
			}
			drained.Store(true)
			if n := runs.Load(); n != 0 {
				note("drained with %d running", n)
			}
		})
		wg.Wait()
		if n := tab.Running(); n != 0 || !tab.Drained() {
			t.Errorf("round %d: %d left, drained %v", round, n, tab.Drained())
		}
		close(fail)
		for f := range fail {
			t.Errorf("round %d: %s", round, f)
		}
	}
}

func rng(seed int) *rand.Rand { return rand.New(rand.NewPCG(uint64(seed), 0)) }
