// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"rsio/rsio/netio"
)

var (
	errDisc    = errors.New("client disconnected")
	errStalled = errors.New("client does not read its replies")
	errPanic   = errors.New("defect of the server")
)

// conn is one connection.
type conn struct {
	srv  *Server
	sock netio.StreamConn
	done chan struct{} // closed at the very end

	// Guarded by Server.mu until the transmission phase, constant from then on.
	export   *Export
	nc       *netio.Conn
	haggling bool

	stopping atomic.Bool // drain when what has arrived is executed
	fenced   atomic.Bool // start no changing request any more

	// What was agreed on.
	ext, chunks, meta bool
	reqLen            int // bytes of a request header
	vol               *volume
	id                int32 // in vol

	// Reader only.
	free       *slot
	opsTaken   uint64 // requests
	opsBack    uint64 // of these, known to be over
	bytesTaken int64
	bytesBack  int64
	batched    int // reply bytes since the last flush
	probed     bool
	submitting *slot
	rights     rights

	parsing atomic.Bool  // the reader will flush what is queued
	out     atomic.Int64 // slots taken and not back
	sendMu  sync.Mutex   // keeps the frames of a gathered reply together

	mu        sync.Mutex
	cond      sync.Cond // the reader waits here
	waiting   bool
	ticks     int
	all       []*slot
	freed     *slot
	opsOver   uint64
	bytesOver int64
}

// link is the socket as netio knows it: closing it fences the connection
// first, so that there is no closed connection whose requests nobody counts.
type link struct {
	netio.StreamConn
	c *conn
}

func (l *link) Close() error {
	l.c.vol.fence(l.c)
	return l.StreamConn.Close()
}

// run is the goroutine of the connection.
func (c *conn) run() {
	defer c.srv.forget(c)
	defer c.srv.letGo(c)
	defer func() { _ = c.sock.Close() }() // closed before in most cases
	deadline := time.Now().Add(c.srv.opt.HandshakeTimeout)
	_ = c.sock.SetDeadline(deadline) // of a closed socket: the next read fails
	if c.stopping.Load() {
		c.stop() // came before the deadline was set
	}
	defer c.srv.leave(c)
	err := c.guard(c.handshake)
	if err == nil {
		err = c.login()
	}
	if err != nil {
		c.srv.rejected.Add(1)
		c.count(err)
		return
	}
	err = c.guard(c.loop)
	c.count(err)
	c.finish(err)
}

// guard turns a panic of fn into an error.
func (c *conn) guard(fn func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			c.srv.panics.Add(1)
			c.srv.opt.Log.Error("nbd: panic", "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
			err = errPanic
		}
	}()
	return fn()
}

// count logs why a connection ended and counts breaches of the protocol.
func (c *conn) count(err error) {
	for _, breach := range []error{errMagic, errTooLarge, errOptionMagic, errOptionSize, errClientFlags, errLongName} {
		if errors.Is(err, breach) {
			c.srv.broken.Add(1)
		}
	}
	c.srv.opt.Log.Debug("nbd: connection ends", "remote", c.sock.RemoteAddr().String(), "why", err)
}

// login enters the transmission phase.
func (c *conn) login() error {
	c.reqLen = requestLen
	if c.ext {
		c.reqLen = extRequestLen
	}
	nc, err := netio.New(&link{c.sock, c}, 0, readBufMax)
	if err != nil {
		return err
	}
	_ = c.sock.SetDeadline(time.Time{}) // of a closed socket: the next read fails
	c.srv.mu.Lock()
	c.nc = nc
	c.srv.settled(c)
	c.srv.mu.Unlock()
	if c.stopping.Load() {
		c.stop()
	}
	return nil
}

// stop lets the reader end when it has executed what it has read.
func (c *conn) stop() {
	c.stopping.Store(true)
	_ = c.sock.SetReadDeadline(time.Unix(1, 0)) // of a closed socket: nothing to wake
}

// abort closes the connection at once.
func (c *conn) abort() {
	c.srv.mu.Lock()
	nc := c.nc
	c.srv.mu.Unlock()
	if nc != nil {
		nc.Close(nil)
	} else {
		_ = c.sock.Close()
	}
}

// finish drains and closes. err is why the reader ended.
func (c *conn) finish(err error) {
	polite := errors.Is(err, errDisc) || err == io.EOF || c.stopping.Load() && errors.Is(err, os.ErrDeadlineExceeded)
	if !polite {
		c.nc.Close(err)
	}
	if c.submitting != nil { // a device panicked: what became of the request is unknown
		c.out.Add(-1)
		c.submitting = nil
	}
	c.drain()
	c.nc.Close(nil)
	c.nc.Wait()
}

// drain waits until all slots are back. A client that does not read what is
// left for it for HandshakeTimeout is cut off.
func (c *conn) drain() {
	c.pause()
	for seen, out := 0, int64(-1); ; {
		timer := time.AfterFunc(c.srv.opt.HandshakeTimeout, c.tick)
		c.mu.Lock()
		for c.out.Load() > 0 && c.ticks == seen {
			c.waiting = true
			c.cond.Wait()
		}
		c.waiting = false
		left := c.out.Load()
		idle := left == out
		seen, out = c.ticks, left
		c.mu.Unlock()
		timer.Stop()
		if left <= 0 {
			return
		}
		if idle && c.nc.Queued() > 0 {
			c.nc.Close(errStalled)
		}
	}
}

// tick wakes drain; a late one does nothing.
func (c *conn) tick() {
	c.mu.Lock()
	c.ticks++
	c.mu.Unlock()
	c.cond.Signal()
}
