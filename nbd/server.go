// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"rsio/rsio/block"
	"rsio/rsio/buf"
	"rsio/rsio/netio"
)

// Defaults of Options.
const (
	DefaultMaxConns         = 4096
	DefaultMaxHandshakes    = 1024
	DefaultMaxInflight      = 256
	DefaultHandshakeTimeout = 10 * time.Second
	DefaultPoolBytes        = 256 << 20
	DefaultConnBytes        = 64 << 20
)

// Options is what a Server is made of. Only Exports is required.
type Options struct {
	Exports Exports

	// Pool is the budget of payload of all connections; nil makes one of
	// DefaultPoolBytes. Requests whose reply has to be gathered are limited
	// to half of it.
	Pool *buf.Pool

	MaxConns         int           // connections at a time; further ones are closed at once
	MaxHandshakes    int           // of these, connections that have not chosen an export yet
	HandshakeTimeout time.Duration // from accept to the choice of an export
	MaxInflight      int           // requests of one connection at a time
	ConnBytes        int64         // payload of one connection at a time; at most half of the pool
	Log              *slog.Logger  // nil discards

	ignoreOrphans bool // switches the rule of orphan.go off, for the test that shows what it is for
}

// ErrServerClosed is returned by Serve after Close.
var ErrServerClosed = errors.New("nbd: server closed")

// Server serves NBD on any number of listeners. All methods may be called
// from any goroutine.
type Server struct {
	opt     Options
	pool    *buf.Pool
	payload uint64 // largest payload in bytes

	// gather is held while the buffers of one gathered reply are collected,
	// so that two of them never wait for each other's.
	gather sync.Mutex

	mu         sync.Mutex
	closed     bool
	closing    chan struct{}
	generation uint64 // CloseExport calls
	listeners  map[net.Listener]struct{}
	conns      map[*conn]struct{}
	haggling   int
	volumes    map[string]*volume
	wg         sync.WaitGroup // connections and Serve calls

	accepted, refused, rejected, broken, panics atomic.Uint64
	orphans, heldBack, refusals                 atomic.Uint64
}

// NewServer returns a server that Serve starts and Close ends.
func NewServer(o Options) *Server {
	or := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	or(&o.MaxConns, DefaultMaxConns)
	or(&o.MaxHandshakes, DefaultMaxHandshakes)
	or(&o.MaxInflight, DefaultMaxInflight)
	if o.HandshakeTimeout <= 0 {
		o.HandshakeTimeout = DefaultHandshakeTimeout
	}
	if o.Pool == nil {
		o.Pool = buf.New(DefaultPoolBytes)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.ConnBytes <= 0 {
		o.ConnBytes = DefaultConnBytes
	}
	half := max(o.Pool.Stats().Limit/2, buf.MaxLen)
	o.ConnBytes = max(min(o.ConnBytes, half), buf.MaxLen)
	return &Server{
		opt: o, pool: o.Pool, payload: uint64(min(maxPayload, o.ConnBytes)),
		closing: make(chan struct{}), listeners: make(map[net.Listener]struct{}),
		conns: make(map[*conn]struct{}), volumes: make(map[string]*volume),
	}
}

// Serve accepts connections from l until Close, then returns ErrServerClosed,
// or until l fails for good. It closes l. Connections are of kind TCP or unix
// stream; others are closed.
func (s *Server) Serve(l net.Listener) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		_ = l.Close()
		return ErrServerClosed
	}
	s.listeners[l] = struct{}{}
	s.wg.Add(1)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.listeners, l)
		s.mu.Unlock()
		_ = l.Close()
		s.wg.Done()
	}()
	for {
		nc, err := l.Accept()
		if err == nil {
			s.accept(nc)
			continue
		}
		again := false
		for _, passing := range []error{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.ECONNABORTED} {
			again = again || errors.Is(err, passing)
		}
		select {
		case <-s.closing:
			return ErrServerClosed
		case <-time.After(50 * time.Millisecond):
			if !again {
				return err
			}
			s.opt.Log.Warn("nbd: accept failed, trying again", "addr", l.Addr().String(), "err", err)
		}
	}
}

// accept starts the goroutine of a connection, or refuses it.
func (s *Server) accept(nc net.Conn) {
	s.accepted.Add(1)
	sock, ok := nc.(netio.StreamConn)
	s.mu.Lock()
	if !ok || s.closed || len(s.conns) >= s.opt.MaxConns || s.haggling >= s.opt.MaxHandshakes {
		s.mu.Unlock()
		s.refused.Add(1)
		_ = nc.Close()
		return
	}
	c := &conn{srv: s, sock: sock, haggling: true, done: make(chan struct{})}
	c.cond.L = &c.mu
	s.conns[c] = struct{}{}
	s.haggling++
	s.wg.Add(1)
	s.mu.Unlock()
	go func() {
		defer s.wg.Done()
		c.run()
	}()
}

// settled takes c out of the handshake's count. s.mu is held.
func (s *Server) settled(c *conn) {
	if c.haggling {
		c.haggling = false
		s.haggling--
	}
}

// forget is the last thing a connection does.
func (s *Server) forget(c *conn) {
	s.mu.Lock()
	s.settled(c)
	delete(s.conns, c)
	s.mu.Unlock()
	close(c.done)
}

// open opens an export for c. CloseExport cannot miss it: an Open that ran
// while CloseExport was called is made again.
func (s *Server) open(c *conn, name string) (*Export, error) {
	for {
		s.mu.Lock()
		gen := s.generation
		s.mu.Unlock()
		e, err := s.opt.Exports.Open(name)
		if err != nil {
			return nil, err
		}
		s.mu.Lock()
		closed, same := s.closed, gen == s.generation
		if same && !closed {
			c.export = e
		}
		s.mu.Unlock()
		switch {
		case closed:
			e.release()
			return nil, block.StatusClosed
		case same:
			c.rights.now = e.info().Right // after c.export is set: a fence from here on finds it
			return e, nil
		}
		e.release()
	}
}

// letGo is the reverse of open.
func (s *Server) letGo(c *conn) {
	s.mu.Lock()
	e := c.export
	c.export = nil
	s.mu.Unlock()
	if e != nil {
		e.release()
	}
}

// Close ends the server: no connection is accepted any more, requests that
// have arrived finish and are answered, then connections close. It returns
// when all goroutines of the server have ended. If ctx ends first,
// connections are closed at once, ctx.Err() is returned and only requests that
// a device still holds keep their connection's goroutine. It may be repeated.
func (s *Server) Close(ctx context.Context) error {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.closing)
	}
	for l := range s.listeners {
		_ = l.Close() // Serve returns
	}
	for c := range s.conns {
		c.stop()
	}
	s.mu.Unlock()
	err := block.Await(ctx, &s.wg)
	if err != nil {
		s.mu.Lock()
		all := make([]*conn, 0, len(s.conns))
		for c := range s.conns {
			all = append(all, c)
		}
		s.mu.Unlock()
		abortAll(all)
	}
	return err
}

// CloseExport drains and closes the connections to the export with the
// canonical name; those that ask for it in their handshake are closed too.
// Exports must not hand the name out any more. ctx is as in Close.
func (s *Server) CloseExport(ctx context.Context, name string) error {
	s.mu.Lock()
	s.generation++
	var all []*conn
	for c := range s.conns {
		if c.export != nil && c.export.Name == name {
			c.stop()
			all = append(all, c)
		}
	}
	s.mu.Unlock()
	for _, c := range all {
		select {
		case <-c.done:
		case <-ctx.Done():
			abortAll(all)
			return ctx.Err()
		}
	}
	return nil
}

func abortAll(all []*conn) {
	for _, c := range all {
		c.abort()
	}
}

// Stats returns the counters.
func (s *Server) Stats() Stats {
	st := Stats{
		Accepted: s.accepted.Load(), Refused: s.refused.Load(), Rejected: s.rejected.Load(),
		Broken: s.broken.Load(), Panics: s.panics.Load(), Orphans: s.orphans.Load(),
		HeldBack: s.heldBack.Load(), Refusals: s.refusals.Load(), Exports: make(map[string]int),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Conns, st.Handshakes = len(s.conns), s.haggling
	for c := range s.conns {
		if c.export != nil && !c.haggling {
			st.Exports[c.export.Name]++
		}
	}
	return st
}
