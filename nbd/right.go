// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// rights is what a connection knows of the right of its nexus: which requests
// carry which generation.
//
// A request carries the generation that was in force when its client sent it,
// not when the server came to read it. The interleaving: a client has writes
// in the socket, and the whole server is frozen. The nexus is fenced, the
// reservation released. The server wakes and learns of the new generation. If
// it then read the writes and gave them that one, they would be executed: they
// were sent before the fence. So whatever has arrived when the server learns
// of it keeps the old one.
type rights struct {
	renew atomic.Bool // the device has another right: look before the next request

	// Reader only.
	now     uint64 // what a request carries that arrives from now on
	before  uint64 // what it was before
	arrived uint64 // position in the stream up to where requests carry before
	request uint64 // of the request at hand

	mu     sync.Mutex
	idle   bool // the reader waits for a request
	kicked bool // and was woken by a deadline
}

// Fence tells the connections to an export, by its canonical name, that the
// right of its nexus is another one (block.Info.Right of the device): requests
// that have arrived carry the former one, and will be refused. It does not
// wait.
func (s *Server) Fence(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if c.export != nil && c.export.Name == name {
			c.fenceRight()
		}
	}
}

// fenceRight wakes a reader that waits for a request: with nothing in the
// socket now, it must not take the next request for an old one.
func (c *conn) fenceRight() {
	r := &c.rights
	r.mu.Lock()
	defer r.mu.Unlock()
	r.renew.Store(true)
	if r.idle && !r.kicked {
		r.kicked = true
		_ = c.sock.SetReadDeadline(time.Unix(1, 0)) // of a closed socket: nothing to wake
	}
}

// awaitRequest waits until a request's header is buffered.
func (c *conn) awaitRequest() error {
	if len(c.nc.Buffered()) < c.reqLen {
		c.pause()
		err := c.fillIdle()
		c.resume()
		c.probed = false
		if err != nil {
			return err
		}
	}
	if c.rights.renew.Load() {
		c.renewRight()
	}
	c.rights.request = c.rights.now
	if c.nc.Position() < c.rights.arrived {
		c.rights.request = c.rights.before
	}
	return nil
}

// fillIdle is Fill that a fence may interrupt.
func (c *conn) fillIdle() error {
	r := &c.rights
	for {
		r.mu.Lock()
		r.idle = true
		r.mu.Unlock()
		if r.renew.Load() {
			c.renewRight()
		}
		err := c.nc.Fill(c.reqLen)
		r.mu.Lock()
		kicked := r.kicked
		r.idle, r.kicked = false, false
		if kicked {
			_ = c.sock.SetReadDeadline(time.Time{}) // of a closed socket: the next read fails
		}
		r.mu.Unlock()
		if kicked && c.stopping.Load() {
			c.stop() // its deadline may be the one we took away
		}
		if !kicked || !errors.Is(err, os.ErrDeadlineExceeded) || c.stopping.Load() {
			return err
		}
	}
}

// renewRight takes the device's present right for what arrives from now on.
func (c *conn) renewRight() {
	r := &c.rights
	r.renew.Store(false)
	if now := c.export.info().Right; now != r.now {
		r.before, r.now = r.now, now
		r.arrived = c.nc.Arrived()
	}
}
