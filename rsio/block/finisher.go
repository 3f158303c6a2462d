// SPDX-License-Identifier: Apache-2.0

package block

import "sync"

// Finisher completes requests from inside Submit without growing the stack
// (rule 5): up to MaxInline nested completions run inline, further ones are
// handed to one goroutine that starts when first needed. The device that
// embeds a Finisher calls Close when it has drained. The zero value is ready.
type Finisher struct {
	mu      sync.Mutex
	queue   Queue
	running bool
	idle    sync.Cond // running became false; L is set by Close
}

// Finish completes r with st, inline or from the queue.
func (f *Finisher) Finish(r *Request, st Status) {
	r.Status = st
	if r.Depth < MaxInline {
		r.Done.Complete(r)
		return
	}
	f.mu.Lock()
	f.queue.Push(r)
	start := !f.running
	if start {
		f.running = true
	}
	f.mu.Unlock()
	if start {
		go f.drain()
	}
}

// drain runs until the queue is empty; each request starts a fresh stack.
func (f *Finisher) drain() {
	for {
		f.mu.Lock()
		q := f.queue.Take()
		if q.Len() == 0 {
			f.running = false
			f.idle.Broadcast()
			f.mu.Unlock()
			return
		}
		f.mu.Unlock()
		for r := q.Pop(); r != nil; r = q.Pop() {
			r.Depth = 0
			r.Done.Complete(r)
		}
	}
}

// Close waits until what is queued has completed. Finish may still be called
// afterwards, because a closed device goes on answering StatusClosed, and a
// caller that submits again on that must not grow the stack either.
func (f *Finisher) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.idle.L == nil {
		f.idle.L = &f.mu
	}
	for f.running {
		f.idle.Wait()
	}
}
