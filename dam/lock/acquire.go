// SPDX-License-Identifier: Apache-2.0

package lock

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"time"
)

// Acquire takes the lock, in the caller's goroutine. It waits until the lock is
// free, or its holder has been silent for the holder's TTL, or ctx ends; with
// Force it does not wait. When it returns, at least 2/3 of the TTL are left;
// call Keep then. There are no goroutines yet.
//
// Errors: bad options, ErrForeign, ErrNewer, a read or write that was refused,
// and that of ctx. After the last two the block may say that the caller has the
// lock although nobody has it; that ends with the TTL.
func Acquire(ctx context.Context, b Block, o Options) (*Held, error) {
	o, err := o.filled()
	if err != nil {
		return nil, err
	}
	d, err := newDisk(b, o)
	if err != nil {
		return nil, err
	}
	c := &contender{d: d, o: o}
	again := d.newPause()
	for {
		h, err := c.try(ctx)
		if h != nil {
			return h, nil
		}
		if err == nil {
			err = again.wait(ctx)
		}
		switch {
		case err == nil:
		case ctx.Err() != nil && c.last.held:
			return nil, fmt.Errorf("lock: gave up: %s has it, with token %d: %w", c.last.owner, c.last.token, err)
		default:
			return nil, fmt.Errorf("lock: %w", err)
		}
	}
}

// contender is an Acquire at work.
type contender struct {
	d      *disk
	o      Options
	seen   []byte        // what the block held at the last read
	last   record        // the same
	seenAt time.Duration // when a read first had found that; the end of the read
}

// try takes the lock if it may be taken now; nil and no error if not.
func (c *contender) try(ctx context.Context) (*Held, error) {
	now, _, at, err := c.d.read(ctx)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(now, c.seen) {
		r, err := decode(now)
		if err != nil {
			return nil, err
		}
		c.seen, c.last, c.seenAt = now, r, at
	}
	if c.last.held && !c.o.Force && at-c.seenAt < c.last.ttl {
		return nil, nil
	}
	return c.take(ctx, now, &c.last)
}

// take makes the record of somebody else, which is old in bytes, the caller's.
// It returns nil if others were faster.
func (c *contender) take(ctx context.Context, old []byte, r *record) (*Held, error) {
	if r.token == math.MaxUint64 {
		return nil, errors.New("there are no more tokens: use another block")
	}
	mine := record{held: true, token: r.token + 1, ttl: c.o.TTL, owner: c.o.Owner}
	if _, err := io.ReadFull(c.o.Random, mine.nonce[:]); err != nil {
		return nil, fmt.Errorf("no random numbers: %w", err)
	}
	want := mine.encode()
	now, since, err := c.d.swap(ctx, old, want, c.d.now())
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(now, want) {
		return nil, nil
	}
	h := &Held{d: c.d, mine: mine, now: want, turn: make(chan struct{}, 1)}
	h.since.Store(int64(since))
	return h.freshen(ctx)
}

// maxFreshen is how often Acquire renews a lock that it got too late.
const maxFreshen = 3

// freshen returns h with 2/3 of its TTL left. The answer to the acquisition
// may have come so late that the time is nearly over, or is: then somebody
// else may have the lock, and nil is returned.
func (h *Held) freshen(ctx context.Context) (*Held, error) {
	for range maxFreshen {
		if h.age() <= h.mine.ttl/3 {
			return h, nil
		}
		err := h.change(ctx, renewed)
		if errors.Is(err, ErrLost) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
	}
	if h.age() <= h.mine.ttl/3 {
		return h, nil
	}
	return nil, fmt.Errorf("writing its block takes longer than a third of the TTL of %v: give a longer one", h.mine.ttl)
}
