// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestUsedBefore: a load on a device that another one was on, with other
// options and without its state, takes nothing of it for damage; nor does one
// after it.
func TestUsedBefore(t *testing.T) {
	opt := options(t)
	run(t, opt, 100*time.Millisecond)
	for _, more := range []func(){
		func() { opt.Workers = 7 },
		func() { opt.Blocks = 3 },
		func() { opt.Offset, opt.Size = 8192, 1<<20-8192 },
		func() {},
	} {
		more()
		if r := run(t, opt, 50*time.Millisecond); r.Errors != 0 || r.Lost != 0 || r.Ops == 0 {
			t.Errorf("%+v: %+v", opt, r)
		}
	}
}

// TestState: a later run verifies what an earlier one knew, and goes on from
// there.
func TestState(t *testing.T) {
	opt := options(t)
	opt.State = filepath.Join(t.TempDir(), "state")
	first := run(t, opt, 100*time.Millisecond)
	verify := opt
	verify.VerifyOnly = true
	if r := run(t, verify, time.Second); r.Errors != 0 || r.Verified != first.Verified || r.Ops != 0 {
		t.Errorf("verified: %+v, at first %+v", r, first)
	}
	read := func() (s saved) {
		b, err := os.ReadFile(opt.State)
		if err == nil {
			err = json.Unmarshal(b, &s)
		}
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	before := read()
	if r := run(t, opt, 100*time.Millisecond); r.Errors != 0 || r.Verified < first.Verified {
		t.Errorf("goes on: %+v", r)
	}
	after := read()
	if after.Load != before.Load {
		t.Error("a load that goes on is another one")
	}
	for i := range after.Tried {
		if after.Tried[i] < before.Tried[i] || after.Acked[i] > after.Tried[i] || after.Flushed[i] > after.Acked[i] {
			t.Fatalf("block %d: before %d, then tried %d, acknowledged %d, flushed %d", i, before.Tried[i], after.Tried[i], after.Acked[i], after.Flushed[i])
		}
	}
	for _, row := range []struct {
		desc   string
		change func(*Options)
	}{
		{"other workers", func(o *Options) { o.Workers++ }},
		{"other blocks", func(o *Options) { o.Blocks-- }},
		{"another offset", func(o *Options) { o.Offset = 4096 }},
		{"another size", func(o *Options) { o.Size /= 2 }},
		{"no JSON", func(o *Options) {
			o.State += "2"
			if err := os.WriteFile(o.State, []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		o := opt
		row.change(&o)
		if l, err := New(o); err == nil {
			_ = l.f.Close()
			t.Errorf("%s: the state is accepted", row.desc)
		}
	}
}

// TestCrash: after a loss of power what was flushed must be there, what was
// only acknowledged may be older; without one it may not.
func TestCrash(t *testing.T) {
	for _, row := range []struct {
		desc                   string
		holds                  uint64 // the sequence that the block holds, 0: zeroes
		tried, acked, flushed  uint64
		verifyOnly, everything bool // is it well
	}{
		{"the newest", 9, 9, 9, 9, true, true},
		{"one that was not acknowledged", 9, 9, 8, 7, true, true},
		{"acknowledged and lost", 7, 9, 8, 7, true, false},
		{"flushed and lost", 6, 9, 8, 7, false, false},
		{"nothing of what was flushed", 0, 9, 8, 7, false, false},
		{"nothing of what was never flushed", 0, 9, 8, 0, true, false},
		{"nothing of what was tried", 0, 1, 0, 0, true, true},
		{"nothing", 0, 0, 0, 0, true, true},
	} {
		for _, only := range []bool{true, false} {
			opt := options(t)
			opt.Workers, opt.Blocks, opt.Size = 1, 1, BlockSize
			opt.State = filepath.Join(t.TempDir(), "state")
			b := make([]byte, BlockSize)
			if row.holds > 0 {
				stamp(b, 0, row.holds, 77)
			}
			s, err := json.Marshal(&saved{Load: 77, Size: BlockSize, Workers: 1, Blocks: 1, Tried: []uint64{row.tried}, Acked: []uint64{row.acked}, Flushed: []uint64{row.flushed}})
			if err = errors.Join(err, os.WriteFile(opt.Path, b, 0o600), os.WriteFile(opt.State, s, 0o600)); err != nil {
				t.Fatal(err)
			}
			opt.VerifyOnly = only
			ended := time.Duration(0) // the other one writes nothing: its time is over
			r := run(t, opt, ended)
			if want := only && row.verifyOnly || !only && row.everything; (r.Errors == 0 && r.Lost == 0) != want {
				t.Errorf("%s, verify only %v: %+v", row.desc, only, r)
			}
		}
	}
}

// TestStops: with StopOnError the first error ends the load, without it the
// load goes on; both say it. A write error is no lost block.
func TestStops(t *testing.T) {
	for _, stop := range []bool{true, false} {
		opt := options(t)
		opt.StopOnError = stop
		var lines atomic.Int64
		opt.Report = func(string) { lines.Add(1) }
		l, err := New(opt)
		if err != nil {
			t.Fatal(err)
		}
		readOnly(t, l)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		if !stop {
			go func() {
				for lines.Load() < 100 && ctx.Err() == nil {
					time.Sleep(time.Millisecond)
				}
				cancel()
			}()
		}
		start := ctx
		r, err := l.Run(ctx)
		if err != nil || r.Errors == 0 || !strings.Contains(r.First, "write of block") || r.Lost != 0 || uint64(lines.Load()) != r.Errors {
			t.Errorf("stop %v: %v, %+v, %d lines", stop, err, r, lines.Load())
		}
		if stop && (start.Err() != nil || r.Errors > uint64(opt.Workers)) || !stop && r.Errors < 100 {
			t.Errorf("stop %v: %+v", stop, r)
		}
		cancel()
	}
}

// readOnly makes all writes of a load fail.
func readOnly(t *testing.T, l *Load) {
	t.Helper()
	f, err := os.Open(l.opt.Path)
	if err == nil {
		err = l.f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	l.f = f
}

// TestStall: what takes longer is reported, and nothing else.
func TestStall(t *testing.T) {
	var lines []string
	l := &Load{opt: Options{Stall: 5 * time.Millisecond, Report: func(s string) { lines = append(lines, s) }}, begin: time.Now()}
	bad := errors.New("no good")
	if !l.timed("read", 3, func() error { return nil }) || l.timed("read", 4, func() error { return bad }) {
		t.Error("what succeeds is mixed up")
	}
	l.opt.Stall = time.Hour
	l.timed("write", 5, func() error { return nil })
	l.opt.Stall = 5 * time.Millisecond
	l.timed("write", 6, func() error { time.Sleep(20 * time.Millisecond); return nil })
	ops, errs, worst := l.Ops()
	if ops != 4 || errs != 1 || worst < 20 || l.stalls.Load() == 0 {
		t.Errorf("%d operations, %d errors, worst %.1f ms, %d stalls", ops, errs, worst, l.stalls.Load())
	}
	all := strings.Join(lines, "\n")
	if !strings.Contains(all, "no good") || !strings.Contains(all, "write at") || len(lines) != int(errs+l.stalls.Load()) {
		t.Errorf("reported:\n%s", all)
	}
}

// TestRange: the blocks lie in the range, each of them once, and nothing else
// is written; also with Direct, and when there is room for fewer.
func TestRange(t *testing.T) {
	const size = 1 << 20
	for _, row := range []struct {
		desc            string
		offset, size    int64
		workers, blocks int
		direct          bool
		want            int // blocks in all
	}{
		{"all", 0, 0, 4, 8, false, 32},
		{"direct", 0, 0, 4, 8, true, 32},
		{"a part", 64 << 10, 128 << 10, 2, 8, false, 16},
		{"to the end", 256 << 10, 0, 3, 5, false, 15},
		{"longer than the file", 512 << 10, 8 << 20, 2, 4, false, 8},
		{"every block", 0, size, 16, 16, false, 256},
		{"more blocks than there are", 0, size, 3, math.MaxInt, false, 255},
		{"more bytes than there can be", 4096, math.MaxInt64, 5, 51, false, 255},
	} {
		opt := options(t)
		opt.Offset, opt.Size, opt.Workers, opt.Blocks, opt.Direct = row.offset, row.size, row.workers, row.blocks, row.direct
		if err := os.WriteFile(opt.Path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := New(opt)
		if err != nil {
			t.Errorf("%s: %v", row.desc, err)
			continue
		}
		end := opt.Offset + opt.Size
		if opt.Size == 0 || opt.Size > size-opt.Offset {
			end = size
		}
		at := int64(-1)
		for n := range l.state {
			if p := l.place(n); p <= at || p < opt.Offset || p+BlockSize > end || p%BlockSize != 0 {
				t.Errorf("%s: block %d is at %d, the one before at %d", row.desc, n, p, at)
			}
			at = l.place(n)
		}
		if len(l.state) != row.want {
			t.Errorf("%s: %d blocks, want %d", row.desc, len(l.state), row.want)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if r, err := l.Run(ctx); err != nil || r.Errors != 0 {
			t.Errorf("%s: %v, %+v", row.desc, err, r)
		}
		cancel()
		damage(t, opt.Path, func(b []byte) { // only looks
			if int64(len(b)) != size {
				t.Errorf("%s: the file has %d bytes now", row.desc, len(b))
			}
			for i := range b {
				if b[i] != 0 && (int64(i) < opt.Offset || int64(i) >= end) {
					t.Fatalf("%s: byte %d was written", row.desc, i)
				}
			}
		})
	}
}

// TestMakes: a file that is missing or empty is made as long as asked for, but
// not to verify.
func TestMakes(t *testing.T) {
	opt := options(t)
	opt.VerifyOnly = true
	if _, err := New(opt); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("verify only: %v", err)
	}
	opt.VerifyOnly, opt.Offset = false, 8192
	for range 2 {
		if r := run(t, opt, 10*time.Millisecond); r.Errors != 0 {
			t.Errorf("%+v", r)
		}
		f, err := os.OpenFile(opt.Path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if end, err := f.Seek(0, io.SeekEnd); err != nil || end != opt.Offset+opt.Size {
			t.Errorf("%d bytes, %v", end, err)
		}
		if err := errors.Join(f.Truncate(0), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
}
