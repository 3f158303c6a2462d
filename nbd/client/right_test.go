// SPDX-License-Identifier: Apache-2.0

package client

import (
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rsio/rsio/block"
)

// lateness is a server that does not read before the fence, and counts, by
// right, what came later.
type lateness struct {
	fenced chan struct{}

	mu   sync.Mutex
	late map[uint64]int
}

func (l *lateness) serve(n int, p *peer) {
	if !p.hello() {
		return
	}
	<-l.fenced
	old := 0 // bytes that were sent before
	if n == 0 {
		old = inSocket(p)
	}
	for {
		before := old > 0
		r, ok := p.header()
		if !ok {
			return
		}
		if !before {
			l.mu.Lock()
			l.late[r.off>>32]++ // the right
			l.mu.Unlock()
		}
		if old -= requestLen; r.cmd == cmdWrite {
			old -= int(r.n)
		}
		if !p.payload(r) || !p.answer(r, 0) {
			return
		}
	}
}

// TestRight: once SetRight has returned, no byte of a change under a former
// right is sent, on whatever connection: what the server finds in the socket
// then is old to it, what comes later is not. The server does not read at
// first: writes fill the socket, the connection's queue and all slots, and more
// wait for a slot.
func TestRight(t *testing.T) {
	for _, row := range []struct {
		desc     string
		inflight int
		size     int // bytes of a write
	}{
		{"the socket is full", 64, 256 << 10},
		{"all slots are taken", 4, 4096},
		{"both", 8, 1 << 20},
	} {
		t.Run(row.desc, func(t *testing.T) {
			l := &lateness{fenced: make(chan struct{}), late: make(map[uint64]int)}
			f := newFake(t, l.serve)
			d := f.open(t, Options{MaxInflight: row.inflight})
			d.SetRight(1)
			calls := make([]*call, 80)
			submit := func(i int, right uint64, op block.Op) {
				calls[i] = newCall(op, right<<32+uint64(i)<<20, row.size)
				calls[i].Right = right
				d.Submit(&calls[i].Request)
			}
			for i := range 60 {
				submit(i, 1, block.OpWrite)
			}
			submit(60, 1, block.OpRead) // changes nothing: it may be late
			d.SetRight(2)
			for i := 61; i < 80; i++ {
				submit(i, 1+uint64(i)%2, block.OpWrite)
			}
			close(l.fenced)
			ends := map[block.Status]int{}
			for i, c := range calls {
				st := c.wait(t)
				ends[st]++
				if fresh := c.Right == 2 || c.Op == block.OpRead; fresh && st != block.StatusOK || i > 60 && !fresh && st != block.StatusConflict {
					t.Errorf("request %d, %v under right %d: %v", i, c.Op, c.Right, st)
				}
			}
			closeDevice(t, d)
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.late[1] > 1 || l.late[2] == 0 { // the read
				t.Errorf("after SetRight %d requests of the former right and %d of the new one came", l.late[1], l.late[2])
			}
			if ends[block.StatusConflict] < 10 {
				t.Errorf("%v: nothing was tested", ends)
			}
		})
	}
}

// inSocket returns how many bytes wait to be read.
func inSocket(p *peer) int {
	n := p.in.Buffered()
	raw, err := p.Conn.(interface {
		SyscallConn() (syscall.RawConn, error)
	}).SyscallConn()
	if err == nil {
		_ = raw.Control(func(fd uintptr) {
			m, _ := unix.IoctlGetInt(int(fd), unix.TIOCINQ) // an open socket
			n += m
		})
	}
	return n
}

// TestRightRace: SetRight comes while others submit; nothing is sent under a
// former right on a connection that begins later.
func TestRightRace(t *testing.T) {
	s := newServer(t, memory(t, 16<<20))
	d := s.open(Options{MaxInflight: 4})
	var right atomic.Uint64
	right.Store(1)
	d.SetRight(1)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var conflicts, done atomic.Int64
	for w := range 8 {
		wg.Go(func() {
			buf := make([]byte, 64<<10)
			for {
				select {
				case <-stop:
					return
				default:
				}
				r := block.Request{Op: block.OpWrite, Off: uint64(w) << 20, Len: uint32(len(buf)), Buf: buf, Right: right.Load()}
				switch st := block.Do(d, &r); {
				case st == block.StatusOK:
					done.Add(1)
				case st == block.StatusConflict && r.Right != right.Load():
					conflicts.Add(1)
				default:
					t.Errorf("a write under right %d of %d: %v", r.Right, right.Load(), st)
					return
				}
			}
		})
	}
	for n := range uint64(20) {
		time.Sleep(20 * time.Millisecond)
		right.Store(n + 2)
		d.SetRight(n + 2)
	}
	close(stop)
	wg.Wait()
	closeDevice(t, d)
	if got := d.Info().Right; got != 21 || done.Load() == 0 {
		t.Errorf("right %d, %d writes", got, done.Load())
	}
	t.Logf("%d writes, %d refused", done.Load(), conflicts.Load())
}
