// SPDX-License-Identifier: Apache-2.0

// Package netio moves frames over a TCP or unix stream in batches: one large
// read serves many frames, one writev sends many. NBD and RSIO connections
// are both built on it.
//
// # Sending
//
//  1. Queue appends an Out (header bytes and a body that is not copied).
//  2. Flush sends what is queued with one non-blocking writev per batch, on
//     the caller's goroutine. If somebody is sending already, that one takes
//     the new frames along: batches grow by themselves under load.
//  3. What the socket does not take at once is left to the connection's
//     writer goroutine. Kick leaves everything to it.
//  4. Sent is called once per Out when the kernel has copied all of it, or
//     when the connection has failed and will never touch it again.
//
// # Receiving
//
// One goroutine, the reader, calls Fill, Buffered, Advance and ReadFull.
//
// # Goroutines and locks
//
// New starts the writer goroutine; Close ends it and Wait joins it. c.mu
// guards the queue and is held for no system call and no callback.
//
// Measured (4 KiB replies, 32 in flight, server CPU per reply over a unix
// socket): a goroutine per request 2.6 us, four workers and one coalescing
// writer 1.0 us, one writev per batch from the reader 0.6 us.
package netio

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrClosed is what Sent reports for frames that Close threw away.
var ErrClosed = errors.New("connection closed")

// StreamConn is a TCP or unix stream connection of package net.
type StreamConn interface {
	net.Conn
	syscall.Conn
}

// Conn is one connection. See the package comment for who calls what.
type Conn struct {
	nc  StreamConn
	raw syscall.RawConn

	// Read side, owned by the reader.
	rbuf       []byte
	r, w       int
	rmax       int
	grow       bool
	total      uint64 // bytes ever read from the socket; reader only
	lastReadNs atomic.Int64
	waiting    atomic.Bool

	// Write side.
	mu      sync.Mutex
	head    *Out
	tail    *Out
	queued  int  // frames in the list
	sending bool // somebody owns the right to send
	err     error
	wake    chan struct{}
	done    sync.WaitGroup
	iov     []unix.Iovec // maxPieces at most; owned by whoever has sending
	wrote   int
	wrErr   error
	wait    bool
	writeFn func(fd uintptr) bool
	idle    sync.Cond // c.sending became false on a closed connection
	endOnce sync.Once
	end     chan struct{}
}

// Sizes of the read buffer in bytes, and of a batch in pieces.
const (
	ReadBufMin = 8 << 10
	ReadBufMax = 256 << 10
	maxPieces  = 128
)

// epoch is where the clock of LastRead starts.
var epoch = time.Now()

// Now returns the monotonic clock of LastRead.
func Now() time.Duration { return time.Since(epoch) }

// New takes over nc. The read buffer starts with min bytes and doubles up to
// max when reads fill it (0 means ReadBufMin, ReadBufMax).
func New(nc StreamConn, minBuf, maxBuf int) (*Conn, error) {
	if minBuf == 0 {
		minBuf = ReadBufMin
	}
	if maxBuf == 0 {
		maxBuf = ReadBufMax
	}
	raw, err := nc.SyscallConn()
	if err != nil {
		return nil, err
	}
	c := &Conn{nc: nc, raw: raw, rbuf: make([]byte, minBuf), rmax: max(minBuf, maxBuf),
		wake: make(chan struct{}, 1), end: make(chan struct{})}
	c.writeFn = c.writev
	c.idle.L = &c.mu
	c.iov = make([]unix.Iovec, 0, maxPieces)
	c.lastReadNs.Store(int64(Now()))
	c.done.Add(1)
	go c.writer()
	return c, nil
}

// NetConn returns the connection New was given, for addresses and options.
func (c *Conn) NetConn() StreamConn { return c.nc }

// Close ends the connection: the reader's call returns an error, every queued
// Out is let go with err (nil means ErrClosed). It does not wait.
func (c *Conn) Close(err error) {
	if err == nil {
		err = ErrClosed
	}
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	mine := !c.sending && c.head != nil
	if mine {
		c.sending = true
	}
	c.mu.Unlock()
	c.endOnce.Do(func() {
		_ = c.nc.Close() // the descriptor is gone either way
		close(c.end)
	})
	if mine {
		c.failQueued()
	}
}

// Abort is Close for a caller that holds a lock which Sent takes: the frames
// are let go by the writer goroutine.
func (c *Conn) Abort(err error) {
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	if !c.sending && c.head != nil {
		c.sending = true
		c.handOver()
	}
	c.mu.Unlock()
	c.endOnce.Do(func() {
		_ = c.nc.Close() // the descriptor is gone either way
		close(c.end)
	})
}

// Wait joins the writer goroutine after Close. All Outs have been let go when
// it returns and no Sent is running.
func (c *Conn) Wait() {
	c.done.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.sending || c.head != nil {
		c.idle.Wait()
	}
}

// Err returns why the connection ended, or nil while it is open.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// LastRead returns when bytes last arrived, on the clock of Now.
func (c *Conn) LastRead() time.Duration { return time.Duration(c.lastReadNs.Load()) }

// Unread returns the number of bytes that wait in the socket or have been read
// and not been looked at: silence counts only when it is zero.
func (c *Conn) Unread() int {
	if !c.waiting.Load() {
		return 1
	}
	return c.inSocket()
}

func (c *Conn) inSocket() int {
	n := 0
	_ = c.raw.Control(func(fd uintptr) { // a closed socket has nothing to read
		n, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ)
	})
	return n
}

// Position returns how many bytes of the stream have been advanced over, and
// Arrived how many have arrived, those in the socket included. Both are for
// the reader only.
func (c *Conn) Position() uint64 { return c.total - uint64(c.w-c.r) }

// Arrived is described with Position.
func (c *Conn) Arrived() uint64 { return c.total + uint64(c.inSocket()) }
