// SPDX-License-Identifier: Apache-2.0

package target

import (
	"context"

	"rsio/rsio/block"
)

// local is a volume as somebody in this process uses it: under a nexus, with
// the volume's counters.
type local struct {
	block.Device
	v        *volume
	seat     *block.Seat
	readOnly bool
	children block.Children
	refuse   block.Finisher
}

// Info hides what a reader may not do and says which right the nexus has.
func (l *local) Info() block.Info {
	i := l.Device.Info()
	i.ReadOnly = i.ReadOnly || l.readOnly
	i.Right, _ = l.seat.Right()
	return i
}

// Submit executes r if the nexus may.
func (l *local) Submit(r *block.Request) {
	if l.readOnly && r.Op.Changes() {
		l.refuse.Finish(r, block.StatusReadOnly)
		return
	}
	right := r.Right
	if right == 0 {
		right, _ = l.seat.Right()
	}
	if st := l.seat.Enter(r.Op, right); st != block.StatusOK {
		l.v.stats.conflicts.Add(1)
		l.v.stats.count(r.Op, r.Len, st)
		l.refuse.Finish(r, st)
		return
	}
	l.v.stats.local.Add(1)
	l.Device.Submit(l.children.Get(r, l))
}

// Complete counts the end of a child; block.Completer.
func (l *local) Complete(ch *block.Request) {
	r := ch.Parent
	r.N = ch.N
	l.seat.Leave(r.Op)
	l.v.stats.local.Add(-1)
	l.v.stats.count(r.Op, r.Len, ch.Status)
	st := ch.Status
	l.children.Put(ch)
	block.Finish(r, st)
}

// Close is the volume's business.
func (l *local) Close(context.Context) error { return nil }
