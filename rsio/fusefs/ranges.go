// SPDX-License-Identifier: Apache-2.0

package fusefs

import "sync"

// ranges keeps changes of one file apart where one of them reads a block,
// changes some of its bytes and writes it back: nobody else may change that
// block in between. The interleaving it stands against: A reads a block to
// change its first byte; B writes the whole block and is answered; A writes
// back what it read, and B's bytes are gone.
//
// Whole-block changes are shared among each other, however they overlap, and
// exclusive against partial ones. All who hold or wait stand in one list in
// the order of their coming; a hold is granted when nothing before it is in
// its way, so that nobody waits for somebody who came later. A device with
// blocks of one byte does not need any of it.
type ranges struct {
	mu      sync.Mutex
	head    hold // of a ring
	partial int  // partial ones in the list; without any, nothing is in anybody's way
}

// hold is the place of one request in the list.
type hold struct {
	off, end   uint64
	partial    bool
	waits      bool
	prev, next *hold
	wake       chan struct{} // one token when it is granted
}

func (r *ranges) init() { r.head.prev, r.head.next = &r.head, &r.head }

// blocked reports whether something before h is in its way.
func (r *ranges) blocked(h *hold) bool {
	if r.partial == 0 {
		return false
	}
	for o := h.prev; o != &r.head; o = o.prev {
		if (h.partial || o.partial) && h.off < o.end && o.off < h.end {
			return true
		}
	}
	return false
}

// lock waits until h, with its range set, is granted.
func (r *ranges) lock(h *hold) {
	r.mu.Lock()
	h.prev, h.next = r.head.prev, &r.head
	h.prev.next, h.next.prev = h, h
	if h.partial {
		r.partial++
	}
	h.waits = r.blocked(h)
	waits := h.waits
	r.mu.Unlock()
	if waits {
		<-h.wake
	}
}

// unlock lets those go on that h was in the way of.
func (r *ranges) unlock(h *hold) {
	r.mu.Lock()
	h.prev.next, h.next.prev = h.next, h.prev
	if h.partial {
		r.partial--
	}
	for o := h.next; o != &r.head; o = o.next {
		if o.waits && !r.blocked(o) {
			o.waits = false
			o.wake <- struct{}{} // has room: it waits once
		}
	}
	h.prev, h.next = nil, nil
	r.mu.Unlock()
}
