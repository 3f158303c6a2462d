// SPDX-License-Identifier: Apache-2.0

package mem

import (
	"strings"
	"testing"

	"rsio/rsio/block"
	"rsio/rsio/blocktest"
)

func open(t testing.TB, opt Options) *Device {
	t.Helper()
	d, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDevice(t *testing.T) {
	rows := []struct {
		desc string
		opt  Options
	}{
		{"bytes", Options{Size: 40 << 20}},
		{"odd size", Options{Size: 5<<20 + 12345}},
		{"4 KiB blocks", Options{Size: 8 << 20, BlockSize: 4096}},
		{"crashable", Options{Size: 8 << 20, BlockSize: 512, Crashable: true}},
	}
	for _, row := range rows {
		t.Run(row.desc, func(t *testing.T) {
			blocktest.Run(t, blocktest.Config{
				Make:      func(t *testing.T) block.Device { return open(t, row.opt) },
				ZeroAlloc: !row.opt.Crashable,
				Used:      used(row.opt),
			})
		})
	}
}

// used is nil for crashable devices, which keep what was discarded.
func used(opt Options) func(block.Device) uint64 {
	if opt.Crashable {
		return nil
	}
	return func(d block.Device) uint64 { return d.(*Device).Used() }
}

func TestNewRefuses(t *testing.T) {
	rows := []struct {
		desc string
		opt  Options
		want string
	}{
		{"block size no power of two", Options{Size: 3000, BlockSize: 1000}, "power of two"},
		{"block size too large", Options{Size: 8192, BlockSize: 8192}, "power of two"},
		{"size off the grid", Options{Size: 1000, BlockSize: 512}, "round it to a multiple of 512"},
	}
	for _, row := range rows {
		if _, err := New(row.opt); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: error %v does not say %q", row.desc, err, row.want)
		}
	}
}

func TestResize(t *testing.T) {
	d := open(t, Options{Size: 1 << 20, BlockSize: 512})
	defer d.Close(t.Context())
	p := []byte(strings.Repeat("x", 512))
	do(t, d, block.Request{Op: block.OpWrite, Off: 1<<20 - 512, Len: 512, Buf: p})
	if err := d.Resize(1 << 36); err != nil {
		t.Fatal(err)
	}
	if d.Info().Size != 1<<36 {
		t.Fatalf("size is %d", d.Info().Size)
	}
	do(t, d, block.Request{Op: block.OpWrite, Off: 1<<36 - 512, Len: 512, Buf: p})
	q := make([]byte, 512)
	do(t, d, block.Request{Op: block.OpRead, Off: 1<<20 - 512, Len: 512, Buf: q})
	if string(q) != string(p) {
		t.Error("data from before the growth is gone")
	}
	for _, size := range []uint64{1 << 20, 1<<36 + 1} {
		if err := d.Resize(size); err == nil {
			t.Errorf("Resize to %d succeeded", size)
		}
	}
}

func TestReadOnly(t *testing.T) {
	d := open(t, Options{Size: 1 << 20, ReadOnly: true})
	defer d.Close(t.Context())
	for _, op := range []block.Op{block.OpWrite, block.OpDiscard, block.OpWriteZeroes} {
		if st := block.Do(d, &block.Request{Op: op, Len: 1, Buf: []byte{1}}); st != block.StatusReadOnly {
			t.Errorf("%v: %v", op, st)
		}
	}
}

func do(t testing.TB, d block.Device, r block.Request) {
	t.Helper()
	if st := block.Do(d, &r); st != block.StatusOK {
		t.Fatalf("%v at %d length %d: %v", r.Op, r.Off, r.Len, st)
	}
}

func BenchmarkDevice(b *testing.B) {
	blocktest.Bench(b, func(b *testing.B) block.Device { return open(b, Options{Size: 1 << 30}) })
}
