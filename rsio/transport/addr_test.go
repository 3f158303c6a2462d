// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestParseAddr(t *testing.T) {
	rows := []struct {
		desc string
		in   string
		want Addr
		bad  bool
	}{
		{"host and port", "10.0.0.1:99", Addr{"tcp", "10.0.0.1:99", ""}, false},
		{"name and port", "storage.example:99", Addr{"tcp", "storage.example:99", ""}, false},
		{"no port", "10.0.0.1", Addr{"tcp", "10.0.0.1:8861", ""}, false},
		{"name without port", "storage", Addr{"tcp", "storage:8861", ""}, false},
		{"local address", "10.0.0.1:99%10.0.0.2", Addr{"tcp", "10.0.0.1:99", "10.0.0.2"}, false},
		{"local address, no port", "10.0.0.1%10.0.0.2", Addr{"tcp", "10.0.0.1:8861", "10.0.0.2"}, false},
		{"IPv6", "[fd00::1]:99", Addr{"tcp", "[fd00::1]:99", ""}, false},
		{"IPv6 without port", "fd00::1", Addr{"tcp", "[fd00::1]:8861", ""}, false},
		{"IPv6 in brackets without port", "[fd00::1]", Addr{"tcp", "[fd00::1]:8861", ""}, false},
		{"IPv6 with local address", "[fd00::1]:99%fd00::2", Addr{"tcp", "[fd00::1]:99", "fd00::2"}, false},
		{"all addresses, to listen on", ":99", Addr{"tcp", ":99", ""}, false},
		{"a path", "unix:/run/rsio/t.sock", Addr{"unix", "/run/rsio/t.sock", ""}, false},
		{"a path with a percent sign", "unix:/run/50%", Addr{"unix", "/run/50%", ""}, false},
		{"empty", "", Addr{}, true},
		{"an empty path", "unix:", Addr{}, true},
		{"a local address that is none", "10.0.0.1:99%eth0", Addr{}, true},
		{"an empty local address", "10.0.0.1:99%", Addr{}, true},
		{"only a local address", "%10.0.0.2", Addr{}, true},
		{"no host, with local address", ":99%10.0.0.2", Addr{}, true},
		{"too many colons", "a:b:c", Addr{}, true},
		{"an empty port", "10.0.0.1:", Addr{}, true},
		{"a port that is none", "10.0.0.1:port", Addr{}, true},
		{"a port too large", "10.0.0.1:65536", Addr{}, true},
		{"a negative port", "10.0.0.1:-1", Addr{}, true},
		{"brackets around nothing", "[]", Addr{}, true},
		{"a space", "host name:99", Addr{}, true},
	}
	for _, row := range rows {
		t.Run(row.desc, func(t *testing.T) {
			got, err := ParseAddr(row.in)
			if (err != nil) != row.bad || got != row.want {
				t.Fatalf("%q: %+v, %v", row.in, got, err)
			}
			if err != nil {
				if !strings.Contains(err.Error(), "address") {
					t.Errorf("the error does not tell what is wrong: %v", err)
				}
				return
			}
			if again, err := ParseAddr(got.String()); err != nil || again != got {
				t.Errorf("%q becomes %q, and that %+v, %v", row.in, got, again, err)
			}
		})
	}
}

func FuzzParseAddr(f *testing.F) {
	for _, s := range []string{"10.0.0.1:99%10.0.0.2", "[fd00::1]:99", "unix:/x", "storage"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddr(s)
		if err != nil {
			return
		}
		if again, err := ParseAddr(a.String()); err != nil || again != a {
			t.Errorf("%q is %+v; that is %q, and that %+v, %v", s, a, a.String(), again, err)
		}
	})
}

func TestTrusted(t *testing.T) {
	for _, row := range []struct {
		in   string
		want bool
	}{
		{"unix:/run/x", true}, {"127.0.0.1:1", true}, {"127.9.9.9:1", true}, {"localhost:1", true}, {"[::1]:1", true}, {"[::ffff:127.0.0.1]:1", true},
		{"10.0.0.1:1", false}, {"localhost.example:1", false}, {"0.0.0.0:1", false}, {":1", false}, {"[fd00::1]:1", false}, {"storage", false},
	} {
		a, err := ParseAddr(row.in)
		if err != nil || a.Trusted() != row.want {
			t.Errorf("%s: %v, %v", row.in, a.Trusted(), err)
		}
	}
	if (Addr{Network: "tcp", Address: "nonsense"}).Trusted() {
		t.Error("an address that does not parse is trusted")
	}
}

// TestListenUnix: a socket that nobody answers on is replaced, one that
// somebody does is not, and a file that is no socket stays.
func TestListenUnix(t *testing.T) {
	a := Addr{Network: "unix", Address: filepath.Join(t.TempDir(), "s")}
	first, err := Listen(a)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(a.Address); err != nil || st.Mode().Perm() != 0o660 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if _, err := Listen(a); err == nil || !strings.Contains(err.Error(), "another process answers") {
		t.Fatalf("a socket in use: %v", err)
	}
	if c, err := Dial(t.Context(), a); err != nil {
		t.Errorf("after the refused one: %v", err)
	} else {
		if !TrustedConn(c) {
			t.Error("a unix socket is not trusted")
		}
		c.Close()
	}
	first.(*net.UnixListener).SetUnlinkOnClose(false) // as after kill -9
	first.Close()
	if _, err := os.Stat(a.Address); err != nil {
		t.Fatalf("the test shows nothing: %v", err)
	}
	second, err := Listen(a)
	if err != nil {
		t.Fatalf("a stale socket: %v", err)
	}
	c, err := Dial(t.Context(), a)
	if err != nil {
		t.Errorf("the new one does not answer: %v", err)
	} else {
		c.Close()
	}
	second.Close()
	if err := os.WriteFile(a.Address, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(a); err == nil {
		t.Error("a file is replaced")
	}
	if b, err := os.ReadFile(a.Address); err != nil || string(b) != "data" {
		t.Errorf("the file: %q, %v", b, err)
	}
	if _, err := Listen(Addr{Network: "unix", Address: filepath.Join(t.TempDir(), "no", "s")}); err == nil {
		t.Error("a directory that does not exist")
	}
}

func TestDial(t *testing.T) {
	l, err := Listen(Addr{Network: "tcp", Address: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := Listen(Addr{Network: "tcp", Address: l.Addr().String()}); err == nil {
		t.Error("an address in use")
	}
	a := Addr{Network: "tcp", Address: l.Addr().String(), Local: "127.0.0.9"}
	c, err := Dial(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if host, _, _ := net.SplitHostPort(c.LocalAddr().String()); host != "127.0.0.9" {
		t.Errorf("bound to %s", host)
	}
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	if !TrustedConn(peer) {
		t.Error("loopback is not trusted")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Dial(ctx, a); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	one, two := net.Pipe()
	if _, err := Stream(one); err == nil {
		t.Error("a pipe is taken for a stream")
	}
	two.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := two.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the refused one stays open: %v", err)
	}
}
