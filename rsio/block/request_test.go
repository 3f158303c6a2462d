// SPDX-License-Identifier: Apache-2.0

package block

import (
	"math"
	"testing"
)

func TestCheck(t *testing.T) {
	all := CanFlush | CanFUA | CanDiscard | CanZero | CanFastZero | CanBlockStatus | CanCompareAndWrite
	info := Info{Size: 1 << 20, BlockSize: 512, MaxLen: 64 << 10, MaxZero: 256 << 10, Features: all}
	with := func(f func(*Info)) Info { i := info; f(&i); return i }
	ro := with(func(i *Info) { i.ReadOnly = true })
	less := func(f Features) Info { return with(func(i *Info) { i.Features &^= f }) }
	b := func(n int) []byte { return make([]byte, n) }
	rows := []struct {
		desc string
		info Info
		r    Request
		want Status
	}{
		{"read", info, Request{Op: OpRead, Len: 512, Buf: b(512)}, StatusOK},
		{"read of the last block", info, Request{Op: OpRead, Off: 1<<20 - 512, Len: 512, Buf: b(512)}, StatusOK},
		{"read of the largest length", info, Request{Op: OpRead, Len: 64 << 10, Buf: b(64 << 10)}, StatusOK},
		{"read past the largest length", info, Request{Op: OpRead, Len: 64<<10 + 512, Buf: b(64<<10 + 512)}, StatusInvalid},
		{"read at the end", info, Request{Op: OpRead, Off: 1 << 20, Len: 512, Buf: b(512)}, StatusInvalid},
		{"read across the end", info, Request{Op: OpRead, Off: 1<<20 - 512, Len: 1024, Buf: b(1024)}, StatusInvalid},
		{"end that overflows", info, Request{Op: OpRead, Off: math.MaxUint64 - 511, Len: 512, Buf: b(512)}, StatusInvalid},
		{"offset past 32 bits", info, Request{Op: OpRead, Off: 1 << 32, Len: 512, Buf: b(512)}, StatusInvalid},
		{"empty read", info, Request{Op: OpRead}, StatusInvalid},
		{"offset off the grid", info, Request{Op: OpRead, Off: 1, Len: 512, Buf: b(512)}, StatusInvalid},
		{"length off the grid", info, Request{Op: OpRead, Len: 511, Buf: b(511)}, StatusInvalid},
		{"buffer too short", info, Request{Op: OpRead, Len: 512, Buf: b(511)}, StatusInvalid},
		{"buffer too long", info, Request{Op: OpWrite, Len: 512, Buf: b(513)}, StatusInvalid},
		{"no buffer", info, Request{Op: OpWrite, Len: 512}, StatusInvalid},
		{"write with FUA", info, Request{Op: OpWrite, Flags: FlagFUA, Len: 512, Buf: b(512)}, StatusOK},
		{"FUA that is not known", less(CanFUA), Request{Op: OpWrite, Flags: FlagFUA, Len: 512, Buf: b(512)}, StatusUnsupported},
		{"read with FUA", info, Request{Op: OpRead, Flags: FlagFUA, Len: 512, Buf: b(512)}, StatusUnsupported},
		{"write with NoHole", info, Request{Op: OpWrite, Flags: FlagNoHole, Len: 512, Buf: b(512)}, StatusInvalid},
		{"discard with NoHole", info, Request{Op: OpDiscard, Flags: FlagNoHole, Len: 512}, StatusInvalid},
		{"flag of the future", info, Request{Op: OpWrite, Flags: 1 << 6, Len: 512, Buf: b(512)}, StatusUnsupported},
		{"operation of the future", info, Request{Op: 8, Len: 512, Buf: b(512)}, StatusUnsupported},
		{"no operation", info, Request{}, StatusUnsupported},
		{"flush", info, Request{Op: OpFlush}, StatusOK},
		{"flush with a range", info, Request{Op: OpFlush, Len: 512}, StatusInvalid},
		{"flush with FUA", info, Request{Op: OpFlush, Flags: FlagFUA}, StatusInvalid},
		{"flush that is not known", less(CanFlush), Request{Op: OpFlush}, StatusUnsupported},
		{"flush of a read-only device", ro, Request{Op: OpFlush}, StatusOK},
		{"write to a read-only device", ro, Request{Op: OpWrite, Len: 512, Buf: b(512)}, StatusReadOnly},
		{"discard on a read-only device", ro, Request{Op: OpDiscard, Len: 512}, StatusReadOnly},
		{"zeroes on a read-only device", ro, Request{Op: OpWriteZeroes, Len: 512}, StatusReadOnly},
		{"read of a read-only device", ro, Request{Op: OpRead, Len: 512, Buf: b(512)}, StatusOK},
		{"discard of the largest length", info, Request{Op: OpDiscard, Len: 256 << 10}, StatusOK},
		{"discard past the largest length", info, Request{Op: OpDiscard, Len: 256<<10 + 512}, StatusInvalid},
		{"discard with a buffer", info, Request{Op: OpDiscard, Len: 512, Buf: b(512)}, StatusInvalid},
		{"discard that is not known", less(CanDiscard), Request{Op: OpDiscard, Len: 512}, StatusUnsupported},
		{"zeroes with all flags", info, Request{Op: OpWriteZeroes, Flags: flagsAll, Len: 512}, StatusOK},
		{"zeroes that are not known", less(CanZero), Request{Op: OpWriteZeroes, Len: 512}, StatusUnsupported},
		{"fast zeroes that are not known", less(CanFastZero), Request{Op: OpWriteZeroes, Flags: FlagFastZero, Len: 512}, StatusUnsupported},
		{"block-status", info, Request{Op: OpBlockStatus, Len: 512, Buf: b(ExtentLen)}, StatusOK},
		{"block-status without room", info, Request{Op: OpBlockStatus, Len: 512, Buf: b(ExtentLen - 1)}, StatusInvalid},
		{"block-status that is not known", less(CanBlockStatus), Request{Op: OpBlockStatus, Len: 512, Buf: b(ExtentLen)}, StatusUnsupported},
		{"compare-and-write of a whole block", info, Request{Op: OpCompareAndWrite, Off: 4096, Len: 4096, Buf: b(8192)}, StatusOK},
		{"compare-and-write of a part", info, Request{Op: OpCompareAndWrite, Flags: FlagFUA, Off: 512, Len: 512, Buf: b(1024)}, StatusOK},
		{"compare-and-write over the end of a block", info, Request{Op: OpCompareAndWrite, Off: 3584, Len: 1024, Buf: b(2048)}, StatusInvalid},
		{"compare-and-write of too much", info, Request{Op: OpCompareAndWrite, Len: 4608, Buf: b(9216)}, StatusInvalid},
		{"compare-and-write with half of its buffer", info, Request{Op: OpCompareAndWrite, Len: 512, Buf: b(512)}, StatusInvalid},
		{"compare-and-write that is not known", less(CanCompareAndWrite), Request{Op: OpCompareAndWrite, Len: 512, Buf: b(1024)}, StatusUnsupported},
		{"compare-and-write on a read-only device", ro, Request{Op: OpCompareAndWrite, Len: 512, Buf: b(1024)}, StatusReadOnly},
		{"device of no size", Info{BlockSize: 1, MaxLen: 1}, Request{Op: OpRead, Len: 1, Buf: b(1)}, StatusInvalid},
	}
	for _, row := range rows {
		if got := Check(row.info, &row.r); got != row.want {
			t.Errorf("%s: %v, want %v", row.desc, got, row.want)
		}
	}
}

func TestOpNames(t *testing.T) {
	for o := OpRead; o.Known(); o++ {
		if got, ok := ParseOp(o.String()); !ok || got != o {
			t.Errorf("%v does not come back from its name: %v", o, got)
		}
	}
	for _, s := range []string{"", "none", "op?", "Read"} {
		if o, ok := ParseOp(s); ok {
			t.Errorf("ParseOp(%q) is %v", s, o)
		}
	}
	if Op(0).Known() || opEnd.Known() || opEnd.String() != "op?" {
		t.Error("an operation outside the range is known")
	}
}

func TestStatus(t *testing.T) {
	seen := make(map[string]bool)
	for s := StatusOK; s.Known(); s++ {
		if text := s.Error(); text == "" || seen[text] {
			t.Errorf("status %d has the text %q", s, text)
		}
		seen[s.Error()] = true
	}
	if StatusOK.Err() != nil || StatusIO.Err() != StatusIO || Status(999).Error() != "unknown status" {
		t.Error("Err or the text of an unknown status is wrong")
	}
	var err error
	if n := testing.AllocsPerRun(100, func() { err = StatusStale }); n != 0 || err == nil {
		t.Errorf("a status as an error takes %v allocations", n)
	}
}

func TestOverlaps(t *testing.T) {
	rows := []struct {
		desc       string
		off1, len1 uint64
		off2, len2 uint64
		want       bool
	}{
		{"same", 0, 10, 0, 10, true},
		{"side by side", 0, 10, 10, 10, false},
		{"one byte", 0, 11, 10, 10, true},
		{"inside", 0, 100, 50, 1, true},
		{"apart", 0, 10, 100, 10, false},
	}
	for _, row := range rows {
		a := &Request{Off: row.off1, Len: uint32(row.len1)}
		b := &Request{Off: row.off2, Len: uint32(row.len2)}
		if a.Overlaps(b) != row.want || b.Overlaps(a) != row.want {
			t.Errorf("%s: want %v", row.desc, row.want)
		}
	}
}

func TestReset(t *testing.T) {
	done := &count{}
	r := Request{Op: OpRead, Flags: FlagFUA, Depth: 3, Status: StatusIO, N: 1, Len: 2, Off: 3, Buf: []byte{1}, Nexus: "n", Done: done, Tag: 9}
	r.Parent, r.Next = &r, &r
	r.Reset()
	if r.Op != 0 || r.Flags != 0 || r.Depth != 0 || r.Status != 0 || r.N != 0 || r.Len != 0 || r.Off != 0 || r.Buf != nil || r.Parent != nil || r.Next != nil {
		t.Errorf("left after Reset: %+v", r)
	}
	if r.Done != done || r.Nexus != "n" || r.Tag != 9 {
		t.Errorf("lost by Reset: %+v", r)
	}
}

func TestCheckNexus(t *testing.T) {
	long := make([]byte, MaxName)
	for i := range long {
		long[i] = 'a'
	}
	rows := []struct {
		s  string
		ok bool
	}{
		{"host", true}, {"host/vm", true}, {"h-1.example_x/v.2", true}, {string(long), true},
		{"", false}, {"/", false}, {"/vm", false}, {"host/", false}, {"a/b/c", false}, {"-host", false},
		{".host", false}, {"ho st", false}, {"hôst", false}, {string(long) + "a", false}, {"host\n", false},
	}
	for _, row := range rows {
		if err := CheckNexus(row.s); (err == nil) != row.ok {
			t.Errorf("%q: %v", row.s, err)
		}
	}
}
