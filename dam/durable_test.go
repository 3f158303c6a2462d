// SPDX-License-Identifier: Apache-2.0

package dam_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"rsio/dam"
	"rsio/rsio/block"
)

// copies2 is a registry in memory.
type copies2 struct {
	mu   sync.Mutex
	m    map[string][]byte
	fail bool
}

func (c *copies2) Load() map[string][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[string][]byte)
	for k, v := range c.m {
		out[k] = bytes.Clone(v)
	}
	return out
}

func (c *copies2) Store(volume string, state []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fail {
		return errors.New("the disk is full")
	}
	c.m[volume] = bytes.Clone(state)
	return nil
}

// store is a DAM with its two copies.
type store struct {
	t      testing.TB
	dir    string
	second *copies2
	d      *dam.DAM
	warned []string
}

func newStore(t testing.TB, volumes ...string) *store {
	s := &store{t: t, dir: t.TempDir(), second: &copies2{m: map[string][]byte{}}}
	for _, v := range volumes {
		s.second.m[v] = nil
	}
	s.open()
	return s
}

func (s *store) try() (err error) {
	s.warned = nil
	s.d, err = dam.Open(dam.Options{Dir: s.dir, Second: s.second, Warn: func(_, text string) { s.warned = append(s.warned, text) }})
	return err
}

func (s *store) open() {
	s.t.Helper()
	if err := s.try(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if s.d != nil {
			_ = s.d.Close() // closed twice by some tests
		}
	})
}

func (s *store) act(volume, nexus string, r block.ReserveOut) block.ReserveResult {
	done := make(chan block.ReserveResult, 1)
	s.d.Reserve(volume, nexus, "test", r, nil, func(x block.ReserveResult) { done <- x })
	return <-done
}

func (s *store) journal() string { return filepath.Join(s.dir, dam.JournalName) }

// table is what a volume's reservation is, but for attentions.
func (s *store) table(volume string) string {
	x := s.d.Show(volume, "h1", false)
	return fmt.Sprint(x.Generation, x.Type, x.Key, x.Registrants, x.Right, x.Access)
}

// fill makes a reservation that is not trivial.
func (s *store) fill(volume string) {
	s.t.Helper()
	for _, step := range []struct {
		nexus string
		r     block.ReserveOut
	}{
		{"h1", block.ReserveOut{Action: block.ReserveRegister, NewKey: 1}},
		{"h2", block.ReserveOut{Action: block.ReserveRegister, NewKey: 2}},
		{"h1", block.ReserveOut{Action: block.ReserveReserve, Key: 1, Type: block.ReserveWERO}},
		{"h2", block.ReserveOut{Action: block.ReservePreemptAbort, Key: 2, NewKey: 1, Type: block.ReserveEARO}},
	} {
		if x := s.act(volume, step.nexus, step.r); x.Status != block.StatusOK {
			s.t.Fatalf("%s of %s: %v %s", step.r.Action, step.nexus, x.Status, x.Reason)
		}
	}
}

// TestP5_Damage damages one of the two copies in every way: what was answered
// is there, taken from the other one, with a warning; or the DAM refuses.
func TestP5_Damage(t *testing.T) {
	s := newStore(t, "v", "w")
	s.fill("v")
	s.fill("w")
	want := s.table("v")
	if err := s.d.Close(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(s.journal())
	if err != nil {
		t.Fatal(err)
	}
	kept := s.second.Load()
	restore := func() {
		if err := os.WriteFile(s.journal(), good, 0o600); err != nil {
			t.Fatal(err)
		}
		for k, v := range kept {
			s.second.m[k] = bytes.Clone(v)
		}
	}
	var rows []struct {
		desc   string
		break_ func()
		refuse bool
	}
	add := func(refuse bool, desc string, fn func()) {
		rows = append(rows, struct {
			desc   string
			break_ func()
			refuse bool
		}{desc, fn, refuse})
	}
	write := func(b []byte) {
		if err := os.WriteFile(s.journal(), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	add(false, "the journal is missing", func() { _ = os.Remove(s.journal()) })
	add(false, "the journal is empty", func() { write(nil) })
	for off := 0; off < len(good); off += 512 {
		end := min(off+512, len(good))
		add(false, fmt.Sprintf("page %d of the journal is zero", off/512), func() {
			b := bytes.Clone(good)
			clear(b[off:end])
			write(b)
		})
		add(false, fmt.Sprintf("page %d of the journal is flipped", off/512), func() {
			b := bytes.Clone(good)
			for i := off; i < end; i++ {
				b[i] ^= 0xff
			}
			write(b)
		})
		add(false, fmt.Sprintf("the journal is cut at %d", off), func() { write(good[:off]) })
	}
	add(false, "the second copy is missing", func() { s.second.m["v"] = nil })
	add(false, "the second copy is garbage", func() { s.second.m["v"] = []byte("{") })
	add(false, "the second copy is older", func() { s.second.m["v"], _ = dam.New("v").Encode() })
	add(true, "both are damaged", func() {
		b := bytes.Clone(good)
		clear(b[100:])
		write(b)
		s.second.m["v"] = []byte("{")
	})
	for _, row := range rows {
		restore()
		row.break_()
		err := s.try()
		if row.refuse {
			if err == nil {
				t.Errorf("%s: it starts, with %s", row.desc, s.table("v"))
				_ = s.d.Close()
			} else if !strings.Contains(err.Error(), "v") {
				t.Errorf("%s: the error names no volume: %v", row.desc, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", row.desc, err)
			continue
		}
		if got := s.table("v"); got != want {
			t.Errorf("P5: %s: the table is %s, want %s", row.desc, got, want)
		}
		if len(s.warned) == 0 && row.desc != "the second copy is missing" && row.desc != "the second copy is older" {
			t.Errorf("%s: nobody is warned", row.desc)
		}
		if x := s.act("v", "h2", block.ReserveOut{Action: block.ReserveRegister, Key: 2, NewKey: 2}); x.Status != block.StatusOK {
			t.Errorf("%s: afterwards: %v %s", row.desc, x.Status, x.Reason)
		}
		if err := s.d.Close(); err != nil {
			t.Error(err)
		}
		if err := s.try(); err != nil || len(s.warned) > 0 {
			t.Errorf("%s: after the repair: %v, %v", row.desc, err, s.warned)
		}
		_ = s.d.Close()
	}
}

// TestP5_SecondCopyFails: nothing is answered before both copies have it, and
// the retry gets the answer.
func TestP5_SecondCopyFails(t *testing.T) {
	s := newStore(t, "v")
	r := block.ReserveOut{Action: block.ReserveRegister, NewKey: 1, Request: block.ReserveID{1}}
	s.second.fail = true
	if x := s.act("v", "h1", r); x.Status != block.StatusIO {
		t.Fatalf("without a second copy: %v", x.Status)
	}
	if x := s.act("v", "h1", r); x.Status != block.StatusIO {
		t.Fatalf("again: %v", x.Status)
	}
	s.second.fail = false
	if x := s.act("v", "h1", r); x.Status != block.StatusOK || x.Generation != 1 {
		t.Fatalf("the retry: %v, generation %d", x.Status, x.Generation)
	}
	if len(s.second.m["v"]) == 0 {
		t.Error("answered without a second copy")
	}
}

// crashRounds is how many crashes a test makes.
func crashRounds(n int) int {
	if r, err := strconv.Atoi(os.Getenv("RSIO_ROUNDS")); err == nil && r > 0 {
		return r
	}
	if testing.Short() {
		return n / 10
	}
	return n
}

// TestP5_Crash crashes in the middle of a change: what is left of the journal
// is what had been written before, and a part of the last record; the second
// copy has the change or not. The table is that before the change or that after
// it, and the same request sent again has one effect.
func TestP5_Crash(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	before, after, torn := 0, 0, 0
	for round := range crashRounds(300) {
		s := newStore(t, "v")
		nexuses := []string{"h1", "h2", "h1/a"}
		random := func() (string, block.ReserveOut) {
			n := nexuses[rng.IntN(len(nexuses))]
			key, _ := keyOf(s, n)
			r := block.ReserveOut{Action: block.ReserveAction(rng.IntN(8)), Type: block.ReserveTypes()[rng.IntN(6)], Key: key, NewKey: uint64(rng.IntN(4)), To: "h2"}
			for i := range r.Request {
				r.Request[i] = byte(rng.Uint32())
			}
			return n, r
		}
		for range rng.IntN(20) {
			n, r := random()
			s.act("v", n, r)
		}
		old, oldFile, oldSecond := s.table("v"), read(t, s.journal()), s.second.Load()
		n, r := random()
		res := s.act("v", n, r)
		fresh, freshFile := s.table("v"), read(t, s.journal())
		_ = s.d.Close()
		// the image of the crash
		img := freshFile
		if bytes.HasPrefix(freshFile, oldFile) && rng.IntN(4) > 0 {
			cut := len(oldFile) + rng.IntN(len(freshFile)-len(oldFile)+1)
			if img = bytes.Clone(freshFile[:cut]); rng.IntN(3) == 0 {
				img = append(img, make([]byte, len(freshFile)-cut)...) // the file had grown already
			}
			torn++
		}
		whole := bytes.Equal(img, freshFile)
		if !whole || rng.IntN(2) == 0 {
			s.second.m = oldSecond // the second copy comes after the journal
		}
		if err := os.WriteFile(s.journal(), img, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := s.try(); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		switch got := s.table("v"); {
		case got == fresh:
			after++
		case got == old && !whole:
			before++
		default:
			t.Fatalf("P5: round %d: the table is %s, it was %s before %s of %s and %s after", round, got, old, r.Action, n, fresh)
		}
		if res.Status == block.StatusOK {
			if again := s.act("v", n, r); again.Status != block.StatusOK || again.Generation != res.Generation || s.table("v") != fresh {
				t.Fatalf("P5: round %d: sent again: %v, generation %d, want %d; table %s, want %s", round, again.Status, again.Generation, res.Generation, s.table("v"), fresh)
			}
		}
		_ = s.d.Close()
	}
	if before == 0 || after == 0 || torn == 0 {
		t.Errorf("%d times the old table, %d times the new one, %d torn: nothing was tested", before, after, torn)
	}
	t.Logf("%d times the old table, %d times the new one, %d of the images torn", before, after, torn)
}

func keyOf(s *store, nexus string) (uint64, bool) {
	x := s.d.Show("v", nexus, false)
	i := slices.IndexFunc(x.Registrants, func(r block.Registrant) bool { return r.Nexus == nexus })
	if i < 0 {
		return 0, false
	}
	return x.Registrants[i].Key, true
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return b
}

// TestPreemptAbortWaits: it is answered when what runs has left, takes the
// right away before, shows nothing until it is durable, and the caller's end
// takes it back.
func TestPreemptAbortWaits(t *testing.T) {
	s := newStore(t, "v")
	for _, n := range []string{"h1", "h2"} {
		s.act("v", n, block.ReserveOut{Action: block.ReserveRegister, NewKey: uint64(n[1])})
	}
	s.act("v", "h1", block.ReserveOut{Action: block.ReserveReserve, Key: '1', Type: block.ReserveWERO})
	seat := s.d.Seat("v", "h1")
	defer s.d.Unseat("v", "h1")
	right, _ := seat.Right()
	if seat.Enter(block.OpWrite, right) != block.StatusOK {
		t.Fatal("the holder may not write")
	}
	quit := make(chan struct{})
	done := make(chan block.ReserveResult, 1)
	preempt := block.ReserveOut{Action: block.ReservePreemptAbort, Key: '2', NewKey: '1', Type: block.ReserveWERO}
	old := s.table("v")
	s.d.Reserve("v", "h2", "test", preempt, quit, func(x block.ReserveResult) { done <- x })
	for {
		if r, _ := seat.Right(); r != right {
			break // the gate is closed
		}
	}
	if seat.Enter(block.OpWrite, right) != block.StatusConflict {
		t.Error("the victim is let in while the preempt waits")
	}
	if got := s.table("v"); got != old {
		t.Errorf("shown before it is durable: %s", got)
	}
	close(quit)
	if x := <-done; x.Status != block.StatusClosed {
		t.Fatalf("taken back: %v", x.Status)
	}
	if seat.Enter(block.OpWrite, right) != block.StatusOK {
		t.Fatal("taken back, and the victim has lost its right")
	}
	seat.Leave(block.OpWrite)
	go s.d.Reserve("v", "h2", "test", preempt, nil, func(x block.ReserveResult) { done <- x })
	select {
	case x := <-done:
		t.Fatalf("P4: answered (%v) while a write of the victim runs", x.Status)
	case <-time.After(50 * time.Millisecond):
	}
	seat.Leave(block.OpWrite)
	if x := <-done; x.Status != block.StatusOK {
		t.Fatalf("%v %s", x.Status, x.Reason)
	}
	if seat.Enter(block.OpWrite, right) != block.StatusConflict {
		t.Error("P4: the victim writes after the answer")
	}
}
