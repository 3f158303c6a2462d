// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rsio/rsio/admin"
	"rsio/rsio/admin/admintest"
)

// lockHost is an initiator with a volume for locks.
func lockHost(t *testing.T) (*host, *admintest.Target) {
	t.Helper()
	t1 := admintest.NewTarget("t1")
	h := serve(t, admin.NewInitiatorHandler(admintest.NewInitiator(t1)))
	h.ok("volume create v1 --size 1M")
	return h, t1
}

func TestLock(t *testing.T) {
	h, t1 := lockHost(t)
	junk := make([]byte, 1<<20)
	junk[8192] = 1
	t1.Device("default", "v1").SetContent(junk)
	h.steps([]step{
		{"never held", "lock v1 --show", 0, "VOLUME v1\nOFFSET 0\nHELD no\nLAST OWNER -\nTOKEN 0\n"},
		{"run", "lock v1 -- env", 0, "RSIO_LOCK_TOKEN=1\nRSIO_LOCK_VOLUME=v1\n"},
		{"token grows", "lock default/v1 --as vm1 -- env", 0, "RSIO_LOCK_TOKEN=2\nRSIO_LOCK_VOLUME=v1\n"},
		{"another block", "lock v1 --at 4K -- env", 0, "RSIO_LOCK_TOKEN=1\n"},
		{"given back", "lock v1 --show", 0, "HELD no\nLAST OWNER h1/vm1\nTOKEN 2\nTTL 10s\n"},
		{"as JSON", "lock v1 --show -o json", 0, `"owner": "h1/vm1"`},
		{"something else is there", "lock v1 --at 8192 -- true", 2, "holds something that is no lock"},
		{"crooked", "lock v1 --at 100 -- true", 2, "not a multiple of 4096"},
		{"behind the end", "lock v1 --at 2M -- true", 2, "lock v1"},
		{"short TTL", "lock v1 --ttl 1ms -- true", 2, "--ttl"},
		{"negative wait", "lock v1 --wait -1s -- true", 2, "--wait"},
		{"no command", "lock v1", 2, "lock: CMD is missing"},
		{"unknown command", "lock v1 -- /nonexistent/cmd", 3, "the lock was not taken"},
		{"unknown volume", "lock none -- true", 3, "lock none: "},
		{"unknown volume to show", "lock none --show", 3, "lock none: "},
	})
	for _, row := range []struct {
		desc, script string
		code         int
	}{
		{"exit code", "exit 7", 7},
		{"that of a conflict", "exit 24", 24},
		{"killed", "kill -KILL $$", 137},
		{"good", "exit 0", 0},
	} {
		code, out, errs := h.runIn(t.Context(), nil, "lock", "v1", "--", "sh", "-c", row.script)
		if code != row.code || out != "" || errs != "" {
			t.Errorf("%s: %d %q %q", row.desc, code, out, errs)
		}
	}
	if code, out, _ := h.runIn(t.Context(), strings.NewReader("hello"), "lock", "v1", "--", "cat"); code != 0 || out != "hello" {
		t.Errorf("stdin: %d %q", code, out)
	}
	t1.Refuse(true)
	h.steps([]step{{"fenced", "lock v1 -- true", 24, "lock v1: "}})
}

// holding runs rsioctl lock with a command that says when it runs, and returns
// once it does.
func (h *host) holding(ctx context.Context, flags, script string) (ended <-chan [2]string, code *int) {
	h.t.Helper()
	mark := filepath.Join(h.t.TempDir(), "runs")
	done, code := make(chan [2]string, 1), new(int)
	go func() {
		line := append(append([]string{"lock", "v1"}, strings.Fields(flags)...), "--", "sh", "-c", "touch "+mark+"; "+script)
		c, out, errs := h.runIn(ctx, nil, line...)
		*code = c
		done <- [2]string{out, errs}
	}()
	for range 500 {
		if _, err := os.Stat(mark); err == nil {
			return done, code
		}
		time.Sleep(10 * time.Millisecond)
	}
	h.t.Fatal("the command does not run")
	return nil, nil
}

func TestLockHeld(t *testing.T) {
	h, _ := lockHost(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended, code := h.holding(ctx, "--ttl 5s", "trap 'echo bye; exit 5' TERM; while :; do sleep 0.05; done")
	code2, _, errs := h.run("lock v1 --as vm2 --wait 6s -- true") // longer than the TTL: it is kept; so long that a busy machine does not lose it
	if code2 != 8 || !strings.Contains(errs, "h1 has it, with token 1") {
		t.Errorf("while it is held: %d %q", code2, errs)
	}
	var s LockState
	if err := json.Unmarshal([]byte(h.ok("lock v1 --show -o json")), &s); err != nil || !s.Held || s.Owner != "h1" || s.Token != 1 || s.TTL != 5 || s.Renewals == 0 {
		t.Errorf("shown: %v %+v", err, s)
	}
	cancel() // as a signal does
	said := <-ended
	if *code != 5 || said[0] != "bye\n" || strings.Contains(said[1], "rsioctl") {
		t.Errorf("ended by a signal: %d %q", *code, said)
	}
	h.ok("lock v1 --wait 1s -- true")
}

func TestLockLost(t *testing.T) {
	for _, row := range []struct {
		desc, script string
		lose         func(h *host, t1 *admintest.Target)
	}{
		{"fenced", "sleep 60", func(_ *host, t1 *admintest.Target) { t1.Refuse(true) }},
		{"fenced, and SIGTERM is ignored", "trap '' TERM; while :; do sleep 0.05; done", func(_ *host, t1 *admintest.Target) { t1.Refuse(true) }},
		{"taken by force", "sleep 60", func(h *host, _ *admintest.Target) { h.ok("lock v1 --as vm2 --force -- true") }},
	} {
		h, t1 := lockHost(t)
		ended, code := h.holding(t.Context(), "--ttl 1s", row.script)
		began := time.Now()
		row.lose(h, t1)
		said := <-ended
		if took := time.Since(began); *code != 24 || !strings.Contains(said[1], "the lock was lost while the command ran") || took > 30*time.Second {
			t.Errorf("%s: code %d, %q after %v", row.desc, *code, said, took)
		}
	}
}
