// SPDX-License-Identifier: Apache-2.0

package dam

import (
	"cmp"
	"maps"
	"slices"

	"rsio/rsio/block"
)

// Limits of the state of one volume.
const (
	MaxNamed      = 4096 // nexuses with a right of their own or an attention, without a registration
	MaxDone       = 256  // stored results
	maxDonePerOne = 16   // of these, of one nexus: several clients may act for it, and repeat late
)

// State is the reservation of one volume. It is never changed: Apply makes a
// new one. The zero value, with First as Base and Top, is that of a new volume.
type State struct {
	Volume     string // UUID: reservations belong to a volume, not to its name
	Version    uint64 // grows with each change that was tried, never goes back
	Generation uint32 // PRgeneration
	Type       block.ReserveType
	Holder     string // nexus; empty for the types with all registrants
	Regs       []Registration

	// Generations of rights. That of a nexus is in Rights, or else it is Base.
	// Top is the highest ever given.
	Base, Top uint64
	Rights    map[string]uint64

	Pending []Pending // unit attentions that were not reported yet, oldest nexus first
	Done    []Done    // results of the last changes, oldest first
}

// First is the generation of a right that nobody has lost yet.
const First = 1

// Registration is one registrant; Regs are sorted by nexus.
type Registration struct {
	Nexus string
	Key   uint64 // never 0
}

// Pending are the unit attentions that wait for a nexus.
type Pending struct {
	Nexus string
	Codes []block.Attention // each once, in the order they came up
}

// Done is the stored result of a change: who repeats it gets the same answer.
type Done struct {
	Nexus      string
	Request    block.ReserveID
	Action     block.ReserveAction
	Generation uint32
}

// New returns the state of a volume without any registration.
func New(volume string) *State {
	return &State{Volume: volume, Base: First, Top: First}
}

// clone returns a copy that may be changed.
func (s *State) clone() *State {
	n := *s
	n.Regs, n.Done = slices.Clone(s.Regs), slices.Clone(s.Done)
	n.Rights = maps.Clone(s.Rights)
	n.Pending = slices.Clone(s.Pending) // Codes are replaced, never written to
	return &n
}

// find returns the index of the registration of nexus.
func (s *State) find(nexus string) (int, bool) {
	return slices.BinarySearchFunc(s.Regs, nexus, func(r Registration, n string) int { return cmp.Compare(r.Nexus, n) })
}

// Registered returns the key of nexus, and whether it is registered.
func (s *State) Registered(nexus string) (key uint64, ok bool) {
	if i, ok := s.find(nexus); ok {
		return s.Regs[i].Key, true
	}
	return 0, false
}

// Holds reports whether nexus holds the reservation; all registrants do for
// the types with all registrants.
func (s *State) Holds(nexus string) bool {
	if s.Type.AllRegistrants() {
		_, ok := s.find(nexus)
		return ok
	}
	return s.Type != block.ReserveNone && s.Holder == nexus
}

// Access returns what nexus may do (SPC-4, 5.12.1).
func (s *State) Access(nexus string) block.Access {
	if s.Type == block.ReserveNone || s.Holds(nexus) {
		return block.AccessAll
	}
	if _, ok := s.find(nexus); ok && s.Type.RegistrantsOnly() {
		return block.AccessAll
	}
	return s.stranger()
}

// stranger is what a nexus may do that is not registered.
func (s *State) stranger() block.Access {
	switch {
	case s.Type == block.ReserveNone:
		return block.AccessAll
	case s.Type.ExclusiveAccess():
		return 0
	}
	return block.AccessRead
}

// Right returns the generation of the right of nexus.
func (s *State) Right(nexus string) uint64 {
	if g, ok := s.Rights[nexus]; ok {
		return g
	}
	return s.Base
}

// attention returns the unit attentions that wait for nexus.
func (s *State) attention(nexus string) []block.Attention {
	for _, p := range s.Pending {
		if p.Nexus == nexus {
			return p.Codes
		}
	}
	return nil
}

// Report takes the unit attentions of nexus out of the state: this is how they
// are reported, once.
func Report(s *State, nexus string) (*State, []block.Attention) {
	codes := s.attention(nexus)
	if codes == nil {
		return s, nil
	}
	n := s.clone()
	n.Pending = slices.DeleteFunc(n.Pending, func(p Pending) bool { return p.Nexus == nexus })
	return n, codes
}

// Show returns what the read commands tell nexus, but for its attentions.
func (s *State) Show(nexus string) block.ReserveState {
	out := block.ReserveState{Generation: s.Generation, Type: s.Type, Right: s.Right(nexus), Access: s.Access(nexus)}
	if s.Holder != "" {
		out.Key, _ = s.Registered(s.Holder)
	}
	for _, r := range s.Regs {
		out.Registrants = append(out.Registrants, block.Registrant{Nexus: r.Nexus, Key: r.Key, Holder: s.Holds(r.Nexus)})
	}
	return out
}
