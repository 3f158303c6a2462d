// SPDX-License-Identifier: Apache-2.0

package dam_test

import (
	"slices"
	"testing"

	"rsio/rsio/block"
)

// walkCell is one combination that a walk can come through.
type walkCell struct {
	kind   block.ReserveType // in force before
	action block.ReserveAction
	role   string // of the caller before
	status block.Status
}

// walkCoverage counts what was reached. Repeats are answered without a look at
// the state, so they count as clauses only.
type walkCoverage struct {
	cells   map[walkCell]int
	clauses map[string]int
}

func (c *walkCoverage) note(kind block.ReserveType, role string, action block.ReserveAction, a modelAnswer) {
	c.clauses[a.clause]++
	if a.clause == clauseRepeat || a.clause == clauseReused {
		return
	}
	// All unknown actions are one to us.
	c.cells[walkCell{kind, min(action, 8), role, a.status}]++
}

// walkReachable has the statuses an action can end in: o is OK, c Conflict, i
// Invalid. The columns: unregistered; registrant without a reservation;
// registrant beside one holder; the one holder; one of all registrants.
var walkReachable = map[block.ReserveAction][5]string{
	block.ReserveRegister:       {"oc", "oc", "oc", "oc", "oc"},
	block.ReserveReserve:        {"ci", "oci", "ci", "oci", "oci"},
	block.ReserveRelease:        {"c", "oc", "oc", "oci", "oci"},
	block.ReserveClear:          {"c", "oc", "oc", "oc", "oc"},
	block.ReservePreempt:        {"c", "oc", "oci", "oci", "oci"},
	block.ReservePreemptAbort:   {"c", "oc", "oci", "oci", "oci"},
	block.ReserveRegisterIgnore: {"o", "o", "o", "o", "o"},
	block.ReserveMove:           {"c", "ci", "c", "oci", "c"},
	8:                           {"i", "i", "i", "i", "i"},
}

// walkWanted lists all cells that can be reached.
func walkWanted() map[walkCell]bool {
	status := map[rune]block.Status{'o': block.StatusOK, 'c': block.StatusConflict, 'i': block.StatusInvalid}
	wanted := map[walkCell]bool{}
	for action, columns := range walkReachable {
		add := func(kind block.ReserveType, role string, column int) {
			for _, letter := range columns[column] {
				wanted[walkCell{kind, action, role, status[letter]}] = true
			}
		}
		add(block.ReserveNone, roleOther, 0)
		add(block.ReserveNone, roleMember, 1)
		for _, kind := range []block.ReserveType{block.ReserveWE, block.ReserveEA, block.ReserveWERO, block.ReserveEARO} {
			add(kind, roleOther, 0)
			add(kind, roleMember, 2)
			add(kind, roleHolder, 3)
		}
		for _, kind := range []block.ReserveType{block.ReserveWEAR, block.ReserveEAAR} {
			add(kind, roleOther, 0)
			add(kind, roleHolder, 4)
		}
	}
	return wanted
}

// walkClauses lists the rules of the model: each has to decide at least once.
var walkClauses = []string{
	clauseRepeat,
	clauseReused,
	clauseUnknown,
	"register: wrong key",
	"register: nothing to remove",
	"register: new",
	"register: key changed",
	"unregister: other holders stay",
	"unregister: the last holder",
	"unregister: holder, registrants only",
	"unregister: holder, WE or EA",
	"unregister: not a holder",
	"reserve: bad type or scope",
	"reserve: not registered or wrong key",
	"reserve: new",
	"reserve: already so",
	"reserve: held",
	"release: not registered or wrong key",
	"release: not the holder",
	"release: another type or scope",
	"release: WE or EA",
	"release: the other types",
	"clear: not registered or wrong key",
	"clear",
	"move: not registered or wrong key",
	"move: no reservation",
	"move: all registrants hold",
	"move: not the holder",
	"move: key 0",
	"move: to oneself",
	"move: not a nexus",
	"move: to a registrant",
	"move: to a registrant, leaving",
	"move: to an unregistered nexus",
	"move: to an unregistered nexus, leaving",
	"preempt: not registered or wrong key",
	"preempt: no reservation, key unknown",
	"preempt: no reservation",
	"preempt: all registrants, key unknown",
	"preempt: all registrants, by key",
	"preempt: all registrants, bad type or scope",
	"preempt: all registrants, everybody",
	"preempt: key 0",
	"preempt: one holder, key unknown",
	"preempt: one holder, another's key",
	"preempt: one holder, bad type or scope",
	"preempt: the holder",
	"preempt: the holder, another type",
	"preempt: oneself",
	"preempt: oneself, another type",
}

func (c *walkCoverage) check(t *testing.T) {
	t.Helper()
	wanted := walkWanted()
	for cell := range wanted {
		if c.cells[cell] == 0 {
			t.Errorf("never reached: %v by %s under %v, ending in %v", cell.action, cell.role, cell.kind, cell.status)
		}
	}
	for cell := range c.cells {
		if !wanted[cell] {
			t.Errorf("reached, though it cannot be: %v by %s under %v, ending in %v", cell.action, cell.role, cell.kind, cell.status)
		}
	}
	for _, clause := range walkClauses {
		if c.clauses[clause] == 0 {
			t.Errorf("rule never decided: %s", clause)
		}
	}
	for clause := range c.clauses {
		if !slices.Contains(walkClauses, clause) {
			t.Errorf("rule is not listed: %s", clause)
		}
	}
}
