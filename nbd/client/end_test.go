// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rsio/rsio/block"
)

// moods are servers in all states that a device may have to end in; each
// accepts the first connection.
func moods() map[string]func(n int, p *peer) {
	return map[string]func(n int, p *peer){
		"answers": func(_ int, p *peer) {
			if p.hello() {
				p.honest()
			}
		},
		"reads and never answers": func(_ int, p *peer) {
			if p.hello() {
				p.ended()
			}
		},
		"never reads": func(_ int, p *peer) {
			if p.hello() {
				time.Sleep(100 * time.Millisecond)
			}
		},
		"is silent in the second handshake": func(n int, p *peer) {
			if n == 0 {
				p.hello()
				return
			}
			p.ended()
		},
		"breaks every connection": func(_ int, p *peer) { p.hello() },
		"forgets the export": func(n int, p *peer) {
			if n == 0 {
				p.hello()
				return
			}
			p.put(greeting, reply(repErrUnknown, nil))
			p.ended()
		},
		"answers nonsense": func(_ int, p *peer) {
			if p.hello() {
				p.put(make([]byte, 100))
				p.ended()
			}
		},
	}
}

// TestAbandonUnderLoad: whatever the server does, and while others submit,
// Abandon ends every request, once, and Close returns and leaves nothing
// behind.
func TestAbandonUnderLoad(t *testing.T) {
	for name, serve := range moods() {
		t.Run(name, func(t *testing.T) {
			before := runtime.NumGoroutine()
			for round := range 5 {
				d := newFake(t, serve).open(t, Options{MaxInflight: 8, Missing: time.Hour})
				var wg sync.WaitGroup
				var bad atomic.Int64
				for w := range 16 {
					wg.Go(func() {
						rng := rand.New(rand.NewPCG(uint64(w), uint64(round)))
						for st := block.StatusOK; st == block.StatusOK; {
							op := []block.Op{block.OpRead, block.OpWrite, block.OpFlush}[rng.IntN(3)]
							c := newCall(op, uint64(w)<<20, 64<<10)
							if op == block.OpFlush {
								c.Len = 0
							}
							d.Submit(&c.Request)
							if st = c.wait(t); st != block.StatusOK && st != block.StatusIO {
								bad.Add(1)
							}
						}
					})
				}
				time.Sleep(time.Duration(round) * 5 * time.Millisecond)
				wg.Go(d.Abandon)
				wg.Go(d.Abandon)
				wg.Wait()
				if bad.Load() != 0 {
					t.Errorf("%d requests ended neither well nor with an error", bad.Load())
				}
				if st := block.Do(d, &block.Request{Op: block.OpFlush}); st != block.StatusIO {
					t.Errorf("after Abandon: %v", st)
				}
				closeDevice(t, d)
				d.Abandon() // does nothing
			}
			eventually(t, "the goroutines of the devices have ended", func() bool { return runtime.NumGoroutine() <= before+2*5 }) // those of the servers stay
		})
	}
}

// TestAbandonAtOnce: an Abandon that meets the device between two connections,
// or at a new one, ends what waits.
func TestAbandonAtOnce(t *testing.T) {
	f := newFake(t, func(n int, p *peer) {
		if p.hello() && n%2 == 1 {
			p.ended()
		}
	})
	for round := range 150 {
		d := f.open(t, Options{MaxInflight: 1})
		a, b := newCall(block.OpFlush, 0, 0), newCall(block.OpWrite, 0, 4096)
		d.Submit(&a.Request)
		d.Submit(&b.Request)
		time.Sleep(time.Duration(round%20) * 100 * time.Microsecond)
		d.Abandon()
		for _, c := range []*call{a, b} {
			if st := c.wait(t); st != block.StatusIO {
				t.Fatalf("round %d: %v", round, st)
			}
		}
		closeDevice(t, d)
		if !a.open() || !b.open() {
			t.Fatal("a request ended twice")
		}
	}
}

// TestCloseUnderLoad: Close lets what is in flight end, refuses what comes
// later, and may be called by several.
func TestCloseUnderLoad(t *testing.T) {
	s := newServer(t, memory(t, 16<<20))
	before := runtime.NumGoroutine()
	for range 20 {
		d := s.open(Options{MaxInflight: 4})
		var wg sync.WaitGroup
		var ok atomic.Int64
		for w := range 8 {
			wg.Go(func() {
				buf := make([]byte, 4096)
				for {
					r := block.Request{Op: block.OpWrite, Off: uint64(w) * 4096, Len: 4096, Buf: buf}
					switch st := block.Do(d, &r); st {
					case block.StatusOK:
						ok.Add(1)
					case block.StatusClosed:
						return
					default:
						t.Errorf("%v", st)
						return
					}
				}
			})
		}
		for ok.Load() == 0 {
			runtime.Gosched()
		}
		for range 3 {
			wg.Go(func() { closeDevice(t, d) })
		}
		wg.Wait()
	}
	eventually(t, "the goroutines have ended", func() bool { return runtime.NumGoroutine() <= before+2 })
}

// TestCloseWaits: Close waits for a server that is away as long as its context
// says; it can be called again, and ends when the server is back, or with
// Abandon.
func TestCloseWaits(t *testing.T) {
	for _, abandon := range []bool{false, true} {
		s := newServer(t, memory(t, 1<<20))
		before := runtime.NumGoroutine()
		d := s.open(Options{})
		s.stop()
		c := newCall(block.OpWrite, 0, 4096)
		d.Submit(&c.Request)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if err := d.Close(ctx); !errors.Is(err, context.DeadlineExceeded) || !c.open() {
			t.Errorf("without a server: %v, the request is open: %v", err, c.open())
		}
		cancel()
		want := block.StatusOK
		if abandon {
			want = block.StatusIO
			d.Abandon()
		} else {
			s.start()
		}
		if st := c.wait(t); st != want {
			t.Errorf("the request: %v, want %v", st, want)
		}
		closeDevice(t, d)
		s.stop()
		eventually(t, "the goroutines have ended", func() bool { return runtime.NumGoroutine() <= before })
	}
}

// TestRefreshOfNobody: it fails and breaks nothing.
func TestRefreshOfNobody(t *testing.T) {
	s := newServer(t, memory(t, 1<<20))
	d := s.open(Options{})
	s.stop()
	if err := d.Refresh(t.Context()); err == nil || d.Info().Size != 1<<20 {
		t.Errorf("%v, size %d", err, d.Info().Size)
	}
	s.start()
	if st := block.Do(d, &block.Request{Op: block.OpFlush}); st != block.StatusOK {
		t.Error(st)
	}
	closeDevice(t, d)
}
