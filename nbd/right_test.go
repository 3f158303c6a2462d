// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"slices"
	"sync"
	"testing"
	"time"

	"rsio/rsio/block"
)

// witness notes the right that each write carries.
type witness struct {
	*memory
	mu   sync.Mutex
	seen []uint64
}

func (w *witness) Submit(r *block.Request) {
	w.mu.Lock()
	if r.Op == block.OpWrite {
		w.seen = append(w.seen, r.Right)
	}
	w.mu.Unlock()
	w.memory.Submit(r)
}

func (w *witness) take() []uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.seen
	w.seen = nil
	return out
}

// TestFence: what has arrived when the right changes carries the old one, what
// arrives later the new one, whether the reader was busy or idle.
func TestFence(t *testing.T) {
	for _, m := range []mode{simple, structured, extended} {
		t.Run(m.String(), func(t *testing.T) {
			d := newMemory(1<<20, 0)
			d.change(func(i *block.Info) { i.Right = 5 })
			w := &witness{memory: d}
			defer closeDevice(t, d)
			b := serve(t, one(w), Options{MaxInflight: 1})
			p := b.login(m)
			data := make([]byte, 512)
			p.ok(cmdWrite, 0, 0, 512, data)
			if got := w.take(); !slices.Equal(got, []uint64{5}) {
				t.Fatalf("before: %v", got)
			}

			// Idle: the fence must not take the next request for an old one.
			d.change(func(i *block.Info) { i.Right = 6 })
			b.srv.Fence("vol")
			time.Sleep(20 * time.Millisecond)
			p.ok(cmdWrite, 0, 0, 512, data)
			if got := w.take(); !slices.Equal(got, []uint64{6}) {
				t.Errorf("an idle connection, after the fence: %v, want 6", got)
			}

			// Busy: one request is held, the reader waits for it, and others lie
			// in the socket.
			d.setHold(func(*block.Request) bool { return true })
			for c := range uint64(4) {
				p.put(p.request(cmdWrite, 0, 100+c, 0, 512, data))
			}
			eventually(t, "the first write is held", func() bool { return d.held() == 1 })
			d.change(func(i *block.Info) { i.Right = 7 })
			b.srv.Fence("vol")
			b.srv.Fence("other") // nobody
			d.letGo()
			for range 4 {
				if a := p.reply(nil); a.err != 0 {
					t.Errorf("error %d", a.err)
				}
			}
			if got := w.take(); !slices.Equal(got, []uint64{6, 6, 6, 6}) {
				t.Errorf("what had arrived before the fence carries %v, want 6", got)
			}
			p.ok(cmdWrite, 0, 0, 512, data)
			if got := w.take(); !slices.Equal(got, []uint64{7}) {
				t.Errorf("what came later carries %v, want 7", got)
			}
		})
	}
}

// TestFenceWhileClosing: a fence and the end of the server meet on a reader
// that waits: it must end.
func TestFenceWhileClosing(t *testing.T) {
	for range 20 {
		d := newMemory(1<<20, 0)
		b := serve(t, one(d), Options{})
		p := b.login(simple)
		p.ok(cmdWrite, 0, 0, 512, make([]byte, 512))
		var wg sync.WaitGroup
		wg.Go(func() {
			for i := range uint64(20) {
				d.change(func(x *block.Info) { x.Right = i + 1 })
				b.srv.Fence("vol")
			}
		})
		b.srv.mu.Lock()
		for c := range b.srv.conns {
			c.stop()
		}
		b.srv.mu.Unlock()
		p.ended()
		wg.Wait()
		closeDevice(t, d)
	}
}
