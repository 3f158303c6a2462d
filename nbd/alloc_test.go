// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"fmt"
	"io"
	"runtime"
	"testing"
)

// client keeps depth requests in flight without allocating.
type client struct {
	p      *peer
	out    []byte
	in     []byte
	answer int // bytes
}

func newClient(p *peer, cmd uint16, n, depth int) *client {
	c := &client{p: p, answer: simpleLen}
	var payload []byte
	if cmd == cmdWrite {
		payload = make([]byte, n)
	} else {
		c.answer += n
		if p.structured {
			c.answer += chunkLen + 8 - simpleLen
		}
	}
	for k := range depth {
		c.out = append(c.out, p.request(cmd, 0, uint64(k), uint64(k)*uint64(n), uint64(n), payload)...)
	}
	c.in = make([]byte, c.answer*depth)
	return c
}

func (c *client) round() error {
	if _, err := c.p.Write(c.out); err != nil {
		return err
	}
	_, err := io.ReadFull(c.p, c.in)
	return err
}

// TestNoAllocations proves that a request on the hot path allocates nothing,
// with one connection and with two (which adds the probe of orphan.go), inline
// and from workers.
func TestNoAllocations(t *testing.T) {
	const depth, rounds = 32, 200
	for _, workers := range []int{0, 2} {
		for _, conns := range []int{1, 2} {
			for _, cmd := range []uint16{cmdRead, cmdWrite, cmdWriteZeroes} {
				t.Run(fmt.Sprintf("workers=%d/conns=%d/cmd=%d", workers, conns, cmd), func(t *testing.T) {
					d := newMemory(1<<20, workers)
					defer closeDevice(t, d)
					b := serve(t, one(d), Options{})
					for range conns - 1 {
						b.login(structured).ok(cmdRead, 0, 0, 512, nil)
					}
					c := newClient(b.login(structured), cmd, 4096, depth)
					if cmd == cmdWriteZeroes {
						c.in = c.in[:simpleLen*depth]
					}
					run := func(n int) {
						for range n {
							if err := c.round(); err != nil {
								t.Fatal(err)
							}
						}
					}
					run(20) // slots, buffers, stacks
					var before, after runtime.MemStats
					runtime.ReadMemStats(&before)
					run(rounds)
					runtime.ReadMemStats(&after)
					n := float64(after.Mallocs-before.Mallocs) / (depth * rounds)
					t.Logf("%.4f allocations for a request", n)
					if n > 0.02 { // the runtime's own, and slots that are still being made
						t.Errorf("%.3f allocations for a request", n)
					}
				})
			}
		}
	}
}

// BenchmarkServer counts requests over a unix socket, client included.
func BenchmarkServer(b *testing.B) {
	for _, workers := range []int{0, 2} {
		for _, cmd := range []uint16{cmdRead, cmdWrite} {
			for _, depth := range []int{1, 32} {
				b.Run(fmt.Sprintf("cmd=%d/workers=%d/depth=%d", cmd, workers, depth), func(b *testing.B) {
					d := newMemory(1<<20, workers)
					defer closeDevice(b, d)
					s := serve(b, one(d), Options{})
					c := newClient(s.login(structured), cmd, 4096, depth)
					b.ReportAllocs()
					b.SetBytes(4096)
					for k := 0; k < b.N; k += depth {
						if err := c.round(); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}
