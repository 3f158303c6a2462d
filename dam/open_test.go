// SPDX-License-Identifier: Apache-2.0

package dam_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rsio/dam"
	"rsio/dam/journal"
	"rsio/rsio/block"
)

// twoVolume and twoOther are the volumes of these tests: IDs that occur in no
// text by accident.
const twoVolume, twoOther = "0f1e-volume", "0f1e-other"

// twoCase is a kind of damage of one copy.
type twoCase struct {
	desc string
	do   func()
}

// twoRig is a store with a good state, and the kinds of damage.
type twoRig struct {
	*store
	good    []byte            // the journal
	kept    map[string][]byte // the second copies
	want    string            // the table
	journal []twoCase
	second  []twoCase
}

func newTwoRig(t *testing.T) *twoRig {
	r := &twoRig{store: newStore(t, twoVolume, twoOther)}
	var earlier []byte
	var older []byte
	r.fill(twoOther)
	r.fill(twoVolume)
	earlier, older = read(t, r.store.journal()), r.store.second.Load()[twoVolume]
	if x := r.act(twoVolume, "h1", block.ReserveOut{Action: block.ReserveRegister, NewKey: 7}); x.Status != block.StatusOK {
		t.Fatal(x)
	}
	r.want = r.table(twoVolume)
	if err := r.d.Close(); err != nil {
		t.Fatal(err)
	}
	r.good, r.kept = read(t, r.store.journal()), r.store.second.Load()
	r.journalDamage(earlier)
	r.secondDamage(older)
	return r
}

func (r *twoRig) write(b []byte) {
	r.t.Helper()
	if err := os.WriteFile(r.store.journal(), b, 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func (r *twoRig) journalDamage(earlier []byte) {
	add := func(desc string, b []byte) {
		r.journal = append(r.journal, twoCase{"journal " + desc, func() { r.write(b) }})
	}
	r.journal = append(r.journal, twoCase{"journal missing", func() {
		if err := os.Remove(r.store.journal()); err != nil {
			r.t.Fatal(err)
		}
	}})
	add("empty", nil)
	add("garbage", bytes.Repeat([]byte("garbage "), 100))
	add("replaced by an earlier copy of itself", earlier)
	foreign := newStore(r.t, twoVolume, "elsewhere") // another pool that knows the volume's ID
	foreign.act("elsewhere", "h1", block.ReserveOut{Action: block.ReserveRegister, NewKey: 1})
	add("replaced by that of another pool", read(r.t, foreign.journal()))
	rng := rand.New(rand.NewPCG(3, 4))
	for off := 0; off < len(r.good); off += 512 {
		end := min(off+512, len(r.good))
		page := func(what string, fn func(i int) byte) {
			b := bytes.Clone(r.good)
			for i := off; i < end; i++ {
				b[i] = fn(i)
			}
			add(fmt.Sprintf("page %d of %d %s", off/512, (len(r.good)+511)/512, what), b)
		}
		page("flipped", func(i int) byte { return ^r.good[i] })
		page("zeroed", func(int) byte { return 0 })
		page("replaced by noise", func(int) byte { return byte(rng.Uint32()) })
		page("replaced by another", func(i int) byte { return r.good[(i+512)%len(r.good)] })
		add(fmt.Sprintf("cut at page %d", off/512), r.good[:off])
	}
}

func (r *twoRig) secondDamage(older []byte) {
	add := func(desc string, b []byte) {
		r.second = append(r.second, twoCase{"second copy " + desc, func() { r.store.second.m[twoVolume] = b }})
	}
	whole := r.kept[twoVolume]
	add("missing", nil)
	add("older", older)
	add("garbage", []byte("\x00\x01{]"))
	add("cut", whole[:len(whole)/2])
	add("of another volume", r.kept[twoOther])
	add("with something behind it", append(bytes.Clone(whole), "{}"...))
}

func (r *twoRig) restore() {
	r.write(r.good)
	for k, v := range r.kept {
		r.store.second.m[k] = bytes.Clone(v)
	}
}

// equal checks that both copies hold the same.
func (r *twoRig) equal(desc string) {
	r.t.Helper()
	j, found, err := journal.Open(r.store.journal())
	if err != nil {
		r.t.Errorf("%s: %v", desc, err)
		return
	}
	defer func() { _ = j.Close() }() // it was only read
	if found.Missing || found.Torn || found.Damaged || len(found.Notes) > 0 {
		r.t.Errorf("%s: after the repair the journal is not well: %v", desc, found.Notes)
	}
	for id, second := range r.store.second.Load() {
		if first := found.Records[id].State; !bytes.Equal(first, second) {
			r.t.Errorf("%s: after the repair the copies of %s differ:\njournal  %s\nregistry %s", desc, id, first, second)
		}
	}
}

// start opens the DAM and closes it again. It reports whether it started; then
// got is the table.
func (r *twoRig) start(desc string) (got string, started bool) {
	r.t.Helper()
	if err := r.try(); err != nil {
		if !strings.Contains(err.Error(), r.store.journal()) || !strings.Contains(err.Error(), twoVolume) {
			r.t.Errorf("%s: the error names not both, %s and %s: %v", desc, r.store.journal(), twoVolume, err)
		}
		return "", false
	}
	got = r.table(twoVolume)
	if err := r.d.Close(); err != nil {
		r.t.Errorf("%s: %v", desc, err)
	}
	return got, true
}

// TestP5_TwoCopies damages one copy in every way: the state that was answered
// last is there, from the other copy, and both are the same again.
func TestP5_TwoCopies(t *testing.T) {
	r := newTwoRig(t)
	// An older or missing second copy is what a crash leaves: the audit log
	// tells of it, nobody needs a warning.
	quiet := map[string]bool{"second copy missing": true, "second copy older": true}
	for _, c := range append(r.journal, r.second...) {
		r.restore()
		c.do()
		got, started := r.start(c.desc)
		if !started {
			t.Errorf("%s: it refuses, and the other copy is whole", c.desc)
			continue
		}
		if got != r.want {
			t.Errorf("P5: %s: the table is %s, want %s", c.desc, got, r.want)
		}
		if len(r.warned) == 0 && !quiet[c.desc] {
			t.Errorf("%s: nobody is warned", c.desc)
		}
		r.equal(c.desc)
		if got, _ := r.start(c.desc + ", again"); got != r.want || len(r.warned) > 0 {
			t.Errorf("%s: the second start: %s, want %s; warnings %q", c.desc, got, r.want, r.warned)
		}
	}
	t.Logf("%d kinds of damage of the journal, %d of the second copy", len(r.journal), len(r.second))
}

// TestP5_BothDamaged damages both copies. Where that can be seen (the journal
// is not as it was left, and the second copy is no state) the DAM has the state
// that was answered last, or refuses. Where it cannot (a journal that ends
// earlier, a second copy that is whole and older) nobody can know.
func TestP5_BothDamaged(t *testing.T) {
	r := newTwoRig(t)
	refused, whole, blind, wrong := 0, 0, 0, 0
	for _, a := range r.journal {
		for _, b := range r.second {
			desc := a.desc + ", " + b.desc
			r.restore()
			a.do()
			j, found, err := journal.Open(r.store.journal())
			if err != nil {
				t.Fatal(err)
			}
			_ = j.Close() // it was only read
			b.do()
			_, broken := dam.Decode(r.store.second.m[twoVolume])
			seen := (found.Torn || found.Damaged || found.Missing) && r.store.second.m[twoVolume] != nil && (broken != nil || strings.Contains(b.desc, "another volume"))
			switch got, started := r.start(desc); {
			case !started:
				refused++
			case got == r.want:
				whole++
			case !seen:
				blind++
			default:
				if wrong++; wrong > 2 {
					continue // enough to see
				}
				t.Errorf("P5: %s: it starts with an older table, %s, want %s or an error; warnings %q", desc, got, r.want, r.warned)
			}
		}
	}
	t.Logf("%d times refused, %d times whole, %d times nobody can know, %d times wrong", refused, whole, blind, wrong)
	if refused == 0 || whole == 0 {
		t.Error("nothing was tested")
	}
}

// TestP5_JournalFails: what cannot be made durable is not in force, and the
// same request is made once when it can.
func TestP5_JournalFails(t *testing.T) {
	s := newStore(t, twoVolume)
	s.fill(twoVolume)
	old, seat := s.table(twoVolume), s.d.Seat(twoVolume, "h2")
	defer s.d.Unseat(twoVolume, "h2")
	right, may := seat.Right()
	f, err := os.OpenFile(s.journal(), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("not ours"); err != nil { // it will be noticed: no append
		t.Fatal(err)
	}
	_ = f.Close()
	inTheWay := s.journal() + ".new" // no rewrite either
	if err := os.MkdirAll(filepath.Join(inTheWay, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	clearIt := block.ReserveOut{Action: block.ReserveClear, Key: 2, Request: block.ReserveID{9}}
	for n := range 3 {
		if x := s.act(twoVolume, "h2", clearIt); x.Status != block.StatusIO || x.Reason == "" {
			t.Fatalf("try %d: %v %q, want an I/O error", n, x.Status, x.Reason)
		}
		if got := s.table(twoVolume); got != old {
			t.Fatalf("P5: try %d: in force and not durable: %s", n, got)
		}
		if r, a := seat.Right(); r != right || a != may {
			t.Fatalf("try %d: the seat has %d %v, want %d %v", n, r, a, right, may)
		}
	}
	if err := os.RemoveAll(inTheWay); err != nil {
		t.Fatal(err)
	}
	x := s.act(twoVolume, "h2", clearIt)
	if x.Status != block.StatusOK {
		t.Fatalf("the disk is well again: %v %s", x.Status, x.Reason)
	}
	cleared := s.table(twoVolume)
	if y := s.act(twoVolume, "h2", clearIt); y.Status != x.Status || y.Generation != x.Generation || s.table(twoVolume) != cleared {
		t.Errorf("P5: repeated: %v, table %s, want %v, %s", y, s.table(twoVolume), x, cleared)
	}
	_ = s.d.Close()
	s.open()
	if got := s.table(twoVolume); got != cleared || len(s.warned) > 0 {
		t.Errorf("P5: after a restart: %s, want %s; warnings %q", got, cleared, s.warned)
	}
}

// TestP5_DeletedVolume: a volume that was deleted is forgotten, and one that
// the journal calls deleted and the registry has is refused.
func TestP5_DeletedVolume(t *testing.T) {
	s := newStore(t, twoVolume, twoOther)
	s.fill(twoVolume)
	s.fill(twoOther)
	other := s.table(twoOther)
	if err := s.d.Drop(twoVolume); err != nil {
		t.Fatal(err)
	}
	_ = s.d.Close()
	if err := s.try(); err == nil || !strings.Contains(err.Error(), s.journal()) || !strings.Contains(err.Error(), twoVolume) {
		t.Fatalf("deleted, and the registry has it: %v; want an error with the file and the volume", err)
	}
	delete(s.second.m, twoVolume)
	s.open()
	_ = s.d.Close()
	s.open()
	_ = s.d.Close()
	j, found, err := journal.Open(s.journal())
	if err != nil {
		t.Fatal(err)
	}
	_ = j.Close() // it was only read
	if _, there := found.Records[twoVolume]; there {
		t.Error("the journal has a volume that nobody has")
	}
	s.open()
	if got := s.table(twoOther); got != other {
		t.Errorf("P5: the other volume: %s, want %s", got, other)
	}
}

// TestP5_Attentions: reported once by a running target, and not lost when the
// action that would have reported them fails.
func TestP5_Attentions(t *testing.T) {
	s := newStore(t, twoVolume)
	s.fill(twoVolume) // h2 has preempted h1
	if a := s.d.Show(twoVolume, "h1", true).Attentions; len(a) == 0 {
		t.Error("nothing is reported")
	}
	if a := s.d.Show(twoVolume, "h1", true).Attentions; len(a) != 0 {
		t.Errorf("reported twice: %v", a)
	}
	register := block.ReserveOut{Action: block.ReserveRegister, NewKey: 1}
	s.act(twoVolume, "h1", register)
	s.act(twoVolume, "h2", block.ReserveOut{Action: block.ReserveClear, Key: 2})
	register.Request = block.ReserveID{5}
	s.second.fail = true
	if x := s.act(twoVolume, "h1", register); x.Status != block.StatusIO || len(x.Attentions) > 0 {
		t.Fatalf("without a second copy: %+v", x)
	}
	s.second.fail = false
	x := s.act(twoVolume, "h1", register)
	if a := append(x.Attentions, s.d.Show(twoVolume, "h1", true).Attentions...); len(a) != 1 || x.Status != block.StatusOK {
		t.Errorf("the action failed and was sent again: %v, attentions %v, want that of the clear, once", x.Status, a)
	}
}

// TestP5_CloseTakesBack: a preempt-and-abort that waits when the DAM is closed
// has not happened; what waits behind it has not either, up to a limit.
func TestP5_CloseTakesBack(t *testing.T) {
	s := newStore(t, twoVolume)
	s.act(twoVolume, "h1", block.ReserveOut{Action: block.ReserveRegister, NewKey: 1})
	s.act(twoVolume, "h2", block.ReserveOut{Action: block.ReserveRegister, NewKey: 2})
	s.act(twoVolume, "h1", block.ReserveOut{Action: block.ReserveReserve, Key: 1, Type: block.ReserveWERO})
	old, seat := s.table(twoVolume), s.d.Seat(twoVolume, "h1")
	right, _ := seat.Right()
	if seat.Enter(block.OpWrite, right) != block.StatusOK {
		t.Fatal("the holder may not write")
	}
	answers := make(chan block.Status, dam.MaxQueued+2)
	ask := func(r block.ReserveOut) {
		s.d.Reserve(twoVolume, "h2", "test", r, nil, func(x block.ReserveResult) { answers <- x.Status })
	}
	ask(block.ReserveOut{Action: block.ReservePreemptAbort, Key: 2, NewKey: 1, Type: block.ReserveEARO})
	for r := right; r == right; r, _ = seat.Right() { // until it waits
	}
	for range dam.MaxQueued {
		ask(block.ReserveOut{Action: block.ReserveClear, Key: 2})
	}
	ask(block.ReserveOut{Action: block.ReserveClear, Key: 2})
	if st := <-answers; st != block.StatusBusy {
		t.Fatalf("one more than may wait: %v", st)
	}
	if err := s.d.Close(); err != nil {
		t.Fatal(err)
	}
	for range dam.MaxQueued + 1 {
		if st := <-answers; st != block.StatusClosed {
			t.Fatalf("taken back: %v", st)
		}
	}
	seat.Leave(block.OpWrite)
	s.open()
	if got := s.table(twoVolume); got != old {
		t.Errorf("P5: what was taken back has happened: %s, want %s", got, old)
	}
}
