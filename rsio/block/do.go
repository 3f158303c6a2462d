// SPDX-License-Identifier: Apache-2.0

package block

import "sync"

// waiter turns a completion into a wake-up.
type waiter struct {
	done chan struct{}
}

func (w *waiter) Complete(*Request) { w.done <- struct{}{} }

var waiters = sync.Pool{New: func() any { return &waiter{done: make(chan struct{}, 1)} }}

// Do submits r and waits for it: the blocking view for everyone who is not
// the data path. It sets r.Done. There is no way to give up early, because
// r.Buf belongs to the device until the completion (rule 7).
func Do(d Device, r *Request) Status {
	w := waiters.Get().(*waiter)
	r.Done, r.Depth = w, 0
	d.Submit(r)
	<-w.done
	waiters.Put(w)
	return r.Status
}
