// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"
	"fmt"

	"rsio/rsio/block"
	"rsio/rsio/buf"
)

const (
	window   = 16       // requests in flight of one import or export
	zeroStep = 64 << 20 // bytes; a larger hole is written in steps
)

// slot is one request of a flight with its buffer.
type slot struct {
	req  block.Request
	mem  []byte       // maxData bytes
	back chan<- *slot // takes all slots, so that Complete never blocks
	busy bool         // its status is still to be looked at
}

// Complete gives the slot back to its flight.
func (s *slot) Complete(*block.Request) { s.back <- s }

// flight keeps up to window requests at a device. It belongs to one goroutine,
// which gets every request back and looks at every status: first error wins.
type flight struct {
	dev   block.Device
	pool  *buf.Pool
	free  chan *slot
	zeros []block.Op // how to write zeroes, best first; OpWrite always works
	err   error
}

func newFlight(dev block.Device) *flight {
	f := &flight{dev: dev, pool: buf.New(window * maxData), free: make(chan *slot, window)}
	info := dev.Info()
	if info.Has(block.CanDiscard) { // gives space back
		f.zeros = append(f.zeros, block.OpDiscard)
	}
	if info.Has(block.CanZero) {
		f.zeros = append(f.zeros, block.OpWriteZeroes)
	}
	f.zeros = append(f.zeros, block.OpWrite)
	for range window {
		f.free <- &slot{back: f.free}
	}
	return f
}

// take waits for a slot. Its former status is consumed here: a failure stays
// in f.err.
func (f *flight) take() *slot {
	s := <-f.free
	if s.busy {
		s.busy = false
		f.look(s)
	}
	if s.mem == nil {
		s.mem = f.pool.TryGet(maxData) // there is one for each slot
	}
	return s
}

func (f *flight) look(s *slot) {
	st := s.req.Status
	if st == block.StatusUnsupported && (s.req.Op == block.OpDiscard || s.req.Op == block.OpWriteZeroes) {
		st = f.zeroSlowly(s.req)
	}
	if st != block.StatusOK && f.err == nil {
		f.err = opError(&s.req, st)
	}
}

func opError(r *block.Request, st block.Status) error {
	return fmt.Errorf("%s of %d bytes at byte %d: %w", r.Op, r.Len, r.Off, st)
}

// zeroSlowly does with another operation what the device refused at run time.
func (f *flight) zeroSlowly(r block.Request) block.Status {
	for op := r.Op; ; op = f.zeros[0] {
		if f.zeros[0] == op {
			f.zeros = f.zeros[1:] // OpWrite stays: it is never refused like this
		}
		if f.zeros[0] == block.OpWrite {
			break
		}
		again := block.Request{Op: f.zeros[0], Off: r.Off, Len: r.Len}
		if st := f.do(&again); st != block.StatusUnsupported {
			return st
		}
	}
	zeroes := make([]byte, f.maxLen())
	for off, end := r.Off, r.End(); off < end; {
		n := min(uint64(len(zeroes)), end-off)
		w := block.Request{Op: block.OpWrite, Off: off, Len: uint32(n), Buf: zeroes[:n]}
		if st := f.do(&w); st != block.StatusOK {
			return st
		}
		off += n
	}
	return block.StatusOK
}

// do is one request that is waited for.
func (f *flight) do(r *block.Request) block.Status {
	if st := block.Check(f.dev.Info(), r); st != block.StatusOK {
		return st
	}
	return block.Do(f.dev, r)
}

// submit starts the request of s.
func (f *flight) submit(s *slot, r block.Request) {
	s.busy = true
	s.req = r
	s.req.Done = s
	if st := block.Check(f.dev.Info(), &s.req); st != block.StatusOK {
		block.Finish(&s.req, st)
		return
	}
	f.dev.Submit(&s.req)
}

// giveBack returns a slot that was taken but not submitted.
func (f *flight) giveBack(s *slot) { f.free <- s }

// maxLen is the largest request, a multiple of streamUnit.
func (f *flight) maxLen() uint64 {
	return uint64(max(min(f.dev.Info().MaxLen, maxData), streamUnit)) &^ (streamUnit - 1)
}

// zero starts writing zeroes to [off, off+n).
func (f *flight) zero(ctx context.Context, off, n uint64) error {
	for n > 0 {
		if err := f.check(ctx); err != nil {
			return err
		}
		s := f.take()
		r := block.Request{Op: f.zeros[0], Off: off}
		step := min(n, zeroStep, uint64(max(f.dev.Info().MaxZero, streamUnit))&^(streamUnit-1))
		if r.Op == block.OpWrite {
			step = min(n, f.maxLen())
			r.Buf = s.mem[:step]
			clear(r.Buf)
		}
		r.Len = uint32(step)
		f.submit(s, r)
		off, n = off+step, n-step
	}
	return nil
}

// check reports why the flight should not go on.
func (f *flight) check(ctx context.Context) error {
	if f.err != nil {
		return f.err
	}
	return ctx.Err()
}

// drain waits until nothing is in flight and returns the first error. The
// flight has ended with that.
func (f *flight) drain() error {
	for range window {
		s := <-f.free
		if s.busy {
			s.busy = false
			f.look(s)
		}
		if s.mem != nil {
			f.pool.Put(s.mem)
			s.mem = nil
		}
	}
	return f.err
}
