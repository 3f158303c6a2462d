// SPDX-License-Identifier: Apache-2.0

package session

import (
	"slices"
	"sync"
	"time"
)

// GracePeriod is how long a restarted target keeps a volume for the writers on
// record before it goes on without them.
const GracePeriod = 2 * time.Second

// Grace decides, per volume and after a restart of the target, who may send
// writes again that were in flight, and when everybody may go on.
//
// The interleaving it stands against: A's write W1 is in flight when the
// target dies. B, back first, writes W2 to the same block and gets its answer.
// A comes back and sends W1 again: it would overwrite a newer, acknowledged
// write. So all writers on record send again before anybody writes anew; one
// that comes later than the grace is told so and its W1 is never executed.
//
// That somebody is late must outlive the next restart too: he would be on
// record again, send W1, and overwrite W2. So before anybody writes anew the
// late ones are taken off the record, durably (Late, Recorded), and come back
// onto it only when they have reclaimed.
//
// A writer that is alone on record waits for nobody and may come as late as it
// likes, until somebody else wants to write.
type Grace struct {
	mu       sync.Mutex
	pending  map[string]bool // on record, not yet back
	late     []string        // no longer pending, but still on record
	replays  int             // writes sent again that execute now
	deadline time.Duration
}

// NewGrace starts the grace of a volume with the given writers on record; now
// is on the caller's monotonic clock.
func NewGrace(writers []string, now time.Duration) *Grace {
	g := &Grace{pending: make(map[string]bool, len(writers)), deadline: now + GracePeriod}
	for _, w := range writers {
		g.pending[w] = true
	}
	return g
}

// MayReplay reports whether the nexus may send its writes again.
func (g *Grace) MayReplay(nexus string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.pending[nexus]
}

// BeginReplay is asked right before a write that was sent again executes. After
// true the caller calls EndReplay; after false it must not execute it.
func (g *Grace) BeginReplay(nexus string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.pending[nexus] {
		return false
	}
	g.replays++
	return true
}

// EndReplay ends what BeginReplay allowed.
func (g *Grace) EndReplay() {
	g.mu.Lock()
	g.replays--
	g.mu.Unlock()
}

// Reclaimed records that the nexus has sent all it had again.
func (g *Grace) Reclaimed(nexus string) {
	g.mu.Lock()
	delete(g.pending, nexus)
	g.mu.Unlock()
}

// Open reports whether the nexus, which has reclaimed, may go on: all others
// on record are back, or the grace is over, those that are late are off the
// record and nothing they sent again still executes. When the grace is over,
// asking ends it for those that are late.
func (g *Grace) Open(nexus string, now time.Duration) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	others := len(g.pending)
	if g.pending[nexus] {
		others--
	}
	if others > 0 {
		if now < g.deadline {
			return false
		}
		for w := range g.pending {
			if w != nexus {
				delete(g.pending, w)
				g.late = append(g.late, w)
			}
		}
	}
	return g.replays == 0 && len(g.late) == 0
}

// Late returns the writers that have to be taken off the record before anybody
// may go on.
func (g *Grace) Late() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.late)
}

// Recorded says that the record no longer has those that Late returned.
func (g *Grace) Recorded(late []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.late = slices.DeleteFunc(g.late, func(w string) bool { return slices.Contains(late, w) })
}

// Waiting returns the writers that are on record and not yet back.
func (g *Grace) Waiting() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make([]string, 0, len(g.pending))
	for w := range g.pending {
		out = append(out, w)
	}
	return out
}
