// SPDX-License-Identifier: Apache-2.0

package initiator

import (
	"context"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"rsio/rsio/audit"
	"rsio/rsio/block"
	"rsio/rsio/transport"
	"rsio/rsio/wire"
)

// idlePath is a path without its goroutine.
func idlePath(t *testing.T) *path {
	p := &path{wake: make(chan struct{}, 1)}
	p.ctx, p.stop = context.WithCancel(context.Background())
	t.Cleanup(p.stop)
	return p
}

// TestPause: about as long as it was told, never more, and never the same, so
// that paths do not come back all at once.
func TestPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := idlePath(t)
		seen := make(map[time.Duration]bool)
		for range 50 {
			start := time.Now()
			if !p.pause(time.Second) {
				t.Fatal("the path has not ended")
			}
			d := time.Since(start)
			if d < time.Second/2 || d > time.Second {
				t.Fatalf("paused %v", d)
			}
			seen[d] = true
		}
		if len(seen) < 40 {
			t.Errorf("%d different pauses of 50", len(seen))
		}
		p.poke()
		p.poke() // must not block
		start := time.Now()
		if !p.pause(time.Hour) || time.Since(start) != 0 {
			t.Errorf("poked before: paused %v", time.Since(start))
		}
		go func() { time.Sleep(time.Minute); p.poke() }()
		if !p.pause(time.Hour) || time.Since(start) != time.Minute {
			t.Errorf("poked after a minute: paused %v", time.Since(start))
		}
		go func() { time.Sleep(time.Minute); p.stop() }()
		if p.pause(time.Hour) || time.Since(start) != 2*time.Minute {
			t.Errorf("ended: paused %v", time.Since(start))
		}
		p.poke()
		if p.pause(time.Hour) {
			t.Error("an ended path goes on")
		}
	})
}

func testLink(t *testing.T, park time.Duration, addrs ...transport.Addr) *link {
	t.Helper()
	r, err := openRun(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	i := &Initiator{opt: Options{ParkTimeout: park, Events: audit.New(nil)}, run: r}
	return i.newLink("t", "h", wire.Secret{1}, addrs)
}

// TestParkTimeout: without a path the session is given up when the policy
// says, and not at all without one.
func TestParkTimeout(t *testing.T) {
	for _, row := range []struct {
		desc  string
		park  time.Duration
		after time.Duration
		want  block.Status
	}{
		{"not yet", 3 * time.Second, 2900 * time.Millisecond, block.StatusOK},
		{"expired", 3 * time.Second, 3200 * time.Millisecond, block.StatusTimeout},
		{"for ever", 0, 10 * time.Minute, block.StatusOK},
	} {
		t.Run(row.desc, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := testLink(t, row.park)
				time.Sleep(row.after)
				synctest.Wait()
				if st := l.client.Failed(); st != row.want {
					t.Errorf("%v, want %v", st, row.want)
				}
				start := time.Now()
				l.shut()
				if d := time.Since(start); d > time.Second {
					t.Errorf("shut took %v", d)
				}
			})
		})
	}
}

// TestDisabledPath sleeps until it is enabled, and ends at once.
func TestDisabledPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := testLink(t, 0, transport.Addr{Network: "unix", Address: filepath.Join(t.TempDir(), "none")})
		p := l.pathList()[0]
		state := func() string {
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.state
		}
		time.Sleep(time.Minute)
		if got := state(); got != stateDown {
			t.Errorf("no target: %s", got)
		}
		p.enable(false)
		time.Sleep(10 * time.Minute)
		if got := state(); got != stateDisabled {
			t.Errorf("disabled: %s", got)
		}
		start := time.Now()
		p.enable(true)
		for state() == stateDisabled || state() == stateConnecting {
			if time.Since(start) > 2*time.Second {
				t.Fatal("an enabled path goes on sleeping")
			}
			time.Sleep(10 * time.Millisecond)
		}
		p.enable(false)
		time.Sleep(time.Minute)
		start = time.Now()
		l.shut()
		if d := time.Since(start); d != 0 {
			t.Errorf("a sleeping path ends after %v", d)
		}
	})
}

// TestBackoffIsCapped: the back-off is capped, so a target that comes
// late is found soon.
func TestBackoffIsCapped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := testLink(t, 0, transport.Addr{Network: "unix", Address: filepath.Join(t.TempDir(), "none")})
		p := l.pathList()[0]
		time.Sleep(5 * time.Minute)
		// Each attempt puts its reason back.
		for range 20 {
			p.mu.Lock()
			p.reason = "cleared"
			p.mu.Unlock()
			time.Sleep(backoffMax + time.Millisecond)
			synctest.Wait()
			p.mu.Lock()
			reason := p.reason
			p.mu.Unlock()
			if reason == "cleared" {
				t.Fatalf("no attempt for more than %v", backoffMax)
			}
		}
		// Not a storm either: at most one attempt in half the cap.
		p.mu.Lock()
		p.reason = "cleared"
		p.mu.Unlock()
		attempts := 0
		for range 1000 {
			time.Sleep(10 * time.Millisecond)
			synctest.Wait()
			p.mu.Lock()
			if p.reason != "cleared" {
				attempts++
				p.reason = "cleared"
			}
			p.mu.Unlock()
		}
		if attempts < 10 || attempts > 20 {
			t.Errorf("%d attempts in 10 s", attempts)
		}
		l.shut()
	})
}
