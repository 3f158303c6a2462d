// SPDX-License-Identifier: Apache-2.0

package lock

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"rsio/rsio/block"
)

func TestOptions(t *testing.T) {
	rows := []struct {
		desc, want string
		o          Options
	}{
		{"no owner", "owner", Options{}},
		{"long owner", "owner", Options{Owner: strings.Repeat("x", MaxOwner+1)}},
		{"control character", "owner", Options{Owner: "a\x1b"}},
		{"not ASCII", "owner", Options{Owner: "a\u00fc"}},
		{"short TTL", "TTL", Options{Owner: "a", TTL: MinTTL - 1}},
		{"long TTL", "TTL", Options{Owner: "a", TTL: MaxTTL + 1}},
		{"negative TTL", "TTL", Options{Owner: "a", TTL: -1}},
		{"nothing random", "random", Options{Owner: "a", Random: iotest.ErrReader(errBroken)}},
	}
	for _, row := range rows {
		f := &fake{t: t}
		h, err := Acquire(t.Context(), f, row.o)
		if h != nil || err == nil || !strings.Contains(err.Error(), row.want) || f.writes != 0 {
			t.Errorf("%s: %v, %d writes", row.desc, err, f.writes)
		}
	}
	f := &fake{t: t}
	h := acquire(t, f, Options{Owner: strings.Repeat("x", MaxOwner), TTL: MinTTL + 1500*time.Microsecond})
	if i, err := Show(t.Context(), f); err != nil || i.TTL != MinTTL+time.Millisecond || h.mine.ttl != i.TTL {
		t.Errorf("%+v, %v", i, err)
	}
	if i, err := Show(t.Context(), &fake{t: t}); err != nil || i != (Info{}) {
		t.Errorf("a block of zeroes: %+v, %v", i, err)
	}
}

// TestLife is the life of a lock without trouble.
func TestLife(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		h := acquire(t, f, Options{Owner: "a"})
		f.shows("true a 1")
		ctx, cancel := context.WithCancel(t.Context())
		end := keep(ctx, h)
		for range 100 {
			time.Sleep(time.Second)
			if h.Left() < DefaultTTL/3 {
				t.Fatalf("%v left", h.Left())
			}
		}
		if f.writes != 31 { // 100 s in thirds of 10 s, and the acquisition
			t.Errorf("%d writes", f.writes)
		}
		cancel()
		if err := <-end; err != nil {
			t.Error(err)
		}
		release(t, h)
		f.shows("false a 1")
		release(t, h)
		if h.Left() != 0 || !errors.Is(h.Keep(t.Context()), ErrLost) {
			t.Error("it is not over")
		}
		h = acquire(t, f, Options{Owner: "b"})
		if f.shows("true b 2"); h.Token() != 2 {
			t.Errorf("token %d", h.Token())
		}
	})
}

// TestTakeover: a waiter takes over after the TTL of the holder, not its own,
// of silence that it has seen, and the holder who wakes then finds out.
func TestTakeover(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		dead := acquire(t, f, Options{Owner: "dead", TTL: 20 * time.Second})
		time.Sleep(time.Minute) // of silence that nobody has seen
		start := time.Now()
		h := acquire(t, f, Options{Owner: "b", TTL: time.Second})
		if took := time.Since(start); took < 20*time.Second || took > 21*time.Second {
			t.Errorf("taken over after %v", took)
		}
		if h.Token() != 2 || dead.Left() > 0 {
			t.Errorf("token %d, %v left", h.Token(), dead.Left())
		}
		if err := dead.Keep(t.Context()); !errors.Is(err, ErrLost) {
			t.Errorf("Keep: %v", err)
		}
		if err := dead.Release(t.Context()); !errors.Is(err, ErrLost) || !strings.Contains(err.Error(), "b has it, with token 2") {
			t.Errorf("Release: %v", err)
		}
		f.shows("true b 2")
	})
}

// TestWait: a holder that renews is not disturbed; whoever waits gives up with
// its context, says who has it, and gets it when it is released.
func TestWait(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		h := acquire(t, f, Options{Owner: "a"})
		ctx, cancel := context.WithCancel(t.Context())
		end := keep(ctx, h)
		short, over := context.WithTimeout(t.Context(), time.Hour)
		defer over()
		_, err := Acquire(short, f, Options{Owner: "b"})
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "a has it, with token 1") {
			t.Errorf("Acquire: %v", err)
		}
		time.AfterFunc(time.Minute, func() {
			cancel()
			if err := <-end; err != nil {
				t.Error(err)
			}
			release(t, h)
		})
		start := time.Now()
		release(t, acquire(t, f, Options{Owner: "b"}))
		if took := time.Since(start); took < time.Minute || took > time.Minute+maxPause {
			t.Errorf("acquired after %v", took)
		}
	})
}

// TestForce takes the lock from a holder that lives, and who finds out at his
// next renewal and frees nothing.
func TestForce(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		h := acquire(t, f, Options{Owner: "a"})
		end := keep(t.Context(), h)
		time.Sleep(time.Second)
		f.forced = true
		start := time.Now()
		b := acquire(t, f, Options{Owner: "b", Force: true})
		if took := time.Since(start); took != 0 || b.Token() != 2 {
			t.Errorf("token %d after %v", b.Token(), took)
		}
		if err := <-end; !errors.Is(err, ErrLost) || !strings.Contains(err.Error(), "b has it, with token 2") {
			t.Errorf("Keep: %v", err)
		}
		if took := time.Since(start); took > DefaultTTL/3 {
			t.Errorf("the holder knew after %v", took)
		}
		if err := h.Release(t.Context()); !errors.Is(err, ErrLost) {
			t.Errorf("Release: %v", err)
		}
		f.shows("true b 2")
		release(t, b)
		if err := h.Release(t.Context()); !errors.Is(err, ErrLost) || !strings.Contains(err.Error(), "b had it since") {
			t.Errorf("Release: %v", err)
		}
	})
}

// TestForeign: what is no lock is never touched.
func TestForeign(t *testing.T) {
	for desc, row := range odd() {
		t.Run(desc, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				mine := acquire(t, f, Options{Owner: "a"})
				f.put(row.block)
				for _, force := range []bool{false, true} {
					if _, err := Acquire(t.Context(), f, Options{Owner: "b", Force: force}); !errors.Is(err, row.want) {
						t.Errorf("Acquire with force %v: %v", force, err)
					}
				}
				if _, err := Show(t.Context(), f); !errors.Is(err, row.want) {
					t.Errorf("Show: %v", err)
				}
				if err := mine.Keep(t.Context()); !errors.Is(err, ErrLost) || !errors.Is(err, row.want) {
					t.Errorf("Keep: %v", err)
				}
				if err := mine.Release(t.Context()); !errors.Is(err, ErrLost) || !errors.Is(err, row.want) {
					t.Errorf("Release: %v", err)
				}
				if !bytes.Equal(f.data[:], row.block) {
					t.Error("it was touched")
				}
			})
		})
	}
	bubble(t, func(t *testing.T, f *fake) {
		mine := acquire(t, f, Options{Owner: "a"})
		f.put(make([]byte, BlockLen))
		if err := mine.Release(t.Context()); !errors.Is(err, ErrLost) || !strings.Contains(err.Error(), "zeroes") {
			t.Errorf("Release: %v", err)
		}
	})
}

func TestLastToken(t *testing.T) {
	f := &fake{t: t}
	r := example()
	r.token, r.held = math.MaxUint64, false
	f.put(r.encode())
	if _, err := Acquire(t.Context(), f, Options{Owner: "a"}); err == nil || !strings.Contains(err.Error(), "tokens") {
		t.Error(err)
	}
	f.shows(fmt.Sprint("false host1/vm2 ", uint64(math.MaxUint64)))
}

// TestRefused: an error that says that nothing was executed ends what was
// tried, and is what the caller gets.
func TestRefused(t *testing.T) {
	const st = block.StatusConflict
	for _, write := range []bool{true, false} {
		bubble(t, func(t *testing.T, f *fake) {
			no := fate{fail: fmt.Errorf("wrapped: %w", st), skip: true}
			f.always(write, no)
			if _, err := Acquire(t.Context(), f, Options{Owner: "a"}); !errors.Is(err, st) {
				t.Errorf("Acquire: %v", err)
			}
			f.fine()
			h := acquire(t, f, Options{Owner: "a"})
			f.always(write, no)
			if !write {
				if _, err := Show(t.Context(), f); !errors.Is(err, st) {
					t.Errorf("Show: %v", err)
				}
				return
			}
			start := time.Now()
			if err := h.Keep(t.Context()); !errors.Is(err, st) || !errors.Is(err, ErrLost) {
				t.Errorf("Keep: %v", err)
			}
			if took := time.Since(start); took != DefaultTTL/3 {
				t.Errorf("Keep knew after %v", took)
			}
			if err := h.Release(t.Context()); !errors.Is(err, st) || errors.Is(err, ErrLost) {
				t.Errorf("Release: %v", err)
			}
			f.fine()
			release(t, h)
		})
	}
}
