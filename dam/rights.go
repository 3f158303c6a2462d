// SPDX-License-Identifier: Apache-2.0

package dam

import (
	"maps"
	"slices"

	"rsio/rsio/block"
)

// raise gives everybody who loses a right from old to n a new generation.
// Removed are those that were preempted: they lose whatever they have in
// flight, also if the reservation then lets them go on as strangers.
//
// A request carries the generation that its frontend saw. The interleaving:
// host V has a write parked, because its paths are down. A preempts V, takes
// over, works, and releases the reservation. V's paths come back, everybody
// may write again, and the write lands on what A has written. With the
// generation raised it is refused, whatever the reservation says by then.
//
// Nexuses without an entry in Rights have Base. So strangers, of whom there is
// no list, are raised together, and whoever keeps his right then is pinned to
// the one he has.
func (n *State) raise(old *State, removed []string) {
	strangers := old.stranger()&^n.stranger() != 0
	named := make(map[string]bool, len(old.Regs)+len(n.Regs)+len(old.Rights))
	for _, r := range slices.Concat(old.Regs, n.Regs) {
		named[r.Nexus] = true
	}
	for nexus := range old.Rights {
		named[nexus] = true
	}
	next := old.Top + 1
	rights := maps.Clone(old.Rights)
	if rights == nil {
		rights = make(map[string]uint64)
	}
	for nexus := range named {
		if old.Access(nexus)&^n.Access(nexus) != 0 || slices.Contains(removed, nexus) {
			rights[nexus], n.Top = next, next
		} else if strangers {
			rights[nexus] = old.Right(nexus)
		}
	}
	if strangers {
		n.Base, n.Top = next, next
	}
	n.Rights = rights
	n.trimRights(old)
}

// trimRights drops what Base says as well. Should too many strangers have
// rights of their own, all strangers get a new one: requests of theirs that
// are in flight are refused without need, none executes that must not.
func (n *State) trimRights(old *State) {
	own := 0
	for nexus := range n.Rights {
		if _, ok := n.find(nexus); !ok {
			own++
		}
	}
	if own > MaxNamed {
		for _, r := range n.Regs {
			n.Rights[r.Nexus] = n.Right(r.Nexus)
		}
		n.Top = max(n.Top, old.Top) + 1
		n.Base = n.Top
		maps.DeleteFunc(n.Rights, func(nexus string, _ uint64) bool { _, ok := n.find(nexus); return !ok })
	}
	maps.DeleteFunc(n.Rights, func(_ string, g uint64) bool { return g == n.Base })
	if len(n.Rights) == 0 {
		n.Rights = nil
	}
}

// tell notes a unit attention for nexus.
func (n *State) tell(nexus string, code block.Attention) {
	for i := range n.Pending {
		p := &n.Pending[i]
		if p.Nexus != nexus {
			continue
		}
		if !slices.Contains(p.Codes, code) {
			p.Codes = append(slices.Clone(p.Codes), code)
		}
		return
	}
	n.Pending = append(n.Pending, Pending{Nexus: nexus, Codes: []block.Attention{code}})
	n.trimPending()
}

// trimPending forgets the oldest attentions of nexuses that are not registered
// any more, should there be too many: they may never ask.
func (n *State) trimPending() {
	if len(n.Pending) <= MaxNamed {
		return
	}
	i := slices.IndexFunc(n.Pending, func(p Pending) bool { _, ok := n.find(p.Nexus); return !ok })
	n.Pending = slices.Delete(n.Pending, max(i, 0), max(i, 0)+1)
}

// done stores the result of a change for whoever repeats it.
func (n *State) done(nexus string, r block.ReserveOut) {
	if r.Request == (block.ReserveID{}) {
		return
	}
	n.Done = append(n.Done, Done{Nexus: nexus, Request: r.Request, Action: r.Action, Generation: n.Generation})
	mine := 0
	for i := len(n.Done) - 1; i >= 0; i-- {
		if n.Done[i].Nexus == nexus {
			if mine++; mine > maxDonePerOne {
				n.Done = slices.Delete(n.Done, i, i+1)
				break
			}
		}
	}
	if len(n.Done) > MaxDone {
		n.Done = slices.Delete(n.Done, 0, 1)
	}
}
