// SPDX-License-Identifier: Apache-2.0

package blocktest

import (
	"encoding/binary"
	"sync"

	"rsio/rsio/block"
)

// testCompareAndWrite: it writes what it should or tells where the difference
// is, and nothing comes in between.
func (s *suite) testCompareAndWrite() {
	if !s.info.Has(block.CanCompareAndWrite) {
		return
	}
	n := s.up(512)
	was, is, other := pattern(n, s.cfg.Seed), pattern(n, s.cfg.Seed+1), pattern(n, s.cfg.Seed+2)
	if s.cfg.Volatile {
		was = make([]byte, n) // that is what a device that keeps nothing has
	}
	const off = 8192
	flags := []block.Flags{0}
	if s.info.Has(block.CanFUA) {
		flags = append(flags, block.FlagFUA)
	}
	for _, f := range flags {
		s.write(off, was)
		r := block.Request{Op: block.OpCompareAndWrite, Flags: f, Off: off, Len: uint32(n), Buf: append(append([]byte(nil), was...), is...)}
		s.must(r)
		s.expect("after a compare-and-write", off, is)
		if !s.cfg.Volatile {
			s.miscompare(off, append(append([]byte(nil), other...), was...), differ(other, is))
		}
		near := append([]byte(nil), is...)
		if s.cfg.Volatile {
			clear(near)
		}
		near[n-1] ^= 1
		s.miscompare(off, append(near, was...), n-1)
		s.expect("after a miscompare", off, is)
	}
	if !s.cfg.Volatile {
		s.casAndWrite(off, n)
		s.casCounter(off, n)
	}
}

func (s *suite) miscompare(off uint64, buf []byte, at int) {
	s.t.Helper()
	c := s.start(block.Request{Op: block.OpCompareAndWrite, Off: off, Len: uint32(len(buf) / 2), Buf: buf})
	if st := s.wait(c); st != block.StatusMiscompare || int(c.r.N) != at {
		s.t.Errorf("compare-and-write of something else: %v, first difference at %d, want %d", st, c.r.N, at)
	}
}

// casAndWrite has a write of Y and a compare-and-write from X to Z in flight
// together. Whichever is first, Y is there in the end: either it replaced Z, or
// the comparison found it.
func (s *suite) casAndWrite(off uint64, n int) {
	x, y, z := pattern(n, s.cfg.Seed+3), pattern(n, s.cfg.Seed+4), pattern(n, s.cfg.Seed+5)
	for i := range 200 {
		s.write(off, x)
		cas := block.Request{Op: block.OpCompareAndWrite, Off: off, Len: uint32(n), Buf: append(append([]byte(nil), x...), z...)}
		write := block.Request{Op: block.OpWrite, Off: off, Len: uint32(n), Buf: y}
		if i%2 == 1 {
			cas, write = write, cas
		}
		a, b := s.start(cas), s.start(write)
		for _, c := range []*call{a, b} {
			if st := s.wait(c); st != block.StatusOK && st != block.StatusMiscompare {
				s.t.Fatalf("%v beside another change: %v", c.op, st)
			}
		}
		if d := differ(s.read(off, n), y); d >= 0 {
			s.t.Fatalf("compare-and-write is not atomic: byte %d of a write beside it is gone", d)
		}
	}
}

// casCounter counts up from several goroutines.
func (s *suite) casCounter(off uint64, n int) {
	const workers, each = 4, 50
	s.write(off, make([]byte, n))
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for done := 0; done < each; {
				was := make([]byte, n)
				if st := block.Do(s.dev, &block.Request{Op: block.OpRead, Off: off, Len: uint32(n), Buf: was}); st != block.StatusOK {
					s.t.Errorf("read: %v", st)
					return
				}
				is := append([]byte(nil), was...)
				binary.BigEndian.PutUint64(is, binary.BigEndian.Uint64(was)+1)
				switch st := block.Do(s.dev, &block.Request{Op: block.OpCompareAndWrite, Off: off, Len: uint32(n), Buf: append(was, is...)}); st {
				case block.StatusOK:
					done++
				case block.StatusMiscompare:
				default:
					s.t.Errorf("compare-and-write: %v", st)
					return
				}
			}
		})
	}
	wg.Wait()
	if got := binary.BigEndian.Uint64(s.read(off, n)); got != workers*each {
		s.t.Errorf("compare-and-write is not atomic: counted to %d, want %d", got, workers*each)
	}
}
