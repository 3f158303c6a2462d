// SPDX-License-Identifier: Apache-2.0

package session

import (
	"math/rand/v2"
	"sync"
	"testing"

	"rsio/rsio/wire"
)

func TestWindowGrowth(t *testing.T) {
	rows := []struct {
		desc  string
		limit uint64
		want  uint32
		bytes uint32
		grant uint32
	}{
		{"nothing wanted", 1 << 30, 0, IdleWindow, 1},
		{"what there is", 1 << 30, IdleWindow, IdleWindow, 1},
		{"a byte more gives a whole payload", 1 << 30, IdleWindow + 1, wire.MaxPayload, 2},
		{"more", 1 << 30, 5 << 20, 5 << 20, 2},
		{"not a multiple of 4 KiB", 1 << 30, 5<<20 + 1, 5 << 20, 2},
		{"all there is in the world", 1 << 30, 1<<32 - 1, MaxWindow, 2},
		{"the budget is nearly used up", IdleWindow + 8192, 1 << 20, IdleWindow + 8192, 2},
		{"less than a block is left", IdleWindow + 4095, 1 << 20, IdleWindow, 1},
		{"nothing is left", IdleWindow, 1<<32 - 1, IdleWindow, 1},
	}
	for _, row := range rows {
		t.Run(row.desc, func(t *testing.T) {
			b := NewBudget(row.limit)
			w := NewWindow(b)
			w.Heard(row.want, 0)
			if bytes, grant := w.Get(); bytes != row.bytes || grant != row.grant {
				t.Errorf("%d bytes, grant %d; want %d, %d", bytes, grant, row.bytes, row.grant)
			}
			if b.Reserved() > row.limit || b.Reserved() != w.Reserved() {
				t.Errorf("%d reserved of %d, the window has %d", b.Reserved(), row.limit, w.Reserved())
			}
			w.Release()
			w.Release()
			if b.Reserved() != 0 {
				t.Errorf("%d reserved after Release", b.Reserved())
			}
			w.Heard(1<<20, 2)
			if w.Shrink() || b.Reserved() != 0 {
				t.Error("a released window takes credit")
			}
		})
	}
	if NewWindow(NewBudget(IdleWindow-1)) != nil {
		t.Error("a window without a budget")
	}
}

// TestWindowShrink: a smaller window gives its bytes back only when the
// initiator has acknowledged that very grant.
func TestWindowShrink(t *testing.T) {
	b := NewBudget(64 << 20)
	w := NewWindow(b)
	w.Heard(4<<20, 1)
	if bytes, grant := w.Get(); bytes != 4<<20 || grant != 2 {
		t.Fatalf("%d bytes, grant %d", bytes, grant)
	}
	w.Heard(0, 2) // acknowledged, idle
	if !w.Shrink() {
		t.Fatal("an idle window does not shrink")
	}
	if w.Shrink() {
		t.Error("shrinks twice")
	}
	if bytes, grant := w.Get(); bytes != IdleWindow || grant != 3 {
		t.Fatalf("%d bytes, grant %d", bytes, grant)
	}
	for _, acked := range []uint32{0, 1, 2, 4, 1<<32 - 1} {
		w.Heard(0, acked)
		if w.Reserved() != 4<<20 || b.Reserved() != 4<<20 {
			t.Fatalf("released by acknowledging grant %d", acked)
		}
	}
	w.Heard(0, 3)
	if w.Reserved() != IdleWindow || b.Reserved() != IdleWindow {
		t.Fatalf("%d still reserved", w.Reserved())
	}

	// Wanted again before the shrink was acknowledged: nothing new is taken.
	w.Heard(4<<20, 3)
	w.Shrink()
	w.Heard(2<<20, 4)
	bytes, grant := w.Get()
	if bytes != 2<<20 || grant != 6 || b.Reserved() != 4<<20 {
		t.Fatalf("%d bytes, grant %d, %d reserved", bytes, grant, b.Reserved())
	}
	w.Heard(0, 5)
	if b.Reserved() != 4<<20 {
		t.Fatal("an older acknowledgement released bytes")
	}
	w.Heard(0, 6)
	if b.Reserved() != 2<<20 {
		t.Fatalf("%d reserved, want what is granted", b.Reserved())
	}
}

// TestWindowOrphan: without connections no acknowledgement is waited for.
func TestWindowOrphan(t *testing.T) {
	b := NewBudget(64 << 20)
	w := NewWindow(b)
	w.Orphan()
	if _, grant := w.Get(); grant != 1 {
		t.Error("an idle window has changed")
	}
	w.Heard(4<<20, 1)
	w.Shrink()
	w.Orphan()
	if bytes, grant := w.Get(); bytes != IdleWindow || grant != 4 || b.Reserved() != IdleWindow {
		t.Errorf("%d bytes, grant %d, %d reserved", bytes, grant, b.Reserved())
	}
	w.Heard(4<<20, 4)
	if b.Reserved() != 4<<20 {
		t.Error("does not grow again")
	}
	w.Release()
	w.Orphan()
	if b.Reserved() != 0 {
		t.Errorf("%d reserved after Release", b.Reserved())
	}
}

// TestP11_BudgetHammer: sessions want, lie about what they acknowledge and
// end; the sum of what they may have in flight stays within the budget.
func TestP11_BudgetHammer(t *testing.T) {
	const limit = 40 << 20
	b := NewBudget(limit)
	var wg sync.WaitGroup
	for g := range 8 {
		rng := rand.New(rand.NewPCG(uint64(g), 1))
		wg.Go(func() {
			var ws []*Window
			for range 4000 {
				switch n := rng.IntN(10); {
				case n == 0:
					if w := NewWindow(b); w != nil {
						ws = append(ws, w)
					}
				case len(ws) == 0:
				case n == 1:
					ws[0].Release()
					ws = ws[1:]
				case n == 2:
					ws[rng.IntN(len(ws))].Shrink()
				case n == 3:
					ws[rng.IntN(len(ws))].Orphan()
				default:
					w := ws[rng.IntN(len(ws))]
					_, grant := w.Get()
					w.Heard(rng.Uint32()>>rng.IntN(32), grant-uint32(rng.IntN(3)))
				}
				if got := b.Reserved(); got > limit {
					t.Errorf("%d reserved of %d", got, limit)
					return
				}
				for _, w := range ws {
					if bytes, _ := w.Get(); uint64(bytes) > w.Reserved() || bytes > MaxWindow {
						t.Errorf("%d granted, %d reserved", bytes, w.Reserved())
						return
					}
				}
			}
			for _, w := range ws {
				w.Release()
			}
		})
	}
	wg.Wait()
	if b.Reserved() != 0 {
		t.Errorf("%d reserved at the end", b.Reserved())
	}
}

func TestWindowHotPath(t *testing.T) {
	w := NewWindow(NewBudget(1 << 20))
	if n := testing.AllocsPerRun(100, func() { w.Heard(4096, 1); w.Get() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
