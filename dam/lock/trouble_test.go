// SPDX-License-Identifier: Apache-2.0

package lock

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// TestUnknown: each write ends with an error, having executed or not, and
// everything goes on as if it had not.
func TestUnknown(t *testing.T) {
	rows := []struct {
		desc string
		fate fate
	}{
		{"not executed", fate{fail: errBroken, skip: true}},
		{"executed", fate{fail: errBroken}},
		{"executes late", fate{fail: errBroken, skip: true, late: 10 * time.Millisecond}},
		{"executes during the next attempt", fate{fail: errBroken, skip: true, late: minPause}},
		{"executes long after", fate{fail: errBroken, skip: true, late: time.Minute}},
		{"slow", fate{before: 100 * time.Millisecond, after: 100 * time.Millisecond}},
	}
	for _, row := range rows {
		t.Run(row.desc, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				f.once(true, row.fate)
				h := acquire(t, f, Options{Owner: "a"})
				f.shows("true a 1")
				f.once(true, row.fate)
				ctx, cancel := context.WithTimeout(t.Context(), 5*DefaultTTL)
				defer cancel()
				if err := h.Keep(ctx); err != nil {
					t.Errorf("Keep: %v", err)
				}
				f.once(true, row.fate)
				release(t, h)
				f.shows("false a 1")
				time.Sleep(time.Hour)
				f.shows("false a 1")
			})
		})
	}
}

// TestReadsFail: reads that fail while an outcome is unknown are repeated.
func TestReadsFail(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		n := 0
		f.fate = func(write bool) fate {
			n++
			if write || n%4 != 0 {
				return fate{fail: errBroken, skip: write && n%2 == 0}
			}
			return fate{}
		}
		release(t, acquire(t, f, Options{Owner: "a"}))
		f.fine()
		f.shows("false a 1")
	})
}

// TestKeepGivesUp: if no renewal succeeds, Keep returns after 2/3 of the TTL,
// even if the block does not notice the end of the context.
func TestKeepGivesUp(t *testing.T) {
	rows := []struct {
		desc string
		fate fate
		want string
	}{
		{"errors", fate{fail: errBroken, skip: true}, errBroken.Error()},
		{"no answer", fate{before: time.Hour}, "did not answer"},
		{"no answer, deaf", fate{before: time.Minute, deaf: true}, "did not answer"},
		{"executes, no answer, deaf", fate{after: time.Minute, deaf: true}, "did not answer"},
	}
	for _, row := range rows {
		t.Run(row.desc, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				h := acquire(t, f, Options{Owner: "a"})
				f.always(true, row.fate)
				start := time.Now()
				err := h.Keep(t.Context())
				took := time.Since(start).Round(time.Millisecond)
				if want := (DefaultTTL * 2 / 3).Round(time.Millisecond); !errors.Is(err, ErrLost) || took != want {
					t.Errorf("Keep ended after %v, want %v: %v", took, want, err)
				}
				if !strings.Contains(err.Error(), row.want) {
					t.Errorf("Keep: %v", err)
				}
				f.fine()
				if row.fate.deaf {
					short, cancel := context.WithTimeout(t.Context(), time.Second)
					defer cancel()
					if err := h.Release(short); !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("Release beside a renewal: %v", err)
					}
				}
				release(t, h) // it still is ours, and the last renewal is joined
				f.shows("false a 1")
			})
		})
	}
}

// TestKeepEnds: Keep returns nil with its context, also in the middle of a
// renewal, and Release sorts out what became of that.
func TestKeepEnds(t *testing.T) {
	for _, now := range []fate{{before: time.Second, deaf: true}, {after: time.Second, deaf: true}, {before: time.Second}, {after: time.Second}} {
		bubble(t, func(t *testing.T, f *fake) {
			began := time.Now()
			h := acquire(t, f, Options{Owner: "a"})
			f.once(true, now)
			ctx, cancel := context.WithTimeout(t.Context(), DefaultTTL/3+500*time.Millisecond)
			defer cancel()
			start := time.Now()
			if err := h.Keep(ctx); err != nil || time.Since(start) != DefaultTTL/3+500*time.Millisecond {
				t.Errorf("Keep ended after %v: %v", time.Since(start), err)
			}
			start = time.Now()
			more, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			if err := h.Keep(more); err != nil {
				t.Errorf("Keep once more ended after %v: %v", time.Since(start), err)
			}
			f.early(h, began)
			release(t, h)
			f.shows("false a 1")
		})
	}
}

// TestSlowAcquire: whoever gets the lock so late that its time is over does
// not have it.
func TestSlowAcquire(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.once(true, fate{after: time.Minute, deaf: true})
		end := make(chan uint64)
		go func() { end <- acquire(t, f, Options{Owner: "slow"}).Token() }()
		time.Sleep(time.Second)
		h := acquire(t, f, Options{Owner: "b"})
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		if err := h.Keep(ctx); err != nil {
			t.Error(err)
		}
		release(t, h)
		if token := <-end; token != 3 {
			t.Errorf("token %d", token)
		}
	})
	bubble(t, func(t *testing.T, f *fake) { // nobody else wants it
		f.once(true, fate{after: time.Minute, deaf: true})
		if h := acquire(t, f, Options{Owner: "slow"}); h.Token() != 1 || h.now == nil {
			t.Errorf("token %d", h.Token())
		}
	})
	bubble(t, func(t *testing.T, f *fake) { // it never gets better
		f.always(true, fate{after: 5 * time.Second, deaf: true})
		if _, err := Acquire(t.Context(), f, Options{Owner: "slow"}); err == nil || !strings.Contains(err.Error(), "give a longer one") {
			t.Error(err)
		}
	})
}

// TestGiveUp: Acquire and Release end with their context and say why.
func TestGiveUp(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		for _, write := range []bool{false, true} {
			f.always(write, fate{fail: errBroken, skip: true})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			_, err := Acquire(ctx, f, Options{Owner: "a"})
			if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, errBroken) {
				t.Errorf("Acquire: %v", err)
			}
		}
		f.fine()
		h := acquire(t, f, Options{Owner: "a"})
		f.mu.Lock()
		f.fate = func(bool) fate { return fate{after: time.Hour} }
		f.mu.Unlock()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := h.Release(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Release: %v", err)
		}
		f.fine()
		release(t, h) // it has taken effect
		f.shows("false a 1")
	})
}

// TestFrozen: a holder who does not run for longer than the TTL finds out as
// soon as he does, wherever he was frozen.
func TestFrozen(t *testing.T) {
	for at := range 40 {
		bubble(t, func(t *testing.T, f *fake) {
			p := &proc{f: f, start: time.Now()}
			h := acquire(t, p, Options{Owner: "a", Now: p.now})
			end := keep(t.Context(), h)
			time.Sleep(time.Duration(at) * DefaultTTL / 30)
			p.freeze(3 * DefaultTTL)
			b := acquire(t, f, Options{Owner: "b"})
			ends := keep(t.Context(), b)
			woken := p.until
			err := <-end
			p.gate()
			if late := time.Since(woken); !errors.Is(err, ErrLost) || late > 0 {
				t.Errorf("frozen at %d: Keep ended %v after the end of it: %v", at, late, err)
			}
			if b.Token() <= h.Token() {
				t.Errorf("token %d after %d", b.Token(), h.Token())
			}
			if err := h.Release(t.Context()); !errors.Is(err, ErrLost) {
				t.Errorf("Release: %v", err)
			}
			f.shows("true b 2")
			f.put(make([]byte, BlockLen)) // ends b
			if err := <-ends; !errors.Is(err, ErrLost) {
				t.Error(err)
			}
		})
	}
}
