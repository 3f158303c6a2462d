// SPDX-License-Identifier: Apache-2.0

package session

import (
	"testing"

	"rsio/rsio/block"
	"rsio/rsio/wire"
)

// TestShare: sessions that were there first and never idle do not keep others
// out.
func TestShare(t *testing.T) {
	b := NewBudget(DefaultBudget)
	ids := &idReader{}
	ss := NewSessions(b, DefaultSlots, ids, nil)
	login := func(n string) (*Session, block.Status) {
		return ss.Login(&wire.Login{Mode: wire.LoginNew, Serial: 1, Nexus: []byte(n)}, 0)
	}
	var busy []*Session
	work := func() {
		for _, s := range busy {
			_, grant := s.Window.Get() // nothing in flight: adopts at once
			s.Window.Heard(MaxWindow, grant)
		}
	}
	for i := range 8 {
		s, st := login(string(rune('a' + i)))
		if st != block.StatusOK {
			t.Fatal(st)
		}
		busy = append(busy, s)
	}
	for range 20 {
		work()
	}
	var s *Session
	for range 3 {
		if s == nil {
			s, _ = login("late")
		} else {
			_, grant := s.Window.Get()
			s.Window.Heard(wire.MaxPayload, grant)
		}
		work()
		ss.Sweep()
		work()
	}
	if s == nil {
		t.Fatal("the ninth never gets in")
	}
	if n, _ := s.Window.Get(); n < wire.MaxPayload {
		t.Fatalf("the ninth has a window of %d bytes", n)
	}
	if b.Reserved() > DefaultBudget {
		t.Fatal("budget exceeded")
	}
}

type idReader struct{ n byte }

func (r *idReader) Read(p []byte) (int, error) {
	r.n++
	for i := range p {
		p[i] = r.n
	}
	return len(p), nil
}
