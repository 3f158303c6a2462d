// SPDX-License-Identifier: Apache-2.0

package blocktest

import (
	"hash/crc32"

	"rsio/rsio/block"
)

func (s *suite) testInfo() {
	i := s.info
	if i.BlockSize == 0 || i.BlockSize > block.MaxBlockSize || i.BlockSize&(i.BlockSize-1) != 0 {
		s.t.Fatalf("block size %d is not a power of two up to %d", i.BlockSize, block.MaxBlockSize)
	}
	if i.Size%uint64(i.BlockSize) != 0 {
		s.t.Errorf("size %d is not a multiple of the block size %d", i.Size, i.BlockSize)
	}
	if i.MaxLen < i.BlockSize || i.MaxLen > block.MaxLen || i.MaxLen%i.BlockSize != 0 {
		s.t.Errorf("MaxLen %d is not a multiple of the block size up to %d", i.MaxLen, block.MaxLen)
	}
	if i.Has(block.CanDiscard) || i.Has(block.CanZero) || i.Has(block.CanBlockStatus) {
		if i.MaxZero < i.BlockSize || i.MaxZero > block.MaxZero {
			s.t.Errorf("MaxZero %d is not between the block size and %d", i.MaxZero, block.MaxZero)
		}
	}
	if i.ReadOnly {
		s.t.Fatalf("the suite needs a writable device")
	}
	if i.Has(block.CanFastZero) && !i.Has(block.CanZero) {
		s.t.Errorf("CanFastZero without CanZero")
	}
}

func (s *suite) testReadWrite() {
	bs, maxLen := int(s.info.BlockSize), int(s.info.MaxLen)
	rows := []struct {
		desc string
		off  uint64
		n    int
	}{
		{"first block", 0, bs},
		{"last block", s.info.Size - uint64(bs), bs},
		{"largest at the start", 0, maxLen},
		{"largest at the end", s.info.Size - uint64(maxLen), maxLen},
		{"4 KiB off the grid of 4 KiB", uint64(s.up(1000)), s.up(4096)},
		{"across 64 KiB", uint64(s.up(64<<10 - 512)), s.up(1024)},
		{"across 1 MiB", uint64(1<<20 - bs), min(2*s.up(4096), maxLen)},
	}
	for i, row := range rows {
		p := pattern(row.n, s.cfg.Seed+uint64(i))
		s.write(row.off, p)
		s.expect(row.desc, row.off, p)
	}
	// A small write in the middle changes nothing around it.
	n := min(3*s.up(8192), maxLen/bs*bs)
	p := pattern(n, s.cfg.Seed+100)
	s.write(1<<20, p)
	mid := s.up(n / 3)
	copy(p[mid:mid+bs], pattern(bs, s.cfg.Seed+101))
	s.write(1<<20+uint64(mid), p[mid:mid+bs])
	s.expect("block inside a larger write", 1<<20, p)
}

// testEdges runs requests at the limits through Check; what it lets pass the
// device has to execute.
func (s *suite) testEdges() {
	bs, size := s.info.BlockSize, s.info.Size
	rows := []struct {
		desc string
		op   block.Op
		off  uint64
		n    uint32
		want block.Status
	}{
		{"empty", block.OpRead, 0, 0, block.StatusInvalid},
		{"at the end", block.OpRead, size, bs, block.StatusInvalid},
		{"across the end", block.OpWrite, size - uint64(bs), 2 * bs, block.StatusInvalid},
		{"offset that overflows", block.OpRead, ^uint64(0) - uint64(bs) + 1, bs, block.StatusInvalid},
		{"longer than MaxLen", block.OpRead, 0, s.info.MaxLen + bs, block.StatusInvalid},
		{"last block", block.OpWrite, size - uint64(bs), bs, block.StatusOK},
		{"exactly MaxLen", block.OpWrite, 0, s.info.MaxLen, block.StatusOK},
		{"read of exactly MaxLen", block.OpRead, size - uint64(s.info.MaxLen), s.info.MaxLen, block.StatusOK},
		{"half a block", block.OpRead, 0, bs / 2, block.StatusInvalid},
		{"off the grid", block.OpRead, uint64(bs / 2), bs, s.grid()},
		{"discard across the end", block.OpDiscard, size - uint64(bs), 2 * bs, block.StatusInvalid},
	}
	for _, row := range rows {
		r := block.Request{Op: row.op, Off: row.off, Len: row.n}
		if row.op == block.OpRead || row.op == block.OpWrite {
			r.Buf = make([]byte, row.n)
		}
		if st := block.Check(s.dev.Info(), &r); st != row.want {
			s.t.Errorf("%s: Check says %v, want %v", row.desc, st, row.want)
			continue
		}
		if row.want == block.StatusOK {
			s.must(r)
		}
	}
}

// grid is what Check says of an offset of half a block, which is a whole
// number of blocks only if blocks have one byte.
func (s *suite) grid() block.Status {
	if s.info.BlockSize == 1 {
		return block.StatusOK
	}
	return block.StatusInvalid
}

func (s *suite) testUnknownOp() {
	p := pattern(s.up(4096), s.cfg.Seed)
	s.write(0, p)
	unknown := []block.Op{0, 8, 99, 255}
	if !s.info.Has(block.CanCompareAndWrite) {
		unknown = append(unknown, block.OpCompareAndWrite)
	}
	for _, op := range unknown {
		q := make([]byte, len(p))
		if st := s.do(block.Request{Op: op, Len: uint32(len(q)), Buf: q}); st != block.StatusUnsupported {
			s.t.Errorf("rule 10: operation %d ended with status %d (%v), want %v", op, st, st, block.StatusUnsupported)
		}
	}
	s.expect("after unknown operations", 0, p)
}

func (s *suite) testFlush() {
	p := pattern(s.up(4096), s.cfg.Seed)
	if s.info.Has(block.CanFlush) {
		s.must(block.Request{Op: block.OpFlush})
		s.write(0, p)
		s.must(block.Request{Op: block.OpFlush})
		s.expect("after a flush", 0, p)
	}
	if s.info.Has(block.CanFUA) {
		p = pattern(len(p), s.cfg.Seed+1)
		s.must(block.Request{Op: block.OpWrite, Flags: block.FlagFUA, Len: uint32(len(p)), Buf: p})
		s.expect("after a write with FUA", 0, p)
	}
}

// testPayload has many writes of one buffer in flight, which only works if
// nobody changes it.
func (s *suite) testPayload() {
	p := pattern(min(s.up(64<<10), int(s.info.MaxLen)), s.cfg.Seed)
	table := crc32.MakeTable(crc32.Castagnoli)
	sum := crc32.Checksum(p, table)
	var calls []*call
	for i := range 16 {
		r := block.Request{Op: block.OpWrite, Off: uint64(i * len(p)), Len: uint32(len(p)), Buf: p}
		if i%4 == 3 && s.info.Has(block.CanFUA) {
			r.Flags = block.FlagFUA
		}
		calls = append(calls, s.start(r))
	}
	for _, c := range calls {
		if st := s.wait(c); st != block.StatusOK {
			s.t.Errorf("write at %d: %v", c.off, st)
		}
	}
	if crc32.Checksum(p, table) != sum {
		s.t.Errorf("rule 4: the payload of a write was changed")
	}
	for i := range 16 {
		s.expect("write of a shared payload", uint64(i*len(p)), p)
	}
	// After the completion of a read its buffer is the caller's alone.
	q := s.read(0, len(p))
	fill(q, 0x5A)
	s.must(block.Request{Op: block.OpRead, Off: uint64(len(p)), Len: uint32(len(p)), Buf: make([]byte, len(p))})
	for i, b := range q {
		if b != 0x5A {
			s.t.Fatalf("rule 2: byte %d of a buffer was touched after the completion", i)
		}
	}
}
