// SPDX-License-Identifier: Apache-2.0

package buf

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"
)

func TestGet(t *testing.T) {
	rows := []struct {
		desc    string
		n       int
		wantCap int
	}{
		{"one byte", 1, 4096},
		{"exactly the smallest", 4096, 4096},
		{"one more", 4097, 8192},
		{"between classes", 100_000, 128 << 10},
		{"one less than the largest", MaxLen - 1, MaxLen},
		{"the largest", MaxLen, MaxLen},
	}
	p := New(4 * MaxLen)
	for _, row := range rows {
		for range 2 { // made, then reused
			b := p.Get(row.n)
			if len(b) != row.n || cap(b) != row.wantCap || Size(row.n) != int64(row.wantCap) {
				t.Errorf("%s: length %d, capacity %d, Size %d", row.desc, len(b), cap(b), Size(row.n))
			}
			if uintptr(unsafe.Pointer(unsafe.SliceData(b)))%Align != 0 {
				t.Errorf("%s: not aligned", row.desc)
			}
			if out := p.Stats().Out; out != int64(row.wantCap) {
				t.Errorf("%s: %d bytes out", row.desc, out)
			}
			p.Put(b)
		}
	}
	if s := p.Stats(); s.Out != 0 || s.High != MaxLen {
		t.Errorf("after all: %+v", s)
	}
}

func TestCap(t *testing.T) {
	p := New(MaxLen)
	a, b := p.TryGet(512<<10), p.TryGet(512<<10)
	if a == nil || b == nil {
		t.Fatal("the cap is not reached and nothing comes")
	}
	if p.TryGet(1) != nil {
		t.Error("more than the cap is out")
	}
	p.Put(a)
	if c := p.TryGet(4096); c == nil {
		t.Error("nothing comes after a Put")
	} else {
		p.Put(c)
	}
	p.Put(b)
	if s := p.Stats(); s.Out != 0 || s.High > s.Limit || s.Kept > s.Limit {
		t.Errorf("%+v", s)
	}
	// What is kept in one class makes room for another.
	big := p.TryGet(MaxLen)
	if s := p.Stats(); big == nil || s.Out+s.Kept > s.Limit {
		t.Errorf("out and kept exceed the cap: %+v", s)
	}
	p.Put(big)
	p.Trim()
	if s := p.Stats(); s.Kept != 0 {
		t.Errorf("kept after Trim: %+v", s)
	}
}

func TestGetWaits(t *testing.T) {
	p := New(MaxLen)
	b := p.Get(MaxLen)
	got := make(chan []byte)
	for range 3 {
		go func() { got <- p.Get(4096) }()
	}
	for end := time.Now().Add(5 * time.Second); p.Stats().Waits < 3; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("nobody waits")
		}
	}
	select {
	case <-got:
		t.Fatal("Get went past the cap")
	default:
	}
	p.Put(b)
	for range 3 {
		select {
		case b := <-got:
			p.Put(b)
		case <-time.After(5 * time.Second):
			t.Fatal("a Put does not wake all who fit")
		}
	}
}

func TestPanics(t *testing.T) {
	p := New(MaxLen)
	rows := []struct {
		desc string
		do   func()
	}{
		{"limit too small", func() { New(MaxLen - 1) }},
		{"length zero", func() { p.TryGet(0) }},
		{"length too large", func() { p.Get(MaxLen + 1) }},
		{"Put of a foreign slice", func() { p.Put(make([]byte, 5000)) }},
		{"Put of nothing", func() { p.Put(nil) }},
		{"Put of the rest of a buffer", func() {
			b := p.Get(8192)
			defer p.Put(b)
			p.Put(b[100:])
		}},
		{"Put of more than was handed out", func() { p.Put(make([]byte, 4096)) }},
	}
	for _, row := range rows {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", row.desc)
				}
			}()
			row.do()
		}()
	}
	if s := p.Stats(); s.Out != 0 { // and not locked, and still counting right
		t.Errorf("%+v", s)
	}
}

func TestSteadyStateAllocatesNothing(t *testing.T) {
	p := New(8 * MaxLen)
	for _, n := range []int{4096, 64 << 10, MaxLen} {
		if got := testing.AllocsPerRun(200, func() {
			a, b := p.Get(n), p.TryGet(n)
			p.Put(a)
			p.Put(b)
		}); got != 0 {
			t.Errorf("%d bytes: %v allocations", n, got)
		}
	}
}

func TestHammer(t *testing.T) {
	const limit = 4 * MaxLen
	p := New(limit)
	var owned atomic.Int64
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 0))
			for range 2000 {
				n := 1 + rng.IntN(1<<(1+rng.IntN(20)))
				b := p.TryGet(n)
				if b == nil {
					b = p.Get(n)
				}
				if owned.Add(Size(n)) > limit {
					t.Error("more than the cap is out")
				}
				b[0], b[n-1] = byte(w), byte(w)
				if b[0] != byte(w) || b[n-1] != byte(w) {
					t.Error("two own one buffer")
				}
				owned.Add(-Size(n))
				p.Put(b)
			}
		})
	}
	wg.Wait()
	if s := p.Stats(); s.Out != 0 || s.High > limit || s.Kept > limit {
		t.Errorf("%+v", s)
	}
}
