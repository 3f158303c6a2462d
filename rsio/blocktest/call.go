// SPDX-License-Identifier: Apache-2.0

package blocktest

import (
	"math/rand/v2"
	"sync/atomic"
	"time"

	"rsio/rsio/block"
)

// call is one request and its completions, which it counts.
type call struct {
	r    block.Request
	n    atomic.Int32
	done chan struct{}

	op  block.Op // copies: what r holds may not be trusted after a failure
	off uint64
	len uint32
}

// Complete implements block.Completer.
func (c *call) Complete(*block.Request) {
	if c.n.Add(1) == 1 {
		close(c.done)
	}
}

// start submits a request like r and remembers it for finish.
func (s *suite) start(r block.Request) *call {
	c := &call{r: r, done: make(chan struct{}), op: r.Op, off: r.Off, len: r.Len}
	c.r.Done = c
	s.calls = append(s.calls, c)
	s.dev.Submit(&c.r)
	return c
}

// wait returns the status of c.
func (s *suite) wait(c *call) block.Status {
	s.t.Helper()
	late := time.NewTimer(s.cfg.Timeout)
	defer late.Stop()
	select {
	case <-c.done:
	case <-late.C:
		s.t.Fatalf("rule 2: %v at %d length %d has not completed in %v", c.op, c.off, c.len, s.cfg.Timeout)
	}
	if c.r.Op != c.op || c.r.Off != c.off || c.r.Len != c.len {
		s.t.Errorf("rule 8: %v at %d length %d came back as %v at %d length %d", c.op, c.off, c.len, c.r.Op, c.r.Off, c.r.Len)
	}
	return c.r.Status
}

// do is start and wait.
func (s *suite) do(r block.Request) block.Status {
	s.t.Helper()
	return s.wait(s.start(r))
}

// must is do that fails unless the request succeeds.
func (s *suite) must(r block.Request) {
	s.t.Helper()
	if st := s.do(r); st != block.StatusOK {
		s.t.Fatalf("%v at %d length %d flags %d: %v", r.Op, r.Off, r.Len, r.Flags, st)
	}
}

func (s *suite) write(off uint64, p []byte) {
	s.t.Helper()
	s.must(block.Request{Op: block.OpWrite, Off: off, Len: uint32(len(p)), Buf: p})
}

// read returns n bytes from off. The buffer is filled before, so that a read
// that does nothing does not look like zeroes.
func (s *suite) read(off uint64, n int) []byte {
	s.t.Helper()
	p := make([]byte, n)
	fill(p, 0xA5)
	s.must(block.Request{Op: block.OpRead, Off: off, Len: uint32(n), Buf: p})
	return p
}

// expect compares n bytes at off with want.
func (s *suite) expect(what string, off uint64, want []byte) {
	s.t.Helper()
	if s.cfg.Volatile {
		return
	}
	if i := differ(s.read(off, len(want)), want); i >= 0 {
		s.t.Errorf("%s: byte %d of %d at offset %d is wrong", what, i, len(want), off)
	}
}

// differ returns the index of the first byte where a and b differ, or -1.
func differ(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}

func fill(p []byte, b byte) {
	for i := range p {
		p[i] = b
	}
}

// pattern returns n bytes that depend on seed, none of them zero.
func pattern(n int, seed uint64) []byte {
	p := make([]byte, n)
	randomize(rand.New(rand.NewPCG(seed, 1)), p)
	return p
}

func randomize(rng *rand.Rand, p []byte) {
	for i := 0; i < len(p); i += 8 {
		v := rng.Uint64() | 0x0101010101010101
		for j := i; j < min(i+8, len(p)); j++ {
			p[j] = byte(v)
			v >>= 8
		}
	}
}

// up rounds n up to the block size of the device.
func (s *suite) up(n int) int {
	bs := int(s.info.BlockSize)
	return (n + bs - 1) / bs * bs
}
