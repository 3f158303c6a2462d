// SPDX-License-Identifier: Apache-2.0

package session

import (
	"crypto/subtle"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"rsio/rsio/block"
	"rsio/rsio/wire"
)

// TakeoverSilence is how long a session must have been unheard before somebody
// without its secret may take over the nexus.
const TakeoverSilence = 5 * time.Second

// DefaultSlots is the number of slots of a session, control slots included.
const DefaultSlots = wire.ControlSlots + 256

// Session is the target's side of the session of one nexus. It lives as long
// as the target's process unless a successor replaces it; without paths it
// keeps its slot table.
type Session struct {
	*Slots
	Window *Window
	ID     wire.ID
	Nexus  string

	secret wire.Secret
	serial uint64       // of the login that made it
	heard  atomic.Int64 // when any byte last arrived
	left   atomic.Bool  // logged out

	mu    sync.Mutex
	paths uint64 // path numbers in use, one bit each
}

// NewControl returns a session for control operations alone: no nexus is taken,
// no credit is granted, and it ends with its only path.
func NewControl(nexus string, now time.Duration) *Session {
	s := &Session{Slots: NewSlots(wire.ControlSlots), Window: new(Window), Nexus: nexus}
	s.Heard(now)
	return s
}

// Heard notes that bytes arrived at now.
func (s *Session) Heard(now time.Duration) { s.heard.Store(int64(now)) }

// LastHeard returns when bytes last arrived.
func (s *Session) LastHeard() time.Duration { return time.Duration(s.heard.Load()) }

// MaxPaths is the number of paths a session may have.
const MaxPaths = 64

// AddPath returns a free path number, or false if all are taken.
func (s *Session) AddPath() (uint, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := uint(0); i < MaxPaths; i++ {
		if s.paths&(1<<i) == 0 {
			s.paths |= 1 << i
			return i, true
		}
	}
	return 0, false
}

// DropPath gives a path number back.
func (s *Session) DropPath(i uint) {
	s.mu.Lock()
	s.paths &^= 1 << i
	s.mu.Unlock()
}

// Leave shuts the gate because the initiator logged out: the nexus is free
// once the session is drained.
func (s *Session) Leave() {
	s.left.Store(true)
	s.Close()
}

// Sessions is the table of a target's sessions, one with I/O per nexus.
type Sessions struct {
	mu      sync.Mutex
	byID    map[wire.ID]*Session
	byNexus map[string]*Session
	budget  *Budget
	slots   int
	random  io.Reader
	onEnd   func(*Session)
}

// NewSessions returns an empty table. Windows come from budget, IDs
// from random; onEnd, if not nil, is called without locks when a
// session's gate has been shut.
func NewSessions(budget *Budget, slots int, random io.Reader, onEnd func(*Session)) *Sessions {
	return &Sessions{byID: make(map[wire.ID]*Session), byNexus: make(map[string]*Session),
		budget: budget, slots: slots, random: random, onEnd: onEnd}
}

// Login decides about a path that wants in. It returns the session and
// StatusOK, or the reason:
//   - StatusDraining: the predecessor's requests still execute; try again soon
//   - StatusInUse: another initiator holds the nexus and was heard of
//   - StatusNoSession: the session to join is not known, or its secret is wrong
//   - StatusStale: a login that was sent before the one that made the session,
//     and was long under way
//   - StatusBusy: no credit is left for another session
//
// However a session ends, its gate closes and its running requests finish
// first, and the next login of the nexus is answered only then. The
// interleaving: initiator I1 dies with write W1 in a worker of the target, its
// successor I2 writes W2 to the same block and is answered, then the worker
// gets to W1.
func (t *Sessions) Login(l *wire.Login, now time.Duration) (*Session, block.Status) {
	t.mu.Lock()
	s, ended, st := t.login(l, now)
	t.mu.Unlock()
	if ended != nil && t.onEnd != nil {
		t.onEnd(ended)
	}
	return s, st
}

func (t *Sessions) login(l *wire.Login, now time.Duration) (s, ended *Session, st block.Status) {
	if l.Mode == wire.LoginJoin {
		s := t.byID[l.Session]
		if s == nil || s.Closed() || !s.knows(l) || s.Nexus != string(l.Nexus) {
			return nil, nil, block.StatusNoSession
		}
		s.Heard(now)
		return s, nil, block.StatusOK
	}
	old := t.byNexus[string(l.Nexus)]
	if old != nil && old.knows(l) && l.Serial <= old.serial {
		return nil, nil, block.StatusStale
	}
	if old != nil && !old.Closed() {
		if !old.knows(l) && now-old.LastHeard() < TakeoverSilence {
			return nil, nil, block.StatusInUse
		}
		old.Close()
		ended = old
	}
	if old != nil {
		if !old.Drained() {
			return nil, ended, block.StatusDraining
		}
		t.remove(old)
	}
	s, st = t.create(l, now)
	return s, ended, st
}

func (s *Session) knows(l *wire.Login) bool {
	return subtle.ConstantTimeCompare(l.Secret[:], s.secret[:]) == 1
}

func (t *Sessions) create(l *wire.Login, now time.Duration) (*Session, block.Status) {
	w := NewWindow(t.budget)
	if w == nil {
		return nil, block.StatusBusy
	}
	s := &Session{Slots: NewSlots(t.slots), Window: w, Nexus: string(l.Nexus), secret: l.Secret, serial: l.Serial}
	if _, err := io.ReadFull(t.random, s.ID[:]); err != nil {
		w.Release()
		return nil, block.StatusIO
	}
	s.Heard(now)
	t.byID[s.ID] = s
	t.byNexus[s.Nexus] = s
	return s, block.StatusOK
}

func (t *Sessions) remove(s *Session) {
	s.Window.Release()
	delete(t.byID, s.ID)
	if t.byNexus[s.Nexus] == s {
		delete(t.byNexus, s.Nexus)
	}
}

// Sweep forgets sessions that logged out and are drained, and shrinks the
// windows of those that ask for nothing; it is called about once a second.
func (t *Sessions) Sweep() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.byID {
		if s.left.Load() && s.Drained() {
			t.remove(s)
		}
	}
	// Nobody starves because others came first: while somebody is short, no
	// window is larger than an equal share, with one share left for a newcomer.
	most := uint64(MaxWindow)
	if t.budget.short.Swap(false) {
		most = min(most, max(t.budget.limit/uint64(len(t.byID)+1)&^4095, IdleWindow))
	}
	for _, s := range t.byID {
		s.Window.Share(most)
	}
}

// All returns the sessions in no order.
func (t *Sessions) All() []*Session {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]*Session, 0, len(t.byID))
	for _, s := range t.byID {
		out = append(out, s)
	}
	return out
}
