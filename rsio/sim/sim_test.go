// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"flag"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	seeds = flag.Int("seeds", 2000, "seeds to run")
	first = flag.Uint64("first", 1, "first seed")
	trace = flag.Bool("story", false, "print what happens (with -seeds 1)")
)

// TestP1_P3_P8_Seeds runs many seeds; one that fails is replayed with
// -first SEED -seeds 1 -story.
func TestP1_P3_P8_Seeds(t *testing.T) {
	opt := Options{}
	if *trace {
		opt.Trace = t.Logf
	}
	start := time.Now()
	var next atomic.Uint64
	var mu sync.Mutex
	var sum Result
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for {
				n := next.Add(1) - 1
				if n >= uint64(*seeds) || t.Failed() {
					return
				}
				res, err := Run(*first+n, opt)
				mu.Lock()
				sum.Add(res)
				mu.Unlock()
				if err != nil {
					t.Errorf("%v\nreplay: go test ./rsio/sim -run Seeds -first %d -seeds 1 -story -v", err, *first+n)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d seeds in %v: %+v", *seeds, time.Since(start).Round(time.Millisecond), sum)
	if *seeds >= 500 && (sum.Stale == 0 || sum.Attached == 0 || sum.Repeats == 0 || sum.PowerLosses == 0 || sum.Takeovers == 0 || sum.Lost == 0 || sum.Unknown == 0) {
		t.Errorf("the seeds do not exercise everything: %+v", sum)
	}
}

// TestPlantedBugs shows that the checks find the mistakes they are there for.
func TestPlantedBugs(t *testing.T) {
	for _, tc := range []struct {
		desc string
		bugs Bugs
	}{
		{"an old sequence number is executed", Bugs{AcceptOld: true}},
		{"a duplicate is executed instead of answered", Bugs{ExecuteTwice: true}},
		{"a successor is let in while old requests run", Bugs{NoDrain: true}},
		{"nobody waits for the others after a restart", Bugs{NoGrace: true}},
		{"a power loss keeps the incarnation", Bugs{GoodLostFlush: true}},
	} {
		t.Run(tc.desc, func(t *testing.T) {
			for seed := uint64(1); seed <= 3000; seed++ {
				if _, err := Run(seed, Options{Bugs: tc.bugs}); err != nil {
					t.Logf("found after %d seeds: %v", seed, err)
					return
				}
			}
			t.Fatal("3000 seeds did not find it")
		})
	}
}

// TestSeedReplays shows that one seed is one run.
func TestSeedReplays(t *testing.T) {
	for seed := uint64(1); seed <= 20; seed++ {
		a, errA := Run(seed, Options{})
		b, errB := Run(seed, Options{})
		if a != b || (errA == nil) != (errB == nil) {
			t.Fatalf("seed %d: %+v and %+v", seed, a, b)
		}
	}
}
