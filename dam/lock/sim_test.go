// SPDX-License-Identifier: Apache-2.0

package lock

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"
)

// One seed is one run, though what the scheduler does is not in the seed.
var (
	firstSeed = flag.Uint64("first", 1, "first seed of TestSeeds")
	seeds     = flag.Uint64("seeds", 40, "number of seeds of TestSeeds")
)

// proc is a process on a host with a clock of its own. While it is frozen, no
// call of the block and of the clock returns, so nothing of it gets on.
type proc struct {
	f      *fake
	offset time.Duration // of its clock
	start  time.Time

	mu    sync.Mutex
	until time.Time // frozen until then
}

func (p *proc) freeze(d time.Duration) {
	p.mu.Lock()
	p.until = time.Now().Add(d)
	p.mu.Unlock()
}

func (p *proc) gate() {
	p.mu.Lock()
	until := p.until
	p.mu.Unlock()
	time.Sleep(time.Until(until))
}

func (p *proc) now() time.Duration {
	p.gate()
	return time.Since(p.start) + p.offset
}

// Read implements Block.
func (p *proc) Read(ctx context.Context, b []byte) error {
	p.gate()
	defer p.gate()
	return p.f.Read(ctx, b)
}

// CompareAndWrite implements Block.
func (p *proc) CompareAndWrite(ctx context.Context, old, want []byte) (bool, error) {
	p.gate()
	defer p.gate()
	return p.f.CompareAndWrite(ctx, old, want)
}

// reign is the time in which somebody believes to have the lock.
type reign struct {
	h     *Held
	p     *proc
	token uint64
	from  time.Time // Acquire had returned
	freed time.Time // Release was called; zero if never
	since int64     // of h when Release was called
	id    string
}

// to returns the end of r, when what the lock protects must have stopped.
func (r *reign) to() time.Time {
	since := r.since
	if r.freed.IsZero() {
		since = r.h.since.Load()
	}
	end := r.p.start.Add(time.Duration(since) - r.p.offset + r.h.mine.ttl)
	if !r.freed.IsZero() && r.freed.Before(end) {
		return r.freed
	}
	return end
}

// world is one run.
type world struct {
	f    *fake
	seed uint64

	mu     sync.Mutex
	reigns []*reign
	counts map[string]int
}

func (w *world) count(what string) {
	w.mu.Lock()
	w.counts[what]++
	w.mu.Unlock()
}

// fates is what happens to the calls of the block: most are slow, some fail in
// every way there is. bad of 100 fail.
func fates(rng *rand.Rand, bad int) func(bool) fate {
	ms := func(n int) time.Duration { return time.Duration(rng.IntN(n)) * time.Millisecond }
	return func(write bool) fate {
		now := fate{before: ms(5), after: ms(5)}
		if rng.IntN(50) == 0 {
			now.after += ms(2000)
		}
		if rng.IntN(50) == 0 {
			now.before += ms(2000)
			now.deaf = rng.IntN(4) == 0
		}
		if rng.IntN(100) < bad {
			now.fail = errBroken
			now.skip = rng.IntN(2) == 0
			if now.skip && rng.IntN(4) == 0 {
				now.late = ms(3000)
			}
		}
		return now
	}
}

// TestSeeds: eight contenders who die, freeze and release, on a block whose
// writes fail with or without having executed. At most one believes to have
// the lock; fake.judge looks at tokens and takeovers.
func TestSeeds(t *testing.T) {
	total := make(map[string]int)
	for seed := *firstSeed; seed < *firstSeed+*seeds; seed++ {
		bubble(t, func(t *testing.T, f *fake) {
			w := &world{f: f, seed: seed, counts: total}
			rng := rand.New(rand.NewPCG(seed, 0))
			f.fate = fates(rng, []int{0, 5, 20, 40}[seed%4])
			ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
			defer cancel()
			var all sync.WaitGroup
			for i := range 8 {
				own := rand.New(rand.NewPCG(seed, uint64(i+1)))
				all.Go(func() { w.contend(ctx, i, own) })
			}
			all.Wait()
			f.late.Wait()
			w.judge(t)
		})
		if t.Failed() {
			t.Fatalf("replay with -first %d -seeds 1", seed)
		}
	}
	t.Log(total)
	for _, what := range []string{"acquired", "died", "froze and lost it", "released", "lost"} {
		if *seeds >= 40 && total[what] == 0 {
			t.Errorf("nobody %s", what)
		}
	}
}

// contend is a host that starts one process after another.
func (w *world) contend(ctx context.Context, host int, rng *rand.Rand) {
	for n := 0; ctx.Err() == nil; n++ {
		p := &proc{f: w.f, start: time.Now(), offset: time.Duration(rng.Int64N(int64(time.Hour)))}
		var seed [32]byte
		for i := range seed {
			seed[i] = byte(rng.Uint32())
		}
		o := Options{Owner: fmt.Sprintf("h%d/%d", host, n), TTL: time.Second, Now: p.now, Random: rand.NewChaCha8(seed)}
		h, err := Acquire(ctx, p, o)
		if err != nil {
			if ctx.Err() == nil {
				w.f.t.Errorf("Acquire: %v", err)
			}
			return
		}
		p.gate()
		r := &reign{h: h, p: p, token: h.Token(), from: time.Now(), id: o.Owner}
		w.mu.Lock()
		w.reigns = append(w.reigns, r)
		w.counts["acquired"]++
		w.mu.Unlock()
		w.reign(r, rng)
		p.gate()
		_ = sleep(ctx, time.Duration(rng.IntN(500))*time.Millisecond)
	}
}

// reign keeps a lock until it is released, lost, or its holder dies.
func (w *world) reign(r *reign, rng *rand.Rand) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rng.IntN(4000))*time.Millisecond)
	defer cancel()
	froze := false
	if rng.IntN(3) == 0 {
		froze = true
		long := time.Second + time.Duration(rng.IntN(1500))*time.Millisecond
		t := time.AfterFunc(time.Duration(rng.IntN(1500))*time.Millisecond, func() { r.p.freeze(long) })
		defer t.Stop()
	}
	err := r.h.Keep(ctx)
	if err == nil && rng.IntN(2) == 0 { // with the last renewal perhaps under way
		more, cancel := context.WithTimeout(context.Background(), time.Duration(rng.IntN(1000))*time.Millisecond)
		defer cancel()
		err = r.h.Keep(more)
	}
	r.p.gate()
	switch {
	case err == nil:
	case !errors.Is(err, ErrLost):
		w.f.t.Errorf("Keep: %v", err)
	case froze:
		w.count("froze and lost it")
	default:
		w.count("lost")
	}
	if rng.IntN(3) == 0 {
		w.count("died")
		r.h.turn <- struct{}{} // what it had under way is over
		<-r.h.turn
		return
	}
	end, stop := context.WithTimeout(context.Background(), 5*time.Second)
	defer stop()
	r.since = r.h.since.Load()
	r.freed = time.Now()
	if r.h.Release(end) == nil {
		w.count("released")
	}
	r.h.turn <- struct{}{}
	<-r.h.turn
}

// judge looks whether two reigns overlap and whether tokens grow from one to
// the next.
func (w *world) judge(t *testing.T) {
	slices.SortFunc(w.reigns, func(a, b *reign) int { return cmp.Compare(a.token, b.token) })
	if len(w.reigns) < 5 || w.f.taken < len(w.reigns) {
		t.Errorf("seed %d: only %d reigns and %d acquisitions", w.seed, len(w.reigns), w.f.taken)
	}
	for i := 1; i < len(w.reigns); i++ {
		a, b := w.reigns[i-1], w.reigns[i]
		w.f.early(a.h, a.p.start.Add(-a.p.offset))
		if a.token == b.token {
			t.Errorf("seed %d: token %d was given to %s and %s", w.seed, a.token, a.id, b.id)
		}
		if end := a.to(); end.After(b.from) {
			t.Errorf("seed %d: %s (token %d) believes for %v that it holds what %s (token %d) has", w.seed, a.id, a.token, end.Sub(b.from), b.id, b.token)
		}
	}
}
