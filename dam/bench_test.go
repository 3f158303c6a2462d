// SPDX-License-Identifier: Apache-2.0

package dam_test

import (
	"context"
	"fmt"
	"testing"

	"rsio/dam"
	"rsio/rsio/admin/api"
	"rsio/rsio/audit"
	"rsio/rsio/block"
	"rsio/rsio/target"
)

// benchTarget is a target with a volume in memory and n registrants, the first
// of which holds WERO.
func benchTarget(tb testing.TB, n int) *target.Target {
	tb.Helper()
	t, err := target.New(target.Options{Dir: tb.TempDir(), Name: "st", Events: audit.New(nil), Gate: func(h target.GateHost) (target.Gate, error) {
		return dam.Open(dam.Options{Dir: h.Dir, Second: benchCopies{h}})
	}})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := t.Close(context.Background()); err != nil {
			tb.Error(err)
		}
	})
	if _, err := t.VolumeCreate(api.VolumeSpec{Name: "v", Size: 1 << 20, Kind: "mem"}); err != nil {
		tb.Fatal(err)
	}
	for i := range n {
		act := func(s api.ReserveSpec) {
			s.As = fmt.Sprintf("h%d", i)
			if _, err := t.Reserve(tb.Context(), "", api.DefaultNamespace, "v", s); err != nil {
				tb.Fatal(err)
			}
		}
		act(api.ReserveSpec{Action: "register", NewKey: uint64(i + 1)})
		if i == 0 {
			act(api.ReserveSpec{Action: "reserve", Type: "wero", Key: 1})
		}
	}
	return t
}

type benchCopies struct{ h target.GateHost }

func (c benchCopies) Load() map[string][]byte                 { return c.h.Copies() }
func (c benchCopies) Store(volume string, state []byte) error { return c.h.Keep(volume, state) }

// BenchmarkRead4K reads from memory under a nexus, so that what the seat costs
// shows: registrants 0, 1 and 64 within noise of each other.
func BenchmarkRead4K(b *testing.B) {
	for _, n := range []int{0, 1, 64} {
		b.Run(fmt.Sprintf("registrants=%d", n), func(b *testing.B) {
			t := benchTarget(b, n)
			dev, done, err := t.OpenAs(b.Context(), "h0", api.DefaultNamespace, "v", true)
			if err != nil {
				b.Fatal(err)
			}
			defer done()
			r := &block.Request{Op: block.OpRead, Len: 4096, Buf: make([]byte, 4096)}
			b.ReportAllocs()
			for b.Loop() {
				if st := block.Do(dev, r); st != block.StatusOK {
					b.Fatal(st)
				}
			}
		})
	}
}

// TestReadAllocatesNothing: the seat is on the hot path.
func TestReadAllocatesNothing(t *testing.T) {
	tg := benchTarget(t, 64)
	dev, done, err := tg.OpenAs(t.Context(), "h0", api.DefaultNamespace, "v", true)
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	r := &block.Request{Op: block.OpRead, Len: 4096, Buf: make([]byte, 4096)}
	if n := testing.AllocsPerRun(1000, func() {
		if st := block.Do(dev, r); st != block.StatusOK {
			t.Fatal(st)
		}
	}); n >= 1 {
		t.Errorf("%v allocations for one read", n)
	}
}

// BenchmarkReserve is a change of a reservation with both copies and the audit
// log left out.
func BenchmarkReserve(b *testing.B) {
	t := benchTarget(b, 1)
	for b.Loop() {
		if _, err := t.Reserve(b.Context(), "", api.DefaultNamespace, "v", api.ReserveSpec{As: "h0", Action: "register", Key: 1, NewKey: 1}); err != nil {
			b.Fatal(err)
		}
	}
}
