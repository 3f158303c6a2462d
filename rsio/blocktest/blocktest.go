// SPDX-License-Identifier: Apache-2.0

// Package blocktest is the one conformance and benchmark suite that every
// block.Device runs: leaves, layers, composites, remote volumes and random
// stacks of them.
//
//	func TestDevice(t *testing.T) {
//		blocktest.Run(t, blocktest.Config{Make: func(t *testing.T) block.Device { ... }})
//	}
//
// Each part of the suite gets a device of its own from Make, closes it and
// then looks at how often each of its requests completed. What a device does
// not announce in Info.Features is not asked of it.
package blocktest

import (
	"context"
	"runtime"
	"testing"
	"time"

	"rsio/rsio/block"
)

// MinSize is the smallest device the suite works on, bytes.
const MinSize = 4 << 20

// Config says what to test.
type Config struct {
	// Make returns a new writable device of at least MinSize bytes. The
	// suite closes it; what is below and is not closed with it belongs to
	// t.Cleanup.
	Make func(t *testing.T) block.Device

	// Volatile says that the device does not keep what is written; content
	// is not compared then.
	Volatile bool

	// ZeroAlloc asks for reads and writes without a single allocation.
	ZeroAlloc bool

	// Used returns the bytes of space the device takes. If set, FlagNoHole
	// is tested to leave space allocated.
	Used func(d block.Device) uint64

	// Shared says that goroutines of others, as those of a server that Make
	// starts for t.Cleanup to stop, may remain after Close.
	Shared bool

	// Ops is the number of random requests, 0 means 3000.
	Ops int

	// Chain is the number of requests submitted from inside Complete, 0
	// means 100,000.
	Chain int

	// Seed starts the random requests, 0 means 1.
	Seed uint64

	// Timeout is how long one request may take, 0 means 30 s.
	Timeout time.Duration
}

func (c *Config) defaults() {
	if c.Ops == 0 {
		c.Ops = 3000
	}
	if c.Chain == 0 {
		c.Chain = 100_000
	}
	if c.Seed == 0 {
		c.Seed = 1
	}
	if c.Timeout == 0 {
		c.Timeout = 30 * time.Second
	}
}

// tester is what the suite uses of testing.T, so that the suite itself can be
// tested with broken devices.
type tester interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// suite is one part of the suite at work on one device.
type suite struct {
	t     tester
	cfg   Config
	dev   block.Device
	info  block.Info
	calls []*call
}

type part struct {
	name string
	run  func(*suite)
}

func parts() []part {
	return []part{
		{"info", (*suite).testInfo},
		{"read-write", (*suite).testReadWrite},
		{"edges", (*suite).testEdges},
		{"unknown-op", (*suite).testUnknownOp},
		{"flush-fua", (*suite).testFlush},
		{"payload", (*suite).testPayload},
		{"zeroes", (*suite).testZeroes},
		{"no-hole", (*suite).testNoHole},
		{"block-status", (*suite).testBlockStatus},
		{"compare-and-write", (*suite).testCompareAndWrite},
		{"random", (*suite).testRandom},
		{"many-goroutines", (*suite).testGoroutines},
		{"resubmit", (*suite).testResubmit},
		{"allocations", (*suite).testAllocations},
		{"close", (*suite).testClose},
		{"close-drains", (*suite).testCloseDrains},
		{"close-under-load", (*suite).testCloseUnderLoad},
		{"close-context", (*suite).testCloseContext},
	}
}

// Run runs the whole suite.
func Run(t *testing.T, cfg Config) {
	cfg.defaults()
	for _, p := range parts() {
		t.Run(p.name, func(t *testing.T) {
			before := runtime.NumGoroutine()
			s := newSuite(t, cfg, cfg.Make(t))
			p.run(s)
			s.finish()
			s.goroutines(before)
		})
	}
}

func newSuite(t tester, cfg Config, d block.Device) *suite {
	s := &suite{t: t, cfg: cfg, dev: d, info: d.Info()}
	if s.info.Size < MinSize {
		t.Fatalf("Make returned a device of %d bytes, the suite needs %d", s.info.Size, MinSize)
	}
	return s
}

// finish closes the device and makes sure that every request completed once.
func (s *suite) finish() {
	s.t.Helper()
	s.close()
	for _, c := range s.calls {
		if n := c.n.Load(); n != 1 {
			s.t.Errorf("rule 2: %v at %d length %d completed %d times", c.op, c.off, c.len, n)
		}
	}
}

func (s *suite) close() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.Timeout)
	defer cancel()
	if err := s.dev.Close(ctx); err != nil {
		s.t.Errorf("Close: %v", err)
	}
}

// goroutines waits until no more goroutines run than before Make: a closed
// device has joined what it started.
func (s *suite) goroutines(before int) {
	s.t.Helper()
	if s.cfg.Shared {
		return
	}
	for end := time.Now().Add(2 * time.Second); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			buf := make([]byte, 64<<10)
			s.t.Errorf("%d goroutines before Make, %d after Close:\n%s", before, runtime.NumGoroutine(), buf[:runtime.Stack(buf, true)])
			return
		}
	}
}
