// SPDX-License-Identifier: Apache-2.0

package lock

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fate is what happens to one call of a fake block.
type fate struct {
	before, after time.Duration // waited for, before and after it executes
	fail          error         // answered instead of the outcome; nil: the outcome
	skip          bool          // it does not execute
	late          time.Duration // with skip: it executes that much later, on its own
	deaf          bool          // it does not notice the end of its context
}

// errBroken is an error that says nothing about the outcome.
var errBroken = errors.New("the fake block is broken")

// fake is a block in memory. It looks at every change: tokens grow by one, and
// nobody takes over from a holder who was not silent for his TTL.
type fake struct {
	t    testing.TB
	fate func(write bool) fate // called with mu held; nil: all is well

	mu      sync.Mutex
	data    [BlockLen]byte
	changed time.Time              // when data changed
	forced  bool                   // somebody may take over early
	writes  int                    // CompareAndWrites that executed and matched
	taken   int                    // those that were acquisitions
	last    map[[16]byte]time.Time // when each acquisition changed data last
	late    sync.WaitGroup
}

func (f *fake) next(write bool) fate {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fate == nil {
		return fate{}
	}
	return f.fate(write)
}

// stop waits as long as w; it ends early with ctx, unless it is deaf.
func stop(ctx context.Context, w time.Duration, deaf bool) error {
	if w == 0 {
		return nil
	}
	if deaf {
		time.Sleep(w)
		return nil
	}
	return sleep(ctx, w)
}

// Read implements Block.
func (f *fake) Read(ctx context.Context, p []byte) error {
	if len(p) != BlockLen {
		f.t.Errorf("a read of %d bytes", len(p))
	}
	now := f.next(false)
	if err := stop(ctx, now.before, now.deaf); err != nil {
		return err
	}
	f.mu.Lock()
	copy(p, f.data[:])
	f.mu.Unlock()
	if err := stop(ctx, now.after, now.deaf); err != nil {
		return err
	}
	if now.fail != nil {
		clear(p[:100]) // nobody may look at it
	}
	return now.fail
}

// CompareAndWrite implements Block.
func (f *fake) CompareAndWrite(ctx context.Context, old, want []byte) (bool, error) {
	now := f.next(true)
	if err := stop(ctx, now.before, now.deaf); err != nil {
		return false, err
	}
	if now.skip {
		if now.late > 0 {
			f.late.Go(func() {
				time.Sleep(now.late)
				f.swap(old, want)
			})
		}
		return false, now.fail
	}
	ok := f.swap(old, want)
	if err := stop(ctx, now.after, now.deaf); err != nil {
		return false, err
	}
	return ok && now.fail == nil, now.fail
}

func (f *fake) swap(old, want []byte) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !bytes.Equal(f.data[:], old) {
		return false
	}
	f.judge(old, want)
	copy(f.data[:], want)
	f.changed = time.Now()
	f.writes++
	return true
}

// judge looks at a change that is about to happen.
func (f *fake) judge(old, want []byte) {
	was, err := decode(old)
	is, err2 := decode(want)
	switch silent := time.Since(f.changed); {
	case err != nil || err2 != nil:
		f.t.Errorf("a change of what is no record: %v, %v", err, err2)
	case was.sameHolder(&is) && is.renewals == was.renewals+1 && was.held: // renewed or released
	case !is.held || is.renewals != 0 || is.token != was.token+1:
		f.t.Errorf("a change from %+v to %+v", was, is)
	case was.held && silent < was.ttl && !f.forced:
		f.t.Errorf("token %d was taken over after %v", was.token, silent)
	default:
		f.taken++
	}
	if f.last == nil {
		f.last = make(map[[16]byte]time.Time)
	}
	f.last[is.nonce] = time.Now()
}

// early fails if h, whose clock shows zero at start, counts its TTL from later
// than its last change of the block.
func (f *fake) early(h *Held, start time.Time) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if late := start.Add(time.Duration(h.since.Load())).Sub(f.last[h.mine.nonce]); late > 0 {
		f.t.Errorf("token %d counts its TTL from %v after its last change", h.Token(), late)
	}
}

// put sets the content of the block.
func (f *fake) put(p []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	copy(f.data[:], p)
	f.changed = time.Now()
}

// once makes the next write, or read, end so.
func (f *fake) once(write bool, now fate) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fate = func(w bool) fate {
		if w != write {
			return fate{}
		}
		f.fate = nil
		return now
	}
}

// always makes all writes, or reads, end so.
func (f *fake) always(write bool, now fate) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fate = func(w bool) fate {
		if w != write {
			return fate{}
		}
		return now
	}
}

// fine ends what once and always began.
func (f *fake) fine() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fate = nil
}

// shows fails unless the block says so.
func (f *fake) shows(want string) {
	f.t.Helper()
	i, err := Show(context.Background(), f)
	if got := fmt.Sprintf("%v %s %d", i.Held, i.Owner, i.Token); err != nil || got != want {
		f.t.Errorf("the block shows %q, %v, want %q", got, err, want)
	}
}

// bubble runs fn with virtual time. All goroutines have ended when it returns.
func bubble(t *testing.T, fn func(t *testing.T, f *fake)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := &fake{t: t}
		fn(t, f)
		f.late.Wait()
	})
}

// acquire is Acquire that must succeed.
func acquire(t *testing.T, b Block, o Options) *Held {
	t.Helper()
	h, err := Acquire(t.Context(), b, o)
	if err != nil {
		t.Fatal(err)
	}
	if h.Left() < h.mine.ttl*2/3 {
		t.Errorf("acquired with %v left of %v", h.Left(), h.mine.ttl)
	}
	return h
}

func release(t *testing.T, h *Held) {
	t.Helper()
	if err := h.Release(t.Context()); err != nil {
		t.Error(err)
	}
}

// keep starts Keep; the channel gets what it returns.
func keep(ctx context.Context, h *Held) <-chan error {
	end := make(chan error, 1)
	go func() { end <- h.Keep(ctx) }()
	return end
}
