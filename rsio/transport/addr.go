// SPDX-License-Identifier: Apache-2.0

// Package transport carries frames of the RSIO protocol over TCP and unix
// streams: addresses, dialling, listening, and reading frames from a batched
// connection (netio).
package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"

	"rsio/rsio/netio"
)

// DefaultPort is the port of RSIO.
const DefaultPort = "8861"

// DefaultAddress is where a target listens and an initiator looks without
// being told.
const DefaultAddress = "127.0.0.1:" + DefaultPort

// Addr is where a portal is and, optionally, from which local address to reach
// it.
type Addr struct {
	Network string // "tcp" or "unix"
	Address string // HOST:PORT or a path
	Local   string // local address to bind to, "" for any
}

// ParseAddr parses HOST:PORT[%LOCAL] or unix:PATH. A missing port is
// DefaultPort.
func ParseAddr(s string) (Addr, error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		if path == "" {
			return Addr{}, fmt.Errorf("address %q: the path is empty: give unix:PATH", s)
		}
		return Addr{Network: "unix", Address: path}, nil
	}
	remote, local, bound := strings.Cut(s, "%")
	if bound && net.ParseIP(local) == nil {
		return Addr{}, fmt.Errorf("address %q: %q behind %% is not an IP address: give the local address of the path", s, local)
	}
	host, port, err := splitHost(remote)
	if err != nil {
		return Addr{}, fmt.Errorf("address %q: %w: give HOST:PORT[%%LOCAL] or unix:PATH", s, err)
	}
	if host == "" && bound {
		return Addr{}, fmt.Errorf("address %q: the host is empty", s)
	}
	return Addr{Network: "tcp", Address: net.JoinHostPort(host, port), Local: local}, nil
}

// splitHost splits HOST[:PORT]; an IPv6 address without a port needs no
// brackets.
func splitHost(s string) (host, port string, err error) {
	bare := strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")
	switch {
	case s == "":
		return "", "", errors.New("it is empty")
	case net.ParseIP(s) != nil || s == "["+bare+"]" && net.ParseIP(bare) != nil:
		return bare, DefaultPort, nil
	case !strings.ContainsAny(s, ":[]"):
		host, port = s, DefaultPort
	default:
		if host, port, err = net.SplitHostPort(s); err != nil {
			return "", "", err
		}
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return "", "", fmt.Errorf("the port %q is no number from 0 to 65535", port)
	}
	if strings.ContainsAny(host, " \t\r\n/[]") || strings.Contains(host, ":") && net.ParseIP(host) == nil {
		return "", "", fmt.Errorf("%q is no host", host)
	}
	return host, port, nil
}

// String returns the address in the form that ParseAddr takes.
func (a Addr) String() string {
	switch {
	case a.Network == "unix":
		return "unix:" + a.Address
	case a.Local != "":
		return a.Address + "%" + a.Local
	}
	return a.Address
}

// Trusted reports whether no network lies between us and the address: a unix
// socket or loopback. Only there a claimed identity is accepted until it can
// be proven.
func (a Addr) Trusted() bool {
	if a.Network == "unix" {
		return true
	}
	host, _, err := net.SplitHostPort(a.Address)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// TrustedConn is Trusted for the peer of a connection.
func TrustedConn(c net.Conn) bool {
	if c.RemoteAddr().Network() == "unix" {
		return true
	}
	t, ok := c.RemoteAddr().(*net.TCPAddr)
	return ok && t.IP.IsLoopback()
}

// Dial connects to a.
func Dial(ctx context.Context, a Addr) (netio.StreamConn, error) {
	d := net.Dialer{KeepAlive: -1} // the protocol's pings are quicker
	if a.Local != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(a.Local)}
	}
	c, err := d.DialContext(ctx, a.Network, a.Address)
	if err != nil {
		return nil, err
	}
	return Stream(c)
}

// Stream returns c as a netio.StreamConn; only TCP and unix streams are.
func Stream(c net.Conn) (netio.StreamConn, error) {
	switch c := c.(type) {
	case *net.TCPConn:
		return c, nil
	case *net.UnixConn:
		return c, nil
	}
	_ = c.Close() // refused anyway
	return nil, fmt.Errorf("%T is neither a TCP nor a unix stream", c)
}

// Listen listens on a. A unix socket that nobody answers on any more is
// replaced; one that somebody does is an error.
func Listen(a Addr) (net.Listener, error) {
	if a.Network == "unix" {
		if err := removeStale(a.Address); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen(a.Network, a.Address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", a, err)
	}
	if a.Network == "unix" {
		if err := os.Chmod(a.Address, 0o660); err != nil {
			return nil, errors.Join(fmt.Errorf("listen on %s: %w", a, err), l.Close())
		}
	}
	return l, nil
}

// removeStale removes a socket, and nothing else, that nobody answers on.
func removeStale(path string) error {
	if st, err := os.Lstat(path); err != nil || st.Mode().Type() != os.ModeSocket {
		return nil // Listen says what is wrong, if anything
	}
	c, err := net.Dial("unix", path)
	if err == nil {
		_ = c.Close() // only asked whether somebody answers
		return fmt.Errorf("listen on unix:%s: another process answers there: stop it or choose another path", path)
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return os.Remove(path)
	}
	return nil
}
