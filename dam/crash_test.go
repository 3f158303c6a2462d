// SPDX-License-Identifier: Apache-2.0

package dam_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rsio/dam"
	"rsio/rsio/block"
)

// crashNexuses act in the tests of crashes.
var crashNexuses = []string{"h1", "h2", "h3", "h3/a", "h4", "h4/b"}

// crashView is all of a state that can be seen.
func crashView(show func(nexus string) block.ReserveState) string {
	var b bytes.Buffer
	b.WriteString(tableOf(show("")))
	for _, n := range crashNexuses {
		x := show(n)
		fmt.Fprintf(&b, " %s:%d%v", n, x.Right, x.Access)
	}
	return b.String()
}

// crashStore is a second copy that can be looked at together with the journal
// at one moment.
type crashStore struct {
	mu   sync.Mutex
	m    map[string][]byte
	hook func() // before and after each Store; mu is held
}

func (c *crashStore) Load() map[string][]byte { return (&copies2{m: c.m}).Load() }

func (c *crashStore) Store(volume string, state []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hook != nil {
		c.hook()
	}
	c.m[volume] = bytes.Clone(state)
	if c.hook != nil {
		c.hook()
	}
	return nil
}

// crashImage is what a crash leaves: both copies as they are at one moment.
type crashImage struct {
	journal []byte
	second  map[string][]byte
}

// image takes one; mu is held, so nothing is stored, and nothing answered that
// changed anything, while it does.
func (c *crashStore) image(path string) (crashImage, error) {
	b, err := os.ReadFile(path) // perhaps in the middle of an append
	return crashImage{journal: b, second: c.Load()}, err
}

// Places in a journal; see the documentation of package journal.
const crashHeader, crashLength, crashIDLen, crashVersion, crashID = 64, 4, 37, 40, 56

// tear makes the last append one that was not finished, if nobody can have been
// answered yet: the second copy does not have it.
func (m *crashImage) tear(rng *rand.Rand) bool {
	at, last, b := crashHeader, 0, m.journal
	for at+crashID <= len(b) {
		n := int(binary.BigEndian.Uint32(b[at+crashLength:]))
		if n < crashID || at+n > len(b) {
			return false // torn already
		}
		at, last = at+n, at
	}
	if last == 0 || at != len(b) {
		return false
	}
	if second := m.second[string(b[last+crashID:last+crashID+int(b[last+crashIDLen])])]; second != nil {
		s, err := dam.Decode(second)
		if err != nil || s.Version >= binary.BigEndian.Uint64(b[last+crashVersion:]) {
			return false
		}
	}
	cut := last + rng.IntN(at-last)
	m.journal = slices.Clone(b[:cut])
	switch rng.IntN(3) {
	case 0: // the file had grown, the data was not there yet
		m.journal = append(m.journal, make([]byte, at-cut)...)
	case 1: // the end was there, something in the middle not
		m.journal = append(m.journal, b[cut:]...)
		clear(m.journal[cut:min(cut+64, at)])
	}
	return true
}

// open makes a DAM of an image in a directory of its own.
func (m *crashImage) open(dir string, s *crashStore) (*dam.DAM, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	if m.journal != nil {
		if err := os.WriteFile(filepath.Join(dir, dam.JournalName), m.journal, 0o600); err != nil {
			return nil, err
		}
	}
	s.m = m.second
	return dam.Open(dam.Options{Dir: dir, Second: s})
}

// crashDir is on tmpfs if there is one: a crash is made of copies, not of lost
// sectors.
func crashDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "rsio-dam-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// crashAct is an action of a nexus.
type crashAct struct {
	nexus string
	r     block.ReserveOut
}

func (a crashAct) do(d *dam.DAM, volume string) block.ReserveResult {
	done := make(chan block.ReserveResult, 1)
	d.Reserve(volume, a.nexus, "test", a.r, nil, func(x block.ReserveResult) { done <- x })
	return <-done
}

// crashRandom makes an action that mostly has a chance in state s.
func crashRandom(rng *rand.Rand, s *dam.State) crashAct {
	a := crashAct{nexus: crashNexuses[rng.IntN(len(crashNexuses))]}
	key, registered := s.Registered(a.nexus)
	a.r = block.ReserveOut{Action: block.ReserveAction(rng.IntN(8)), Type: block.ReserveTypes()[rng.IntN(6)],
		Key: key, NewKey: uint64(rng.IntN(4)), To: crashNexuses[rng.IntN(len(crashNexuses))], Unregister: rng.IntN(2) == 0}
	if !registered && rng.IntN(4) > 0 {
		a.r.Action = block.ReserveRegister
	}
	switch a.r.Action {
	case block.ReserveRelease:
		a.r.Type = s.Type
	case block.ReservePreempt, block.ReservePreemptAbort:
		if len(s.Regs) > 0 && rng.IntN(4) > 0 {
			a.r.NewKey = s.Regs[rng.IntN(len(s.Regs))].Key
		}
	case block.ReserveClear:
		if rng.IntN(3) > 0 {
			a.r.Action = block.ReserveReserve
		}
	}
	for i := range a.r.Request {
		a.r.Request[i] = byte(rng.Uint32())
	}
	return a
}

// crashVolume is a volume and what it must be: states[k] after acts[:k].
type crashVolume struct {
	id                string
	states            []*dam.State
	acts              []crashAct
	started, answered atomic.Int64
	least, most       int64 // acts that are in the image: answered before it, started before its end
}

// run makes some actions and compares the answers.
func (v *crashVolume) run(d *dam.DAM, rng *rand.Rand) error {
	for n := range 1 + rng.IntN(4) {
		a := crashRandom(rng, v.states[n])
		next, want := dam.Apply(v.states[n], a.nexus, a.r)
		if next != v.states[n] {
			next.Pending = nil // not looked at here
		}
		v.acts, v.states = append(v.acts, a), append(v.states, next)
		v.started.Store(int64(n + 1))
		if x := a.do(d, v.id); x.Status != want.Status || x.Generation != want.Generation {
			return fmt.Errorf("volume %s: %s of %s: %v generation %d, want %v, %d", v.id, a.r.Action, a.nexus, x.Status, x.Generation, want.Status, want.Generation)
		}
		v.answered.Store(int64(n + 1))
	}
	return nil
}

// check finds the state after the crash among those that may be, sends again
// what was not answered, and goes on from there.
func (v *crashVolume) check(d *dam.DAM) (moved, late bool, err error) {
	view := func() string {
		return crashView(func(n string) block.ReserveState { return d.Show(v.id, n, false) })
	}
	got, found := view(), -1
	for k := v.most; k >= v.least && found < 0; k-- {
		if crashView(v.states[k].Show) == got {
			found = int(k)
		}
	}
	if found < 0 {
		return false, false, fmt.Errorf("P5: volume %s is %s: not a state from %s (all that was answered) to %s (all that was asked for)",
			v.id, got, crashView(v.states[v.least].Show), crashView(v.states[v.most].Show))
	}
	end := v.states[v.most]
	moved = v.states[v.least] != end
	for k := v.least; k < v.most; k++ {
		if v.states[k] == v.states[k+1] {
			continue // it changes nothing: who repeats it may get another answer
		}
		for range 2 {
			if x := v.acts[k].do(d, v.id); x.Status != block.StatusOK || x.Generation != v.states[k+1].Generation {
				return false, false, fmt.Errorf("P5: volume %s: %s of %s sent again: %v %s, generation %d, want %d", v.id, v.acts[k].r.Action, v.acts[k].nexus,
					x.Status, x.Reason, x.Generation, v.states[k+1].Generation)
			}
		}
	}
	if got := view(); got != crashView(end.Show) {
		return false, false, fmt.Errorf("P5: volume %s after all was sent again: %s, want %s", v.id, got, crashView(end.Show))
	}
	late = found == int(v.most)
	v.states, v.acts = []*dam.State{end}, nil
	v.started.Store(0)
	v.answered.Store(0)
	return moved, late, nil
}

// TestP5_CrashVolumes lets nexuses act on several volumes of one journal at the
// same time, crashes at a random moment, and goes on from what is left, again
// and again: every volume has what was answered, and what was asked for wholly
// or not at all; sent again it has one effect.
func TestP5_CrashVolumes(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 12))
	base := crashDir(t)
	volumes := []*crashVolume{{id: "v1"}, {id: "v2"}, {id: "v3"}}
	img := crashImage{second: map[string][]byte{}}
	for _, v := range volumes {
		v.states, img.second[v.id] = []*dam.State{dam.New(v.id)}, nil
	}
	rounds, torn, moved, late, start := crashRounds(300), 0, 0, 0, time.Now()
	for round := range rounds {
		s, dir := &crashStore{}, filepath.Join(base, fmt.Sprint(round))
		d, err := img.open(dir, s)
		if err != nil {
			t.Fatalf("P5: round %d: %v", round, err)
		}
		if round > 0 {
			for _, v := range volumes {
				m, l, err := v.check(d)
				if err != nil {
					t.Fatalf("round %d: %v", round, err)
				}
				if m {
					if moved++; l {
						late++
					}
				}
			}
		}
		moment, taken := rng.IntN(16), false
		take := func() { // s.mu is held
			for _, v := range volumes {
				v.least = v.answered.Load()
			}
			img, err = s.image(filepath.Join(dir, dam.JournalName))
			for _, v := range volumes {
				v.most = v.started.Load()
			}
			taken = true
		}
		s.mu.Lock()
		s.hook = func() {
			if moment--; moment < 0 && !taken {
				take()
			}
		}
		s.mu.Unlock()
		var wg sync.WaitGroup
		for _, v := range volumes {
			r := rand.New(rand.NewPCG(rng.Uint64(), 1))
			wg.Go(func() {
				if err := v.run(d, r); err != nil {
					t.Errorf("round %d: %v", round, err)
				}
			})
		}
		if rng.IntN(2) == 0 { // not at a Store, but whenever
			time.Sleep(time.Duration(rng.IntN(120)) * time.Microsecond)
			s.mu.Lock()
			if !taken {
				take()
			}
			s.mu.Unlock()
		}
		wg.Wait()
		if !taken { // in peace
			take()
		}
		if err != nil || t.Failed() {
			t.Fatal(err)
		}
		if rng.IntN(2) == 0 && img.tear(rng) {
			torn++
		}
		_ = d.Close()
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d crashes in %v, %d images torn; of %d changes that were not answered %d had been made", rounds, time.Since(start).Round(time.Millisecond), torn, moved, late)
	if torn == 0 || late == 0 || late == moved {
		t.Error("nothing was tested, or not enough")
	}
}
