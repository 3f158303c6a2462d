// SPDX-License-Identifier: Apache-2.0

package admin_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rsio/rsio/admin"
	"rsio/rsio/admin/api"
)

func TestUnreachable(t *testing.T) {
	dir := t.TempDir()
	dead := filepath.Join(dir, "dead")
	l, err := net.Listen("unix", dead)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = l.Close()
	mute := filepath.Join(dir, "mute")
	l, err = net.Listen("unix", mute)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	rude := filepath.Join(dir, "rude")
	go func() {
		rl, err := net.Listen("unix", rude)
		if err != nil {
			return
		}
		defer func() { _ = rl.Close() }()
		for range 2 { // waitSocket, then the call
			if conn, err := rl.Accept(); err == nil {
				_ = conn.Close()
			}
		}
	}()
	waitSocket(t, rude)
	for _, row := range []struct {
		desc, path string
		ctx        context.Context
		kind       api.Kind
		text       string
	}{
		{"no socket", filepath.Join(dir, "none"), t.Context(), api.Unreachable, "start it"},
		{"dead socket", dead, t.Context(), api.Unreachable, "start it"},
		{"no answer", mute, short, api.Timeout, "no answer in time"},
		{"goes away", rude, t.Context(), api.Unreachable, "went away"},
	} {
		_, err := admin.NewClient(row.path).Status(row.ctx, "")
		if kindOf(err) != row.kind || !strings.Contains(err.Error(), row.text) || !strings.Contains(err.Error(), row.path) {
			t.Errorf("%s: %v", row.desc, err)
		}
	}
}

func TestServeSocket(t *testing.T) {
	dir := t.TempDir()
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") })
	dead := filepath.Join(dir, "s")
	l, err := net.Listen("unix", dead)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- admin.Serve(ctx, dead, h) }()
	waitSocket(t, dead)
	info, err := os.Stat(dead)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Fatalf("mode %v %v", info.Mode(), err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "other")
	if l, err = net.Listen("unix", other); err != nil { // a daemon that does not know our lock
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	for _, row := range []struct{ desc, path, text string }{
		{"in use", dead, "another daemon"},
		{"in use by somebody else", other, "another daemon"},
		{"a file", file, "not a socket"},
		{"too long", filepath.Join(dir, strings.Repeat("x", 100)), "shorter"},
		{"no directory", filepath.Join(dir, "none", "s"), "no such file"},
	} {
		err := admin.Serve(ctx, row.path, h)
		if err == nil || !strings.Contains(err.Error(), row.text) || !strings.Contains(err.Error(), row.path) {
			t.Errorf("%s: %v", row.desc, err)
		}
	}
	if b, _ := os.ReadFile(file); string(b) != "precious" {
		t.Error("a file was destroyed")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dead); !os.IsNotExist(err) {
		t.Errorf("the socket stays: %v", err)
	}
}
