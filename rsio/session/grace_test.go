// SPDX-License-Identifier: Apache-2.0

package session

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// TestGrace plays scripts. "a+" asks whether a may replay, "a!" begins a
// replay, "." ends one, "a=" says that a has reclaimed, "a?" asks whether a
// may go on; "-" behind it is the answer no. A number is the time in ms.
func TestGrace(t *testing.T) {
	rows := []struct {
		desc    string
		writers string
		script  string
		waiting string
	}{
		{"nobody on record", "", "0 b+- b!- b= b?", ""},
		{"a sole writer in time", "a", "10 a+ a! . a= a?", ""},
		{"a sole writer may come as late as it likes", "a", "900000 a+ a! . a= a?", ""},
		{"a sole writer that has not reclaimed waits for nobody", "a", "0 a?", "a"},
		{"two writers: the first waits for the second", "a b", "0 a! . a= a?- 100 b+ b! . b= b? a?", ""},
		{"two writers: the second comes late", "a b", "0 a! . a= a?- 1999 a?- 2000 a? b+- b!- b= b?", ""},
		{"both late, nobody asked: both may replay", "a b", "5000 a+ b+ a! b! . . a= b= a? b?", ""},
		{"both late: the one that asks first ends it for the other", "a b", "5000 a! . a= a? b+- b!-", ""},
		{"a reader asks for nobody's end", "a", "5000 a+", "a"},
		{"a newcomer that wants to write waits", "a", "0 c+- c= c?- 1999 c?- 2000 c? a+- a!-", ""},
		{"a replay that runs at the deadline is waited for", "a b", "0 b= 1990 a! 2000 b?- 2500 b?- . b? a!-", ""},
		{"two replays run at the deadline", "a b", "0 b= 1990 a! a! 2000 b?- . b?- . b?", ""},
		{"a replay of one's own counts too", "a b", "0 a! 100 b= a= a?- . a? b?", ""},
		{"reclaimed twice", "a b", "0 a= a= b= b= a? b?", ""},
		{"a stranger's reclaim changes nothing", "a", "0 c= c?- a+", "a"},
		{"logged in again before it reclaimed: may go on with replaying", "a b", "0 a! . a+ a! . a= a?- b= a?", ""},
		{"logged in again after it reclaimed: may not replay", "a b", "0 a= a+- a!- b= a?", ""},
		{"three writers, one late", "a b c", "0 a= b= a?- b?- 2000 b? a? c!-", ""},
	}
	for _, row := range rows {
		t.Run(row.desc, func(t *testing.T) {
			const start = 7 * time.Hour
			g := NewGrace(strings.Fields(row.writers), start)
			now := start
			for _, word := range strings.Fields(row.script) {
				if d, err := time.ParseDuration(word + "ms"); err == nil {
					now = start + d
					continue
				}
				if word == "." {
					g.EndReplay()
					continue
				}
				who, verb, want := word[:1], word[1], !strings.HasSuffix(word, "-")
				got := want
				switch verb {
				case '+':
					got = g.MayReplay(who)
				case '!':
					got = g.BeginReplay(who)
				case '=':
					g.Reclaimed(who)
				case '?':
					got = g.Open(who, now)
					if late := g.Late(); len(late) > 0 {
						if got {
							t.Fatalf("at %v %q: goes on while %v are on record", now-start, word, late)
						}
						g.Recorded(late)
						got = g.Open(who, now)
					}
				default:
					t.Fatalf("word %q", word)
				}
				if got != want {
					t.Fatalf("at %v %q: %v", now-start, word, got)
				}
			}
			got := g.Waiting()
			slices.Sort(got)
			if strings.Join(got, " ") != row.waiting {
				t.Errorf("waiting for %v, want %q", got, row.waiting)
			}
		})
	}
}
