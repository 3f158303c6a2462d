// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"bytes"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"rsio/rsio/block"
	"rsio/rsio/blocktest"
	"rsio/rsio/layer/check"
	"rsio/rsio/store/mem"
)

func newMem(t testing.TB) *mem.Device {
	t.Helper()
	d, err := mem.New(mem.Options{Size: 4 << 20, BlockSize: 512})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func openLog(t testing.TB, path string) *Log {
	t.Helper()
	l, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// logs are the two kinds of log, closed with the test, which must not have
// lost an entry.
func logs(t *testing.T) map[string]func(t *testing.T) *Log {
	t.Helper()
	end := func(t *testing.T, l *Log) *Log {
		t.Cleanup(func() {
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		})
		return l
	}
	return map[string]func(t *testing.T) *Log{
		"memory": func(t *testing.T) *Log { return end(t, NewMemory()) },
		"file":   func(t *testing.T) *Log { return end(t, openLog(t, filepath.Join(t.TempDir(), "log"))) },
	}
}

func entries(t *testing.T, l *Log) []Entry {
	t.Helper()
	all, err := l.Entries()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestDevice(t *testing.T) {
	for desc, log := range logs(t) {
		t.Run(desc, func(t *testing.T) {
			t.Parallel()
			blocktest.Run(t, blocktest.Config{
				Make: func(t *testing.T) block.Device {
					below := check.New(newMem(t), check.Options{CRC: true})
					return check.New(New(below, log(t)), check.Options{CRC: true})
				},
				Ops: 500, Chain: 2000, Shared: true,
			})
		})
	}
	for desc, log := range logs(t) {
		t.Run("alone, "+desc, func(t *testing.T) {
			blocktest.Run(t, blocktest.Config{
				Make:      func(t *testing.T) block.Device { return New(newMem(t), log(t)) },
				ZeroAlloc: true, Ops: 100, Chain: 1000, Shared: true,
			})
		})
	}
}

// spy is a device that looks at what comes down.
type spy struct {
	block.Device
	see func(*block.Request)
}

// Submit implements block.Device.
func (s *spy) Submit(r *block.Request) {
	s.see(r)
	s.Device.Submit(r)
}

// teller is a Completer that looks at what comes back.
type teller struct {
	see  func(*block.Request)
	done chan struct{}
}

// Complete implements block.Completer.
func (t *teller) Complete(r *block.Request) {
	t.see(r)
	close(t.done)
}

func fill(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n) }

// TestOrder: begin is in the log before the device below sees a request, end
// before the caller sees its completion, and both say what they should.
func TestOrder(t *testing.T) {
	caw := append(append(fill(0, 512), fill('n', 10)...), fill(0, 502)...)
	long := strings.Repeat("h", 200)
	rows := []struct {
		desc string
		r    block.Request
		st   block.Status
		head []byte
	}{
		{"write", block.Request{Op: block.OpWrite, Flags: block.FlagFUA, Off: 512, Len: 1024, Buf: fill('w', 1024)}, block.StatusOK, fill('w', HeadLen)},
		{"read", block.Request{Op: block.OpRead, Off: 512, Len: 512, Buf: make([]byte, 512)}, block.StatusOK, nil},
		{"flush", block.Request{Op: block.OpFlush}, block.StatusOK, nil},
		{"discard", block.Request{Op: block.OpDiscard, Off: 512, Len: 512}, block.StatusOK, nil},
		{"zeroes", block.Request{Op: block.OpWriteZeroes, Flags: block.FlagNoHole, Len: 4096}, block.StatusOK, nil},
		{"block-status", block.Request{Op: block.OpBlockStatus, Len: 4 << 20, Buf: make([]byte, 512)}, block.StatusOK, nil},
		{"compare-and-write", block.Request{Op: block.OpCompareAndWrite, Off: 8192, Len: 512, Buf: caw}, block.StatusOK, fill('n', 10)},
		{"miscompare", block.Request{Op: block.OpCompareAndWrite, Off: 8192, Len: 512, Buf: caw}, block.StatusMiscompare, fill('n', 10)},
		{"long nexus", block.Request{Op: block.OpFlush, Nexus: long}, block.StatusOK, nil},
	}
	for kind, log := range logs(t) {
		for _, row := range rows {
			t.Run(kind+", "+row.desc, func(t *testing.T) {
				store := newMem(t)
				if row.st == block.StatusMiscompare {
					if st := block.Do(store, &block.Request{Op: block.OpWrite, Off: 8192, Len: 512, Buf: fill(1, 512)}); st != block.StatusOK {
						t.Fatal(st)
					}
				}
				if row.r.Nexus == "" {
					row.r.Nexus = "host/vm"
				}
				follow(t, log(t), store, row.r, row.st, row.head)
			})
		}
	}
}

// follow sends r through a layer over store and looks at the log on its way.
func follow(t *testing.T, l *Log, store block.Device, r block.Request, st block.Status, head []byte) {
	t.Helper()
	want := Entry{Phase: Begin, Op: r.Op, Flags: r.Flags, Off: r.Off, Len: r.Len, Nexus: r.Nexus[:min(len(r.Nexus), MaxNexus)], ID: 1, PID: l.pid}
	copy(want.Head[:], head)
	var begin, end []Entry
	d := New(&spy{store, func(*block.Request) { begin = entries(t, l) }}, l)
	seen := &teller{see: func(*block.Request) { end = entries(t, l) }, done: make(chan struct{})}
	r.Done, r.Tag = seen, 4711
	before := monotonic()
	d.Submit(&r)
	<-seen.done
	after := monotonic()
	if r.Status != st || r.Tag != 4711 || r.Parent != nil {
		t.Errorf("it came back as %+v", r)
	}
	if len(begin) != 1 || len(end) != 2 {
		t.Fatalf("%d entries when it went down, %d when it came back", len(begin), len(end))
	}
	if end[0] != begin[0] || end[1].Mono < end[0].Mono || begin[0].Mono < before || end[1].Mono > after {
		t.Errorf("%v, then %v and %v", begin, end, after)
	}
	want.Mono = end[0].Mono
	if end[0] != want {
		t.Errorf("begin %v, want %v", end[0], want)
	}
	want.Mono, want.Seq, want.Phase, want.Status = end[1].Mono, 1, End, st
	if end[1] != want {
		t.Errorf("end %v, want %v", end[1], want)
	}
	if err := d.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestRefused: what never gets below is not in the log, and the layer does not
// announce what it refuses.
func TestRefused(t *testing.T) {
	l := NewMemory()
	d := New(&spy{newMem(t), func(r *block.Request) { t.Errorf("%v came through", r.Op) }}, l)
	for _, op := range []block.Op{0, 8, 255} {
		if st := block.Do(d, &block.Request{Op: op, Len: 512, Buf: make([]byte, 512)}); st != block.StatusUnsupported {
			t.Errorf("operation %d: %v", op, st)
		}
	}
	if err := d.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if st := block.Do(d, &block.Request{Op: block.OpFlush}); st != block.StatusClosed {
		t.Errorf("after Close: %v", st)
	}
	if all := entries(t, l); len(all) != 0 {
		t.Errorf("the log has %v", all)
	}
	f := d.Info().Features
	if f&block.NeverBlocks != 0 || f&(1<<31) != 0 || f&block.CanFlush == 0 {
		t.Errorf("features %b", f)
	}
	if s := d.String(); !strings.Contains(s, "in memory") {
		t.Error(s)
	}
}

// judge looks at entries of requests that were not in flight any more: each
// begin has one end with the same values, and time does not go back.
func judge(t *testing.T, all []Entry) {
	t.Helper()
	open := make(map[uint64]Entry)
	for i, e := range all {
		if i > 0 && (e.Seq != all[i-1].Seq+1 || e.PID == all[i-1].PID && e.Mono < all[i-1].Mono) {
			t.Fatalf("%v stands behind %v", e, all[i-1])
		}
		id := uint64(e.PID)<<32 | e.ID
		b, ok := open[id]
		if ok == (e.Phase == Begin) {
			t.Fatalf("%v, begin seen: %v", e, ok)
		}
		if !ok {
			open[id] = e
			continue
		}
		delete(open, id)
		if b.Phase, b.Mono, b.Seq, b.Status = e.Phase, e.Mono, e.Seq, e.Status; b != e {
			t.Fatalf("begin %v of %v", b, e)
		}
	}
	if len(open) != 0 {
		t.Errorf("%d requests have not ended: %v", len(open), open)
	}
}

// TestMany has requests of several goroutines in two layers over one log.
func TestMany(t *testing.T) {
	for kind, log := range logs(t) {
		t.Run(kind, func(t *testing.T) {
			l := log(t)
			a, b := New(newMem(t), l), New(newMem(t), l)
			var wg sync.WaitGroup
			for i := range uint64(4) {
				wg.Go(func() {
					for j := range uint64(100) {
						r := block.Request{Op: block.OpWrite, Off: 512 * (i*100 + j), Len: 512, Buf: fill(byte(i), 512)}
						if st := block.Do([]*Device{a, b}[j%2], &r); st != block.StatusOK {
							t.Errorf("%v", st)
						}
					}
				})
			}
			wg.Wait()
			all := entries(t, l)
			if len(all) != 800 {
				t.Errorf("%d entries", len(all))
			}
			judge(t, all)
			for _, d := range []*Device{a, b} {
				if err := d.Close(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestMemoryLimit: the oldest are dropped, and Seq tells how many.
func TestMemoryLimit(t *testing.T) {
	for n := range 25 {
		l := newMemory(8)
		for i := range n {
			l.begin(&block.Request{Op: block.OpFlush, Off: uint64(i)})
		}
		all := entries(t, l)
		var want []uint64
		for i := max(0, n-8); i < n; i++ {
			want = append(want, uint64(i))
		}
		var got, offs []uint64
		for _, e := range all {
			got, offs = append(got, e.Seq), append(offs, e.Off)
		}
		if !slices.Equal(got, want) || !slices.Equal(offs, want) {
			t.Errorf("after %d entries: %v at %v", n, got, offs)
		}
	}
}
