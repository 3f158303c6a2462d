// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rsio/nbd"
	"rsio/rsio/block"
	"rsio/rsio/blocktest"
	"rsio/rsio/store/mem"
)

// server is an NBD server on a socket that can go away and come back.
type server struct {
	t      *testing.T
	socket string
	dev    block.Device
	gone   atomic.Bool // it does not know the export

	mu  sync.Mutex
	srv *nbd.Server
	end chan error
}

func newServer(t *testing.T, dev block.Device) *server {
	t.Helper()
	dir, err := os.MkdirTemp("", "nbd") // t.TempDir can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, socket: filepath.Join(dir, "s"), dev: dev}
	s.start()
	t.Cleanup(func() {
		s.stop()
		_ = os.RemoveAll(dir)
	})
	return s
}

func memory(t *testing.T, size uint64) block.Device {
	t.Helper()
	d, err := mem.New(mem.Options{Size: size})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (s *server) List() []nbd.ExportInfo { return nil }

func (s *server) Open(name string) (*nbd.Export, error) {
	if name != "v" || s.gone.Load() {
		return nil, block.StatusNotFound
	}
	return &nbd.Export{Name: name, Device: s.dev}, nil
}

func (s *server) start() {
	s.t.Helper()
	_ = os.Remove(s.socket) // a dead one
	l, err := net.Listen("unix", s.socket)
	if err != nil {
		s.t.Fatal(err)
	}
	srv, end := nbd.NewServer(nbd.Options{Exports: s}), make(chan error, 1)
	go func() { end <- srv.Serve(l) }()
	s.mu.Lock()
	s.srv, s.end = srv, end
	s.mu.Unlock()
}

// stop cuts all connections, with whatever is in flight.
func (s *server) stop() {
	s.mu.Lock()
	srv, end := s.srv, s.end
	s.srv = nil
	s.mu.Unlock()
	if srv == nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = srv.Close(ctx) // ctx has ended: connections are cut
	<-end
}

func (s *server) open(opt Options) *Device {
	s.t.Helper()
	opt.Socket, opt.Export = s.socket, "v"
	d, err := Open(s.t.Context(), opt)
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

func TestDevice(t *testing.T) {
	blocktest.Run(t, blocktest.Config{
		Make: func(t *testing.T) block.Device {
			return newServer(t, memory(t, 8<<20)).open(Options{})
		},
		Shared: true,
		Chain:  5000,
	})
}

// TestFewSlots: more requests than slots wait their turn.
func TestFewSlots(t *testing.T) {
	if testing.Short() {
		blocktest.NotChecked(t, "the suite once more with few slots is too slow for -short")
	}
	blocktest.Run(t, blocktest.Config{
		Make: func(t *testing.T) block.Device {
			return newServer(t, memory(t, 8<<20)).open(Options{MaxInflight: 2})
		},
		Shared: true, Ops: 500, Chain: 500,
	})
}

// load writes, reads back and compares until stop, from several goroutines.
func load(t *testing.T, dev block.Device, stop <-chan struct{}) (ops *atomic.Int64, wait func()) {
	ops = new(atomic.Int64)
	var wg sync.WaitGroup
	for w := range 32 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 1))
			was := make(map[uint64]uint64)
			buf := make([]byte, 64<<10)
			for n := uint64(1); ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				size := []int{4096, 4096, 4096, 64 << 10}[rng.IntN(4)]
				blk := uint64(w*256<<10) + uint64(rng.IntN(3))*(64<<10)
				op := block.OpWrite
				if rng.IntN(2) == 0 {
					op = block.OpRead
				} else {
					clear(buf[:size])
					for i := 0; i < size; i += 4096 {
						binary.BigEndian.PutUint64(buf[i:], n)
						binary.BigEndian.PutUint64(buf[i+8:], blk+uint64(i))
					}
				}
				if st := block.Do(dev, &block.Request{Op: op, Off: blk, Len: uint32(size), Buf: buf[:size]}); st != block.StatusOK {
					t.Errorf("%v: %v", op, st)
					return
				}
				for i := 0; i < size; i += 4096 {
					at := blk + uint64(i)
					if op == block.OpWrite {
						was[at] = n
						continue
					}
					got, where := binary.BigEndian.Uint64(buf[i:]), binary.BigEndian.Uint64(buf[i+8:])
					if got != was[at] || got != 0 && where != at {
						t.Errorf("block %d holds %d of %d, want %d", at, got, where, was[at])
						return
					}
				}
				ops.Add(1)
			}
		})
	}
	return ops, wg.Wait
}

// TestServerDies: the server dies and comes back under load; nobody sees it.
func TestServerDies(t *testing.T) {
	s := newServer(t, memory(t, 16<<20))
	var ups atomic.Int64
	d := s.open(Options{State: func(up bool, _ error) {
		if up {
			ups.Add(1)
		}
	}})
	stop := make(chan struct{})
	ops, wait := load(t, d, stop)
	for n := range int64(30) {
		was := ops.Load()
		eventually(t, "operations", func() bool { return ops.Load() > was+10 })
		s.stop()
		s.start()
		eventually(t, "a new connection", func() bool { return ups.Load() > n+1 })
	}
	close(stop)
	wait()
	closeDevice(t, d)
}

// cutter passes bytes between a client and a server and cuts connections in
// the midst of them.
func cutter(t *testing.T, to string, most int) string {
	dir, err := os.MkdirTemp("", "cut")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		rng := rand.New(rand.NewPCG(7, 7))
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("unix", to)
			if err != nil {
				_ = c.Close()
				continue
			}
			there, back := int64(200+rng.IntN(most)), int64(200+rng.IntN(most))
			pass := func(dst, src net.Conn, n int64) {
				_, _ = io.CopyN(dst, src, n) // then it breaks
				// The server's end first: see the package comment on what is
				// between client and server.
				_ = s.Close()
				_ = c.Close()
			}
			wg.Go(func() { pass(s, c, there) })
			wg.Go(func() { pass(c, s, back) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
		_ = os.RemoveAll(dir)
	})
	return filepath.Join(dir, "s")
}

// TestCut: connections break at any byte, in both directions.
func TestCut(t *testing.T) {
	s := newServer(t, memory(t, 16<<20))
	socket := cutter(t, s.socket, 600_000)
	var ups atomic.Int64
	open := func() *Device {
		for { // the first connection may be cut, too
			d, err := Open(t.Context(), Options{Socket: socket, Export: "v", State: func(up bool, _ error) {
				if up {
					ups.Add(1)
				}
			}})
			if err == nil {
				return d
			}
		}
	}
	d := open()
	stop := make(chan struct{})
	ops, wait := load(t, d, stop)
	eventually(t, "many operations and connections", func() bool { return ops.Load() > 500 && ups.Load() > 40 })
	close(stop)
	wait()
	closeDevice(t, d)
}

// TestMissing: an export that is gone for long fails requests, until it is
// back.
func TestMissing(t *testing.T) {
	s := newServer(t, memory(t, 1<<20))
	d := s.open(Options{Missing: 50 * time.Millisecond})
	if _, err := Open(t.Context(), Options{Socket: s.socket, Export: "other"}); !errors.Is(err, block.StatusNotFound) || !strings.Contains(err.Error(), "other") {
		t.Errorf("an unknown export: %v", err)
	}
	s.stop()
	s.gone.Store(true)
	s.start()
	flush := func() block.Status { return block.Do(d, &block.Request{Op: block.OpFlush}) }
	if st := flush(); st != block.StatusIO {
		t.Errorf("flush of a missing export: %v", st)
	}
	s.gone.Store(false)
	for range 200 {
		if flush() == block.StatusOK {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if st := flush(); st != block.StatusOK {
		t.Errorf("flush after the export came back: %v", st)
	}
	if err := d.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestAbandon: what waits for a server ends, and Close does not wait.
func TestAbandon(t *testing.T) {
	s := newServer(t, memory(t, 1<<20))
	d := s.open(Options{MaxInflight: 2})
	s.stop()
	ended := make(chan block.Status, 5)
	for range cap(ended) {
		go func() { ended <- block.Do(d, &block.Request{Op: block.OpFlush}) }()
	}
	time.Sleep(20 * time.Millisecond)
	d.Abandon()
	for range cap(ended) {
		select {
		case st := <-ended:
			if st != block.StatusIO {
				t.Errorf("an abandoned request: %v", st)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("an abandoned request does not end")
		}
	}
	if st := block.Do(d, &block.Request{Op: block.OpFlush}); st != block.StatusIO {
		t.Errorf("after Abandon: %v", st)
	}
	if err := d.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestRefresh: the size follows the server's.
func TestRefresh(t *testing.T) {
	small, big := memory(t, 1<<20), memory(t, 2<<20)
	s := newServer(t, small)
	d := s.open(Options{})
	s.mu.Lock()
	s.dev = big
	s.mu.Unlock()
	if err := d.Refresh(t.Context()); err != nil || d.Info().Size != 2<<20 {
		t.Errorf("%v, size %d", err, d.Info().Size)
	}
	if err := d.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAllocs(t *testing.T) {
	if testing.Short() {
		blocktest.NotChecked(t, "allocations are not counted with -short, which the race detector uses")
	}
	s := newServer(t, memory(t, 1<<20))
	d := s.open(Options{})
	done := make(waiter, 1)
	buf := make([]byte, 4096)
	r := &block.Request{Op: block.OpWrite, Len: 4096, Buf: buf, Done: done}
	n := testing.AllocsPerRun(2000, func() {
		d.Submit(r)
		<-done
	})
	if n > 0.5 {
		t.Errorf("%.1f allocations for a write, the server's included", n)
	}
	if err := d.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

type waiter chan struct{}

func (w waiter) Complete(*block.Request) { w <- struct{}{} }
