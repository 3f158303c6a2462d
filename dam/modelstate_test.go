// SPDX-License-Identifier: Apache-2.0

package dam_test

import (
	"slices"
	"strings"

	"rsio/rsio/block"
)

// What the model can be asked without changing it, and the small steps its
// rules are made of.

// pending returns the attentions that wait for nexus; take also removes them.
func (m *model) pending(nexus string, take bool) []block.Attention {
	var codes []block.Attention
	var rest []modelTold
	for _, t := range m.waiting {
		if t.nexus == nexus {
			codes = append(codes, t.code)
		} else {
			rest = append(rest, t)
		}
	}
	if take {
		m.waiting = rest
	}
	return codes
}

func (m *model) access(nexus string) block.Access {
	if m.kind == block.ReserveNone {
		return block.AccessAll
	}
	return modelTable2[m.kind][m.role(nexus)]
}

func (m *model) role(nexus string) string {
	switch {
	case m.key(nexus) == 0:
		return roleOther
	case m.kind == block.ReserveWEAR, m.kind == block.ReserveEAAR:
		return roleHolder
	case m.kind != block.ReserveNone && m.holder == nexus:
		return roleHolder
	}
	return roleMember
}

// show is what the read commands tell, but for the right and the access.
func (m *model) show() block.ReserveState {
	s := block.ReserveState{Generation: m.generation, Type: m.kind, Key: m.key(m.holder)}
	for _, r := range m.regs {
		s.Registrants = append(s.Registrants, block.Registrant{Nexus: r.nexus, Key: r.key, Holder: m.role(r.nexus) == roleHolder})
	}
	slices.SortFunc(s.Registrants, func(a, b block.Registrant) int { return strings.Compare(a.Nexus, b.Nexus) })
	return s
}

// mayAsk is what all but the two ways to register ask for: the caller is
// registered and gives its own key.
func (m *model) mayAsk(nexus string, r block.ReserveOut) bool {
	own := m.key(nexus)
	return own != 0 && own == r.Key
}

func validTypeAndScope(r block.ReserveOut) bool {
	_, ok := modelTable2[r.Type]
	return ok && r.Scope == 0
}

// key returns the key of nexus, 0 if it is not registered.
func (m *model) key(nexus string) uint64 {
	for _, r := range m.regs {
		if r.nexus == nexus {
			return r.key
		}
	}
	return 0
}

func (m *model) setKey(nexus string, key uint64) {
	for i := range m.regs {
		if m.regs[i].nexus == nexus {
			m.regs[i].key = key
		}
	}
}

func (m *model) remove(nexus string) {
	m.regs = slices.DeleteFunc(m.regs, func(r modelReg) bool { return r.nexus == nexus })
}

func (m *model) establish(nexus string, kind block.ReserveType) {
	m.kind, m.holder = kind, nexus
	if kind == block.ReserveWEAR || kind == block.ReserveEAAR {
		m.holder = ""
	}
}

func (m *model) dropReservation() { m.kind, m.holder = block.ReserveNone, "" }

// others returns the registrants but nexus.
func (m *model) others(nexus string) []string {
	var names []string
	for _, r := range m.regs {
		if r.nexus != nexus {
			names = append(names, r.nexus)
		}
	}
	return names
}

// withKey returns the registrants with that key but nexus.
func (m *model) withKey(key uint64, nexus string) []string {
	var names []string
	for _, r := range m.regs {
		if r.key == key && r.nexus != nexus {
			names = append(names, r.nexus)
		}
	}
	return names
}

// tell makes code an attention of every registrant but nexus.
func (m *model) tell(code block.Attention, nexus string) []modelTold {
	var told []modelTold
	for _, name := range m.others(nexus) {
		told = append(told, modelTold{name, code})
	}
	return told
}

func modelOK(clause string, told ...modelTold) modelAnswer {
	return modelAnswer{status: block.StatusOK, changed: true, told: told, clause: clause}
}

func modelNothing(clause string) modelAnswer {
	return modelAnswer{status: block.StatusOK, clause: clause}
}

func modelConflict(clause string) modelAnswer {
	return modelAnswer{status: block.StatusConflict, clause: clause}
}

func modelInvalid(sense block.Sense, clause string) modelAnswer {
	return modelAnswer{status: block.StatusInvalid, sense: sense, clause: clause}
}
