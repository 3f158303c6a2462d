// SPDX-License-Identifier: Apache-2.0

package dam_test

import "rsio/rsio/block"

// matrixAttentions: h1, h2, h3, h4 are registered with the keys 1, 2, 3, 3, and
// h1 has made a reservation of the kind. Preempt stands for preempt-abort too.
var matrixAttentions = []struct {
	desc  string
	kind  block.ReserveType
	nexus string
	r     block.ReserveOut
	want  string
}{
	{"register: a new registrant", wero, "h9", block.ReserveOut{Action: block.ReserveRegister, NewKey: 9}, ""},
	{"register: the holder changes its key", wero, "h1", block.ReserveOut{Action: block.ReserveRegister, Key: 1, NewKey: 9}, ""},
	{"register: with a wrong key", wero, "h1", block.ReserveOut{Action: block.ReserveRegister, Key: 9}, ""},
	{"register: the holder of WE leaves", we, "h1", block.ReserveOut{Action: block.ReserveRegister, Key: 1}, ""},
	{"register: the holder of EA leaves", ea, "h1", block.ReserveOut{Action: block.ReserveRegister, Key: 1}, ""},
	{"register: the holder of WERO leaves", wero, "h1", block.ReserveOut{Action: block.ReserveRegister, Key: 1}, "h2 2a04, h3 2a04, h4 2a04"},
	{"register: the holder of EARO leaves", earo, "h1", block.ReserveOut{Action: block.ReserveRegister, Key: 1}, "h2 2a04, h3 2a04, h4 2a04"},
	{"register: a registrant of WERO leaves", wero, "h2", block.ReserveOut{Action: block.ReserveRegister, Key: 2}, ""},
	{"register: one of the holders of WEAR leaves", wear, "h1", block.ReserveOut{Action: block.ReserveRegister, Key: 1}, ""},
	{"register: one of the holders of EAAR leaves", eaar, "h1", block.ReserveOut{Action: block.ReserveRegister, Key: 1}, ""},
	{"register-ignore: the holder of WE leaves", we, "h1", block.ReserveOut{Action: block.ReserveRegisterIgnore}, ""},
	{"register-ignore: the holder of WERO leaves", wero, "h1", block.ReserveOut{Action: block.ReserveRegisterIgnore}, "h2 2a04, h3 2a04, h4 2a04"},
	{"register-ignore: a new registrant", ea, "h9", block.ReserveOut{Action: block.ReserveRegisterIgnore, NewKey: 9}, ""},

	{"reserve: new", none, "h1", block.ReserveOut{Action: block.ReserveReserve, Type: ea, Key: 1}, ""},
	{"reserve: held by another", we, "h2", block.ReserveOut{Action: block.ReserveReserve, Type: we, Key: 2}, ""},

	{"release: WE", we, "h1", block.ReserveOut{Action: block.ReserveRelease, Type: we, Key: 1}, ""},
	{"release: EA", ea, "h1", block.ReserveOut{Action: block.ReserveRelease, Type: ea, Key: 1}, ""},
	{"release: WERO", wero, "h1", block.ReserveOut{Action: block.ReserveRelease, Type: wero, Key: 1}, "h2 2a04, h3 2a04, h4 2a04"},
	{"release: EARO", earo, "h1", block.ReserveOut{Action: block.ReserveRelease, Type: earo, Key: 1}, "h2 2a04, h3 2a04, h4 2a04"},
	{"release: WEAR, by another registrant", wear, "h2", block.ReserveOut{Action: block.ReserveRelease, Type: wear, Key: 2}, "h1 2a04, h3 2a04, h4 2a04"},
	{"release: EAAR, by another registrant", eaar, "h2", block.ReserveOut{Action: block.ReserveRelease, Type: eaar, Key: 2}, "h1 2a04, h3 2a04, h4 2a04"},
	{"release: not the holder", wero, "h2", block.ReserveOut{Action: block.ReserveRelease, Type: wero, Key: 2}, ""},
	{"release: another type", wero, "h1", block.ReserveOut{Action: block.ReserveRelease, Type: earo, Key: 1}, ""},

	{"clear: no reservation", none, "h2", block.ReserveOut{Action: block.ReserveClear, Key: 2}, "h1 2a03, h3 2a03, h4 2a03"},
	{"clear: by the holder", we, "h1", block.ReserveOut{Action: block.ReserveClear, Key: 1}, "h2 2a03, h3 2a03, h4 2a03"},
	{"clear: not by the holder", earo, "h2", block.ReserveOut{Action: block.ReserveClear, Key: 2}, "h1 2a03, h3 2a03, h4 2a03"},
	{"clear: not registered", we, "h9", block.ReserveOut{Action: block.ReserveClear}, ""},

	{"preempt: no reservation", none, "h1", block.ReserveOut{Action: block.ReservePreempt, Key: 1, NewKey: 3}, "h3 2a05, h4 2a05"},
	{"preempt: the holder, same type", we, "h2", block.ReserveOut{Action: block.ReservePreempt, Type: we, Key: 2, NewKey: 1}, "h1 2a05"},
	{"preempt: the holder, another type", we, "h2", block.ReserveOut{Action: block.ReservePreempt, Type: wero, Key: 2, NewKey: 1}, "h1 2a05, h3 2a04, h4 2a04"},
	{"preempt: oneself, same type", ea, "h1", block.ReserveOut{Action: block.ReservePreempt, Type: ea, Key: 1, NewKey: 1}, ""},
	{"preempt: oneself, another type", ea, "h1", block.ReserveOut{Action: block.ReservePreempt, Type: wear, Key: 1, NewKey: 1}, "h2 2a04, h3 2a04, h4 2a04"},
	{"preempt: registrants that share a key", wero, "h2", block.ReserveOut{Action: block.ReservePreempt, Type: ea, Key: 2, NewKey: 3}, "h3 2a05, h4 2a05"},
	{"preempt: who shares the caller's key", wero, "h3", block.ReserveOut{Action: block.ReservePreempt, Type: wero, Key: 3, NewKey: 3}, "h4 2a05"},
	{"preempt: an unknown key", wero, "h1", block.ReserveOut{Action: block.ReservePreempt, Type: wero, Key: 1, NewKey: 9}, ""},
	{"preempt: key 0", wero, "h1", block.ReserveOut{Action: block.ReservePreempt, Type: wero, Key: 1}, ""},
	{"preempt: all registrants, key 0", wear, "h2", block.ReserveOut{Action: block.ReservePreempt, Type: wear, Key: 2}, "h1 2a05, h3 2a05, h4 2a05"},
	{"preempt: all registrants, key 0, another type", eaar, "h2", block.ReserveOut{Action: block.ReservePreempt, Type: we, Key: 2}, "h1 2a05, h3 2a05, h4 2a05"},
	{"preempt: all registrants, by key", wear, "h2", block.ReserveOut{Action: block.ReservePreempt, Type: we, Key: 2, NewKey: 1}, "h1 2a05"},

	{"move: to an unregistered nexus", wero, "h1", block.ReserveOut{Action: block.ReserveMove, Key: 1, NewKey: 9, To: "h9"}, ""},
	{"move: to a registrant, leaving", earo, "h1", block.ReserveOut{Action: block.ReserveMove, Key: 1, NewKey: 9, To: "h2", Unregister: true}, ""},
	{"unknown action", wero, "h1", block.ReserveOut{Action: 8, Type: wero, Key: 1, NewKey: 2}, ""},
}

// matrixColumn is a command: the caller gives its own key, or a wrong one.
type matrixColumn struct {
	desc  string
	r     block.ReserveOut
	kind  string // same or other: the type is the one in force, or not
	wrong bool
}

// matrixColumns are the commands of matrixStatuses.
var matrixColumns = []matrixColumn{
	{desc: "register, own key", r: block.ReserveOut{Action: block.ReserveRegister, NewKey: 9}},
	{desc: "register, wrong key", r: block.ReserveOut{Action: block.ReserveRegister, NewKey: 9}, wrong: true},
	{desc: "register, removing", r: block.ReserveOut{Action: block.ReserveRegister}},
	{desc: "register-ignore, wrong key", r: block.ReserveOut{Action: block.ReserveRegisterIgnore, NewKey: 9}, wrong: true},

	{desc: "reserve, the type in force", r: block.ReserveOut{Action: block.ReserveReserve}, kind: "same"},
	{desc: "reserve, another type", r: block.ReserveOut{Action: block.ReserveReserve}, kind: "other"},
	{desc: "reserve, a bad type", r: block.ReserveOut{Action: block.ReserveReserve, Type: 4}},
	{desc: "reserve, a bad scope", r: block.ReserveOut{Action: block.ReserveReserve, Scope: 1}, kind: "same"},
	{desc: "reserve, wrong key", r: block.ReserveOut{Action: block.ReserveReserve}, kind: "same", wrong: true},

	{desc: "release, the type in force", r: block.ReserveOut{Action: block.ReserveRelease}, kind: "same"},
	{desc: "release, another type", r: block.ReserveOut{Action: block.ReserveRelease}, kind: "other"},
	{desc: "release, another scope", r: block.ReserveOut{Action: block.ReserveRelease, Scope: 1}, kind: "same"},
	{desc: "release, wrong key", r: block.ReserveOut{Action: block.ReserveRelease}, kind: "same", wrong: true},

	{desc: "clear", r: block.ReserveOut{Action: block.ReserveClear}},
	{desc: "clear, wrong key", r: block.ReserveOut{Action: block.ReserveClear}, wrong: true},

	{desc: "preempt, key of h1", r: block.ReserveOut{Action: block.ReservePreempt, Type: we, NewKey: 1}},
	{desc: "preempt, key of h1, a bad type", r: block.ReserveOut{Action: block.ReservePreempt, Type: 4, NewKey: 1}},
	{desc: "preempt, key of h3 and h4, a bad type", r: block.ReserveOut{Action: block.ReservePreempt, Type: 4, NewKey: 3}},
	{desc: "preempt, key 0", r: block.ReserveOut{Action: block.ReservePreempt, Type: we}},
	{desc: "preempt, key 0, a bad scope", r: block.ReserveOut{Action: block.ReservePreempt, Type: we, Scope: 1}},
	{desc: "preempt, unknown key", r: block.ReserveOut{Action: block.ReservePreempt, Type: we, NewKey: 8}},
	{desc: "preempt, wrong key", r: block.ReserveOut{Action: block.ReservePreempt, Type: we, NewKey: 3}, wrong: true},

	{desc: "move", r: block.ReserveOut{Action: block.ReserveMove, NewKey: 9, To: "h5"}},
	{desc: "move, key 0", r: block.ReserveOut{Action: block.ReserveMove, To: "h5"}},
	{desc: "move, to h1", r: block.ReserveOut{Action: block.ReserveMove, NewKey: 9, To: "h1"}},
	{desc: "move, to no nexus", r: block.ReserveOut{Action: block.ReserveMove, NewKey: 9, To: "h1/"}},
	{desc: "move, wrong key", r: block.ReserveOut{Action: block.ReserveMove, NewKey: 9, To: "h5"}, wrong: true},

	{desc: "unknown action", r: block.ReserveOut{Action: 8, NewKey: 9}},
}

// request fills in what depends on the state: the type in force, WERO standing
// in for it without a reservation, and the caller's key.
func (c matrixColumn) request(kind block.ReserveType, own uint64) block.ReserveOut {
	r := c.r
	same, other := kind, we
	switch kind {
	case none:
		same = wero
	case we:
		other = ea
	}
	switch c.kind {
	case "same":
		r.Type = same
	case "other":
		r.Type = other
	}
	r.Key = own
	if c.wrong {
		r.Key = own + 1
	}
	return r
}

// matrixStatuses has a row for each state and caller, and in it a word for each
// column: o is OK, c Conflict, a number Invalid with that sense. The bars part
// register, reserve, release, clear, preempt, move, and the unknown action.
var matrixStatuses = []struct {
	desc  string
	kind  block.ReserveType
	nexus string
	want  string
}{
	{"no reservation, h1", none, "h1", "o c o o | o o 24/00 24/00 c | o o o c | o c | c c o c c c c | 24/00 24/00 24/00 24/00 c | 24/00"},
	{"no reservation, registrant", none, "h2", "o c o o | o o 24/00 24/00 c | o o o c | o c | o o o c c c c | 24/00 24/00 24/00 24/00 c | 24/00"},
	{"no reservation, unregistered", none, "h9", "o c o o | c c 24/00 24/00 c | c c c c | c c | c c c c c c c | c c c c c | 24/00"},
	{"WE, holder", we, "h1", "o c o o | o c 24/00 24/00 c | o 26/04 26/04 c | o c | o 24/00 o 26/00 26/00 c c | o 26/00 26/00 26/00 c | 24/00"},
	{"WE, registrant", we, "h2", "o c o o | c c 24/00 24/00 c | o o o c | o c | o 24/00 o 26/00 26/00 c c | c c c c c | 24/00"},
	{"WE, unregistered", we, "h9", "o c o o | c c 24/00 24/00 c | c c c c | c c | c c c c c c c | c c c c c | 24/00"},
	{"EA, holder", ea, "h1", "o c o o | o c 24/00 24/00 c | o 26/04 26/04 c | o c | o 24/00 o 26/00 26/00 c c | o 26/00 26/00 26/00 c | 24/00"},
	{"EA, registrant", ea, "h2", "o c o o | c c 24/00 24/00 c | o o o c | o c | o 24/00 o 26/00 26/00 c c | c c c c c | 24/00"},
	{"EA, unregistered", ea, "h9", "o c o o | c c 24/00 24/00 c | c c c c | c c | c c c c c c c | c c c c c | 24/00"},
	{"WERO, holder", wero, "h1", "o c o o | o c 24/00 24/00 c | o 26/04 26/04 c | o c | o 24/00 o 26/00 26/00 c c | o 26/00 26/00 26/00 c | 24/00"},
	{"WERO, registrant", wero, "h2", "o c o o | c c 24/00 24/00 c | o o o c | o c | o 24/00 o 26/00 26/00 c c | c c c c c | 24/00"},
	{"WERO, unregistered", wero, "h9", "o c o o | c c 24/00 24/00 c | c c c c | c c | c c c c c c c | c c c c c | 24/00"},
	{"EARO, holder", earo, "h1", "o c o o | o c 24/00 24/00 c | o 26/04 26/04 c | o c | o 24/00 o 26/00 26/00 c c | o 26/00 26/00 26/00 c | 24/00"},
	{"EARO, registrant", earo, "h2", "o c o o | c c 24/00 24/00 c | o o o c | o c | o 24/00 o 26/00 26/00 c c | c c c c c | 24/00"},
	{"EARO, unregistered", earo, "h9", "o c o o | c c 24/00 24/00 c | c c c c | c c | c c c c c c c | c c c c c | 24/00"},
	{"WEAR, who reserved", wear, "h1", "o c o o | o c 24/00 24/00 c | o 26/04 26/04 c | o c | c c o o 24/00 c c | c c c c c | 24/00"},
	{"WEAR, another registrant", wear, "h2", "o c o o | o c 24/00 24/00 c | o 26/04 26/04 c | o c | o o o o 24/00 c c | c c c c c | 24/00"},
	{"WEAR, unregistered", wear, "h9", "o c o o | c c 24/00 24/00 c | c c c c | c c | c c c c c c c | c c c c c | 24/00"},
	{"EAAR, who reserved", eaar, "h1", "o c o o | o c 24/00 24/00 c | o 26/04 26/04 c | o c | c c o o 24/00 c c | c c c c c | 24/00"},
	{"EAAR, another registrant", eaar, "h2", "o c o o | o c 24/00 24/00 c | o 26/04 26/04 c | o c | o o o o 24/00 c c | c c c c c | 24/00"},
	{"EAAR, unregistered", eaar, "h9", "o c o o | c c 24/00 24/00 c | c c c c | c c | c c c c c c c | c c c c c | 24/00"},
}
