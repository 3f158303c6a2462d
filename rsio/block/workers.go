// SPDX-License-Identifier: Apache-2.0

package block

import (
	"context"
	"sync"
)

// MaxQueued is the number of requests that may wait for a worker; further
// ones end in StatusBusy. The callers' windows (slots of a session) keep the
// queue far below: it is the bound if they fail to.
const MaxQueued = 1 << 16

// Workers runs blocking system calls of a leaf on a fixed number of
// goroutines. Submit queues; each worker takes the oldest request.
type Workers struct {
	fn     func(*Request) Status
	mu     sync.Mutex
	wake   sync.Cond
	queue  Queue
	idle   int // workers waiting on wake
	closed bool
	done   sync.WaitGroup
	refuse Finisher // answers from inside Submit
}

// NewWorkers starts n goroutines that execute fn; Close joins them. fn returns
// the status and must not complete the request itself.
func NewWorkers(n int, fn func(*Request) Status) *Workers {
	w := &Workers{fn: fn}
	w.wake.L = &w.mu
	w.done.Add(n)
	for range n {
		go w.run()
	}
	return w
}

// Submit hands r to a worker. After Close it ends in StatusClosed.
func (w *Workers) Submit(r *Request) {
	w.mu.Lock()
	st := StatusOK
	switch {
	case w.closed:
		st = StatusClosed
	case w.queue.Len() >= MaxQueued:
		st = StatusBusy
	default:
		w.queue.Push(r)
	}
	signal := st == StatusOK && w.idle > 0
	w.mu.Unlock()
	if st != StatusOK {
		w.refuse.Finish(r, st)
		return
	}
	if signal {
		w.wake.Signal()
	}
}

func (w *Workers) run() {
	defer w.done.Done()
	w.mu.Lock()
	for {
		r := w.queue.Pop()
		if r == nil {
			if w.closed {
				w.mu.Unlock()
				return
			}
			w.idle++
			w.wake.Wait()
			w.idle--
			continue
		}
		w.mu.Unlock()
		r.Depth = 0
		Finish(r, w.fn(r))
		w.mu.Lock()
	}
}

// Close refuses new requests, drains the queue and joins the workers. If ctx
// ends first it returns its error while the drain goes on.
func (w *Workers) Close(ctx context.Context) error {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.wake.Broadcast()
	if err := Await(ctx, &w.done); err != nil {
		return err
	}
	w.refuse.Close()
	return nil
}

// Await waits for wg or for the end of ctx, whose error it then returns. The
// goroutine it needs ends with wg.
func Await(ctx context.Context, wg *sync.WaitGroup) error {
	if ctx.Done() == nil {
		wg.Wait()
		return nil
	}
	ended := make(chan struct{})
	go func() { wg.Wait(); close(ended) }()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Serve makes a Device of a blocking function: n workers, the given Info.
func Serve(info Info, n int, fn func(*Request) Status) Device {
	return &served{info: info, Workers: NewWorkers(n, fn)}
}

type served struct {
	info Info
	*Workers
}

func (s *served) Info() Info { return s.info }
