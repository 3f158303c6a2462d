// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func options(t *testing.T) Options {
	return Options{Path: filepath.Join(t.TempDir(), "f"), Size: 1 << 20, Workers: 4, Blocks: 8, Report: func(string) {}}
}

// run loads for a moment.
func run(t *testing.T, opt Options, d time.Duration) Result {
	t.Helper()
	l, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	r, err := l.Run(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestSoak(t *testing.T) {
	opt := options(t)
	r := run(t, opt, 200*time.Millisecond)
	if r.Ops == 0 || r.Errors != 0 || r.Lost != 0 || r.Verified == 0 || r.Verified > 32 || r.WorstMS <= 0 {
		t.Errorf("%+v", r)
	}
}

// damage changes a block that an earlier run has written.
func damage(t *testing.T, path string, change func(b []byte)) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(f)
	if err == nil {
		change(b)
		_, err = f.WriteAt(b, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// fill loads until every block was flushed twice.
func fill(t *testing.T, opt Options) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		run(t, opt, 50*time.Millisecond)
		var s saved
		b, err := os.ReadFile(opt.State)
		if err == nil {
			err = json.Unmarshal(b, &s)
		}
		if err != nil {
			t.Fatal(err)
		}
		if slices.Min(s.Flushed) > 1 {
			return
		}
	}
	t.Fatal("not every block was written")
}

// of returns which load wrote block 7.
func of(b []byte) uint64 { return binary.BigEndian.Uint64(b[7*(1<<20/32)+24:]) }

// TestFinds: whatever a block may hold that it must not is found.
func TestFinds(t *testing.T) {
	const step = 1 << 20 / 32 // between two blocks of the load
	for _, row := range []struct {
		desc   string
		change func(b []byte)
		want   string // nothing is wrong if empty
	}{
		{"nothing", func([]byte) {}, ""},
		{"what is not ours", func(b []byte) { b[BlockSize+5]++ }, ""},
		{"a bit", func(b []byte) { b[2*step+1000] ^= 4 }, "damaged"},
		{"a torn block", func(b []byte) { copy(b[3*step+2048:3*step+4096], b[4*step+2048:]) }, "damaged"},
		{"another block's content", func(b []byte) { copy(b[step:step+BlockSize], b[5*step:]) }, "holds what was written to 5"},
		{"zeroes", func(b []byte) { clear(b[6*step : 6*step+BlockSize]) }, "is empty"},
		{"an old version", func(b []byte) { stamp(b[7*step:7*step+BlockSize], 7, 1, of(b)) }, "holds 1, it must hold"},
		{"another load's content", func(b []byte) { stamp(b[step:step+BlockSize], 1, 2, of(b)-1) }, "what another load wrote"},
		{"one from the future", func(b []byte) { stamp(b[step:step+BlockSize], 1, 1<<40, of(b)) }, "it must hold"},
	} {
		opt := options(t)
		opt.State = filepath.Join(t.TempDir(), "state")
		fill(t, opt)
		damage(t, opt.Path, row.change)
		opt.VerifyOnly = true
		r := run(t, opt, time.Second)
		if row.want == "" && (r.Errors != 0 || r.Lost != 0 || r.Verified != 32) ||
			row.want != "" && (r.Errors != 1 || r.Lost != 1 || r.Verified != 31 || !strings.Contains(r.First, row.want)) {
			t.Errorf("%s: %+v, want %q", row.desc, r, row.want)
		}
	}
}

// TestUnflushed: after a crash a block may be older than what was acknowledged,
// and not older than what was flushed.
func TestUnflushed(t *testing.T) {
	s := blockState{acked: 9, tried: 10, flushed: 5}
	b := make([]byte, BlockSize)
	for seq, ok := range map[uint64]bool{4: false, 5: true, 9: true, 10: true, 11: false} {
		stamp(b, 3, seq, 0)
		if err := s.check(b, 3, s.flushed, 0); (err == nil) != ok {
			t.Errorf("version %d: %v", seq, err)
		}
	}
}

// TestErrors: a device that fails is counted, reported, and does not end the
// load.
func TestErrors(t *testing.T) {
	opt := options(t)
	if err := os.WriteFile(opt.Path, bytes.Repeat([]byte{0}, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 1<<20)
	opt.Report, opt.Stall = func(s string) { lines <- s }, time.Nanosecond
	l, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		time.Sleep(50 * time.Millisecond)
		_ = os.Truncate(opt.Path, 4096) // reads behind it get nothing
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	r, err := l.Run(ctx)
	if err != nil || r.Errors == 0 || r.First == "" || r.Stalls == 0 || len(lines) == 0 {
		t.Errorf("%v, %+v, %d lines", err, r, len(lines))
	}
}

func TestRefused(t *testing.T) {
	for _, row := range []struct {
		desc   string
		change func(*Options)
	}{
		{"no workers", func(o *Options) { o.Workers = 0 }},
		{"an offset that is no block", func(o *Options) { o.Offset = 5 }},
		{"no such device", func(o *Options) { o.Path, o.Size = "/nonexistent/f", 0 }},
		{"too small", func(o *Options) { o.Size = 8192 }},
		{"too many workers", func(o *Options) { o.Workers = 1025 }},
		{"fewer than no blocks", func(o *Options) { o.Blocks = -1 }},
		{"a negative offset", func(o *Options) { o.Offset = -4096 }},
		{"a negative size", func(o *Options) { o.Size = -1 }},
		{"an offset behind the end", func(o *Options) { o.Offset, o.Size = 1<<30, 0 }},
		{"a size beyond all", func(o *Options) { o.Offset, o.Size = 4096, math.MaxInt64 }},
		{"a folder", func(o *Options) { o.Path = filepath.Dir(o.Path) }},
		{"a state that is a folder", func(o *Options) { o.Workers, o.State = 1, filepath.Dir(o.Path) }},
		{"a state that is missing", func(o *Options) { o.State, o.VerifyOnly = "/nonexistent/s", true }},
	} {
		opt := options(t)
		if err := os.WriteFile(opt.Path, make([]byte, 4096), 0o600); err != nil {
			t.Fatal(err)
		}
		row.change(&opt)
		if l, err := New(opt); err == nil {
			_ = l.f.Close()
			t.Errorf("%s: accepted", row.desc)
		}
	}
}
