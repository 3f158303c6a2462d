// SPDX-License-Identifier: Apache-2.0

package blocktest

import (
	"runtime"
	"testing"
	"time"

	"rsio/rsio/block"
)

// maxFrames is how deep a stack of completions may be. MaxInline completions
// through a dozen layers stay far below; growth without bound does not.
const maxFrames = 1000

// chain submits itself again from inside Complete.
type chain struct {
	dev    block.Device
	r      block.Request
	left   int
	frames int // deepest stack seen
	pcs    [maxFrames]uintptr
	end    block.Status // first status that differed from the first
	want   block.Status
	done   chan struct{}
}

// Complete implements block.Completer.
func (c *chain) Complete(r *block.Request) {
	if r.Status != c.want && c.end == 0 {
		c.end = r.Status
	}
	c.left--
	if c.left%64 == 0 {
		c.frames = max(c.frames, runtime.Callers(0, c.pcs[:]))
	}
	if c.left <= 0 || c.frames == maxFrames {
		close(c.done)
		return
	}
	r.Depth++
	c.dev.Submit(r)
}

// testResubmit submits from inside Complete, of every operation, on the open
// and on the closed device.
func (s *suite) testResubmit() {
	s.resubmit(block.OpRead, s.cfg.Chain, block.StatusOK)
	s.resubmit(block.OpWrite, s.cfg.Chain/10, block.StatusOK)
	if s.info.Has(block.CanFlush) {
		s.resubmit(block.OpFlush, min(s.cfg.Chain/10, 300), block.StatusOK)
	}
	if s.info.Has(block.CanBlockStatus) {
		s.resubmit(block.OpBlockStatus, s.cfg.Chain/10, block.StatusOK)
	}
	s.resubmit(99, s.cfg.Chain/10, block.StatusUnsupported)
	s.close()
	s.resubmit(block.OpRead, s.cfg.Chain/10, block.StatusClosed)
}

func (s *suite) resubmit(op block.Op, n int, want block.Status) {
	s.t.Helper()
	c := &chain{dev: s.dev, left: n, want: want, done: make(chan struct{})}
	c.r = block.Request{Op: op, Done: c}
	if op != block.OpFlush {
		c.r.Len = uint32(s.up(512))
		c.r.Buf = make([]byte, c.r.Len)
	}
	s.dev.Submit(&c.r)
	late := time.NewTimer(4 * s.cfg.Timeout)
	defer late.Stop()
	select {
	case <-c.done:
	case <-late.C:
		s.t.Fatalf("a chain of %d %v requests has not ended in %v", n, op, 4*s.cfg.Timeout)
	}
	if c.frames == maxFrames {
		s.t.Fatalf("rule 5: %v submitted from inside Complete: the stack grows", op)
	}
	if c.end != 0 {
		s.t.Errorf("%v submitted from inside Complete: %v, want %v", op, c.end, want)
	}
}

// signal is a Completer that can be used again.
type signal chan struct{}

// Complete implements block.Completer.
func (c *signal) Complete(*block.Request) { *c <- struct{}{} }

// testAllocations counts the allocations of reads and writes.
func (s *suite) testAllocations() {
	if !s.cfg.ZeroAlloc || raceEnabled { // sync.Pool drops items at random under the race detector
		return
	}
	for _, n := range []int{s.up(4096), int(s.info.MaxLen)} {
		done := make(signal, 1)
		r := &block.Request{Done: &done, Buf: make([]byte, n), Len: uint32(n)}
		for _, op := range []block.Op{block.OpWrite, block.OpRead} {
			r.Op = op
			got := testing.AllocsPerRun(100, func() {
				s.dev.Submit(r)
				<-done
			})
			if r.Status != block.StatusOK {
				s.t.Errorf("%v of %d bytes: %v", op, n, r.Status)
			}
			if got != 0 {
				s.t.Errorf("%v of %d bytes: %v allocations", op, n, got)
			}
		}
	}
}
