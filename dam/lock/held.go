// SPDX-License-Identifier: Apache-2.0

package lock

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// Held is a lock that was acquired. Its methods may be called from any
// goroutine.
//
// Goroutine: one per renewal, so that Keep returns in time even if the block
// does not answer. The next renewal and Release wait for it.
type Held struct {
	d     *disk
	mine  record        // as acquired
	since atomic.Int64  // time.Duration on the clock of d: the TTL counts from here
	freed atomic.Bool   // Release was called
	turn  chan struct{} // has one element while a change is under way; guards d and what follows
	now   []byte        // what the block holds unless somebody else changed it; nil: unknown
}

// errFreed is what change returns if the lock was released.
var errFreed = fmt.Errorf("%w: it was released", ErrLost)

// Token returns the number of this acquisition, at least 1. Later ones of the
// same block have greater numbers.
func (h *Held) Token() uint64 { return h.mine.token }

// Left returns how much of the TTL is left; when it is zero or less, somebody
// else may have the lock. It is zero once Release was called.
func (h *Held) Left() time.Duration {
	if h.freed.Load() {
		return 0
	}
	return h.mine.ttl - h.age()
}

// age returns the time since the TTL began.
func (h *Held) age() time.Duration {
	since := time.Duration(h.since.Load())
	return h.d.now() - since
}

// Keep renews the lock every third of the TTL, until ctx ends, and returns nil
// then, or until the lock is lost. The error then wraps ErrLost and what
// happened: somebody else has it, a renewal was refused, or none succeeded in
// 2/3 of the TTL, counted from the start of the last one that did. The caller
// must have stopped what the lock protects by the end of the TTL (Left), and
// calls Release after that in any case: it joins the last renewal.
func (h *Held) Keep(ctx context.Context) error {
	third := h.mine.ttl / 3
	for {
		age := h.age()
		if h.freed.Load() {
			return fmt.Errorf("lock: %w", errFreed)
		}
		if age >= 2*third {
			return h.late(age)
		}
		if age < third {
			if sleep(ctx, third-age) != nil {
				return nil
			}
			continue
		}
		err := h.renew(ctx, 2*third-age)
		switch {
		case errors.Is(err, ErrLost):
			return fmt.Errorf("lock: %w", err)
		case ctx.Err() != nil:
			return nil
		case refused(err):
			return fmt.Errorf("lock: %w: %w", ErrLost, err)
		}
	}
}

// late is the error of a lock that was not renewed for so long.
func (h *Held) late(age time.Duration) error {
	age = age.Round(time.Millisecond)
	if f := h.d.last.Load(); f != nil {
		return fmt.Errorf("lock: %w: not renewed for %v: %w", ErrLost, age, f.err)
	}
	return fmt.Errorf("lock: %w: not renewed for %v: the block did not answer in time, or this process did not run", ErrLost, age)
}

// renew renews once. It returns when ctx ends or the given time is over, and
// leaves the goroutine to whoever has the next turn.
func (h *Held) renew(ctx context.Context, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	if err := h.take(ctx); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		err := h.change(ctx, renewed)
		<-h.turn
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// take waits for the turn; reading from h.turn gives it back.
func (h *Held) take(ctx context.Context) error {
	select {
	case h.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Release gives the lock back. End Keep, and what the lock protects, before.
// If somebody else has the lock it is left alone and the error is ErrLost; that
// is also the error if nobody can tell whether it was released and then taken,
// or taken. Other errors: the write was refused, or ctx ended before a renewal
// returned or the outcome was known. Then it may be called again; otherwise the
// TTL ends the lock. Called again after a success, it returns nil.
func (h *Held) Release(ctx context.Context) error {
	h.freed.Store(true)
	if err := h.take(ctx); err != nil {
		return fmt.Errorf("lock: a renewal has not returned: %w", err)
	}
	defer func() { <-h.turn }()
	err := h.change(ctx, released)
	if err != nil && !errors.Is(err, errFreed) {
		return fmt.Errorf("lock: %w", err)
	}
	return nil
}

// renewed and released are what change makes of a record.
func renewed(r record) record  { r.renewals++; return r }
func released(r record) record { r.renewals++; r.held = false; return r }

// change replaces the caller's record by next of it. The caller has the turn.
// Errors: ErrLost if the record is not there any more, errFreed if it is there
// as freed; otherwise the record is as it was or as it should be.
func (h *Held) change(ctx context.Context, next func(record) record) error {
	now, since := h.now, h.d.now()
	h.now = nil
	if now == nil {
		var err error
		if now, since, _, err = h.d.read(ctx); err != nil {
			return err
		}
	}
	for {
		r, err := h.check(now)
		if err != nil {
			return err
		}
		r = next(r)
		want := r.encode()
		var got []byte
		if got, since, err = h.d.swap(ctx, now, want, since); err != nil {
			return err
		}
		if bytes.Equal(got, want) {
			h.now = want
			h.since.Store(int64(since))
			return nil
		}
		now = got // somebody else's, or an earlier change of ours that came late
	}
}

// check returns the record in the block, or why it is not the caller's.
func (h *Held) check(now []byte) (record, error) {
	r, err := decode(now)
	switch {
	case err != nil:
		return r, fmt.Errorf("%w: %w", ErrLost, err)
	case r.token == 0:
		return r, fmt.Errorf("%w: the block was overwritten with zeroes", ErrLost)
	case r.sameHolder(&h.mine) && r.held:
		return r, nil
	case r.sameHolder(&h.mine):
		return r, errFreed
	case r.held:
		return r, fmt.Errorf("%w: %s has it, with token %d", ErrLost, r.owner, r.token)
	}
	return r, fmt.Errorf("%w: %s had it since, with token %d", ErrLost, r.owner, r.token)
}
