// SPDX-License-Identifier: Apache-2.0

package session

import (
	"sync"
	"sync/atomic"

	"rsio/rsio/wire"
)

// Limits of credit in bytes (docs/protocol.md section 5.4).
const (
	DefaultBudget = 256 << 20 // sum of all windows of a target
	IdleWindow    = 64 << 10  // what a session has that asks for nothing
	MaxWindow     = 32 << 20  // what one session may get
)

// Budget is the payload memory of a target, shared out as windows. The sum of
// what is reserved never exceeds its limit.
type Budget struct {
	mu       sync.Mutex
	limit    uint64
	reserved uint64
	short    atomic.Bool // somebody got less than he asked for
}

// NewBudget returns a budget of limit bytes.
func NewBudget(limit uint64) *Budget { return &Budget{limit: limit} }

// Reserved returns the sum of all windows in bytes.
func (b *Budget) Reserved() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.reserved
}

// take reserves up to n bytes, at least least, and returns how many.
func (b *Budget) take(n, least uint64) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n > b.limit-b.reserved {
		n = b.limit - b.reserved
		b.short.Store(true)
	}
	if n < least {
		return 0
	}
	b.reserved += n
	return n
}

func (b *Budget) give(n uint64) {
	b.mu.Lock()
	b.reserved -= n
	b.mu.Unlock()
}

// Window is the credit of one session at the target. Each change has a number,
// the grant. A smaller window gives its bytes back only when the initiator has
// acknowledged the grant, which it does when no more than the new window is in
// flight: otherwise a frame sent under the old window, still under way on a
// slow path, would find its memory promised to somebody else.
type Window struct {
	mu       sync.Mutex
	budget   *Budget
	bytes    uint64 // granted
	reserved uint64 // taken from the budget, >= bytes
	grant    uint32
	most     uint64 // bytes; what it may grow to while others are short

	now    atomic.Uint64 // bytes<<32 | grant, for the hot path
	shrunk atomic.Bool   // reserved is more than bytes
}

// NewWindow reserves the idle window; nil if the budget is used up.
func NewWindow(b *Budget) *Window {
	if b.take(IdleWindow, IdleWindow) == 0 {
		return nil
	}
	w := &Window{budget: b, bytes: IdleWindow, reserved: IdleWindow, grant: 1, most: MaxWindow}
	w.publish()
	return w
}

// publish makes a change visible to Get and Heard. w.mu is held, but for a new
// window.
func (w *Window) publish() {
	w.now.Store(w.bytes<<32 | uint64(w.grant))
	w.shrunk.Store(w.reserved > w.bytes)
}

// Get returns the granted bytes and the number of the grant.
func (w *Window) Get() (bytes, grant uint32) {
	now := w.now.Load()
	return uint32(now >> 32), uint32(now)
}

// Reserved returns the bytes the session may have in flight as far as the
// target knows: the old window until a smaller one is acknowledged.
func (w *Window) Reserved() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.reserved
}

// Heard takes the initiator's word: how many bytes it wants and which grant it
// goes by.
func (w *Window) Heard(want, acked uint32) {
	if bytes, _ := w.Get(); want <= bytes && !w.shrunk.Load() {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.budget == nil {
		return
	}
	defer w.publish()
	if acked == w.grant && w.reserved > w.bytes {
		w.budget.give(w.reserved - w.bytes)
		w.reserved = w.bytes
	}
	if uint64(want) > w.bytes && w.most < MaxWindow {
		w.budget.short.Store(true) // or his share would be gone before the next one asks
	}
	if uint64(want) > w.bytes && w.bytes < w.most {
		goal := min(max(uint64(want), 2*w.bytes, wire.MaxPayload), w.most)
		if goal > w.reserved {
			w.reserved += w.budget.take(goal-w.reserved, 4096)
		}
		if goal = min(goal, w.reserved) &^ 4095; goal > w.bytes {
			w.bytes = goal
			w.grant++
		}
	}
}

// Shrink grants the idle window to a session that asks for nothing. It reports
// whether that is news for the initiator.
func (w *Window) Shrink() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.budget == nil || w.bytes <= IdleWindow {
		return false
	}
	w.bytes = IdleWindow
	w.grant++
	w.publish()
	return true
}

// Orphan takes all but the idle window from a session that has no connection
// and nothing running: what was sent under the larger one cannot arrive any
// more, so there is no acknowledgement to wait for. A host that died would hold
// it for ever. The answer to the login of its next path says so.
func (w *Window) Orphan() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.budget == nil || w.reserved <= IdleWindow {
		return
	}
	w.budget.give(w.reserved - IdleWindow)
	w.bytes, w.reserved = IdleWindow, IdleWindow
	w.grant++
	w.publish()
}

// Share bounds the window to most bytes while others are short of credit.
func (w *Window) Share(most uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.most = most; w.budget == nil || w.bytes <= most {
		return
	}
	w.bytes = most
	w.grant++
	w.publish()
}

// Release gives everything back; the session has ended and is drained.
func (w *Window) Release() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.budget != nil {
		w.budget.give(w.reserved)
		w.budget, w.reserved = nil, 0
	}
}
