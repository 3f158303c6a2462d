// SPDX-License-Identifier: Apache-2.0

package mem

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"rsio/rsio/block"
)

const crashSize = 256 << 10

func crashable(t *testing.T, tear bool) *Device {
	return open(t, Options{Size: crashSize, Crashable: true, Tear: tear})
}

func content(t *testing.T, d *Device) []byte {
	p := make([]byte, crashSize)
	do(t, d, block.Request{Op: block.OpRead, Len: crashSize, Buf: p})
	return p
}

func put(t *testing.T, d *Device, off, n int, b byte, fl block.Flags) {
	t.Helper()
	do(t, d, block.Request{Op: block.OpWrite, Flags: fl, Off: uint64(off), Len: uint32(n), Buf: bytes.Repeat([]byte{b}, n)})
}

func TestCrashKeepsWhatIsDurable(t *testing.T) {
	rows := []struct {
		desc string
		run  func(d *Device)
	}{
		{"flushed", func(d *Device) {
			put(t, d, 5000, 100_000, 'a', 0)
			do(t, d, block.Request{Op: block.OpFlush})
		}},
		{"FUA", func(d *Device) { put(t, d, 5000, 100_000, 'a', block.FlagFUA) }},
		{"FUA over unflushed data of the same bytes", func(d *Device) {
			put(t, d, 5000, 100_000, 'x', 0)
			put(t, d, 5000, 100_000, 'a', block.FlagFUA)
			do(t, d, block.Request{Op: block.OpFlush})
		}},
		{"discard with FUA", func(d *Device) {
			put(t, d, 0, crashSize, 'x', block.FlagFUA)
			do(t, d, block.Request{Op: block.OpDiscard, Flags: block.FlagFUA, Len: crashSize})
			put(t, d, 5000, 100_000, 'a', block.FlagFUA)
		}},
	}
	want := make([]byte, crashSize)
	copy(want[5000:], bytes.Repeat([]byte{'a'}, 100_000))
	for _, row := range rows {
		for seed := range uint64(20) {
			d := crashable(t, true)
			row.run(d)
			c := d.CrashClone(rand.New(rand.NewPCG(seed, 0)))
			if !bytes.Equal(content(t, c), want) {
				t.Errorf("%s, seed %d: durable data is gone", row.desc, seed)
			}
			if !bytes.Equal(content(t, d), want) {
				t.Errorf("%s: the original has changed", row.desc)
			}
		}
	}
}

// FUA makes its own bytes durable, not the unflushed ones around them.
func TestCrashFUAInUnflushedBlock(t *testing.T) {
	sawOld, sawNew := false, false
	for seed := range uint64(40) {
		d := crashable(t, false)
		put(t, d, 0, 4096, 'u', 0)
		put(t, d, 100, 50, 'f', block.FlagFUA)
		p := content(t, d.CrashClone(rand.New(rand.NewPCG(seed, 0))))
		if !bytes.Equal(p[100:150], bytes.Repeat([]byte{'f'}, 50)) {
			t.Fatalf("seed %d: bytes with FUA are gone", seed)
		}
		sawOld = sawOld || p[0] == 0
		sawNew = sawNew || p[0] == 'u'
	}
	if !sawOld || !sawNew {
		t.Errorf("unflushed bytes: lost in some clone %v, kept in some clone %v; want both", sawOld, sawNew)
	}
}

// Every block of unflushed data is old or new; without Tear never both; both
// outcomes happen; the same seed gives the same clone.
func TestCrashRollsBlocks(t *testing.T) {
	for _, tear := range []bool{false, true} {
		d := crashable(t, tear)
		put(t, d, 0, crashSize, 'o', 0)
		do(t, d, block.Request{Op: block.OpFlush})
		put(t, d, 0, crashSize, 'n', 0)
		p := content(t, d.CrashClone(rand.New(rand.NewPCG(7, 0))))
		olds, news, torn := 0, 0, 0
		for at := 0; at < crashSize; at += blockLen {
			o := bytes.Count(p[at:at+blockLen], []byte{'o'})
			n := bytes.Count(p[at:at+blockLen], []byte{'n'})
			switch {
			case o == blockLen:
				olds++
			case n == blockLen:
				news++
			case o+n == blockLen && o%sectorLen == 0:
				torn++
			default:
				t.Fatalf("block at %d: %d old and %d new bytes", at, o, n)
			}
		}
		if olds == 0 || news == 0 || (torn > 0) != tear {
			t.Errorf("tear %v: %d old, %d new, %d torn blocks", tear, olds, news, torn)
		}
		again := content(t, d.CrashClone(rand.New(rand.NewPCG(7, 0))))
		if !bytes.Equal(p, again) {
			t.Errorf("tear %v: the same seed gave another clone", tear)
		}
	}
}

// A clone starts clean: what survived one crash survives the next.
func TestCrashTwice(t *testing.T) {
	d := crashable(t, false)
	put(t, d, 0, crashSize, 'a', 0)
	c := d.CrashClone(rand.New(rand.NewPCG(1, 0)))
	want := content(t, c)
	if got := content(t, c.CrashClone(rand.New(rand.NewPCG(2, 0)))); !bytes.Equal(got, want) {
		t.Error("data that a first crash left behind is lost in a second one")
	}
}

// An unflushed discard may come back, and block-status does not call the old
// data zero then.
func TestCrashUndoesDiscard(t *testing.T) {
	d := crashable(t, false)
	put(t, d, 0, crashSize, 'a', block.FlagFUA)
	do(t, d, block.Request{Op: block.OpDiscard, Len: crashSize})
	c := d.CrashClone(rand.New(rand.NewPCG(3, 0)))
	p := content(t, c)
	r := block.Request{Op: block.OpBlockStatus, Len: crashSize, Buf: make([]byte, 4096)}
	do2(t, c, &r)
	at, back := 0, 0
	for i := 0; i < int(r.N); i += block.ExtentLen {
		e := block.GetExtent(r.Buf[i:])
		part := p[at : at+int(e.Len)]
		if data := bytes.Count(part, []byte{'a'}); data > 0 {
			back++
			if e.Flags&block.ExtentZero != 0 {
				t.Errorf("%d bytes at %d are data and called zero", data, at)
			}
		}
		at += int(e.Len)
	}
	if back == 0 {
		t.Error("no block of the unflushed discard came back")
	}
}

func do2(t *testing.T, d block.Device, r *block.Request) {
	t.Helper()
	if st := block.Do(d, r); st != block.StatusOK {
		t.Fatalf("%v: %v", r.Op, st)
	}
}
