// SPDX-License-Identifier: Apache-2.0

package fault

import (
	"container/heap"
	"os"
	"sync"
	"time"

	"rsio/rsio/block"
)

// MaxHeld is the number of requests that may wait; further ones do not.
const MaxHeld = 1 << 16

// pollEvery is how often the keeper looks for the file of a hanging request.
const pollEvery = 10 * time.Millisecond

// never is the due time of a request that hangs.
const never = time.Duration(1<<63 - 1)

// waiting is one request in the heap.
type waiting struct {
	r     *block.Request
	due   time.Duration // since keeper.start
	seq   uint64        // order among equals
	until string
	after bool
}

// keeper keeps requests until they are due.
type keeper struct {
	resume func(r *block.Request, after bool)
	start  time.Time

	mu     sync.Mutex
	heap   waitHeap
	seq    uint64
	polls  int  // of heap, those with a file to look for
	rushed bool // nothing waits any more
	ended  bool
	wake   chan struct{}
	done   sync.WaitGroup
}

func newKeeper(resume func(*block.Request, bool)) *keeper {
	k := &keeper{resume: resume, start: time.Now(), wake: make(chan struct{}, 1)}
	k.done.Add(1)
	go k.run()
	return k
}

// park lets r wait as a says; false if it must not wait.
func (k *keeper) park(r *block.Request, a action) bool {
	due := never
	if a.Do == Delay {
		due = time.Since(k.start) + a.wait
	}
	k.mu.Lock()
	ok := !k.rushed && len(k.heap) < MaxHeld
	if ok {
		k.seq++
		if a.Until != "" {
			k.polls++
		}
		heap.Push(&k.heap, waiting{r: r, due: due, seq: k.seq, until: a.Until, after: a.After})
	}
	k.mu.Unlock()
	if ok {
		k.kick()
	}
	return ok
}

// release makes what hangs due.
func (k *keeper) release() {
	k.mu.Lock()
	for i := range k.heap {
		if k.heap[i].due == never {
			k.heap[i].due = 0
		}
	}
	heap.Init(&k.heap)
	k.mu.Unlock()
	k.kick()
}

// hurry makes everything due, now and from now on.
func (k *keeper) hurry() {
	k.mu.Lock()
	k.rushed = true
	for i := range k.heap {
		k.heap[i].due = 0
	}
	heap.Init(&k.heap)
	k.mu.Unlock()
	k.kick()
}

func (k *keeper) held() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.heap)
}

func (k *keeper) kick() {
	select {
	case k.wake <- struct{}{}:
	default: // it looks at everything anyway
	}
}

// close ends and joins the goroutine; nothing waits any more.
func (k *keeper) close() {
	k.mu.Lock()
	k.ended = true
	k.mu.Unlock()
	k.kick()
	k.done.Wait()
}

func (k *keeper) run() {
	defer k.done.Done()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		k.lift()
		k.mu.Lock()
		if len(k.heap) > 0 && k.heap[0].due <= time.Since(k.start) {
			w := heap.Pop(&k.heap).(waiting)
			if w.until != "" {
				k.polls--
			}
			k.mu.Unlock()
			k.resume(w.r, w.after)
			continue
		}
		if k.ended {
			k.mu.Unlock()
			return
		}
		sleep := k.pause()
		k.mu.Unlock()
		timer.Reset(sleep)
		select {
		case <-timer.C:
		case <-k.wake:
		}
	}
}

// pause returns how long nothing is due. k.mu is held.
func (k *keeper) pause() time.Duration {
	sleep := time.Hour
	if len(k.heap) > 0 && k.heap[0].due != never {
		sleep = k.heap[0].due - time.Since(k.start)
	}
	if k.polls > 0 {
		return min(sleep, pollEvery)
	}
	return sleep
}

// lift makes requests due whose file exists.
func (k *keeper) lift() {
	k.mu.Lock()
	if k.polls == 0 {
		k.mu.Unlock()
		return
	}
	files := make(map[string]bool)
	for _, w := range k.heap {
		if w.until != "" && w.due == never {
			files[w.until] = false
		}
	}
	k.mu.Unlock()
	if len(files) == 0 {
		return
	}
	found := false
	for f := range files {
		_, err := os.Stat(f)
		files[f] = err == nil
		found = found || err == nil
	}
	if !found {
		return
	}
	k.mu.Lock()
	for i := range k.heap {
		if w := &k.heap[i]; w.due == never && files[w.until] {
			w.due = 0
		}
	}
	heap.Init(&k.heap)
	k.mu.Unlock()
}

// waitHeap orders by due time, then by arrival.
type waitHeap []waiting

// Len implements heap.Interface.
func (h waitHeap) Len() int { return len(h) }

// Less implements heap.Interface.
func (h waitHeap) Less(i, j int) bool {
	if h[i].due != h[j].due {
		return h[i].due < h[j].due
	}
	return h[i].seq < h[j].seq
}

// Swap implements heap.Interface.
func (h waitHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }

// Push implements heap.Interface.
func (h *waitHeap) Push(x any) { *h = append(*h, x.(waiting)) }

// Pop implements heap.Interface.
func (h *waitHeap) Pop() any {
	last := len(*h) - 1
	w := (*h)[last]
	(*h)[last] = waiting{}
	*h = (*h)[:last]
	return w
}
