// SPDX-License-Identifier: Apache-2.0

package null

import (
	"testing"

	"rsio/rsio/block"
	"rsio/rsio/blocktest"
)

func TestDevice(t *testing.T) {
	blocktest.Run(t, blocktest.Config{
		Make:      func(*testing.T) block.Device { return New(1 << 40) },
		Volatile:  true,
		ZeroAlloc: true,
	})
}

func TestReadsZeroes(t *testing.T) {
	d := New(1 << 20)
	defer d.Close(t.Context())
	p := []byte{1, 2, 3, 4}
	for _, op := range []block.Op{block.OpWrite, block.OpRead} {
		if st := block.Do(d, &block.Request{Op: op, Len: 4, Buf: p}); st != block.StatusOK {
			t.Fatalf("%v: %v", op, st)
		}
	}
	if [4]byte(p) != [4]byte{} {
		t.Errorf("read %v, want zeroes", p)
	}
}

func BenchmarkDevice(b *testing.B) {
	blocktest.Bench(b, func(*testing.B) block.Device { return New(1 << 30) })
}
