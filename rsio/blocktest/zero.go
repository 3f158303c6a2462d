// SPDX-License-Identifier: Apache-2.0

package blocktest

import (
	"rsio/rsio/block"
)

// zeroOp is one way to make a range read as zeroes.
type zeroOp struct {
	desc  string
	op    block.Op
	flags block.Flags
	need  block.Features
}

func zeroOps() []zeroOp {
	return []zeroOp{
		{"discard", block.OpDiscard, 0, block.CanDiscard},
		{"discard FUA", block.OpDiscard, block.FlagFUA, block.CanDiscard | block.CanFUA},
		{"zeroes", block.OpWriteZeroes, 0, block.CanZero},
		{"zeroes FUA", block.OpWriteZeroes, block.FlagFUA, block.CanZero | block.CanFUA},
		{"zeroes NoHole", block.OpWriteZeroes, block.FlagNoHole, block.CanZero},
		{"zeroes FastZero", block.OpWriteZeroes, block.FlagFastZero, block.CanZero | block.CanFastZero},
		{"zeroes FastZero NoHole", block.OpWriteZeroes, block.FlagFastZero | block.FlagNoHole, block.CanZero | block.CanFastZero},
	}
}

// testZeroes makes a part of written data zero in every way, on and off the
// grids that stores use.
func (s *suite) testZeroes() {
	const area = 512 << 10
	ranges := []struct {
		desc    string
		off, to int // in the area
	}{
		{"one block", s.up(4096), s.up(4096) + int(s.info.BlockSize)},
		{"off the grid of 4 KiB", s.up(1000), s.up(70000)},
		{"aligned 64 KiB", 64 << 10, 128 << 10},
		{"several chunks", s.up(60 << 10), s.up(300<<10 + 512)},
		{"all", 0, area},
	}
	for i, z := range zeroOps() {
		if !s.info.Has(z.need) {
			continue
		}
		for _, row := range ranges {
			p := pattern(area, s.cfg.Seed+uint64(i))
			s.writeAll(0, p)
			st := s.do(block.Request{Op: z.op, Flags: z.flags, Off: uint64(row.off), Len: uint32(row.to - row.off)})
			switch {
			case st == block.StatusOK:
				clear(p[row.off:row.to])
			case st == block.StatusUnsupported && z.flags&block.FlagFastZero != 0:
			default:
				s.t.Fatalf("%s, %s: %v", z.desc, row.desc, st)
			}
			s.expectAll(z.desc+", "+row.desc, 0, p)
		}
	}
	s.zeroLargest()
}

// zeroLargest zeroes as much as MaxZero and the size allow in one request.
func (s *suite) zeroLargest() {
	n := uint64(s.info.MaxZero)
	if n > s.info.Size {
		n = s.info.Size
	}
	n -= n % uint64(s.info.BlockSize)
	p := pattern(s.up(4096), s.cfg.Seed)
	for _, z := range zeroOps() {
		if !s.info.Has(z.need) || z.flags != 0 {
			continue
		}
		at := []uint64{0, n/2 - n/2%uint64(s.info.BlockSize), n - uint64(len(p))}
		for _, off := range at {
			s.write(off, p)
		}
		s.must(block.Request{Op: z.op, Len: uint32(n)})
		for _, off := range at {
			s.expect("largest "+z.desc, off, make([]byte, len(p)))
		}
	}
}

// writeAll and expectAll split at MaxLen.
func (s *suite) writeAll(off uint64, p []byte) {
	s.t.Helper()
	for len(p) > 0 {
		n := min(len(p), int(s.info.MaxLen))
		s.write(off, p[:n])
		off, p = off+uint64(n), p[n:]
	}
}

func (s *suite) expectAll(what string, off uint64, p []byte) {
	s.t.Helper()
	for len(p) > 0 {
		n := min(len(p), int(s.info.MaxLen))
		s.expect(what, off, p[:n])
		off, p = off+uint64(n), p[n:]
	}
}

// testNoHole asks for space and expects it to be taken, over a hole and over
// data.
func (s *suite) testNoHole() {
	if !s.info.Has(block.CanZero) || s.cfg.Used == nil {
		return
	}
	const n = 1 << 20
	s.must(block.Request{Op: block.OpWriteZeroes, Flags: block.FlagNoHole, Off: n, Len: n})
	if used := s.cfg.Used(s.dev); used < n {
		s.t.Errorf("NoHole over a hole of %d bytes: %d bytes are used", n, used)
	}
	s.writeAll(2*n, pattern(n, s.cfg.Seed))
	before := s.cfg.Used(s.dev)
	s.must(block.Request{Op: block.OpWriteZeroes, Flags: block.FlagNoHole, Off: 2 * n, Len: n})
	if used := s.cfg.Used(s.dev); used+n/2 < before {
		s.t.Errorf("NoHole over data: used went from %d to %d bytes", before, used)
	}
	s.expectAll("NoHole over data", 2*n, make([]byte, n))
	if !s.info.Has(block.CanDiscard) {
		return
	}
	before = s.cfg.Used(s.dev)
	s.must(block.Request{Op: block.OpDiscard, Off: n, Len: 2 * n})
	if used := s.cfg.Used(s.dev); used >= before {
		s.t.Errorf("discard of %d bytes: used went from %d to %d bytes", 2*n, before, used)
	}
}

// testBlockStatus walks the device and compares the extents with the content.
func (s *suite) testBlockStatus() {
	if !s.info.Has(block.CanBlockStatus) {
		return
	}
	const area = MinSize
	model := make([]byte, area)
	for i, off := range []int{0, 64 << 10, s.up(200_000), 1 << 20, area - s.up(4096)} {
		p := pattern(s.up(4096), s.cfg.Seed+uint64(i))
		s.write(uint64(off), p)
		copy(model[off:], p)
	}
	for _, bufLen := range []int{block.ExtentLen, 3 * block.ExtentLen, 4096, block.ExtentLen + 5} {
		for off := 0; off < area; {
			n := s.status(uint64(off), area-off, bufLen, model[off:])
			if n == 0 {
				return
			}
			off += n
		}
	}
	bs := int(s.info.BlockSize)
	s.status(s.info.Size-uint64(bs), bs, 64, nil)
}

// status asks once and returns the bytes that were described.
func (s *suite) status(off uint64, n, bufLen int, model []byte) int {
	s.t.Helper()
	r := block.Request{Op: block.OpBlockStatus, Off: off, Len: uint32(n), Buf: make([]byte, bufLen)}
	r.N = 7 // left from a former use: the device sets it
	c := s.start(r)
	if st := s.wait(c); st != block.StatusOK {
		s.t.Errorf("block-status at %d length %d: %v", off, n, st)
		return 0
	}
	return s.extents(&c.r, model)
}

// extents checks the answer in r and returns the bytes it describes. An
// extent that says zero has to be so in model.
func (s *suite) extents(r *block.Request, model []byte) int {
	s.t.Helper()
	if r.N == 0 || r.N%block.ExtentLen != 0 || int(r.N) > len(r.Buf) {
		s.t.Errorf("block-status at %d: %d bytes of answer in a buffer of %d", r.Off, r.N, len(r.Buf))
		return 0
	}
	at := 0
	for i := 0; i < int(r.N); i += block.ExtentLen {
		e := block.GetExtent(r.Buf[i:])
		if e.Len == 0 || e.Len > uint64(r.Len)-uint64(at) || e.Flags&^(block.ExtentHole|block.ExtentZero) != 0 {
			s.t.Errorf("block-status at %d length %d: extent of %d bytes with flags %#x after %d bytes", r.Off, r.Len, e.Len, e.Flags, at)
			return 0
		}
		if e.Flags&block.ExtentZero != 0 && model != nil && !s.cfg.Volatile && !isZero(model[at:at+int(e.Len)]) {
			s.t.Errorf("block-status at %d: %d bytes are called zero and hold data", r.Off+uint64(at), e.Len)
		}
		at += int(e.Len)
	}
	if at%int(s.info.BlockSize) != 0 {
		s.t.Errorf("block-status at %d: the answer of %d bytes ends inside a block, nobody can ask on from there", r.Off, at)
	}
	return at
}

func isZero(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}
