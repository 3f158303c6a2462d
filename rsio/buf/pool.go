// SPDX-License-Identifier: Apache-2.0

// Package buf hands out page-aligned buffers under a hard cap.
//
// A Pool has a fixed number of size classes. Memory that was handed out once
// is kept and reused; the sum of what is out never exceeds the cap. Stats
// counts what is out, so that a test can prove that nothing leaked.
package buf

import (
	"fmt"
	"math/bits"
	"sync"
	"unsafe"
)

// Align is the alignment of every buffer in bytes, as O_DIRECT wants it.
const Align = 4096

// MaxLen is the largest buffer in bytes.
const MaxLen = 1 << 20

const (
	minShift = 12 // 4 KiB
	maxShift = 20 // 1 MiB
	classes  = maxShift - minShift + 1
)

// Pool is a set of free lists, one per power of two from 4 KiB to 1 MiB.
type Pool struct {
	mu    sync.Mutex
	cond  sync.Cond
	free  [classes][][]byte
	out   int64 // bytes handed out
	kept  int64 // bytes in free lists
	limit int64
	high  int64
	waits int64
	queue int // goroutines in Get that wait
}

// Stats is what a Pool knows of itself.
type Stats struct {
	Out   int64 // bytes handed out now; zero when nothing leaked
	Kept  int64 // bytes kept for reuse
	High  int64 // most bytes ever handed out
	Limit int64 // hard cap of Out in bytes
	Waits int64 // times Get had to wait
}

// New returns a pool that never has more than limit bytes out; limit is at
// least MaxLen.
func New(limit int64) *Pool {
	if limit < MaxLen {
		panic(fmt.Sprintf("buf: limit of %d bytes is below the largest buffer, %d", limit, MaxLen))
	}
	p := &Pool{limit: limit}
	p.cond.L = &p.mu
	return p
}

// Size returns the bytes that a buffer of n bytes takes from the cap.
func Size(n int) int64 { return 1 << (minShift + class(n)) }

func class(n int) int {
	if n <= 1<<minShift {
		return 0
	}
	return bits.Len(uint(n-1)) - minShift
}

// TryGet returns a buffer of length n (1..MaxLen), or nil if the cap does not
// allow it now. Its content is undefined. The caller owns it until Put.
func (p *Pool) TryGet(n int) []byte {
	checkLen(n)
	p.mu.Lock()
	b := p.take(n)
	p.mu.Unlock()
	if b == nil {
		return nil
	}
	return p.fresh(b, n)
}

// Get is TryGet that waits until the cap allows it.
func (p *Pool) Get(n int) []byte {
	checkLen(n)
	p.mu.Lock()
	b := p.take(n)
	for b == nil {
		p.waits++
		p.queue++
		p.cond.Wait()
		p.queue--
		b = p.take(n)
	}
	p.mu.Unlock()
	return p.fresh(b, n)
}

// checkLen panics before the lock is taken: a session that recovers must not
// leave the pool locked for all others.
func checkLen(n int) {
	if n <= 0 || n > MaxLen {
		panic(fmt.Sprintf("buf: length %d is outside 1..%d", n, MaxLen))
	}
}

// take accounts for a buffer and returns it, an empty non-nil slice if it has
// to be made, or nil if the cap forbids it. p.mu is held.
func (p *Pool) take(n int) []byte {
	c := class(n)
	size := int64(1) << (minShift + c)
	if p.out+size > p.limit {
		return nil
	}
	p.out += size
	p.high = max(p.high, p.out)
	list := p.free[c]
	if len(list) == 0 {
		if p.out+p.kept > p.limit { // kept in other classes: the cap is for both
			p.free, p.kept = [classes][][]byte{}, 0
		}
		return []byte{}
	}
	b := list[len(list)-1]
	p.free[c] = list[:len(list)-1]
	p.kept -= size
	return b
}

func (p *Pool) fresh(b []byte, n int) []byte {
	if cap(b) == 0 {
		b = aligned(int(Size(n)))
	}
	return b[:n]
}

// aligned allocates size bytes that start at a multiple of Align.
func aligned(size int) []byte {
	raw := make([]byte, size+Align)
	skip := 0
	if rest := int(uintptr(unsafe.Pointer(unsafe.SliceData(raw))) % Align); rest != 0 {
		skip = Align - rest
	}
	return raw[skip : skip+size : skip+size]
}

// Put takes back what Get or TryGet returned; the caller must not touch it
// afterwards. Free lists keep at most the cap; what is more goes to the
// garbage collector.
func (p *Pool) Put(b []byte) {
	size := int64(cap(b))
	c := class(int(size))
	if size != 1<<(minShift+c) {
		panic(fmt.Sprintf("buf: Put of a slice of capacity %d that no pool made", size))
	}
	p.mu.Lock()
	if p.out < size {
		p.mu.Unlock()
		panic("buf: more was put back than was handed out")
	}
	p.out -= size
	if p.out+p.kept+size <= p.limit {
		p.free[c] = append(p.free[c], b[:size])
		p.kept += size
	}
	waiting := p.queue > 0
	p.mu.Unlock()
	if waiting {
		p.cond.Broadcast()
	}
}

// Trim gives kept memory back to the garbage collector.
func (p *Pool) Trim() {
	p.mu.Lock()
	p.free = [classes][][]byte{}
	p.kept = 0
	p.mu.Unlock()
}

// Stats returns the counters.
func (p *Pool) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Stats{Out: p.out, Kept: p.kept, High: p.high, Limit: p.limit, Waits: p.waits}
}
