// SPDX-License-Identifier: Apache-2.0

package dam

import (
	"fmt"
	"slices"
	"strings"

	"rsio/rsio/block"
)

// Raised is a unit attention that a change has caused.
type Raised struct {
	Nexus string
	Code  block.Attention
}

// Outcome is what Apply answers beside the state.
type Outcome struct {
	block.ReserveResult
	Raised []Raised // by this change, in the order of the nexuses
}

// change is an action at work.
type change struct {
	old     *State
	s       *State // the new one
	nexus   string
	r       block.ReserveOut
	removed []string // preempted
	raised  []Raised
}

// Apply returns the state after nexus has asked for r, and the answer. If
// nothing changes, the state is s itself. Attentions that wait for nexus are
// not touched: see Report.
func Apply(s *State, nexus string, r block.ReserveOut) (*State, Outcome) {
	if !r.Action.Known() {
		return s, invalid(s, block.SenseFieldInCommand, fmt.Sprintf("there is no action %d", uint8(r.Action)))
	}
	for _, d := range s.Done {
		if r.Request != (block.ReserveID{}) && d.Nexus == nexus && d.Request == r.Request {
			if d.Action != r.Action {
				return s, invalid(s, block.SenseFieldInList, "the request ID was used for another action")
			}
			return s, Outcome{ReserveResult: block.ReserveResult{Generation: d.Generation}}
		}
	}
	c := &change{old: s, s: s.clone(), nexus: nexus, r: r}
	counts, out := c.run()
	if out.Status != block.StatusOK || !counts && !c.differs() {
		out.Generation = s.Generation
		return s, out
	}
	if counts {
		c.s.Generation++
	}
	slices.SortFunc(c.raised, func(a, b Raised) int { return strings.Compare(a.Nexus, b.Nexus) })
	c.s.raise(s, c.removed)
	c.s.done(nexus, r)
	for _, x := range c.raised {
		c.s.tell(x.Nexus, x.Code)
	}
	out.Raised, out.Generation = c.raised, c.s.Generation
	return c.s, out
}

// differs reports whether an action that does not count for the generation has
// changed the reservation.
func (c *change) differs() bool {
	return c.s.Type != c.old.Type || c.s.Holder != c.old.Holder
}

// run does the action; counts says that it goes into PRgeneration.
func (c *change) run() (counts bool, out Outcome) {
	r := &c.r
	switch r.Action {
	case block.ReserveRegister, block.ReserveRegisterIgnore:
		return c.register()
	case block.ReserveReserve:
		if r.Scope != 0 || !r.Type.Valid() {
			return false, c.invalid(block.SenseFieldInCommand, fmt.Sprintf("type %d with scope %d does not exist", r.Type, r.Scope))
		}
	}
	key, ok := c.old.Registered(c.nexus)
	if !ok {
		return false, c.conflict(c.nexus + " is not registered")
	}
	if key != r.Key {
		return false, c.conflict(fmt.Sprintf("%s is registered with another key", c.nexus))
	}
	switch r.Action {
	case block.ReserveReserve:
		return false, c.reserve()
	case block.ReserveRelease:
		return false, c.release()
	case block.ReserveClear:
		c.clear()
		return true, Outcome{}
	case block.ReserveMove:
		return true, c.move()
	}
	return true, c.preempt()
}

func (c *change) register() (counts bool, out Outcome) {
	r := &c.r
	i, registered := c.s.find(c.nexus)
	if r.Action == block.ReserveRegister {
		key, _ := c.old.Registered(c.nexus) // 0 if not registered, and then Key must be 0
		if r.Key != key && registered {
			return false, c.conflict(fmt.Sprintf("%s is registered with another key", c.nexus))
		}
		if r.Key != key {
			return false, c.conflict(c.nexus + " is not registered, and has no key to give")
		}
	}
	switch {
	case r.NewKey == 0 && !registered:
		return false, Outcome{} // nothing to remove
	case r.NewKey == 0:
		c.unregister()
	case registered:
		c.s.Regs[i].Key = r.NewKey
	case len(c.s.Regs) >= block.MaxRegistrants:
		return false, Outcome{ReserveResult: block.ReserveResult{Status: block.StatusBusy,
			Reason: fmt.Sprintf("there are %d registrants already", block.MaxRegistrants)}}
	default:
		c.s.Regs = slices.Insert(c.s.Regs, i, Registration{Nexus: c.nexus, Key: r.NewKey})
	}
	return true, Outcome{}
}

// unregister removes the caller's registration (SPC-4, 5.12.11.2): what he
// holds alone is released, and what all registrants hold with the last one.
func (c *change) unregister() {
	held := c.s.Holds(c.nexus)
	c.drop(func(x Registration) bool { return x.Nexus == c.nexus })
	if held && (!c.s.Type.AllRegistrants() || len(c.s.Regs) == 0) {
		if c.s.Type.RegistrantsOnly() {
			c.raise(block.AttentionReservationsReleased)
		}
		c.s.Type, c.s.Holder = block.ReserveNone, ""
	}
}

func (c *change) reserve() Outcome {
	switch {
	case c.s.Type == block.ReserveNone:
		c.take()
		return Outcome{}
	case c.s.Holds(c.nexus) && c.s.Type == c.r.Type:
		return Outcome{}
	case c.s.Holds(c.nexus):
		return c.conflict(fmt.Sprintf("%s holds a reservation of type %s", c.nexus, c.s.Type))
	}
	return c.conflict("it is reserved: " + c.s.who())
}

// take makes the caller the holder of the type he asks for.
func (c *change) take() {
	c.s.Type, c.s.Holder = c.r.Type, c.nexus
	if c.r.Type.AllRegistrants() {
		c.s.Holder = ""
	}
}

func (c *change) release() Outcome {
	if !c.s.Holds(c.nexus) {
		return Outcome{}
	}
	if c.r.Type != c.s.Type || c.r.Scope != 0 {
		return c.invalid(block.SenseBadRelease, fmt.Sprintf("the reservation is of type %s", c.s.Type))
	}
	if c.s.Type.RegistrantsOnly() || c.s.Type.AllRegistrants() {
		c.raise(block.AttentionReservationsReleased)
	}
	c.s.Type, c.s.Holder = block.ReserveNone, ""
	return Outcome{}
}

func (c *change) clear() {
	c.raise(block.AttentionReservationsPreempted)
	c.s.Regs, c.s.Type, c.s.Holder = nil, block.ReserveNone, ""
}

func (c *change) move() Outcome {
	r := &c.r
	switch {
	case c.s.Type == block.ReserveNone:
		return c.invalid(block.SenseFieldInCommand, "there is no reservation to move")
	case !c.s.Holds(c.nexus) || c.s.Type.AllRegistrants():
		return c.conflict("only a holder that is alone can move a reservation: " + c.s.who())
	case r.NewKey == 0:
		return c.invalid(block.SenseFieldInList, "the key of the other nexus is 0")
	case r.To == c.nexus || block.CheckNexus(r.To) != nil:
		return c.invalid(block.SenseFieldInList, fmt.Sprintf("the reservation cannot move to %.127q", r.To))
	}
	i, there := c.s.find(r.To)
	switch {
	case there:
		c.s.Regs[i].Key = r.NewKey
	case len(c.s.Regs) >= block.MaxRegistrants:
		return Outcome{ReserveResult: block.ReserveResult{Status: block.StatusBusy,
			Reason: fmt.Sprintf("there are %d registrants already", block.MaxRegistrants)}}
	default:
		c.s.Regs = slices.Insert(c.s.Regs, i, Registration{Nexus: r.To, Key: r.NewKey})
	}
	c.s.Holder = r.To
	if r.Unregister {
		c.drop(func(x Registration) bool { return x.Nexus == c.nexus })
	}
	return Outcome{}
}

// drop removes registrations.
func (c *change) drop(which func(Registration) bool) {
	c.s.Regs = slices.DeleteFunc(c.s.Regs, which)
}

// raise tells every registrant but the caller.
func (c *change) raise(code block.Attention) {
	for _, x := range c.s.Regs {
		if x.Nexus != c.nexus {
			c.raised = append(c.raised, Raised{x.Nexus, code})
		}
	}
}

// who says who holds the reservation, for people.
func (s *State) who() string {
	switch {
	case s.Type == block.ReserveNone:
		return "nobody holds one"
	case s.Type.AllRegistrants():
		return fmt.Sprintf("all %d registrants hold %s", len(s.Regs), s.Type)
	}
	return fmt.Sprintf("%s holds %s", s.Holder, s.Type)
}

func (c *change) conflict(why string) Outcome {
	return Outcome{ReserveResult: block.ReserveResult{Status: block.StatusConflict, Reason: why}}
}

func (c *change) invalid(sense block.Sense, why string) Outcome { return invalid(c.old, sense, why) }

func invalid(s *State, sense block.Sense, why string) Outcome {
	return Outcome{ReserveResult: block.ReserveResult{Status: block.StatusInvalid, Sense: sense, Generation: s.Generation, Reason: why}}
}
