// SPDX-License-Identifier: Apache-2.0

package blocktest

import (
	"context"
	"sync"
	"sync/atomic"

	"rsio/rsio/block"
)

// afterClose submits every operation to a closed device, also from deep
// inside completions.
func (s *suite) afterClose() {
	s.t.Helper()
	n := s.up(4096)
	for op := block.OpRead; op.Known(); op++ {
		for _, depth := range []uint8{0, block.MaxInline, 255} {
			r := block.Request{Op: op, Depth: depth}
			switch op {
			case block.OpFlush:
			case block.OpDiscard, block.OpWriteZeroes:
				r.Len = uint32(n)
			default:
				r.Len, r.Buf = uint32(n), make([]byte, n)
			}
			if block.Check(s.info, &r) != block.StatusOK {
				continue
			}
			if st := s.do(r); st != block.StatusClosed {
				s.t.Errorf("rule 6: %v after Close: %v, want %v", op, st, block.StatusClosed)
			}
		}
	}
}

func (s *suite) testClose() {
	s.write(0, pattern(s.up(4096), s.cfg.Seed))
	s.close()
	s.afterClose()
	s.close()
	s.afterClose()
}

// burst has n writes in flight.
func (s *suite) burst(n int) []*call {
	p := pattern(s.up(4096), s.cfg.Seed)
	var calls []*call
	for i := range n {
		calls = append(calls, s.start(block.Request{Op: block.OpWrite, Off: uint64(i * len(p)), Len: uint32(len(p)), Buf: p}))
	}
	return calls
}

func (s *suite) testCloseDrains() {
	calls := s.burst(128)
	if s.info.Has(block.CanFlush) {
		calls = append(calls, s.start(block.Request{Op: block.OpFlush}))
	}
	s.close()
	for _, c := range calls {
		if c.n.Load() != 1 {
			s.t.Fatalf("rule 6: Close has returned and %v at %d has completed %d times", c.op, c.off, c.n.Load())
		}
		if st := c.r.Status; st != block.StatusOK {
			s.t.Errorf("%v at %d was submitted before Close: %v", c.op, c.off, st)
		}
	}
}

// testCloseUnderLoad closes while goroutines submit: each request ends well or
// in StatusClosed, and whoever has seen StatusClosed sees nothing else.
func (s *suite) testCloseUnderLoad() {
	var wg sync.WaitGroup
	var started sync.WaitGroup
	var bad atomic.Int64
	var worst atomic.Uint32
	n := s.up(4096)
	for w := range 4 {
		started.Add(1)
		wg.Go(func() {
			var once sync.Once
			defer once.Do(started.Done)
			p := pattern(n, uint64(w))
			for i, closed := 0, 0; closed < 3; i++ {
				r := block.Request{Op: block.OpWrite, Off: uint64(w*n*8 + i%8*n), Len: uint32(n), Buf: p}
				st := block.Do(s.dev, &r)
				if i == 10 {
					once.Do(started.Done)
				}
				switch {
				case st == block.StatusClosed:
					closed++
				case st != block.StatusOK || closed > 0:
					bad.Add(1)
					worst.Store(uint32(st))
					closed = 3
				}
			}
		})
	}
	started.Wait()
	s.close()
	wg.Wait()
	if bad.Load() > 0 {
		s.t.Errorf("rule 6: %d writers around Close saw status %v", bad.Load(), block.Status(worst.Load()))
	}
}

// testCloseContext gives Close no time: it may say so, the drain goes on, and
// Close can be called again.
func (s *suite) testCloseContext() {
	calls := s.burst(64)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.dev.Close(ctx); err != nil && err != context.Canceled {
		s.t.Errorf("Close with an ended context: %v", err)
	}
	s.close()
	for _, c := range calls {
		if c.n.Load() != 1 {
			s.t.Fatalf("rule 6: Close has returned and write at %d has completed %d times", c.off, c.n.Load())
		}
	}
	s.afterClose()
}
