// SPDX-License-Identifier: Apache-2.0

package dam_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"rsio/dam"
	"rsio/rsio/block"
)

// The tables of this file are written out by hand from the specification. What
// they expect is asked of the package and of the model, so that the walk does
// not compare with a model that is wrong itself.

const (
	none = block.ReserveNone
	we   = block.ReserveWE
	ea   = block.ReserveEA
	wero = block.ReserveWERO
	earo = block.ReserveEARO
	wear = block.ReserveWEAR
	eaar = block.ReserveEAAR
)

// matrix is the package and the model in the same state.
type matrix struct {
	t *testing.T
	s *dam.State
	m model
}

// newMatrix registers h1, h2 and h3 with the keys 1, 2 and 3 and h4 with key 3
// too, and lets h1 reserve. h9 is not registered.
func newMatrix(t *testing.T, kind block.ReserveType) *matrix {
	t.Helper()
	x := &matrix{t: t, s: dam.New(walkVolume)}
	for i, key := range []uint64{1, 2, 3, 3} {
		x.must(fmt.Sprintf("h%d", i+1), block.ReserveOut{Action: block.ReserveRegister, NewKey: key})
	}
	if kind != none {
		x.must("h1", block.ReserveOut{Action: block.ReserveReserve, Type: kind, Key: 1})
	}
	return x
}

func (x *matrix) must(nexus string, r block.ReserveOut) {
	x.t.Helper()
	if got, want := x.ask(nexus, r); got.Status != block.StatusOK || want.status != block.StatusOK {
		x.t.Fatalf("%s %v: package %v, model %v, want both ok", nexus, r.Action, got.Status, want.status)
	}
}

func (x *matrix) ask(nexus string, r block.ReserveOut) (dam.Outcome, modelAnswer) {
	want := x.m.ask(nexus, r)
	next, got := dam.Apply(x.s, nexus, r)
	x.s = next
	return got, want
}

// TestMatrixAccess: sections 2 and 3, every type, role and operation. h1 has
// reserved, h2 is another registrant, h9 is not registered.
func TestMatrixAccess(t *testing.T) {
	ops := []block.Op{block.OpRead, block.OpWrite, block.OpFlush, block.OpDiscard, block.OpWriteZeroes, block.OpBlockStatus, block.OpCompareAndWrite}
	rows := []struct {
		desc  string
		kind  block.ReserveType
		nexus string
		want  string // read write flush discard zeroes block-status compare-and-write
	}{
		{"no reservation, registrant: everything", none, "h2", "y y y y y y y"},
		{"no reservation, not registered: everything", none, "h9", "y y y y y y y"},
		{"write exclusive, holder: everything", we, "h1", "y y y y y y y"},
		{"write exclusive, registrant: reads", we, "h2", "y n n n n y n"},
		{"write exclusive, not registered: reads", we, "h9", "y n n n n y n"},
		{"exclusive access, holder: everything", ea, "h1", "y y y y y y y"},
		{"exclusive access, registrant: nothing", ea, "h2", "n n n n n n n"},
		{"exclusive access, not registered: nothing", ea, "h9", "n n n n n n n"},
		{"write exclusive registrants only, holder: everything", wero, "h1", "y y y y y y y"},
		{"write exclusive registrants only, registrant: everything", wero, "h2", "y y y y y y y"},
		{"write exclusive registrants only, not registered: reads", wero, "h9", "y n n n n y n"},
		{"exclusive access registrants only, holder: everything", earo, "h1", "y y y y y y y"},
		{"exclusive access registrants only, registrant: everything", earo, "h2", "y y y y y y y"},
		{"exclusive access registrants only, not registered: nothing", earo, "h9", "n n n n n n n"},
		{"write exclusive all registrants, who reserved: everything", wear, "h1", "y y y y y y y"},
		{"write exclusive all registrants, another: everything", wear, "h2", "y y y y y y y"},
		{"write exclusive all registrants, not registered: reads", wear, "h9", "y n n n n y n"},
		{"exclusive access all registrants, who reserved: everything", eaar, "h1", "y y y y y y y"},
		{"exclusive access all registrants, another: everything", eaar, "h2", "y y y y y y y"},
		{"exclusive access all registrants, not registered: nothing", eaar, "h9", "n n n n n n n"},
	}
	for _, row := range rows {
		t.Run(row.desc, func(t *testing.T) {
			x := newMatrix(t, row.kind)
			var seat block.Seat
			seat.Set(x.s.Right(row.nexus), x.s.Access(row.nexus))
			for i, want := range strings.Fields(row.want) {
				st := seat.Enter(ops[i], x.s.Right(row.nexus))
				if st == block.StatusOK {
					seat.Leave(ops[i])
				}
				if wanted := map[string]block.Status{"y": block.StatusOK, "n": block.StatusConflict}[want]; st != wanted {
					t.Errorf("%v: %v, want %v", ops[i], st, wanted)
				}
				if byModel := x.m.access(row.nexus)&block.Needs(ops[i]) != 0; byModel != (want == "y") {
					t.Errorf("%v: the model says %v", ops[i], byModel)
				}
			}
			if n := seat.Running(); n != 0 {
				t.Errorf("%d requests run after all have left", n)
			}
		})
	}
}

// TestMatrixOldRight: a change from before the loss of a right is refused also
// when the nexus may write again. Else a write that was parked would undo what
// others wrote while they were sure of being alone.
func TestMatrixOldRight(t *testing.T) {
	x := newMatrix(t, none)
	old := x.s.Right("h2")
	x.must("h1", block.ReserveOut{Action: block.ReserveReserve, Type: we, Key: 1})
	x.must("h1", block.ReserveOut{Action: block.ReserveRelease, Type: we, Key: 1})
	var seat block.Seat
	seat.Set(x.s.Right("h2"), x.s.Access("h2"))
	rows := []struct {
		op    block.Op
		right uint64
		want  block.Status
	}{
		{block.OpWrite, old, block.StatusConflict},
		{block.OpDiscard, old, block.StatusConflict},
		{block.OpWriteZeroes, old, block.StatusConflict},
		{block.OpCompareAndWrite, old, block.StatusConflict},
		{block.OpRead, old, block.StatusOK},
		{block.OpWrite, x.s.Right("h2"), block.StatusOK},
	}
	for _, row := range rows {
		if got := seat.Enter(row.op, row.right); got != row.want {
			t.Errorf("%v under right %d of %d: %v, want %v", row.op, row.right, x.s.Right("h2"), got, row.want)
		}
	}
}

// TestMatrixAttentions: sections 4 to 6, who is told what by each action.
func TestMatrixAttentions(t *testing.T) {
	for _, row := range matrixAttentions {
		t.Run(row.desc, func(t *testing.T) {
			for _, action := range matrixActions(row.r.Action) {
				x := newMatrix(t, row.kind)
				r := row.r
				r.Action = action
				got, want := x.ask(row.nexus, r)
				var told, byModel, waiting []string
				for _, a := range got.Raised {
					told = append(told, fmt.Sprintf("%s %04x", a.Nexus, uint16(a.Code)))
				}
				for _, a := range want.told {
					byModel = append(byModel, fmt.Sprintf("%s %04x", a.nexus, uint16(a.code)))
				}
				for _, nexus := range []string{"h1", "h2", "h3", "h4", "h9"} {
					_, codes := dam.Report(x.s, nexus)
					for _, code := range codes {
						waiting = append(waiting, fmt.Sprintf("%s %04x", nexus, uint16(code)))
					}
				}
				slices.Sort(told)
				slices.Sort(byModel)
				for what, list := range map[string][]string{"raised": told, "waiting": waiting, "by the model": byModel} {
					if s := strings.Join(list, ", "); s != row.want {
						t.Errorf("%v, %s: %q, want %q", action, what, s, row.want)
					}
				}
			}
		})
	}
}

// TestMatrixReport: an attention is told once, those that wait in the order
// they came up, and it survives the loss of the registration.
func TestMatrixReport(t *testing.T) {
	x := newMatrix(t, wero)
	for range 2 {
		x.must("h1", block.ReserveOut{Action: block.ReserveRelease, Type: wero, Key: 1})
		x.must("h1", block.ReserveOut{Action: block.ReserveReserve, Type: wero, Key: 1})
	}
	x.must("h1", block.ReserveOut{Action: block.ReservePreempt, Type: wero, Key: 1, NewKey: 2})
	want := []block.Attention{block.AttentionReservationsReleased, block.AttentionRegistrationsPreempted}
	s, got := dam.Report(x.s, "h2")
	if !slices.Equal(got, want) {
		t.Errorf("h2 is told %v, want %v", got, want)
	}
	if _, got := dam.Report(s, "h2"); len(got) != 0 {
		t.Errorf("h2 is told %v again", got)
	}
	if _, got := dam.Report(s, "h3"); !slices.Equal(got, want[:1]) {
		t.Errorf("h3 is told %v after h2 was, want %v", got, want[:1])
	}
}

// TestMatrixStatus: every action in every state.
func TestMatrixStatus(t *testing.T) {
	for _, row := range matrixStatuses {
		t.Run(row.desc, func(t *testing.T) {
			wanted := strings.Fields(strings.ReplaceAll(row.want, "|", ""))
			if len(wanted) != len(matrixColumns) {
				t.Fatalf("%d expectations for %d columns", len(wanted), len(matrixColumns))
			}
			for i, column := range matrixColumns {
				for _, action := range matrixActions(column.r.Action) {
					x := newMatrix(t, row.kind)
					r := column.request(row.kind, x.m.key(row.nexus))
					r.Action = action
					got, model := x.ask(row.nexus, r)
					if s := matrixText(got.Status, got.Sense); s != wanted[i] {
						t.Errorf("%v (%s): %s, want %s", action, column.desc, s, wanted[i])
					}
					if s := matrixText(model.status, model.sense); s != wanted[i] {
						t.Errorf("%v (%s): the model says %s, want %s", action, column.desc, s, wanted[i])
					}
				}
			}
		})
	}
}

// matrixActions: all that holds for preempt holds for preempt-abort too.
func matrixActions(a block.ReserveAction) []block.ReserveAction {
	if a == block.ReservePreempt {
		return []block.ReserveAction{a, block.ReservePreemptAbort}
	}
	return []block.ReserveAction{a}
}

// matrixText writes an answer as the table of statuses does.
func matrixText(st block.Status, sense block.Sense) string {
	switch st {
	case block.StatusOK:
		return "o"
	case block.StatusConflict:
		return "c"
	case block.StatusInvalid:
		return fmt.Sprintf("%02x/%02x", uint16(sense)>>8, uint16(sense)&0xff)
	}
	return st.Error()
}
