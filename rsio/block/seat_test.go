// SPDX-License-Identifier: Apache-2.0

package block

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestSeatVerdict(t *testing.T) {
	rows := []struct {
		desc   string
		access Access
		right  uint64 // of the request; the seat's is 5
		op     Op
		want   Status
	}{
		{"a write with the right", AccessAll, 5, OpWrite, StatusOK},
		{"a write from before the fence", AccessAll, 4, OpWrite, StatusConflict},
		{"a write of nobody knows when", AccessAll, 0, OpWrite, StatusConflict},
		{"a write from ahead", AccessAll, 6, OpWrite, StatusConflict},
		{"a discard from before the fence", AccessAll, 4, OpDiscard, StatusConflict},
		{"zeroes from before the fence", AccessAll, 4, OpWriteZeroes, StatusConflict},
		{"compare-and-write from before the fence", AccessAll, 4, OpCompareAndWrite, StatusConflict},
		{"a read from before the fence does no harm", AccessAll, 4, OpRead, StatusOK},
		{"a flush from before the fence does no harm", AccessAll, 4, OpFlush, StatusOK},
		{"a write of a reader", AccessRead, 5, OpWrite, StatusConflict},
		{"a flush of a reader", AccessRead, 5, OpFlush, StatusConflict},
		{"a read of a reader", AccessRead, 5, OpRead, StatusOK},
		{"block status of a reader", AccessRead, 5, OpBlockStatus, StatusOK},
		{"a read of nobody", 0, 5, OpRead, StatusConflict},
	}
	for _, row := range rows {
		var s Seat
		s.Set(5, row.access)
		if got := s.Enter(row.op, row.right); got != row.want {
			t.Errorf("%s: %v, want %v", row.desc, got, row.want)
		} else if got == StatusOK {
			s.Leave(row.op)
		}
		if s.Running() != 0 {
			t.Errorf("%s: %d run afterwards", row.desc, s.Running())
		}
	}
}

// TestSeatDrain: drain returns when the last request of the class has left, and
// not before.
func TestSeatDrain(t *testing.T) {
	var s Seat
	s.Set(1, AccessAll)
	s.Enter(OpWrite, 1)
	s.Enter(OpRead, 1)
	s.Set(2, AccessRead)
	done := make(chan bool, 1)
	go func() { done <- s.Drain(AccessWrite) }()
	select {
	case <-done:
		t.Fatal("drained while a write runs")
	case <-time.After(20 * time.Millisecond):
	}
	s.Leave(OpWrite)
	if ok := <-done; !ok || s.Running() != 1 {
		t.Errorf("drained: %v, %d run", ok, s.Running())
	}
	quit := make(chan struct{})
	close(quit)
	if s.Drain(AccessRead, quit) {
		t.Error("drained while a read runs")
	}
	s.Leave(OpRead)
	if !s.Drain(AccessAll, quit) {
		t.Error("not drained though nothing runs")
	}
}

// TestP4_Seat takes the right away under a storm of writes, again and again:
// after the drain no write that was let in is still running.
func TestP4_Seat(t *testing.T) {
	var s Seat
	var inside atomic.Int64
	var stop atomic.Bool
	var wg sync.WaitGroup
	s.Set(1, AccessAll)
	var right atomic.Uint64
	right.Store(1)
	var let, refused atomic.Int64
	for range 3 {
		wg.Go(func() {
			for !stop.Load() {
				if s.Enter(OpWrite, right.Load()) != StatusOK {
					refused.Add(1)
					continue
				}
				let.Add(1)
				inside.Add(1)
				inside.Add(-1)
				s.Leave(OpWrite)
			}
		})
	}
	for n := uint64(2); n < 40; n++ {
		for before := let.Load(); let.Load() == before; {
			runtime.Gosched()
		}
		s.Set(n, 0)
		if !s.Drain(AccessAll) {
			t.Fatal("not drained")
		}
		if k := inside.Load(); k != 0 {
			t.Fatalf("P4: round %d: %d writes run after the drain", n, k)
		}
		before := let.Load()
		time.Sleep(300 * time.Microsecond)
		if k := let.Load() - before; k != 0 {
			t.Fatalf("P4: round %d: %d writes were let in after the drain", n, k)
		}
		right.Store(n)
		s.Set(n, AccessAll)
	}
	stop.Store(true)
	wg.Wait()
	if let.Load() == 0 || refused.Load() == 0 {
		t.Errorf("%d writes were let in, %d refused: nothing was tested", let.Load(), refused.Load())
	}
}

func TestSeatAllocs(t *testing.T) {
	var s Seat
	s.Set(1, AccessAll)
	if n := testing.AllocsPerRun(100, func() {
		s.Enter(OpRead, 1)
		s.Leave(OpRead)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkSeat(b *testing.B) {
	var s Seat
	s.Set(1, AccessAll)
	for b.Loop() {
		s.Enter(OpRead, 1)
		s.Leave(OpRead)
	}
}
