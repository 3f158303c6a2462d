// SPDX-License-Identifier: Apache-2.0

package block

import "fmt"

// ReserveAction is what a persistent reservation command does. Values are the
// service actions of PERSISTENT RESERVE OUT (SPC-4, 6.16).
type ReserveAction uint8

// The service actions.
const (
	ReserveRegister       ReserveAction = 0x00 // register, change or remove the own key
	ReserveReserve        ReserveAction = 0x01 // take the reservation
	ReserveRelease        ReserveAction = 0x02 // give it back, stay registered
	ReserveClear          ReserveAction = 0x03 // drop the reservation and all registrations
	ReservePreempt        ReserveAction = 0x04 // remove others by key, perhaps taking the reservation
	ReservePreemptAbort   ReserveAction = 0x05 // the same, answered when nothing of them can change data any more
	ReserveRegisterIgnore ReserveAction = 0x06 // register whatever key is there
	ReserveMove           ReserveAction = 0x07 // register another nexus and make it the holder
	reserveActions        ReserveAction = 0x08
)

var actionNames = [reserveActions]string{"register", "reserve", "release", "clear", "preempt", "preempt-abort", "register-ignore", "move"}

// String returns the name used in commands and logs.
func (a ReserveAction) String() string {
	if a < reserveActions {
		return actionNames[a]
	}
	return fmt.Sprintf("action-%#02x", uint8(a))
}

// Known reports whether a is one of the service actions above.
func (a ReserveAction) Known() bool { return a < reserveActions }

// ParseReserveAction is the reverse of ReserveAction.String.
func ParseReserveAction(s string) (ReserveAction, bool) {
	for a, name := range actionNames {
		if name == s {
			return ReserveAction(a), true
		}
	}
	return 0, false
}

// ReserveType is the type of a reservation. Values are those of SPC-4, 6.15.3.4.
type ReserveType uint8

// The types. Registrants only and all registrants differ in who is the holder:
// one nexus, or every registrant.
const (
	ReserveNone ReserveType = 0 // there is no reservation
	ReserveWE   ReserveType = 1 // write exclusive
	ReserveEA   ReserveType = 3 // exclusive access
	ReserveWERO ReserveType = 5 // write exclusive, registrants only
	ReserveEARO ReserveType = 6 // exclusive access, registrants only
	ReserveWEAR ReserveType = 7 // write exclusive, all registrants
	ReserveEAAR ReserveType = 8 // exclusive access, all registrants
)

var typeNames = map[ReserveType]string{ReserveNone: "none", ReserveWE: "we", ReserveEA: "ea", ReserveWERO: "wero",
	ReserveEARO: "earo", ReserveWEAR: "wear", ReserveEAAR: "eaar"}

// ReserveTypes lists the six types in the order of their values.
func ReserveTypes() []ReserveType {
	return []ReserveType{ReserveWE, ReserveEA, ReserveWERO, ReserveEARO, ReserveWEAR, ReserveEAAR}
}

// String returns the short name used in commands and logs.
func (t ReserveType) String() string {
	if s, ok := typeNames[t]; ok {
		return s
	}
	return fmt.Sprintf("type-%d", uint8(t))
}

// Valid reports whether t is one of the six types.
func (t ReserveType) Valid() bool { _, ok := typeNames[t]; return ok && t != ReserveNone }

// AllRegistrants reports whether every registrant is a holder.
func (t ReserveType) AllRegistrants() bool { return t == ReserveWEAR || t == ReserveEAAR }

// RegistrantsOnly reports whether registrants have the rights of the holder.
func (t ReserveType) RegistrantsOnly() bool { return t == ReserveWERO || t == ReserveEARO }

// ExclusiveAccess reports whether those without a right may not even read.
func (t ReserveType) ExclusiveAccess() bool {
	return t == ReserveEA || t == ReserveEARO || t == ReserveEAAR
}

// ParseReserveType is the reverse of ReserveType.String for the six types.
func ParseReserveType(s string) (ReserveType, bool) {
	for _, t := range ReserveTypes() {
		if typeNames[t] == s {
			return t, true
		}
	}
	return ReserveNone, false
}

// Attention is a unit attention: something that others did to the nexus and
// that it is told once. Values are ASC and ASCQ of SPC-4.
type Attention uint16

// The unit attentions.
const (
	AttentionReservationsPreempted  Attention = 0x2a03
	AttentionReservationsReleased   Attention = 0x2a04
	AttentionRegistrationsPreempted Attention = 0x2a05
)

// String returns the words of SPC-4.
func (a Attention) String() string {
	switch a {
	case AttentionReservationsPreempted:
		return "reservations preempted"
	case AttentionReservationsReleased:
		return "reservations released"
	case AttentionRegistrationsPreempted:
		return "registrations preempted"
	}
	return fmt.Sprintf("attention %#04x", uint16(a))
}

// Sense says why a command is StatusInvalid: ASC and ASCQ of the ILLEGAL
// REQUEST that a SCSI target would answer.
type Sense uint16

// The reasons.
const (
	SenseNone           Sense = 0
	SenseFieldInCommand Sense = 0x2400 // invalid field in CDB: type, scope, action
	SenseFieldInList    Sense = 0x2600 // invalid field in parameter list: keys, nexus
	SenseBadRelease     Sense = 0x2604 // invalid release of persistent reservation: type or scope differ
)

// ReserveID is chosen at random by whoever asks: repeated with the same ID, a
// change is answered and not made again. Zero means that it will not be
// repeated.
type ReserveID [16]byte

// ReserveOut is a persistent reservation command. Key is the RESERVATION KEY
// of SPC-4, NewKey the SERVICE ACTION RESERVATION KEY.
type ReserveOut struct {
	Action     ReserveAction
	Type       ReserveType // of reserve, release, preempt and preempt-abort
	Scope      uint8       // 0, the volume, is the only one
	Key        uint64      // the caller's key as registered
	NewKey     uint64      // register: the key from now on, 0 removes; preempt: whom to remove; move: the other's key
	To         string      // move: the other nexus
	Unregister bool        // move: remove the caller's own registration
	Request    ReserveID
}

// ReserveResult is the answer to a command. Status is OK, Conflict, Invalid
// (with Sense), Busy, IO, NotFound or Unknown.
type ReserveResult struct {
	Status     Status
	Sense      Sense
	Generation uint32 // PRgeneration afterwards
	Reason     string // for people, empty if OK
	// Attentions are those that waited for the caller; this reports them.
	Attentions []Attention
}

// Registrant is one registration.
type Registrant struct {
	Nexus  string
	Key    uint64
	Holder bool
}

// ReserveState is what READ KEYS, READ RESERVATION and READ FULL STATUS tell.
type ReserveState struct {
	Generation  uint32
	Type        ReserveType
	Key         uint64       // of the holder; 0 for the types with all registrants, and without a reservation
	Registrants []Registrant // sorted by nexus
	Conflicts   uint64       // requests refused since the target started
	Attentions  []Attention  // those that waited for the caller; this reports them
	Right       uint64       // generation of the caller's right
	Access      Access       // the caller's
}

// ReserveCapabilities are bytes 2 to 5 of the answer of REPORT CAPABILITIES
// (SPC-4, 6.15.4): PTPL_C; TMV and PTPL_A; the mask of the six types.
const ReserveCapabilities uint32 = 0x0181ea01

// Limits of reservations.
const (
	MaxRegistrants = 1024 // of one volume; READ FULL STATUS then fits one answer
)
