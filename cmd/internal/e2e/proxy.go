// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
)

// Proxy forwards streams between unix sockets and can hold what goes to the
// server: after a number of bytes, in the middle of a frame, and for as long
// as it likes, also when the client has gone.
type Proxy struct {
	l      *net.UnixListener
	to     string
	holdAt atomic.Int64 // bytes to the server after which it holds; negative: none
	sent   atomic.Int64
	wg     sync.WaitGroup

	mu     sync.Mutex
	gate   chan struct{} // closed: open
	held   bool
	conns  []net.Conn
	closed bool
}

// NewProxy listens on path and forwards to the socket to.
func NewProxy(path, to string) (*Proxy, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	p := &Proxy{l: l, to: to, gate: make(chan struct{})}
	close(p.gate)
	p.holdAt.Store(-1)
	p.wg.Go(p.accept)
	return p, nil
}

func (p *Proxy) accept() {
	for {
		c, err := p.l.Accept()
		if err != nil {
			return
		}
		s, err := net.Dial("unix", p.to)
		if err != nil {
			_ = c.Close() // the server is away: so are we
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, c, s)
		p.mu.Unlock()
		p.wg.Go(func() { p.copy(s, c, true) })
		p.wg.Go(func() { p.copy(c, s, false) })
	}
}

// copy forwards one direction; the end of the source ends the destination when
// all of it has been forwarded.
func (p *Proxy) copy(dst, src net.Conn, up bool) {
	buf := make([]byte, 64<<10)
	for {
		n, err := src.Read(buf)
		for b := buf[:n]; len(b) > 0; {
			k := len(b)
			if up {
				k = p.pass(len(b))
			} else {
				p.wait()
			}
			if _, err := dst.Write(b[:k]); err != nil {
				break
			}
			b = b[k:]
		}
		if err != nil {
			break
		}
	}
	_ = dst.Close() // the other direction ends with it
	if !up {
		_ = src.Close()
	}
}

// pass waits while the proxy holds and says how much of n bytes may go.
func (p *Proxy) pass(n int) int {
	p.wait()
	at := p.holdAt.Load()
	if at < 0 {
		return n
	}
	if left := at - p.sent.Load(); int64(n) >= left {
		n = max(1, int(left))
		p.holdAt.Store(-1)
		p.Hold()
	}
	p.sent.Add(int64(n))
	return n
}

func (p *Proxy) wait() {
	p.mu.Lock()
	g := p.gate
	p.mu.Unlock()
	<-g
}

// HoldAfter holds after n more bytes to the server.
func (p *Proxy) HoldAfter(n int64) {
	p.sent.Store(0)
	p.holdAt.Store(n)
}

// Hold holds both directions until Release.
func (p *Proxy) Hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.held && !p.closed {
		p.held, p.gate = true, make(chan struct{})
	}
}

// Held reports whether the proxy holds.
func (p *Proxy) Held() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.held
}

// Release lets everything that was held go.
func (p *Proxy) Release() {
	p.holdAt.Store(-1)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held {
		p.held = false
		close(p.gate)
	}
}

// Close ends the proxy and all its connections.
func (p *Proxy) Close() error {
	p.Release()
	p.mu.Lock()
	p.closed = true
	conns := p.conns
	p.mu.Unlock()
	err := p.l.Close()
	for _, c := range conns {
		_ = c.Close() // may have ended before
	}
	p.wg.Wait()
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}
