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

func TestRefused(t *testing.T) {
	checks := []api.Check{{Name: "a", State: "ok"}, {Name: "b", State: "warning"}, {Name: "c", State: "warning"}}
	if s := Refused(checks); s == "" || !strings.Contains(s, "b, c") || strings.Contains(s, "a, ") {
		t.Errorf("%q", s)
	}
	if s := Refused(checks[:1]); s != "" {
		t.Errorf("%q", s)
	}
}
