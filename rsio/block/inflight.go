// SPDX-License-Identifier: Apache-2.0

package block

import (
	"context"
	"sync"
	"sync/atomic"
)

// Inflight counts who is inside a device, so that Close can drain (rule 6): a
// request, or merely the Submit that hands it to something that drains by
// itself. The zero value is ready.
type Inflight struct {
	n     atomic.Int64 // entered and not left; closedBias is added by Close
	start sync.Once
	empty sync.Once
	zero  chan struct{} // closed when the last one left a closed device
	ended chan struct{} // closed when release has returned
	err   error         // of release
}

const closedBias = -1 << 62

// Enter reports whether the device is open, and counts the caller until Leave
// if it is.
func (f *Inflight) Enter() bool {
	if f.n.Add(1) > 0 {
		return true
	}
	f.Leave()
	return false
}

// Leave undoes one Enter that returned true.
func (f *Inflight) Leave() {
	if f.n.Add(-1) == closedBias {
		f.empty.Do(f.drained)
	}
}

func (f *Inflight) drained() { close(f.zero) }

// Close makes Enter return false, waits for the last Leave, then runs release,
// once, and returns its error, to later calls too. If ctx ends first, drain
// and release go on in the background and ctx.Err is returned; the call may be
// repeated.
func (f *Inflight) Close(ctx context.Context, release func() error) error {
	f.start.Do(func() {
		f.zero, f.ended = make(chan struct{}), make(chan struct{})
		if f.n.Add(closedBias) == closedBias {
			f.empty.Do(f.drained)
		}
		go func() { // joined by whoever waits for ended
			<-f.zero
			f.err = release()
			close(f.ended)
		}()
	})
	select {
	case <-f.ended: // first: an ended ctx must not hide an ended drain
		return f.err
	default:
	}
	select {
	case <-f.ended:
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Hold is Enter for somebody who is counted already: it cannot be refused.
func (f *Inflight) Hold() { f.n.Add(1) }
