// SPDX-License-Identifier: Apache-2.0

package session

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rsio/rsio/block"
	"rsio/rsio/wire"
)

// counter is a source of IDs, no two of them alike.
type counter struct{ n atomic.Uint64 }

func (c *counter) Read(p []byte) (int, error) {
	n := c.n.Add(1)
	for i := range p {
		p[i] = byte(n >> (8 * (i % 8)))
	}
	return len(p), nil
}

// TestSessionsLogin plays scripts. A word is NAME:SECRET:SERIAL>STATUS for a
// login of nexus NAME that makes a session, join:NAME:SECRET:OF>STATUS for one
// that joins the last session of nexus OF; run:NAME and end:NAME begin and end
// a request, hear:NAME is a sign of life, leave:NAME a logout, sweep the
// housekeeper; @MS sets the clock.
func TestSessionsLogin(t *testing.T) {
	rows := []struct {
		desc   string
		budget uint64
		script string
		ended  string // nexus names of sessions ended by a successor
		left   int    // sessions in the table
	}{
		{"new", 1 << 20, "a:s:1>ok", "", 1},
		{"two nexus", 1 << 20, "a:s:1>ok b:s:1>ok", "", 2},
		{"join", 1 << 20, "a:s:1>ok join:a:s:a>ok join:a:s:a>ok", "", 1},
		{"join what never was", 1 << 20, "join:a:s:a>no_such_session", "", 0},
		{"join with a wrong secret", 1 << 20, "a:s:1>ok join:a:x:a>no_such_session", "", 1},
		{"join somebody else's with one's own secret", 1 << 20, "a:s:1>ok b:t:1>ok join:b:t:a>no_such_session", "", 2},
		{"join under another nexus", 1 << 20, "a:s:1>ok join:b:s:a>no_such_session", "", 1},
		{"another initiator", 1 << 20, "a:s:1>ok a:x:1>in_use @4999 a:x:1>in_use", "", 1},
		{"another initiator after 5 s", 1 << 20, "a:s:1>ok @5000 a:x:1>ok join:a:x:a>ok join:a:s:a>no_such_session", "a", 1},
		{"another initiator while the first is heard of", 1 << 20, "a:s:1>ok @4000 hear:a @5000 a:x:1>in_use @9000 a:x:1>ok", "a", 1},
		{"a refused login is no sign of life of the holder", 1 << 20, "a:s:1>ok @3000 a:x:1>in_use @5000 a:x:2>ok", "a", 1},
		{"a join is a sign of life", 1 << 20, "a:s:1>ok @3000 join:a:s:a>ok @5000 a:x:1>in_use", "", 1},
		{"a successor with the secret, at once", 1 << 20, "a:s:1>ok a:s:2>ok", "a", 1},
		{"a login from before, long under way", 1 << 20, "a:s:5>ok a:s:4>stale a:s:5>stale join:a:s:a>ok a:s:6>ok", "a", 1},
		{"an older one of a process before", 1 << 20, "a:s:4294967297>ok a:s:9>stale", "", 1},
		{"the serial of another secret does not count", 1 << 20, "a:s:9>ok @5000 a:x:1>ok", "a", 1},
		{"draining", 1 << 20, "a:s:1>ok run:a a:s:2>draining a:s:3>draining join:a:s:a>no_such_session end:a a:s:4>ok", "a", 1},
		{"draining for another initiator", 1 << 20, "a:s:1>ok run:a @5000 a:x:1>draining end:a a:x:2>ok", "a", 1},
		{"a third comes while the second drains the first", 1 << 20, "a:s:1>ok run:a @5000 a:x:1>draining a:y:1>draining end:a a:y:1>ok", "a", 1},
		{"the old holder while a successor waits", 1 << 20, "a:s:1>ok run:a @5000 a:x:1>draining join:a:s:a>no_such_session a:s:1>stale a:s:2>draining end:a", "a", 1},
		{"no budget", 2 * IdleWindow, "a:s:1>ok b:s:1>ok c:s:1>busy join:a:s:a>ok", "", 2},
		{"a successor needs no more budget", IdleWindow, "a:s:1>ok a:s:2>ok a:s:3>ok b:s:1>busy", "a a", 1},
		{"logout", 1 << 20, "a:s:1>ok leave:a join:a:s:a>no_such_session sweep", "", 0},
		{"logout, somebody else follows at once", 1 << 20, "a:s:1>ok leave:a a:x:1>ok", "", 1},
		{"logout while a request runs", 1 << 20, "a:s:1>ok run:a leave:a sweep a:x:1>draining end:a a:x:1>ok sweep", "", 1},
		{"logout gives the budget back", IdleWindow, "a:s:1>ok b:s:1>busy leave:a sweep b:s:1>ok", "", 1},
		{"a sweep leaves the others", 1 << 20, "a:s:1>ok b:s:1>ok leave:b sweep join:a:s:a>ok", "", 1},
	}
	for _, row := range rows {
		t.Run(row.desc, func(t *testing.T) {
			b := NewBudget(row.budget)
			var ended []string
			var tab *Sessions
			tab = NewSessions(b, wire.ControlSlots+4, &counter{}, func(s *Session) {
				ended = append(ended, s.Nexus)
				tab.All() // must not be called with the lock held
			})
			last := make(map[string]*Session)
			now := 100 * time.Hour
			for _, word := range strings.Fields(row.script) {
				call, want, _ := strings.Cut(word, ">")
				f := strings.Split(call, ":")
				if ms, ok := strings.CutPrefix(word, "@"); ok {
					d, err := time.ParseDuration(ms + "ms")
					if err != nil {
						t.Fatal(err)
					}
					now = 100*time.Hour + d
					continue
				}
				switch f[0] {
				case "run":
					if v, _ := last[f[1]].Claim(&wire.Header{Op: block.OpWrite, Slot: wire.ControlSlots, Seq: 1}, 0); v != Execute {
						t.Fatalf("%s: verdict %d", word, v)
					}
				case "end":
					last[f[1]].Complete(wire.ControlSlots, Answer{})
				case "hear":
					last[f[1]].Heard(now)
				case "leave":
					last[f[1]].Leave()
				case "sweep":
					tab.Sweep()
				default:
					l := scriptLogin(f, last)
					s, st := tab.Login(&l, now)
					if got := strings.ReplaceAll(st.Error(), " ", "_"); got != want {
						t.Fatalf("%s: %s", word, got)
					}
					if (s != nil) != (st == block.StatusOK) {
						t.Fatalf("%s: session %v with %v", word, s, st)
					}
					if s != nil && l.Mode == wire.LoginNew {
						if old := last[s.Nexus]; old != nil && (old.ID == s.ID || !old.Drained()) {
							t.Fatalf("%s: the predecessor %x is not drained, or is the same", word, old.ID)
						}
						last[s.Nexus] = s
					}
				}
				if b.Reserved() > row.budget {
					t.Fatalf("%s: %d reserved of %d", word, b.Reserved(), row.budget)
				}
			}
			if got := strings.Join(ended, " "); got != row.ended {
				t.Errorf("ended %q, want %q", got, row.ended)
			}
			if n := len(tab.All()); n != row.left || b.Reserved() != uint64(n)*IdleWindow {
				t.Errorf("%d sessions, want %d; %d reserved", n, row.left, b.Reserved())
			}
		})
	}
}

func scriptLogin(f []string, last map[string]*Session) wire.Login {
	l := wire.Login{Mode: wire.LoginNew}
	if f[0] == "join" {
		l.Mode = wire.LoginJoin
		if s := last[f[3]]; s != nil {
			l.Session = s.ID
		}
		f = f[1:]
	} else {
		for _, c := range f[2] {
			l.Serial = 10*l.Serial + uint64(c-'0')
		}
	}
	l.Nexus = []byte(f[0])
	copy(l.Secret[:], f[1])
	return l
}

// TestLoginWithoutRandom: no ID, no session, and no credit lost.
func TestLoginWithoutRandom(t *testing.T) {
	b := NewBudget(1 << 20)
	tab := NewSessions(b, 20, errReader{}, nil)
	s, st := tab.Login(&wire.Login{Mode: wire.LoginNew, Nexus: []byte("a")}, 0)
	if s != nil || st != block.StatusIO || b.Reserved() != 0 || len(tab.All()) != 0 {
		t.Errorf("%v, %v, %d reserved", s, st, b.Reserved())
	}
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errors.New("no") }

func TestSessionPaths(t *testing.T) {
	s := &Session{}
	for i := range uint(MaxPaths) {
		if p, ok := s.AddPath(); !ok || p != i {
			t.Fatalf("path %d: %d, %v", i, p, ok)
		}
	}
	if _, ok := s.AddPath(); ok {
		t.Error("one path too many")
	}
	s.DropPath(17)
	s.DropPath(63)
	for _, want := range []uint{17, 63} {
		if p, ok := s.AddPath(); !ok || p != want {
			t.Errorf("path %d, %v; want %d", p, ok, want)
		}
	}
}

// TestLoginHammer: whatever the interleaving, a nexus never has two sessions
// that take requests.
func TestLoginHammer(t *testing.T) {
	tab := NewSessions(NewBudget(1<<20), wire.ControlSlots+1, &counter{}, nil)
	var serial atomic.Uint64
	var running atomic.Int32
	var logins atomic.Int32
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 3000 {
				s, st := tab.Login(&wire.Login{Mode: wire.LoginNew, Serial: serial.Add(1), Nexus: []byte("a")}, 0)
				if st != block.StatusOK {
					continue
				}
				logins.Add(1)
				if v, _ := s.Claim(&wire.Header{Op: block.OpWrite, Slot: wire.ControlSlots, Seq: 1}, 0); v == Execute {
					if n := running.Add(1); n != 1 {
						t.Errorf("%d sessions of one nexus execute", n)
					}
					running.Add(-1)
					s.Complete(wire.ControlSlots, Answer{})
				}
			}
		})
	}
	wg.Wait()
	if logins.Load() == 0 {
		t.Error("nobody got in")
	}
}
