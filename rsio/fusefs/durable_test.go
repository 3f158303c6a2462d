// SPDX-License-Identifier: Apache-2.0

package fusefs

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"rsio/rsio/block"
)

// TestDurability: which calls of a process become flushes and FUA.
func TestDurability(t *testing.T) {
	r := newRig(t, Options{})
	for _, kind := range []struct {
		name    string
		without block.Features
	}{{"fua", 0}, {"nofua", block.CanFUA}} {
		d := &counter{Device: memory(t, 1<<20, 512), without: kind.without}
		path := r.add(kind.name, d)
		p := make([]byte, 512)
		for _, row := range []struct {
			desc   string
			flags  int
			do     func(fd int) error
			fsyncs int64
			sync   int64
		}{
			{"write", 0, func(fd int) error { _, err := unix.Pwrite(fd, p, 0); return err }, 0, 0},
			{"fsync", 0, unix.Fsync, 1, 0},
			{"fdatasync", 0, unix.Fdatasync, 1, 0},
			{"O_SYNC", unix.O_SYNC, func(fd int) error { _, err := unix.Pwrite(fd, p, 0); return err }, 0, 1},
			{"O_DSYNC", unix.O_DSYNC, func(fd int) error { _, err := unix.Pwrite(fd, p, 0); return err }, 0, 1},
			{"O_DSYNC|O_DIRECT", unix.O_DSYNC | unix.O_DIRECT, func(fd int) error { _, err := unix.Pwrite(fd, aligned(512), 0); return err }, 0, 1},
			{"O_DSYNC, parts", unix.O_DSYNC, func(fd int) error { _, err := unix.Pwrite(fd, p[:10], 3); return err }, 0, 1},
			{"RWF_DSYNC", 0, func(fd int) error { _, err := unix.Pwritev2(fd, [][]byte{p}, 0, unix.RWF_DSYNC); return err }, 0, 1},
			{"O_SYNC punch", unix.O_SYNC, func(fd int) error {
				return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 512)
			}, 1, 0},
		} {
			flushes, fua := d.count(block.OpFlush), d.fua.Load()
			fd := open(t, path, unix.O_RDWR|row.flags)
			if err := row.do(fd); err != nil {
				t.Fatalf("%s: %v", row.desc, err)
			}
			if err := unix.Close(fd); err != nil { // does not flush
				t.Fatal(err)
			}
			wantFlush, wantFUA := row.fsyncs, row.sync
			if kind.without != 0 {
				wantFlush, wantFUA = row.fsyncs+row.sync, 0
			}
			flushes, fua = d.count(block.OpFlush)-flushes, d.fua.Load()-fua
			if flushes != wantFlush || fua != wantFUA {
				t.Errorf("%s, %s: %d flushes and %d FUA, want %d and %d", kind.name, row.desc, flushes, fua, wantFlush, wantFUA)
			}
		}
		// sync(1) opens for reading.
		flushes := d.count(block.OpFlush)
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			t.Error(err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		if n := d.count(block.OpFlush) - flushes; n != 1 {
			t.Errorf("fsync of a handle for reading: %d flushes", n)
		}
	}
}

// TestSpace: what fallocate asks of the device.
func TestSpace(t *testing.T) {
	r := newRig(t, Options{})
	const punch, zero = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_ZERO_RANGE
	for n, row := range []struct {
		desc                    string
		without                 block.Features
		mode                    uint32
		off, len                int64
		discard, zeroes, noHole int64
		writes                  int64
		err                     error
	}{
		{desc: "punch", mode: punch, off: 512, len: 1024, discard: 1},
		{desc: "punch without discard", without: block.CanDiscard, mode: punch, off: 512, len: 1024, zeroes: 1},
		{desc: "punch with edges", mode: punch, off: 500, len: 1100, discard: 1, writes: 2},
		{desc: "punch in a block", mode: punch, off: 513, len: 5, writes: 1},
		{desc: "punch across the end", mode: punch, off: 1<<20 - 1024, len: 4096, discard: 1},
		{desc: "punch behind the end", mode: punch, off: 1 << 20, len: 4096},
		{desc: "zero", mode: zero, off: 512, len: 1024, zeroes: 1, noHole: 1},
		{desc: "zero with edges", mode: zero, off: 500, len: 1100, zeroes: 1, noHole: 1, writes: 2},
		{desc: "preallocate", off: 0, len: 1 << 20},
		{desc: "neither", without: block.CanDiscard | block.CanZero, mode: punch, len: 512, err: unix.EOPNOTSUPP},
		{desc: "no zeroes", without: block.CanZero, mode: zero, len: 512, err: unix.EOPNOTSUPP},
	} {
		d := &counter{Device: memory(t, 1<<20, 512), without: row.without}
		fd := open(t, r.add("vol"+string(rune('a'+n)), d), unix.O_RDWR)
		if err := unix.Fallocate(fd, row.mode, row.off, row.len); err != row.err {
			t.Errorf("%s: %v, want %v", row.desc, err, row.err)
		}
		if a, b, c, e := d.count(block.OpDiscard), d.count(block.OpWriteZeroes), d.noHole.Load(), d.count(block.OpWrite); a != row.discard || b != row.zeroes || c != row.noHole || e != row.writes {
			t.Errorf("%s: %d discards, %d zeroes, %d that keep space, %d writes", row.desc, a, b, c, e)
		}
	}
}

// TestHoles: SEEK_DATA and SEEK_HOLE.
func TestHoles(t *testing.T) {
	r := newRig(t, Options{})
	const size = 64 << 20
	full := open(t, r.add("full", &counter{Device: memory(t, size, 512), without: block.CanBlockStatus}), unix.O_RDWR)
	holes := open(t, r.add("holes", &counter{Device: memory(t, size, 512), maxZero: 1 << 20}), unix.O_RDWR)
	if _, err := unix.Pwrite(holes, make([]byte, 64<<10), 32<<20); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		desc   string
		fd     int
		off    int64
		whence int
		want   int64
		err    error
	}{
		{"all is data", full, 1000, unix.SEEK_DATA, 1000, nil},
		{"no hole but the end", full, 1000, unix.SEEK_HOLE, size, nil},
		{"data after holes", holes, 7, unix.SEEK_DATA, 32 << 20, nil},
		{"in data", holes, 32<<20 + 5, unix.SEEK_DATA, 32<<20 + 5, nil},
		{"hole after data", holes, 32<<20 + 5, unix.SEEK_HOLE, 32<<20 + 64<<10, nil},
		{"in a hole", holes, 7, unix.SEEK_HOLE, 7, nil},
		{"no more data", holes, 33 << 20, unix.SEEK_DATA, 0, unix.ENXIO},
	} {
		if got, err := unix.Seek(row.fd, row.off, row.whence); err != row.err || err == nil && got != row.want {
			t.Errorf("%s: %d, %v; want %d, %v", row.desc, got, err, row.want, row.err)
		}
	}
}
