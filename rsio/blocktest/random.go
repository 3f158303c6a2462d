// SPDX-License-Identifier: Apache-2.0

package blocktest

import (
	"math/rand/v2"
	"sync"
	"time"

	"rsio/rsio/block"
)

const (
	randomArea  = 2 << 20 // bytes that random requests work on
	randomSlots = 24      // requests in flight
	canary      = 0x5A    // in buffers that nobody may touch
)

// slot is one of the requests that testRandom has in flight.
type slot struct {
	r     block.Request
	op    block.Op
	flags block.Flags
	lo    int // in the area
	hi    int
	busy  bool
	buf   []byte
	tell  chan *slot
}

// Complete implements block.Completer. A second completion of a slot makes
// tell overflow, which the driver sees as a slot that is not busy.
func (c *slot) Complete(*block.Request) {
	select {
	case c.tell <- c:
	default:
	}
}

// randomRun is the state of testRandom.
type randomRun struct {
	*suite
	rng   *rand.Rand
	base  uint64
	model []byte
	slots []*slot
	tell  chan *slot
}

// testRandom has many random requests of disjoint ranges in flight and
// compares with a model in memory.
func (s *suite) testRandom() {
	rng := rand.New(rand.NewPCG(s.cfg.Seed, 2))
	bs := uint64(s.info.BlockSize)
	run := &randomRun{
		suite: s, rng: rng, model: make([]byte, randomArea),
		base: rng.Uint64N((s.info.Size-randomArea)/bs+1) * bs,
		tell: make(chan *slot, 4*randomSlots),
	}
	randomize(rng, run.model)
	s.writeAll(run.base, run.model)
	for range randomSlots {
		run.slots = append(run.slots, &slot{buf: make([]byte, 128<<10), tell: run.tell})
	}
	inflight := 0
	for issued := 0; issued < s.cfg.Ops || inflight > 0; {
		if issued < s.cfg.Ops && inflight < randomSlots && run.issue() {
			issued++
			inflight++
			continue
		}
		run.collect()
		inflight--
	}
	s.expectAll("after all random requests", run.base, run.model)
	s.close()
	if n := len(run.tell); n != 0 {
		s.t.Errorf("rule 2: %d requests completed more than once", n)
	}
}

// issue starts a random request in an idle slot; false if what it chose
// overlaps with a request in flight.
func (x *randomRun) issue() bool {
	var c *slot
	for _, c = range x.slots {
		if !c.busy {
			break
		}
	}
	x.choose(c)
	for _, o := range x.slots {
		if o.busy && o != c && c.lo < o.hi && o.lo < c.hi {
			return x.oneBusyFree(c)
		}
	}
	x.submit(c)
	return true
}

// oneBusyFree turns c into a flush, which has no range, so that a crowded area
// does not stop the flow.
func (x *randomRun) oneBusyFree(c *slot) bool {
	if !x.info.Has(block.CanFlush) {
		return false
	}
	c.op, c.flags, c.lo, c.hi = block.OpFlush, 0, 0, 0
	x.submit(c)
	return true
}

// choose fills in op, flags and range of c.
func (x *randomRun) choose(c *slot) {
	bs := int(x.info.BlockSize)
	most := min(len(c.buf), int(x.info.MaxLen))
	n := 1 + x.rng.IntN(4096)
	switch x.rng.IntN(10) {
	case 0:
		n = 1 + x.rng.IntN(most)
	case 1, 2, 3:
		n = 4096
	}
	n = min(x.up(n), most)
	c.lo = x.rng.IntN((randomArea-n)/bs+1) * bs
	if n == 4096 && x.rng.IntN(2) == 0 {
		c.lo -= c.lo % 4096
	}
	c.hi = c.lo + n
	c.op, c.flags = block.OpWrite, 0
	z := zeroOps()
	switch k := x.rng.IntN(100); {
	case k < 40:
		c.op = block.OpRead
	case k < 45 && x.info.Has(block.CanFUA):
		c.flags = block.FlagFUA
	case k < 60:
		if o := z[x.rng.IntN(len(z))]; x.info.Has(o.need) {
			c.op, c.flags = o.op, o.flags
		}
	case k < 65 && x.info.Has(block.CanBlockStatus):
		c.op = block.OpBlockStatus
	case k < 67 && x.info.Has(block.CanFlush):
		c.op, c.lo, c.hi = block.OpFlush, 0, 0
	}
}

func (x *randomRun) submit(c *slot) {
	c.r.Reset()
	c.r.Op, c.r.Flags, c.r.Done = c.op, c.flags, c
	n := c.hi - c.lo
	if n > 0 {
		c.r.Off, c.r.Len = x.base+uint64(c.lo), uint32(n)
	}
	switch c.op {
	case block.OpRead:
		c.r.Buf = c.buf[:n]
	case block.OpWrite:
		c.r.Buf = c.buf[:n]
		randomize(x.rng, c.r.Buf)
	case block.OpBlockStatus:
		c.r.Buf = c.buf[:block.ExtentLen*(1+x.rng.IntN(8))]
	}
	c.busy = true
	x.dev.Submit(&c.r)
}

// collect waits for one completion and looks at it.
func (x *randomRun) collect() {
	late := time.NewTimer(x.cfg.Timeout)
	defer late.Stop()
	var c *slot
	select {
	case c = <-x.tell:
	case <-late.C:
		x.t.Fatalf("rule 2: seed %d: no request of %d has completed in %v", x.cfg.Seed, randomSlots, x.cfg.Timeout)
	}
	if !c.busy {
		x.t.Fatalf("rule 2: seed %d: %v at %d completed twice", x.cfg.Seed, c.op, c.r.Off)
	}
	c.busy = false
	if c.r.Status != block.StatusOK {
		if c.r.Status == block.StatusUnsupported && c.flags&block.FlagFastZero != 0 {
			return
		}
		x.t.Fatalf("seed %d: %v at %d length %d flags %d: %v", x.cfg.Seed, c.op, c.r.Off, c.r.Len, c.flags, c.r.Status)
	}
	want := x.model[c.lo:c.hi]
	switch c.op {
	case block.OpRead:
		if i := differ(c.r.Buf, want); i >= 0 && !x.cfg.Volatile {
			x.t.Fatalf("seed %d: read at %d length %d: byte %d is wrong", x.cfg.Seed, c.r.Off, c.r.Len, i)
		}
	case block.OpWrite:
		copy(want, c.r.Buf)
	case block.OpDiscard, block.OpWriteZeroes:
		clear(want)
	case block.OpBlockStatus:
		x.extents(&c.r, want)
	}
}

// testGoroutines has several goroutines write and read back ranges of their
// own, mostly for the race detector.
func (s *suite) testGoroutines() {
	const workers, region = 8, MinSize / 8
	rounds := min(100, s.cfg.Ops/10)
	var wg sync.WaitGroup
	wrong := make(chan string, workers)
	for w := range workers {
		wg.Go(func() {
			n := s.up(4096)
			p, q := pattern(n, uint64(w)), make([]byte, n)
			for i := range rounds {
				p[0] = byte(i)
				off := uint64(w*region + i%(region/n)*n)
				r := block.Request{Op: block.OpWrite, Off: off, Len: uint32(n), Buf: p}
				if st := block.Do(s.dev, &r); st != block.StatusOK {
					wrong <- "write: " + st.Error()
					return
				}
				r = block.Request{Op: block.OpRead, Off: off, Len: uint32(n), Buf: q}
				if st := block.Do(s.dev, &r); st != block.StatusOK {
					wrong <- "read: " + st.Error()
					return
				}
				if !s.cfg.Volatile && differ(p, q) >= 0 {
					wrong <- "read differs from what the same goroutine wrote"
					return
				}
				s.dev.Info()
			}
		})
	}
	wg.Wait()
	close(wrong)
	for w := range wrong {
		s.t.Errorf("%s", w)
	}
}
