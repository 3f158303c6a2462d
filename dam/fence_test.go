// SPDX-License-Identifier: Apache-2.0

package dam_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rsio/dam"
	"rsio/rsio/admin/api"
	"rsio/rsio/audit"
	"rsio/rsio/block"
	"rsio/rsio/initiator"
	"rsio/rsio/layer/trace"
	"rsio/rsio/target"
	"rsio/rsio/transport"
)

// fenceLab is a real target with a disk access manager and two real initiators,
// the victims' with two paths and the preemptors'.
type fenceLab struct {
	t      *testing.T
	dir    string
	v, p   *initiator.Initiator
	lanes  []*lane
	stop   chan struct{}
	flying atomic.Int64 // rounds with writes in flight when the preempt came
	fenced atomic.Int64
	mu     sync.Mutex
	took   []time.Duration
}

func newFenceLab(t *testing.T, lanes int) *fenceLab {
	dir, err := os.MkdirTemp("/dev/shm", "rsio-p4-")
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	tg, err := target.New(target.Options{Dir: dir, Name: "st", Events: audit.New(nil), Gate: func(h target.GateHost) (target.Gate, error) {
		return dam.Open(dam.Options{Dir: h.Dir, Second: benchCopies{h}, Right: h.Right, Attention: h.Attention})
	}})
	if err != nil {
		t.Fatal(err)
	}
	var portals []string
	for i := range 2 {
		a := transport.Addr{Network: "unix", Address: filepath.Join(dir, fmt.Sprint("p", i))}
		l, err := transport.Listen(a)
		if err != nil {
			t.Fatal(err)
		}
		portals = append(portals, a.String())
		go func() { _ = tg.Serve(l, a) }() // ends with Close
	}
	f := &fenceLab{t: t, dir: dir, stop: make(chan struct{})}
	start := func(name string, addrs []string) *initiator.Initiator {
		run := t.TempDir()
		spec := api.TargetSpec{Name: "st", Addresses: addrs}
		i, err := initiator.New(initiator.Options{Name: name, RunDir: run, DataDir: run, Events: audit.New(nil), Frontend: initiator.Headless{}}, []api.TargetSpec{spec}, spec)
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	f.v, f.p = start("v", portals), start("p", portals[:1])
	t.Cleanup(func() {
		f.v.Close()
		f.p.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := tg.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	for n := range lanes {
		f.addLane(tg, n)
	}
	return f
}

// lane is one volume with its victim and its preemptor.
type lane struct {
	f        *fenceLab
	vol, vm  string
	log      string
	dev, own block.Device
	rng      *rand.Rand
	answered []time.Duration // by round: when preempt-and-abort had answered
}

func (f *fenceLab) addLane(tg *target.Target, n int) {
	l := &lane{f: f, vol: fmt.Sprint("vol", n), vm: fmt.Sprint("vm", n), log: filepath.Join(f.dir, fmt.Sprint("trace", n)), rng: rand.New(rand.NewPCG(uint64(n), 4))}
	spec := api.VolumeSpec{Name: l.vol, Size: 1 << 20, Kind: "mem", Layers: []string{"trace:" + l.log, fmt.Sprintf("fault:op=write,do=delay,ms=0-500,seed=%d", n+1)}}
	if _, err := tg.VolumeCreate(spec); err != nil {
		f.t.Fatal(err)
	}
	for _, i := range []*initiator.Initiator{f.v, f.p} {
		if _, err := i.Attach(f.t.Context(), api.AttachSpec{Volume: l.vol, VM: l.vm}); err != nil {
			f.t.Fatal(err)
		}
	}
	l.dev, _, _, _ = f.v.Find(l.vol + "~" + l.vm)
	l.own, _, _, _ = f.p.Find(l.vol + "~" + l.vm)
	f.lanes = append(f.lanes, l)
}

// act changes the reservation as the victim or as the preemptor.
func (l *lane) act(i *initiator.Initiator, s api.ReserveSpec) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	s.As = l.vm
	_, err := i.Reserve(ctx, "st", api.DefaultNamespace, l.vol, s)
	return err
}

// shot is one write of the victim; until stop it is sent again with the next
// stamp when it has been written.
type shot struct {
	block.Request
	l     *lane
	round uint64
	g     *volley
}

// volley is what is in flight in a round.
type volley struct {
	wg      sync.WaitGroup
	flying  atomic.Int64
	halt    atomic.Bool
	fenced  atomic.Int64
	strange atomic.Int32 // a status that is neither OK nor Conflict
	seq     atomic.Uint64
}

func (s *shot) fire() {
	n := s.g.seq.Add(1)
	binary.BigEndian.PutUint64(s.Buf, s.round)
	binary.BigEndian.PutUint64(s.Buf[8:], n)
	s.Off = n % 256 * 4096
	s.g.flying.Add(1)
	s.l.dev.Submit(&s.Request)
}

// Complete implements block.Completer.
func (s *shot) Complete(r *block.Request) {
	s.g.flying.Add(-1)
	switch r.Status {
	case block.StatusOK:
		if !s.g.halt.Load() {
			right := r.Right
			s.Request.Reset()
			s.Op, s.Len, s.Buf, s.Right = block.OpWrite, 4096, make([]byte, 4096), right
			go s.fire() // a stack of its own; joined through wg
			return
		}
	case block.StatusConflict:
		s.g.fenced.Add(1)
	default:
		s.g.strange.Store(int32(r.Status))
	}
	s.g.wg.Done()
}

func (l *lane) shoot(g *volley, round, right uint64, n int) {
	for range n {
		s := &shot{l: l, round: round, g: g}
		s.Op, s.Len, s.Buf, s.Right, s.Done, s.Nexus = block.OpWrite, 4096, make([]byte, 4096), right, s, "v/"+l.vm
		g.wg.Add(1)
		s.fire()
	}
}

func monoNow() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail
	return time.Duration(ts.Nano())
}

// round fences the victim once.
func (l *lane) round(n int) error {
	f := l.f
	for _, s := range []struct {
		i *initiator.Initiator
		r api.ReserveSpec
	}{
		{f.v, api.ReserveSpec{Action: "register-ignore", NewKey: 1}},
		{f.v, api.ReserveSpec{Action: "reserve", Key: 1, Type: "wero"}},
		{f.p, api.ReserveSpec{Action: "register-ignore", NewKey: 2}},
	} {
		if err := l.act(s.i, s.r); err != nil {
			return err
		}
	}
	right := l.dev.Info().Right
	g := &volley{}
	l.shoot(g, uint64(n), right, 64)
	time.Sleep(time.Duration(l.rng.IntN(300)) * time.Millisecond)
	if g.flying.Load() > 0 {
		f.flying.Add(1)
	}
	start := time.Now()
	if err := l.act(f.p, api.ReserveSpec{Action: "preempt-abort", Key: 2, NewKey: 1, Type: "wero"}); err != nil {
		return err
	}
	l.answered = append(l.answered, monoNow())
	f.mu.Lock()
	f.took = append(f.took, time.Since(start))
	f.mu.Unlock()
	g.halt.Store(true)
	switch n % 3 {
	case 1: // everybody may write again
		if err := l.act(f.p, api.ReserveSpec{Action: "clear", Key: 2}); err != nil {
			return err
		}
	case 2: // the victim is back
		if err := l.act(f.v, api.ReserveSpec{Action: "register-ignore", NewKey: 1}); err != nil {
			return err
		}
	}
	l.shoot(g, uint64(n), right, 8) // what its frontend had seen before
	g.wg.Wait()
	f.fenced.Add(g.fenced.Load())
	if st := block.Status(g.strange.Load()); st != block.StatusOK {
		return fmt.Errorf("a write of the victim ended with %v", st)
	}
	if g.fenced.Load() < 8 {
		return fmt.Errorf("P4: %d of 8 writes under the old right were refused", g.fenced.Load())
	}
	w := &block.Request{Op: block.OpWrite, Len: 4096, Buf: make([]byte, 4096)}
	if st := block.Do(l.own, w); st != block.StatusOK {
		return fmt.Errorf("the preemptor's write ended with %v", st)
	}
	if n%3 != 1 {
		return l.act(f.p, api.ReserveSpec{Action: "clear", Key: 2})
	}
	return nil
}

// verdict looks for late writes in the log at the backend, and counts all.
func (l *lane) verdict() (seen int, err error) {
	entries, err := trace.ReadFile(l.log)
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		if e.Op != block.OpWrite || e.Nexus != "v/"+l.vm {
			continue
		}
		seen++
		round := binary.BigEndian.Uint64(e.Head[:])
		if round < uint64(len(l.answered)) && e.Mono > l.answered[round] {
			return seen, fmt.Errorf("P4: %s, round %d: %v after preempt-and-abort had answered: %v", l.vol, round, e.Mono-l.answered[round], e)
		}
	}
	return seen, nil
}

// storm takes the victims' paths away and gives them back, all the time.
func (f *fenceLab) storm() {
	for n := 0; ; n++ {
		id := fmt.Sprint("st/", n%2)
		_ = f.v.PathSet(id, false) // both exist
		time.Sleep(30 * time.Millisecond)
		_ = f.v.PathSet(id, true)
		select {
		case <-f.stop:
			return
		case <-time.After(70 * time.Millisecond):
		}
	}
}

// TestP4_PreemptAbort: 64 writes of each victim in flight on two paths that
// come and go, backend delays of 0 to 500 ms, preempted at a random moment,
// then back in various ways. The judge is the log below the delays.
func TestP4_PreemptAbort(t *testing.T) {
	rounds, lanes := 96, 24
	if r, err := strconv.Atoi(os.Getenv("RSIO_ROUNDS")); err == nil && r > 0 {
		rounds = r
	} else if testing.Short() {
		rounds = 24
	}
	f := newFenceLab(t, lanes)
	var storm, wg sync.WaitGroup
	storm.Go(f.storm)
	for _, l := range f.lanes {
		wg.Go(func() {
			for n := range (rounds + lanes - 1) / lanes {
				if err := l.round(n); err != nil {
					t.Errorf("%s, round %d: %v", l.vol, n, err)
					return
				}
			}
		})
	}
	wg.Wait()
	close(f.stop)
	storm.Wait()
	logged := 0
	for _, l := range f.lanes {
		seen, err := l.verdict()
		if err != nil {
			t.Error(err)
		}
		logged += seen
	}
	if logged < 16*len(f.took) {
		t.Errorf("the logs have %d writes of the victims in %d rounds: nothing was tested", logged, len(f.took))
	}
	if len(f.took) == 0 || f.flying.Load() < int64(len(f.took))*9/10 {
		t.Errorf("in %d of %d rounds writes were in flight: nothing was tested", f.flying.Load(), len(f.took))
		return
	}
	slices.Sort(f.took)
	t.Logf("%d rounds, %d writes fenced; answer of preempt-abort: p50 %v, p99 %v, worst %v", len(f.took), f.fenced.Load(),
		f.took[len(f.took)/2], f.took[len(f.took)*99/100], f.took[len(f.took)-1])
}
