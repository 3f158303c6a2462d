// SPDX-License-Identifier: Apache-2.0

package blocktest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"rsio/rsio/block"
)

// benchArea is how much of a device Bench works on, bytes.
const benchArea = 64 << 20

// Bench measures random aligned reads and writes of 4 KiB and 1 MiB, one and
// many in flight, on devices from mk. The area is written once before, so that
// reads of thin devices find data.
func Bench(b *testing.B, mk func(b *testing.B) block.Device) {
	rows := []struct {
		op    block.Op
		n     int
		depth int
	}{
		{block.OpRead, 4 << 10, 1},
		{block.OpRead, 4 << 10, 32},
		{block.OpWrite, 4 << 10, 1},
		{block.OpWrite, 4 << 10, 32},
		{block.OpRead, 1 << 20, 1},
		{block.OpRead, 1 << 20, 8},
		{block.OpWrite, 1 << 20, 1},
		{block.OpWrite, 1 << 20, 8},
	}
	d := mk(b)
	defer func() {
		if err := d.Close(context.Background()); err != nil {
			b.Error(err)
		}
	}()
	area := min(d.Info().Size, benchArea)
	prepare(b, d, area)
	for _, row := range rows {
		n := min(row.n, int(d.Info().MaxLen))
		b.Run(fmt.Sprintf("%v/%dKiB/depth=%d", row.op, n>>10, row.depth), func(b *testing.B) {
			bench(b, d, area, row.op, n, row.depth)
		})
	}
}

func prepare(b *testing.B, d block.Device, area uint64) {
	p := pattern(int(d.Info().MaxLen), 1)
	for off := uint64(0); off+uint64(len(p)) <= area; off += uint64(len(p)) {
		r := block.Request{Op: block.OpWrite, Off: off, Len: uint32(len(p)), Buf: p}
		if st := block.Do(d, &r); st != block.StatusOK {
			b.Fatalf("write at %d: %v", off, st)
		}
	}
	if d.Info().Has(block.CanFlush) {
		if st := block.Do(d, &block.Request{Op: block.OpFlush}); st != block.StatusOK {
			b.Fatalf("flush: %v", st)
		}
	}
}

// lane is one request of a benchmark; it hands itself back.
type lane struct {
	r    block.Request
	free chan *lane
}

// Complete implements block.Completer.
func (l *lane) Complete(*block.Request) { l.free <- l }

func bench(b *testing.B, d block.Device, area uint64, op block.Op, n, depth int) {
	rng := rand.New(rand.NewPCG(1, 3))
	free := make(chan *lane, depth)
	buf := make([]byte, depth*n+4096)
	for i := range depth {
		l := &lane{free: free}
		l.r = block.Request{Op: op, Len: uint32(n), Buf: buf[i*n : (i+1)*n : (i+1)*n], Done: l}
		free <- l
	}
	b.SetBytes(int64(n))
	b.ReportAllocs()
	for b.Loop() {
		l := <-free
		if l.r.Status != block.StatusOK {
			b.Fatalf("%v at %d: %v", op, l.r.Off, l.r.Status)
		}
		l.r.Off = rng.Uint64N(area/uint64(n)) * uint64(n)
		d.Submit(&l.r)
	}
	for range depth {
		<-free
	}
}
