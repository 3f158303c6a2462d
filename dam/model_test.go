// SPDX-License-Identifier: Apache-2.0

package dam_test

import (
	"slices"

	"rsio/rsio/block"
)

// The reference model: persistent reservations written straight off the tables
// of the specification, with flat lists and linear scans, and by somebody who
// had not read the package. It is slow and changes in place. Section numbers
// are those of the specification.

// The names of the model: those who act, and one of whom the state never hears,
// because a reservation also takes rights from nexuses without a registration.
const modelStranger = "h9"

var (
	modelActors = []string{"h1", "h2", "h1/a", "h1/b"}
	modelNames  = append(slices.Clone(modelActors), modelStranger)
)

// What one nexus is to the volume at the moment (section 2).
const (
	roleHolder = "holder"
	roleMember = "registrant"
	roleOther  = "unregistered"
)

// modelTable2 is the table of section 2, row by row.
var modelTable2 = map[block.ReserveType]map[string]block.Access{
	block.ReserveWE:   {roleHolder: block.AccessAll, roleMember: block.AccessRead, roleOther: block.AccessRead},
	block.ReserveEA:   {roleHolder: block.AccessAll, roleMember: 0, roleOther: 0},
	block.ReserveWERO: {roleHolder: block.AccessAll, roleMember: block.AccessAll, roleOther: block.AccessRead},
	block.ReserveEARO: {roleHolder: block.AccessAll, roleMember: block.AccessAll, roleOther: 0},
	block.ReserveWEAR: {roleHolder: block.AccessAll, roleOther: block.AccessRead},
	block.ReserveEAAR: {roleHolder: block.AccessAll, roleOther: 0},
}

// modelRemembered is how many stored results one nexus has.
const modelRemembered = 16

type modelReg struct {
	nexus string
	key   uint64
}

type modelTold struct {
	nexus string
	code  block.Attention
}

type modelDone struct {
	nexus      string
	id         block.ReserveID
	action     block.ReserveAction
	generation uint32
}

type model struct {
	generation uint32
	regs       []modelReg        // in the order of registering
	kind       block.ReserveType // ReserveNone without a reservation
	holder     string            // of the four types that have one holder
	waiting    []modelTold       // attentions nobody has reported yet, oldest first
	done       []modelDone       // oldest first
}

// modelAnswer is what has to come of one command.
type modelAnswer struct {
	status     block.Status
	sense      block.Sense
	generation uint32
	changed    bool
	told       []modelTold // whom the change tells what
	removed    []string    // whose registration a preempt has taken
	raised     []string    // whose right has a new generation
	clause     string      // the rule that decided
}

func (m *model) ask(nexus string, r block.ReserveOut) modelAnswer {
	before := *m
	before.regs = slices.Clone(m.regs)
	a := m.decide(nexus, r)
	if !a.changed {
		if a.clause != clauseRepeat {
			a.generation = m.generation
		}
		return a
	}
	if r.Action != block.ReserveReserve && r.Action != block.ReserveRelease {
		m.generation++ // section 4, column PRgen
	}
	a.generation = m.generation
	for _, t := range a.told {
		if !slices.Contains(m.waiting, t) {
			m.waiting = append(m.waiting, t)
		}
	}
	for _, name := range modelNames {
		lost := before.access(name) &^ m.access(name)
		if lost != 0 || slices.Contains(a.removed, name) {
			a.raised = append(a.raised, name)
		}
	}
	m.remember(nexus, r)
	return a
}

const (
	clauseRepeat  = "repeat: answered from what was stored"
	clauseReused  = "repeat: the ID with another action"
	clauseUnknown = "unknown action"
)

func (m *model) decide(nexus string, r block.ReserveOut) modelAnswer {
	if r.Action >= 8 {
		return modelInvalid(0x2400, clauseUnknown)
	}
	if r.Request != (block.ReserveID{}) {
		for _, d := range m.done {
			if d.nexus != nexus || d.id != r.Request {
				continue
			}
			if d.action != r.Action {
				return modelInvalid(0x2600, clauseReused)
			}
			return modelAnswer{generation: d.generation, clause: clauseRepeat}
		}
	}
	switch r.Action {
	case block.ReserveRegister, block.ReserveRegisterIgnore:
		return m.register(nexus, r)
	case block.ReserveReserve:
		return m.reserve(nexus, r)
	case block.ReserveRelease:
		return m.release(nexus, r)
	case block.ReserveClear:
		return m.clear(nexus, r)
	case block.ReserveMove:
		return m.move(nexus, r)
	}
	return m.preempt(nexus, r)
}

// register is rows 00 and 06 of section 4.
func (m *model) register(nexus string, r block.ReserveOut) modelAnswer {
	own := m.key(nexus) // 0 if unregistered, which is what the caller must give then
	if r.Action == block.ReserveRegister && r.Key != own {
		return modelConflict("register: wrong key")
	}
	if own == 0 && r.NewKey == 0 {
		return modelNothing("register: nothing to remove")
	}
	if own == 0 {
		m.regs = append(m.regs, modelReg{nexus, r.NewKey})
		return modelOK("register: new")
	}
	if r.NewKey != 0 {
		m.setKey(nexus, r.NewKey)
		return modelOK("register: key changed")
	}
	// Section 6.
	wasHolder := m.role(nexus) == roleHolder
	m.remove(nexus)
	switch m.kind {
	case block.ReserveWEAR, block.ReserveEAAR:
		if len(m.regs) > 0 {
			return modelOK("unregister: other holders stay")
		}
		m.dropReservation()
		return modelOK("unregister: the last holder")
	case block.ReserveWERO, block.ReserveEARO:
		if wasHolder {
			m.dropReservation()
			return modelOK("unregister: holder, registrants only", m.tell(block.AttentionReservationsReleased, nexus)...)
		}
	case block.ReserveWE, block.ReserveEA:
		if wasHolder {
			m.dropReservation()
			return modelOK("unregister: holder, WE or EA")
		}
	}
	return modelOK("unregister: not a holder")
}

// reserve is row 01.
func (m *model) reserve(nexus string, r block.ReserveOut) modelAnswer {
	if !validTypeAndScope(r) {
		return modelInvalid(0x2400, "reserve: bad type or scope")
	}
	if !m.mayAsk(nexus, r) {
		return modelConflict("reserve: not registered or wrong key")
	}
	if m.kind == block.ReserveNone {
		m.establish(nexus, r.Type)
		return modelOK("reserve: new")
	}
	if m.role(nexus) == roleHolder && m.kind == r.Type {
		return modelNothing("reserve: already so")
	}
	return modelConflict("reserve: held")
}

// release is row 02.
func (m *model) release(nexus string, r block.ReserveOut) modelAnswer {
	if !m.mayAsk(nexus, r) {
		return modelConflict("release: not registered or wrong key")
	}
	if m.role(nexus) != roleHolder {
		return modelNothing("release: not the holder")
	}
	if r.Type != m.kind || r.Scope != 0 {
		return modelInvalid(0x2604, "release: another type or scope")
	}
	old := m.kind
	m.dropReservation()
	if old == block.ReserveWE || old == block.ReserveEA {
		return modelOK("release: WE or EA")
	}
	return modelOK("release: the other types", m.tell(block.AttentionReservationsReleased, nexus)...)
}

// clear is row 03.
func (m *model) clear(nexus string, r block.ReserveOut) modelAnswer {
	if !m.mayAsk(nexus, r) {
		return modelConflict("clear: not registered or wrong key")
	}
	told := m.tell(block.AttentionReservationsPreempted, nexus)
	m.dropReservation()
	m.regs = nil
	return modelOK("clear", told...)
}

// move is row 07, in the order of checks that was decided on.
func (m *model) move(nexus string, r block.ReserveOut) modelAnswer {
	switch {
	case !m.mayAsk(nexus, r):
		return modelConflict("move: not registered or wrong key")
	case m.kind == block.ReserveNone:
		return modelInvalid(0x2400, "move: no reservation")
	case m.kind == block.ReserveWEAR || m.kind == block.ReserveEAAR:
		return modelConflict("move: all registrants hold")
	case m.holder != nexus:
		return modelConflict("move: not the holder")
	case r.NewKey == 0:
		return modelInvalid(0x2600, "move: key 0")
	case r.To == nexus:
		return modelInvalid(0x2600, "move: to oneself")
	case block.CheckNexus(r.To) != nil:
		return modelInvalid(0x2600, "move: not a nexus")
	}
	clause := "move: to a registrant"
	if m.key(r.To) == 0 {
		clause = "move: to an unregistered nexus"
		m.regs = append(m.regs, modelReg{nexus: r.To})
	}
	m.setKey(r.To, r.NewKey)
	m.holder = r.To
	if r.Unregister {
		m.remove(nexus)
		clause += ", leaving"
	}
	return modelOK(clause)
}

// preempt is section 5, row by row.
func (m *model) preempt(nexus string, r block.ReserveOut) modelAnswer {
	if !m.mayAsk(nexus, r) {
		return modelConflict("preempt: not registered or wrong key")
	}
	victims := m.withKey(r.NewKey, nexus)
	switch m.kind {
	case block.ReserveNone:
		if len(victims) == 0 {
			return modelConflict("preempt: no reservation, key unknown")
		}
		return m.evict(victims, "preempt: no reservation")
	case block.ReserveWEAR, block.ReserveEAAR:
		if r.NewKey != 0 {
			if len(victims) == 0 {
				return modelConflict("preempt: all registrants, key unknown")
			}
			return m.evict(victims, "preempt: all registrants, by key")
		}
		if !validTypeAndScope(r) {
			return modelInvalid(0x2400, "preempt: all registrants, bad type or scope")
		}
		a := m.evict(m.others(nexus), "preempt: all registrants, everybody")
		m.establish(nexus, r.Type)
		return a
	}
	if r.NewKey == 0 {
		return modelInvalid(0x2600, "preempt: key 0")
	}
	if r.NewKey != m.key(m.holder) {
		if len(victims) == 0 {
			return modelConflict("preempt: one holder, key unknown")
		}
		return m.evict(victims, "preempt: one holder, another's key")
	}
	if !validTypeAndScope(r) {
		return modelInvalid(0x2400, "preempt: one holder, bad type or scope")
	}
	clause := "preempt: the holder"
	if m.holder == nexus {
		clause = "preempt: oneself"
	}
	old := m.kind
	a := m.evict(victims, clause)
	m.establish(nexus, r.Type)
	if r.Type != old {
		a.clause += ", another type"
		a.told = append(a.told, m.tell(block.AttentionReservationsReleased, nexus)...)
	}
	return a
}

// evict removes the registrations of victims and tells them.
func (m *model) evict(victims []string, clause string) modelAnswer {
	a := modelOK(clause)
	for _, v := range victims {
		m.remove(v)
		a.told = append(a.told, modelTold{v, block.AttentionRegistrationsPreempted})
	}
	a.removed = victims
	return a
}

func (m *model) remember(nexus string, r block.ReserveOut) {
	if r.Request == (block.ReserveID{}) {
		return
	}
	m.done = append(m.done, modelDone{nexus, r.Request, r.Action, m.generation})
	n := 0
	for _, d := range m.done {
		if d.nexus == nexus {
			n++
		}
	}
	if n > modelRemembered {
		oldest := slices.IndexFunc(m.done, func(d modelDone) bool { return d.nexus == nexus })
		m.done = slices.Delete(m.done, oldest, oldest+1)
	}
}
