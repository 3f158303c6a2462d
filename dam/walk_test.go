// SPDX-License-Identifier: Apache-2.0

package dam_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"rsio/dam"
	"rsio/rsio/block"
)

// The number of walks is what runs in about 3 seconds; what has to be reached
// needs far fewer.
const (
	walkSequences = 4000
	walkSteps     = 48
	walkVolume    = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
)

// TestWalk compares the package with the model over random sequences, and fails
// too if these have not reached all there is.
func TestWalk(t *testing.T) {
	c := walkCoverage{cells: map[walkCell]int{}, clauses: map[string]int{}}
	sequences := walkSequences
	if testing.Short() {
		sequences /= 4
	}
	for seed := range uint64(sequences) {
		start, steps := walkSequence(seed)
		w := newWalk(start)
		w.coverage = &c
		if w.run(steps) != "" {
			t.Fatal(walkFailure(seed, start, steps))
		}
	}
	c.check(t)
}

// walkStep is one step. All that is random about it has been decided, so that
// a sequence can be repeated with steps left out.
type walkStep struct {
	what  string // ask, report, or aside: ask an earlier state, and forget the answer
	nexus string
	from  int // aside: which state
	r     block.ReserveOut
}

func (s walkStep) String() string {
	if s.what == "report" {
		return fmt.Sprintf("%-5s report", s.nexus)
	}
	r := s.r
	line := fmt.Sprintf("%-5s %v type=%v scope=%d key=%d new-key=%d", s.nexus, r.Action, r.Type, r.Scope, r.Key, r.NewKey)
	if r.Action == block.ReserveMove {
		line += fmt.Sprintf(" to=%q unregister=%v", r.To, r.Unregister)
	}
	if r.Request != (block.ReserveID{}) {
		line += fmt.Sprintf(" id=%d", r.Request[0])
	}
	if s.what == "aside" {
		line += fmt.Sprintf(" (aside, of state %d)", s.from)
	}
	return line
}

// walk is the package and the model side by side.
type walk struct {
	s        *dam.State
	m        model
	rights   map[string]uint64
	top      uint64       // the highest right anybody ever had
	states   []*dam.State // all there were,
	prints   []string     // and what they looked like when they were new
	log      []string
	coverage *walkCoverage
}

func newWalk(start uint32) *walk {
	w := &walk{s: dam.New(walkVolume), m: model{generation: start}, rights: map[string]uint64{}, top: dam.First}
	w.s.Generation = start
	for _, name := range modelNames {
		w.rights[name] = dam.First
	}
	w.keep()
	return w
}

func (w *walk) keep() {
	w.states = append(w.states, w.s)
	w.prints = append(w.prints, fmt.Sprintf("%#v", *w.s))
}

// run returns the first disagreement, or "".
func (w *walk) run(steps []walkStep) string {
	for i, st := range steps {
		w.log = append(w.log, fmt.Sprintf("%3d  %v", i, st))
		var diffs []string
		switch st.what {
		case "ask":
			diffs = w.ask(st)
		case "report":
			diffs = w.report(st)
		case "aside":
			diffs = w.aside(st)
		}
		if len(diffs) > 0 {
			return strings.Join(diffs, "\n")
		}
	}
	// Only now: a state may also be changed by what is done to those after it,
	// if they share memory.
	for i, s := range w.states {
		if now := fmt.Sprintf("%#v", *s); now != w.prints[i] {
			return fmt.Sprintf("state %d was modified after it was returned\nwas %s\nis  %s", i, w.prints[i], now)
		}
	}
	return ""
}

func (w *walk) ask(st walkStep) []string {
	kind, role := w.m.kind, w.m.role(st.nexus)
	want := w.m.ask(st.nexus, st.r)
	next, got := dam.Apply(w.s, st.nexus, st.r)
	w.log[len(w.log)-1] += fmt.Sprintf("\n       -> model:   %v %04x, generation %d (%s)\n       -> package: %v %04x, generation %d (%s)",
		want.status, uint16(want.sense), want.generation, want.clause, got.Status, uint16(got.Sense), got.Generation, got.Reason)
	if w.coverage != nil {
		w.coverage.note(kind, role, st.r.Action, want)
	}
	var d walkDiffs
	d.compare("status", want.status, got.Status)
	d.compare("sense", fmt.Sprintf("%04x", uint16(want.sense)), fmt.Sprintf("%04x", uint16(got.Sense)))
	d.compare("generation of the answer", want.generation, got.Generation)
	d.compare("has a reason", want.status != block.StatusOK, got.Reason != "")
	d.compare("attentions of the answer", 0, len(got.Attentions))
	d.compare("is another state", want.changed, next != w.s)
	told := make([]modelTold, 0, len(got.Raised))
	for _, r := range got.Raised {
		told = append(told, modelTold{r.Nexus, r.Code})
	}
	byNexus := func(a, b modelTold) int { return strings.Compare(a.nexus, b.nexus) }
	d.compare("attentions are raised in the order of the nexuses", true, slices.IsSortedFunc(told, byNexus))
	slices.SortFunc(told, byNexus)
	slices.SortFunc(want.told, byNexus)
	d.compare("raised attentions", fmt.Sprint(want.told), fmt.Sprint(told))
	if next != w.s {
		w.s = next
		w.keep()
	}
	return append(d, w.look(want.raised)...)
}

func (w *walk) report(st walkStep) []string {
	var d walkDiffs
	want := w.m.pending(st.nexus, true)
	next, got := dam.Report(w.s, st.nexus)
	d.compare("reported attentions", fmt.Sprint(want), fmt.Sprint(got))
	if next != w.s {
		w.s = next
		w.keep()
	}
	return append(d, w.look(nil)...)
}

// aside asks an earlier state, twice. The answers must be the same, and what
// came of that state before must stay as it is.
func (w *walk) aside(st walkStep) []string {
	var d walkDiffs
	s := w.states[st.from%len(w.states)]
	one, first := dam.Apply(s, st.nexus, st.r)
	two, second := dam.Apply(s, st.nexus, st.r)
	d.compare("the same asked twice", fmt.Sprintf("%+v %#v", first, *one), fmt.Sprintf("%+v %#v", second, *two))
	return append(d, w.look(nil)...)
}

// look compares all that the state tells. raised names those whose right must
// have a new generation.
func (w *walk) look(raised []string) []string {
	var d walkDiffs
	top := w.top
	for _, name := range modelNames {
		right := w.s.Right(name)
		if slices.Contains(raised, name) {
			d.compare(fmt.Sprintf("right of %s is above %d, being %d", name, w.top, right), true, right > w.top)
		} else {
			d.compare("right of "+name, w.rights[name], right)
		}
		w.rights[name] = right
		top = max(top, right)

		want := w.m.show()
		want.Right, want.Access = right, w.m.access(name)
		got := w.s.Show(name)
		if len(got.Registrants) == 0 {
			got.Registrants = nil
		}
		if !reflect.DeepEqual(want, got) {
			d.compare("what is shown to "+name, fmt.Sprintf("%+v", want), fmt.Sprintf("%+v", got))
		}
		d.compare("access of "+name, want.Access, w.s.Access(name))
		d.compare("holds, "+name, w.m.role(name) == roleHolder, w.s.Holds(name))
		key, registered := w.s.Registered(name)
		d.compare("key of "+name, w.m.key(name), key)
		d.compare("registered, "+name, w.m.key(name) != 0, registered)
		// The state is a value: what Report returns beside is forgotten here.
		_, waiting := dam.Report(w.s, name)
		if !slices.Equal(w.m.pending(name, false), waiting) {
			d.compare("attentions that wait for "+name, fmt.Sprint(w.m.pending(name, false)), fmt.Sprint(waiting))
		}
	}
	w.top = top
	return d
}

type walkDiffs []string

func (d *walkDiffs) compare(what string, want, got any) {
	if want != got {
		*d = append(*d, fmt.Sprintf("%s: model %v, package %v", what, want, got))
	}
}

// walkFailure describes a disagreement by the shortest sequence that still has
// one.
func walkFailure(seed uint64, start uint32, steps []walkStep) string {
	n := len(steps)
	for again := true; again; {
		again = false
		for i := len(steps) - 1; i >= 0; i-- {
			fewer := slices.Delete(slices.Clone(steps), i, i+1)
			if newWalk(start).run(fewer) != "" {
				steps, again = fewer, true
			}
		}
	}
	w := newWalk(start)
	diff := w.run(steps)
	return fmt.Sprintf("seed %d: package and model disagree.\nThe sequence, shortened from %d steps, first generation %d:\n%s\n%s",
		seed, n, start, strings.Join(w.log, "\n"), diff)
}

// walkMaker makes up a sequence. It knows the model and not the package, so
// that a defect of the package does not change where the walk goes.
type walkMaker struct {
	*rand.Rand
	m     model
	steps []walkStep
	ids   byte
}

func walkSequence(seed uint64) (start uint32, steps []walkStep) {
	w := walkMaker{Rand: rand.New(rand.NewPCG(seed, 1))}
	if w.IntN(8) == 0 {
		start = math.MaxUint32 - 3 // so that it goes round
	}
	w.m.generation = start
	for range walkSteps {
		st := w.step()
		switch st.what {
		case "ask":
			w.m.ask(st.nexus, st.r)
		case "report":
			w.m.pending(st.nexus, true)
		}
		w.steps = append(w.steps, st)
	}
	return start, w.steps
}

func (w *walkMaker) step() walkStep {
	nexus := modelActors[w.IntN(len(modelActors))]
	switch n := w.IntN(20); {
	case n < 2:
		return walkStep{what: "report", nexus: nexus}
	case n < 3:
		return walkStep{what: "aside", nexus: nexus, from: w.IntN(walkSteps), r: w.request(nexus)}
	case n < 6 && len(w.steps) > 0:
		st := w.steps[w.IntN(len(w.steps))]
		if st.what != "ask" {
			break
		}
		switch w.IntN(8) {
		case 0:
			st.r.Action = block.ReserveAction(w.IntN(9))
		case 1:
			st.nexus = nexus // whose ID it is not
		}
		return st
	}
	return walkStep{what: "ask", nexus: nexus, r: w.request(nexus)}
}

// walkActions has each action as often as it deserves: clear and release end
// what makes a walk interesting.
var walkActions = []block.ReserveAction{0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 7, 7, 7, 8, 31}

func (w *walkMaker) request(nexus string) block.ReserveOut {
	r := block.ReserveOut{
		Action:     walkActions[w.IntN(len(walkActions))],
		Type:       []block.ReserveType{1, 3, 5, 6, 7, 8}[w.IntN(6)],
		Key:        w.m.key(nexus),
		NewKey:     w.Uint64N(4),
		To:         modelActors[w.IntN(len(modelActors))],
		Unregister: w.IntN(2) == 0,
	}
	if w.m.kind == block.ReserveNone && len(w.m.regs) > 2 && w.IntN(3) == 0 {
		r.Action = block.ReserveReserve
	}
	if w.m.kind != block.ReserveNone && w.IntN(3) == 0 {
		r.Type = w.m.kind
	}
	if w.IntN(10) == 0 {
		r.Type = []block.ReserveType{0, 2, 4, 9}[w.IntN(4)]
	}
	if w.IntN(16) == 0 {
		r.Scope = 1
	}
	if w.IntN(5) == 0 {
		r.Key = w.Uint64N(4)
	}
	switch r.Action {
	case block.ReservePreempt, block.ReservePreemptAbort:
		if w.IntN(4) == 0 {
			r.NewKey = w.m.key(w.m.holder)
		}
	default:
		if w.IntN(2) > 0 {
			r.NewKey = 1 + w.Uint64N(3) // else nobody stays registered for long
		}
	}
	if w.IntN(6) == 0 {
		r.To = []string{"", "h1/", "-h", "h1/a/b"}[w.IntN(4)]
	}
	if w.IntN(2) == 0 {
		w.ids++
		r.Request = block.ReserveID{w.ids}
	}
	return r
}
