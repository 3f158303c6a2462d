// SPDX-License-Identifier: Apache-2.0

package dam_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"rsio/dam"
	"rsio/rsio/block"
)

// asked is what a client asks for: a change, or to be shown the table.
type asked struct {
	nexus string
	r     block.ReserveOut
	show  bool
}

// told is what it was answered; unknown: nothing, the target died.
type told struct {
	status     block.Status
	generation uint32
	table      string
	unknown    bool
}

// tableOf is what everybody sees of a state.
func tableOf(x block.ReserveState) string {
	return fmt.Sprint(x.Generation, x.Type, x.Key, x.Registrants)
}

// linear is the specification: changes and reads of one volume, one after the
// other. What was not answered fits everywhere behind its call, and nowhere.
func linear() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return dam.New("v") },
		Step: func(state, input, output any) (bool, any) {
			s, in, out := state.(*dam.State), input.(asked), output.(told)
			if in.show {
				return out.unknown || tableOf(s.Show("")) == out.table, s
			}
			n, want := dam.Apply(s, in.nexus, in.r)
			if n != s {
				n.Pending = nil // of no interest here, and ours to change
			}
			return out.unknown || out.status == want.Status && out.generation == want.Generation, n
		},
		Equal: func(a, b any) bool { return reflect.DeepEqual(a, b) },
	}
}

// world is a DAM that dies and comes back.
type world struct {
	t      *testing.T
	mu     sync.RWMutex
	s      *store
	life   int
	clock  atomic.Int64
	histMu sync.Mutex
	hist   []porcupine.Operation

	repeated atomic.Int64
}

// crash makes an image of both copies, the second one first, as they are in
// the middle of whatever happens, and goes on from it.
func (w *world) crash() {
	w.mu.Lock()
	old := w.s
	w.life++ // from here on nobody believes what the old one answers
	next := &store{t: w.t, dir: w.t.TempDir(), second: &copies2{m: old.second.Load()}}
	if err := os.WriteFile(next.journal(), read(w.t, old.journal()), 0o600); err != nil {
		w.t.Error(err)
	}
	if err := next.try(); err != nil {
		w.t.Errorf("after a crash: %v", err)
		w.mu.Unlock()
		return
	}
	w.s = next
	w.mu.Unlock()
	_ = old.d.Close()
}

// once asks once. The answer of a target that died meanwhile is not heard.
func (w *world) once(in asked) (out told) {
	w.mu.RLock()
	s, life := w.s, w.life
	w.mu.RUnlock()
	if in.show {
		out.table = tableOf(s.d.Show("v", in.nexus, false))
	} else {
		x := s.act("v", in.nexus, in.r)
		out.status, out.generation = x.Status, x.Generation
	}
	w.mu.RLock()
	out.unknown = w.life != life || out.status == block.StatusClosed || out.status == block.StatusIO
	w.mu.RUnlock()
	return out
}

// call does one operation and records it. What is not answered is asked again
// with the same request ID: in the history both are one operation, which has
// one effect. A read that is not answered says nothing.
func (w *world) call(client int, in asked, tries int) told {
	begin := w.clock.Add(1)
	out := w.once(in)
	for try := 0; out.unknown && try < tries; try++ {
		w.repeated.Add(1)
		out = w.once(in)
	}
	end := w.clock.Add(1)
	if out.unknown && in.show {
		return out
	}
	if out.unknown {
		end = 1 << 60
	}
	w.histMu.Lock()
	w.hist = append(w.hist, porcupine.Operation{ClientId: client, Input: in, Call: begin, Output: out, Return: end})
	w.histMu.Unlock()
	return out
}

// client does some operations.
func (w *world) client(id int, rng *rand.Rand) {
	nexus := []string{"h1", "h2", "h1/a", "h1/b"}[id%4]
	key := uint64(0)
	for range 5 {
		in := asked{nexus: nexus, show: rng.IntN(4) == 0}
		in.r = block.ReserveOut{Action: block.ReserveAction(rng.IntN(8)), Type: block.ReserveTypes()[rng.IntN(6)], Key: key, NewKey: uint64(rng.IntN(3)), To: "h2"}
		if rng.IntN(3) == 0 {
			in.r.Action = block.ReserveRegisterIgnore
		}
		for i := range in.r.Request {
			in.r.Request[i] = byte(rng.Uint32())
		}
		tries := 10
		if rng.IntN(8) == 0 {
			tries = 0
		}
		out := w.call(id, in, tries)
		if out.unknown {
			return // nobody knows what the last call did: it goes on as long as the history
		}
		if out.status == block.StatusOK && !in.show && (in.r.Action == block.ReserveRegister || in.r.Action == block.ReserveRegisterIgnore) {
			key = in.r.NewKey
		}
	}
}

// TestP5_Linearizable: 8 clients at a time and crashes in between; every
// history of answers is one of a single table that is changed step by step.
func TestP5_Linearizable(t *testing.T) {
	rounds := 100
	if r, err := strconv.Atoi(os.Getenv("RSIO_ROUNDS")); err == nil && r > 0 {
		rounds = r
	}
	ops, unknown, repeated, undecided := 0, 0, 0, 0
	var sample []porcupine.Operation
	for round := range rounds {
		rng := rand.New(rand.NewPCG(uint64(round), 7))
		w := &world{t: t, s: newStore(t, "v")}
		var wg sync.WaitGroup
		for id := range 8 {
			r := rand.New(rand.NewPCG(uint64(round), uint64(id)))
			wg.Go(func() { w.client(id, r) })
		}
		for range rng.IntN(4) {
			time.Sleep(time.Duration(rng.IntN(1500)) * time.Microsecond)
			w.crash()
		}
		wg.Wait()
		_ = w.s.d.Close()
		for _, o := range w.hist {
			if o.Output.(told).unknown {
				unknown++
			}
		}
		repeated += int(w.repeated.Load())
		ops += len(w.hist)
		switch porcupine.CheckOperationsTimeout(linear(), w.hist, 20*time.Second) {
		case porcupine.Illegal:
			for _, o := range w.hist {
				t.Logf("client %d, %d..%d: %+v -> %+v", o.ClientId, o.Call, o.Return, o.Input, o.Output)
			}
			t.Fatalf("P5: round %d: the history is not linearizable", round)
		case porcupine.Unknown:
			undecided++
		}
		sample = w.hist
	}
	t.Logf("%d histories, %d operations, %d not answered, %d sent again, %d undecided", rounds, ops, unknown, repeated, undecided)
	if undecided > 0 || repeated == 0 || unknown == 0 {
		t.Errorf("%d undecided, %d sent again, %d not answered: nothing was tested, or not enough", undecided, repeated, unknown)
	}
	// The checker finds a wrong answer.
	for i := range sample {
		if out := sample[i].Output.(told); !out.unknown && !sample[i].Input.(asked).show {
			out.generation += 1000
			sample[i].Output = out
			break
		}
	}
	if porcupine.CheckOperations(linear(), sample) {
		t.Error("a wrong answer is taken for linearizable")
	}
}
