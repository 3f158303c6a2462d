// SPDX-License-Identifier: Apache-2.0

package dam

import (
	"fmt"

	"rsio/rsio/block"
)

// preempt removes others by their key (SPC-4, 5.12.11.4). Whoever holds the
// reservation with that key loses it to the caller.
func (c *change) preempt() Outcome {
	victim := c.r.NewKey
	switch {
	case c.s.Type == block.ReserveNone:
		return c.remove(victim)
	case c.s.Type.AllRegistrants() && victim == 0:
		return c.usurp(func(Registration) bool { return true })
	case c.s.Type.AllRegistrants():
		return c.remove(victim)
	case victim == 0:
		return c.invalid(block.SenseFieldInList, "the key to preempt is 0: give the holder's key, or that of the registrants to remove")
	}
	if held, _ := c.s.Registered(c.s.Holder); held == victim {
		return c.usurp(func(x Registration) bool { return x.Key == victim })
	}
	return c.remove(victim)
}

// remove removes the registrations with a key and leaves the reservation.
func (c *change) remove(key uint64) Outcome {
	c.evict(func(x Registration) bool { return x.Key == key })
	if len(c.removed) == 0 {
		return c.conflict(fmt.Sprintf("no other nexus is registered with key %#x", key))
	}
	return Outcome{}
}

// usurp removes registrations and makes the caller the holder.
func (c *change) usurp(which func(Registration) bool) Outcome {
	if c.r.Scope != 0 || !c.r.Type.Valid() {
		return c.invalid(block.SenseFieldInCommand, fmt.Sprintf("type %d with scope %d does not exist", c.r.Type, c.r.Scope))
	}
	changed := c.s.Type != c.r.Type
	c.evict(which)
	if changed {
		c.raise(block.AttentionReservationsReleased)
	}
	c.take()
	return Outcome{}
}

// evict removes registrations of others, who are told.
func (c *change) evict(which func(Registration) bool) {
	c.drop(func(x Registration) bool {
		if x.Nexus == c.nexus || !which(x) {
			return false
		}
		c.removed = append(c.removed, x.Nexus)
		c.raised = append(c.raised, Raised{x.Nexus, block.AttentionRegistrationsPreempted})
		return true
	})
}
