// SPDX-License-Identifier: Apache-2.0

// Package bench measures the way of a request through the real stack in one
// process: a device of rsio/initiator, its session over some paths of loopback
// TCP or unix sockets, rsio/target, a store, and back. Between the two there are
// real sockets; what is missing is the NBD frontend and a second process.
//
// One operation is one request of 4 KiB. ns/op is wall time with the given
// number of requests in flight; allocs/op counts all goroutines of both ends.
//
//	go test ./bench -run - -bench HotPath
//	go test ./bench -run - -bench HotPath/mem/tcp/2paths/qd32/read -cpuprofile cpu.out -mutexprofile mutex.out
package bench

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"rsio/rsio/admin/api"
	"rsio/rsio/audit"
	"rsio/rsio/block"
	"rsio/rsio/initiator"
	"rsio/rsio/target"
	"rsio/rsio/transport"
)

const (
	diskSize = 64 << 20
	reqLen   = 4096
)

// stack starts a target and an initiator and returns the attached volume.
func stack(t testing.TB, dir, kind, network string, paths int) block.Device {
	t.Helper()
	events := audit.New(slog.New(slog.NewTextHandler(io.Discard, nil)))
	tgt, err := target.New(target.Options{Dir: dir, Name: "st", Events: events})
	if err != nil {
		t.Fatal(err)
	}
	var portals []string
	ended := make(chan error, paths)
	for k := range paths {
		a := transport.Addr{Network: network, Address: "127.0.0.1:0"}
		if network == "unix" {
			a.Address = filepath.Join(dir, fmt.Sprintf("p%d", k))
		}
		l, err := transport.Listen(a)
		if err != nil {
			t.Fatal(err)
		}
		a.Address = l.Addr().String()
		portals = append(portals, a.String())
		go func() { ended <- tgt.Serve(l, a) }()
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := tgt.Close(ctx); err != nil {
			t.Error(err)
		}
		for range paths {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
	if _, err := tgt.VolumeCreate(api.VolumeSpec{Namespace: api.DefaultNamespace, Name: "v", Size: diskSize, Kind: kind}); err != nil {
		t.Fatal(err)
	}
	return attach(t, events, api.TargetSpec{Name: "st", Addresses: portals})
}

// attach starts an initiator, waits for all paths and fills the volume.
func attach(t testing.TB, events *audit.Log, spec api.TargetSpec) block.Device {
	t.Helper()
	run := t.TempDir()
	i, err := initiator.New(initiator.Options{Name: "h", RunDir: run, DataDir: run, Events: events, Frontend: initiator.Headless{}}, []api.TargetSpec{spec}, spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(i.Close)
	a, err := i.Attach(t.Context(), api.AttachSpec{Namespace: api.DefaultNamespace, Volume: "v"})
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		up := 0
		for _, p := range i.Paths() {
			if p.State == "up" {
				up++
			}
		}
		if up == len(spec.Addresses) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d of %d paths are up", up, len(spec.Addresses))
		}
	}
	dev, _, _, ok := i.Find(a.Name)
	if !ok {
		t.Fatal("the attachment is not there")
	}
	buf := make([]byte, 1<<20)
	for off := uint64(0); off < diskSize; off += uint64(len(buf)) {
		r := block.Request{Op: block.OpWrite, Off: off, Len: uint32(len(buf)), Buf: buf}
		if st := block.Do(dev, &r); st != block.StatusOK {
			t.Fatal(st)
		}
	}
	return dev
}

// load keeps depth requests in flight until n have been done.
type load struct {
	dev    block.Device
	left   atomic.Int64 // to submit
	out    atomic.Int64 // not completed
	failed atomic.Uint32
	done   chan struct{}
	slots  []slot
}

// slot is one request in flight, submitted again when it completes.
type slot struct {
	req block.Request
	l   *load
	at  uint64
}

func newLoad(dev block.Device, op block.Op, depth int) *load {
	l := &load{dev: dev, done: make(chan struct{}, 1), slots: make([]slot, depth)}
	for k := range l.slots {
		s := &l.slots[k]
		s.l, s.at = l, uint64(k+1)*0x9e3779b97f4a7c15
		s.req = block.Request{Op: op, Len: reqLen, Buf: make([]byte, reqLen), Done: s}
	}
	return l
}

// Complete implements block.Completer.
func (s *slot) Complete(r *block.Request) {
	l := s.l
	if r.Status != block.StatusOK {
		l.failed.Store(uint32(r.Status))
	}
	if l.left.Add(-1) >= 0 {
		s.submit()
	} else if l.out.Add(-1) == 0 {
		l.done <- struct{}{}
	}
}

func (s *slot) submit() {
	s.at = s.at*6364136223846793005 + 1442695040888963407
	s.req.Off = (s.at >> 33) % (diskSize / reqLen) * reqLen
	s.req.Depth = 0 // the session never completes from inside Submit
	s.l.dev.Submit(&s.req)
}

// run does n requests.
func (l *load) run(n int) block.Status {
	k := min(n, len(l.slots))
	l.left.Store(int64(n - k))
	l.out.Store(int64(k))
	for i := range k {
		l.slots[i].submit()
	}
	<-l.done
	return block.Status(l.failed.Load())
}

func BenchmarkHotPath(b *testing.B) {
	for _, kind := range []string{"mem", "file"} {
		for _, network := range []string{"tcp", "unix"} {
			for _, paths := range []int{1, 2, 4} {
				b.Run(fmt.Sprintf("%s/%s/%dpaths", kind, network, paths), func(b *testing.B) {
					dev := stack(b, b.TempDir(), kind, network, paths)
					for _, depth := range []int{1, 32} {
						for _, op := range []block.Op{block.OpRead, block.OpWrite} {
							b.Run(fmt.Sprintf("qd%d/%s", depth, strings.ToLower(op.String())), func(b *testing.B) {
								l := newLoad(dev, op, depth)
								l.run(2000) // pools fill, buffers grow
								b.SetBytes(reqLen)
								b.ReportAllocs()
								b.ResetTimer()
								if st := l.run(b.N); st != block.StatusOK {
									b.Fatal(st)
								}
							})
						}
					}
				})
			}
		}
	}
}

// TestHotPathAllocatesNothing: what is allocated does not grow with requests.
// Timers of both ends (50 ms at the initiator, 10 ms at the target) allocate
// a little.
func TestHotPathAllocatesNothing(t *testing.T) {
	dev := stack(t, t.TempDir(), "mem", "tcp", 2)
	for _, op := range []block.Op{block.OpRead, block.OpWrite} {
		l := newLoad(dev, op, 32)
		l.run(5000)
		const n = 50_000
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		st := l.run(n)
		runtime.ReadMemStats(&after)
		if st != block.StatusOK {
			t.Fatal(st)
		}
		per := float64(after.Mallocs-before.Mallocs) / n
		t.Logf("%v: %.5f allocations for one request", op, per)
		if per >= 0.01 {
			t.Errorf("%v: %.4f allocations for one request, want less than 0.01", op, per)
		}
	}
}
