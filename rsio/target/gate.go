// SPDX-License-Identifier: Apache-2.0

package target

import (
	"sync"

	"rsio/rsio/block"
)

// Gate decides who may touch a volume: the disk access manager. Volumes are
// named by UUID. Its methods may be called from any goroutine.
type Gate interface {
	// Seat returns where requests of nexus ask before they execute; Unseat
	// ends the use when none runs any more.
	Seat(volume, nexus string) *block.Seat
	Unseat(volume, nexus string)
	// Reserve changes a reservation; by says on whose word. done is called
	// once. Until the change is durable the end of quit takes it back.
	Reserve(volume, nexus, by string, r block.ReserveOut, quit <-chan struct{}, done func(block.ReserveResult))
	// Show returns a reservation as nexus sees it; report takes the unit
	// attentions that wait for it.
	Show(volume, nexus string, report bool) block.ReserveState
	// Drop forgets a volume that was deleted.
	Drop(volume string) error
	// Close takes back what is not durable, and joins.
	Close() error
}

// GateHost is what a Gate gets from its target.
type GateHost struct {
	Dir string // of the pool
	// Copies and Keep are the second copies of the reservations, in the
	// registry: those of all volumes by UUID, nil if there is none.
	Copies func() map[string][]byte
	Keep   func(volume string, state []byte) error
	// Right and Attention tell those whom it concerns; Name says what people
	// call a volume; Warn tells an operator.
	Right     func(volume, nexus string, right uint64, a block.Access)
	Attention func(volume, nexus string, code block.Attention)
	Name      func(volume string) string
	Warn      func(volume, text string)
}

// open is the Gate of a target without a disk access manager: everybody may do
// everything, and nobody can reserve.
type open struct {
	mu    sync.Mutex
	seats map[[2]string]*openSeat
}

type openSeat struct {
	block.Seat
	users int
}

// openRight is the right of everybody at an open gate.
const openRight = 1

func (g *open) Seat(volume, nexus string) *block.Seat {
	g.mu.Lock()
	defer g.mu.Unlock()
	k := [2]string{volume, nexus}
	s := g.seats[k]
	if s == nil {
		s = new(openSeat)
		s.Set(openRight, block.AccessAll)
		g.seats[k] = s
	}
	s.users++
	return &s.Seat
}

func (g *open) Unseat(volume, nexus string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	k := [2]string{volume, nexus}
	if s := g.seats[k]; s != nil {
		if s.users--; s.users == 0 {
			delete(g.seats, k)
		}
	}
}

func (g *open) Reserve(_, _, _ string, _ block.ReserveOut, _ <-chan struct{}, done func(block.ReserveResult)) {
	done(block.ReserveResult{Status: block.StatusUnsupported, Reason: "this target has no disk access manager"})
}

func (g *open) Show(string, string, bool) block.ReserveState {
	return block.ReserveState{Right: openRight, Access: block.AccessAll}
}

func (g *open) Drop(string) error { return nil }

func (g *open) Close() error { return nil }

// gateHost is what the target offers its gate.
func (t *Target) gateHost() GateHost {
	return GateHost{Dir: t.opt.Dir, Copies: t.copies, Keep: t.keepCopy, Right: t.tellRight, Attention: t.tellAttention,
		Name: t.nameOf, Warn: t.gateWarns}
}
