// SPDX-License-Identifier: Apache-2.0

package lock

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"rsio/rsio/block"
)

// The bounds of a pause between two attempts.
const (
	minPause = 50 * time.Millisecond
	maxPause = 500 * time.Millisecond
)

// disk is the block with what it takes to be stubborn about it. One goroutine
// at a time uses it.
type disk struct {
	b   Block
	now func() time.Duration
	rng *rand.Rand
	// last is the last error since a write succeeded, for people. Keep reads it
	// while another goroutine is at work.
	last atomic.Pointer[failure]
}

type failure struct{ err error }

func newDisk(b Block, o Options) (*disk, error) {
	var seed [16]byte
	if _, err := io.ReadFull(o.Random, seed[:]); err != nil {
		return nil, fmt.Errorf("lock: no random numbers: %w", err)
	}
	pcg := rand.NewPCG(binary.BigEndian.Uint64(seed[:]), binary.BigEndian.Uint64(seed[8:]))
	return &disk{b: b, now: o.Now, rng: rand.New(pcg)}, nil
}

// note remembers the error of a call, unless the end of ctx explains it.
func (d *disk) note(ctx context.Context, err error) {
	if err != nil && ctx.Err() == nil {
		d.last.Store(&failure{err})
	}
}

// read returns the block and when the read that succeeded began and ended. It
// is tried until ctx ends or it is refused.
func (d *disk) read(ctx context.Context) (p []byte, began, ended time.Duration, err error) {
	again := d.newPause()
	for {
		p = make([]byte, BlockLen)
		began = d.now()
		if err = d.b.Read(ctx, p); err == nil {
			return p, began, d.now(), nil
		}
		d.note(ctx, err)
		if refused(err) {
			return nil, 0, 0, fmt.Errorf("its block cannot be read: %w", err)
		}
		if end := again.wait(ctx); end != nil {
			return nil, 0, 0, gaveUp(end, "its block cannot be read", err)
		}
	}
}

// swap makes want of old, and returns what the block holds then: want if it
// took effect, and something else but not old if not. After an error nobody
// knows. The caller knows that the block did not hold want at the time from,
// which is not the time of the call if an earlier attempt at it may have been
// under way; swap returns the latest such time that it knows of.
func (d *disk) swap(ctx context.Context, old, want []byte, from time.Duration) (now []byte, since time.Duration, err error) {
	again := d.newPause()
	for {
		ok, fail := d.b.CompareAndWrite(ctx, old, want)
		if fail == nil && ok {
			d.last.Store(nil)
			return want, from, nil
		}
		d.note(ctx, fail)
		if refused(fail) {
			return nil, 0, fmt.Errorf("its block cannot be written: %w", fail)
		}
		now, began, _, err := d.read(ctx)
		if err != nil {
			if fail != nil {
				err = fmt.Errorf("outcome of a write unknown (%w), then %w", fail, err)
			}
			return nil, 0, err
		}
		if bytes.Equal(now, want) {
			return now, from, nil
		}
		from = began
		if !bytes.Equal(now, old) {
			return now, from, nil
		}
		if end := again.wait(ctx); end != nil {
			return nil, 0, gaveUp(end, "its block cannot be written", fail)
		}
	}
}

// gaveUp is the error of an attempt that was ended by its context.
func gaveUp(end error, what string, err error) error {
	if err == nil || errors.Is(err, end) {
		return fmt.Errorf("%s: %w", what, end)
	}
	return fmt.Errorf("%s: %w: %w", what, end, err)
}

// refused reports whether err says that nothing was executed and that it is
// no use to try again.
func refused(err error) bool {
	var st block.Status
	if !errors.As(err, &st) {
		return false
	}
	switch st {
	case block.StatusInvalid, block.StatusUnsupported, block.StatusReadOnly, block.StatusConflict, block.StatusClosed,
		block.StatusNotFound, block.StatusDenied, block.StatusProtocol, block.StatusNoSession:
		return true
	}
	return false
}

// pause is a series of waits that get longer, at random: contenders that have
// met once shall not meet again.
type pause struct {
	rng   *rand.Rand
	limit time.Duration
}

func (d *disk) newPause() *pause { return &pause{rng: d.rng, limit: 2 * minPause} }

// wait waits minPause to maxPause, or until ctx ends, whose error it returns.
func (p *pause) wait(ctx context.Context) error {
	d := minPause + time.Duration(p.rng.Int64N(int64(p.limit-minPause)+1))
	p.limit = min(2*p.limit, maxPause)
	return sleep(ctx, d)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}
