// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"rsio/rsio/admin/api"
	"rsio/rsio/audit"
)

// TestNotify: systemd hears that the daemon serves, that it is well while look
// returns, and that it stops.
func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "20000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	hear := func() string {
		t.Helper()
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		b := make([]byte, 100)
		n, err := c.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	ctx, cancel := context.WithCancel(t.Context())
	looked, ended := make(chan struct{}), make(chan error, 1)
	look := func() {
		select {
		case looked <- struct{}{}:
		case <-ctx.Done():
		}
	}
	go func() { ended <- Notify(ctx, audit.New(nil), look) }()
	if s := hear(); s != "READY=1" {
		t.Errorf("at first %q", s)
	}
	for range 2 {
		<-looked
		if s := hear(); s != "WATCHDOG=1" {
			t.Errorf("when it is well: %q", s)
		}
	}
	_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond)) // look is not let through
	if n, err := c.Read(make([]byte, 100)); err == nil {
		t.Errorf("%d bytes though the daemon hangs", n)
	}
	<-looked
	cancel()
	for s := hear(); s != "STOPPING=1"; s = hear() {
		if s != "WATCHDOG=1" {
			t.Errorf("at the end %q", s)
		}
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestNotifyNobody: not started by systemd, it does nothing.
func TestNotifyNobody(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	if err := Notify(t.Context(), audit.New(nil), func() { t.Error("it looks") }); err != nil {
		t.Error(err)
	}
}

// TestNotifyTrouble: what systemd cannot be told, or says of its watchdog that
// makes no sense, is an event; nothing is looked at.
func TestNotifyTrouble(t *testing.T) {
	for _, row := range []struct {
		desc, usec, pid string
		nobody          bool // behind NOTIFY_SOCKET
		event           string
	}{
		{"no watchdog", "", "", false, ""},
		{"the watchdog of another process", "2000", "1", false, ""},
		{"an interval that is none", "soon", "", false, "interval"},
		{"a negative interval", "-5", "", false, "interval"},
		{"a process that is none", "2000", "x", false, "interval"},
		{"nobody hears", "2000", "", true, "could not be told"},
	} {
		path := filepath.Join(t.TempDir(), "s")
		c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		if row.nobody {
			_ = c.Close()
		}
		t.Setenv("NOTIFY_SOCKET", path)
		t.Setenv("WATCHDOG_USEC", row.usec)
		t.Setenv("WATCHDOG_PID", row.pid)
		events := audit.New(nil)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		if err := Notify(ctx, events, func() { t.Errorf("%s: it looks", row.desc) }); err != nil {
			t.Errorf("%s: %v", row.desc, err)
		}
		cancel()
		list := events.Since(ctx, 0) // ctx has ended: it does not wait
		if len(list) > 1 || (row.event != "") != (len(list) == 1) || len(list) == 1 && !strings.Contains(list[0].Text, row.event) {
			t.Errorf("%s: events %+v", row.desc, list)
		}
		if row.nobody {
			continue
		}
		var said []string
		for b := make([]byte, 100); ; {
			_ = c.SetReadDeadline(time.Now().Add(10 * time.Millisecond)) // all has been said
			n, err := c.Read(b)
			if err != nil {
				break
			}
			said = append(said, string(b[:n]))
		}
		if got := strings.Join(said, " "); got != "READY=1 STOPPING=1" {
			t.Errorf("%s: %s", row.desc, got)
		}
		_ = c.Close()
	}
}

func TestRefused(t *testing.T) {
	checks := []api.Check{{Name: "a", State: "ok"}, {Name: "b", State: "warning"}, {Name: "c", State: "warning"}}
	if s := Refused(checks); s == "" || !strings.Contains(s, "b, c") || strings.Contains(s, "a, ") {
		t.Errorf("%q", s)
	}
	if s := Refused(checks[:1]); s != "" {
		t.Errorf("%q", s)
	}
}
