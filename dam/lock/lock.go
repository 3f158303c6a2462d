// SPDX-License-Identifier: Apache-2.0

// Package lock is a mutex in one block of 4 KiB of a shared volume, for hosts
// that have nothing else in common. It needs reads and compare-and-write.
//
//   - Acquire takes the lock and waits for it if it must; Keep renews it;
//     Release gives it back; Show tells who has it.
//   - Each acquisition has a token, greater by one than the one before. What
//     the lock protects can refuse a token that is smaller than one it has
//     seen. That, or a reservation, is the only thing that stops a holder who
//     was frozen and does not know yet that his time is over.
//
// # Time
//
// Clocks of two hosts are never compared. The record has no time in it, only a
// number of renewals and the TTL of its holder. A waiter takes the lock over
// when it has itself seen the record unchanged for the whole TTL, from the end
// of its first read of it, on its own monotonic clock. The holder counts the
// TTL from the start of its last successful write. The interleaving this
// stands against: the holder starts a write; it executes; the waiter reads;
// the holder gets its answer late. The waiter's TTL ends after the holder's,
// however long the way of each of them was.
//
//	0          TTL/3         2/3 TTL               TTL
//	renewed    Keep renews   Keep gives up:        a waiter may
//	                         stop what is          have it
//	                         protected
//
// The last third is for stopping, and for clocks that do not run at one speed.
// A host that was suspended or a VM that was paused finds out when it wakes;
// until then only the token protects. Options.Now can be CLOCK_BOOTTIME, which
// goes on in a suspended host.
//
// # Format
//
// Big-endian. A block of zeroes is a free lock with token 0.
//
//	offset  length
//	     0       8  magic "RSIOLOCK"
//	     8       4  format, 1
//	    12       1  state: 1 = free, 2 = held
//	    13       1  length of the owner, 1..127
//	    14       2  zeroes
//	    16       8  token, 1 for the first acquisition
//	    24       8  renewals: changes of the record since its acquisition
//	    32       4  TTL in ms, 1000..600,000
//	    36       4  zeroes
//	    40      16  nonce, random for each acquisition
//	    56     127  owner, printable ASCII, then zeroes
//	   183    3909  zeroes
//	  4092       4  CRC32C of bytes 0..4091
//
// A free record keeps what its last holder wrote, so that it can tell whether
// a release whose outcome was unknown took effect. No content but the zeroes
// ever comes twice: either token or renewals grow.
//
// # Writes of which nobody knows whether they executed
//
//  1. CompareAndWrite returns an error, or a miscompare.
//  2. The block is read, again and again while the context lives.
//  3. It holds what was to be written: it took effect. It holds what was there
//     before: it did not, and is tried again. It holds something else: somebody
//     was faster.
//
// A copy that executes late, against the promise of Block, does no harm: what
// it compares with never comes back, and if it still is there, the copy does
// what is being tried anyway. The TTL is counted from the start of the attempt
// or of the last read that found it undone.
//
// # Failures
//
//	what happened                           what comes of it
//	holder dies or loses its paths          somebody else has it after its TTL
//	holder is frozen for less than 2/3 TTL  nothing
//	holder is frozen for longer             Keep returns ErrLost; see Time
//	somebody forces it                      Keep returns ErrLost at its next renewal, up to 2/3
//	                                        TTL later: until then two hold it
//	the write is refused (fenced, closed)   the error, from Keep as ErrLost
//	the block cannot be read or written     it is tried again, Keep does so until 2/3 TTL
//	the block holds something else          ErrForeign; it is never overwritten
//	a newer format                          ErrNewer; it is never overwritten
//	the block is overwritten with zeroes    the holder finds out as after a force; tokens
//	                                        start anew: do not do that
package lock

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"time"
)

// BlockLen is the length of the block of a lock, bytes.
const BlockLen = 4096

// MaxOwner is the longest owner, bytes: a nexus of a host and a VM.
const MaxOwner = 127

// The limits of Options.TTL.
const (
	MinTTL     = time.Second
	MaxTTL     = 10 * time.Minute
	DefaultTTL = 10 * time.Second
)

// The errors that callers tell apart; what is returned wraps them.
var (
	// ErrLost says that the lock is not, or may soon not be, the caller's.
	ErrLost = errors.New("the lock is lost")
	// ErrForeign says that the block was never one of a lock, or is damaged.
	ErrForeign = errors.New("the block holds something that is no lock: use a volume (or --at offset) of its own; it was not touched")
	// ErrNewer says that a later version of this program made the lock.
	ErrNewer = errors.New("the lock has a newer format: use a program of that version; it was not touched")
)

// Block is one aligned block of BlockLen bytes of a volume that all contenders
// share. One goroutine calls at a time, and not always the same one. Errors
// that are, or wrap, a block.Status which says that nothing was executed and
// nothing will come of a repetition (conflict, denied, closed and the like)
// end what was tried; after all others it is tried again.
//
// Both methods return soon after ctx has ended. Keep does not depend on it,
// the others do.
type Block interface {
	// Read fills p, which has BlockLen bytes and is the caller's again when
	// Read returns.
	Read(ctx context.Context, p []byte) error

	// CompareAndWrite writes new, durably (FUA), if old is what is there, as
	// one step. ok tells whether it was. With an error the outcome is unknown;
	// what has not executed by then should not execute any more. old and new
	// have BlockLen bytes and never change, so that what is still under way
	// after an early return may refer to them.
	CompareAndWrite(ctx context.Context, old, new []byte) (ok bool, err error)
}

// Options says how Acquire takes a lock.
type Options struct {
	// Owner is the nexus, for people: 1 to MaxOwner bytes of printable ASCII.
	// It gives no rights: two with one name are two.
	Owner string

	// TTL is how long a holder is believed to live that does not renew, MinTTL
	// to MaxTTL in whole milliseconds (what is left over is cut off). 0 means
	// DefaultTTL.
	TTL time.Duration

	// Force takes the lock from a holder that may be alive.
	Force bool

	// Now is a monotonic clock; nil means the time since Acquire was called.
	// Goroutines of this package call it, more than one at a time.
	Now func() time.Duration

	// Random is where nonces and jitter come from; nil means crypto/rand. Only
	// Acquire reads it.
	Random io.Reader
}

// filled returns o with its defaults, or what is wrong with it.
func (o Options) filled() (Options, error) {
	if !validOwner(o.Owner) {
		return o, fmt.Errorf("lock: owner %.140q is not allowed: give 1 to %d printable ASCII characters", o.Owner, MaxOwner)
	}
	if o.TTL == 0 {
		o.TTL = DefaultTTL
	}
	if o.TTL < MinTTL || o.TTL > MaxTTL {
		return o, fmt.Errorf("lock: a TTL of %v is not allowed: give %v to %v", o.TTL, MinTTL, MaxTTL)
	}
	o.TTL = o.TTL.Truncate(time.Millisecond)
	if o.Now == nil {
		start := time.Now()
		o.Now = func() time.Duration { return time.Since(start) }
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	return o, nil
}

// Info is what a block says about its lock.
type Info struct {
	Held     bool          // it was not released; whether the holder lives, only time tells
	Owner    string        // who has it, or had it last; empty if nobody ever had
	Token    uint64        // of the last acquisition; 0 if there was none
	TTL      time.Duration // of the last acquisition; 0 if there was none
	Renewals uint64        // changes of the record since the acquisition
}

// Show reads the block once, in the caller's goroutine. Errors: that of the
// read, ErrForeign, ErrNewer.
func Show(ctx context.Context, b Block) (Info, error) {
	p := make([]byte, BlockLen)
	if err := b.Read(ctx, p); err != nil {
		return Info{}, fmt.Errorf("lock: its block cannot be read: %w", err)
	}
	r, err := decode(p)
	if err != nil {
		return Info{}, fmt.Errorf("lock: %w", err)
	}
	return Info{Held: r.held, Owner: r.owner, Token: r.token, TTL: r.ttl, Renewals: r.renewals}, nil
}
