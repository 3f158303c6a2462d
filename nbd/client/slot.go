// SPDX-License-Identifier: Apache-2.0

package client

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"rsio/rsio/block"
	"rsio/rsio/netio"
)

// Messages of the transmission phase.
const (
	magicRequest = 0x25609513
	magicSimple  = 0x67446698
	requestLen   = 28
	replyLen     = 16

	cmdRead   = 0
	cmdWrite  = 1
	cmdFlush  = 3
	cmdTrim   = 4
	cmdZeroes = 6

	cmdFUA      = 1 << 0
	cmdNoHole   = 1 << 1
	cmdFastZero = 1 << 4
)

// Errors of the wire that have a meaning of their own; all others are
// StatusIO.
const (
	errPerm     = 1
	errInval    = 22
	errNoSpace  = 28
	errNotSup   = 95
	errShutdown = 108
)

// slot is a request that is with the server, or will be. A slot is in use from
// start until its request completes.
type slot struct {
	d     *Device
	req   *block.Request // nil: free
	use   uint32         // how often it was used: in the cookie, so that a second answer is noticed
	order uint64         // of the submission
	out   netio.Out

	// left counts what still refers to the request on this connection: the
	// frame that is not sent, and the answer that is not there. Who takes it
	// to zero completes the request.
	left     atomic.Int32
	answered bool // reader only, and between connections
	status   block.Status
}

// start puts r into a free slot and queues its frame, if there is a connection,
// which is returned to be flushed. d.mu is held.
func (d *Device) start(r *block.Request) *netio.Conn {
	n := d.free[len(d.free)-1]
	d.free = d.free[:len(d.free)-1]
	s := &d.slots[n]
	s.use++
	d.order++
	s.req, s.order, s.answered = r, d.order, false
	s.encode(uint64(s.use)<<32 | uint64(n))
	if d.conn == nil || !s.queue(d.conn) {
		return nil // resume sends it
	}
	return d.conn
}

// queue hands the frame to a connection; false if that has ended. d.mu is held.
func (s *slot) queue(c *netio.Conn) bool {
	s.left.Store(2)
	s.answered = false
	return c.TryQueue(&s.out)
}

// encode writes the header.
func (s *slot) encode(cookie uint64) {
	r, b := s.req, s.out.Head[:requestLen]
	var cmd, flags uint16
	s.out.Body = nil
	switch r.Op {
	case block.OpRead:
		cmd = cmdRead
	case block.OpWrite:
		cmd = cmdWrite
		s.out.Body = r.Buf
	case block.OpFlush:
		cmd = cmdFlush
	case block.OpDiscard:
		cmd = cmdTrim
	case block.OpWriteZeroes:
		cmd = cmdZeroes
	}
	if r.Flags&block.FlagFUA != 0 {
		flags |= cmdFUA
	}
	if r.Flags&block.FlagNoHole != 0 {
		flags |= cmdNoHole
	}
	if r.Flags&block.FlagFastZero != 0 {
		flags |= cmdFastZero
	}
	binary.BigEndian.PutUint32(b, magicRequest)
	binary.BigEndian.PutUint16(b[4:], flags)
	binary.BigEndian.PutUint16(b[6:], cmd)
	binary.BigEndian.PutUint64(b[8:], cookie)
	binary.BigEndian.PutUint64(b[16:], r.Off)
	binary.BigEndian.PutUint32(b[24:], r.Len)
	s.out.HeadLen = requestLen
}

// Sent implements netio.Sender. After an error the request is sent again, by
// resume.
func (s *slot) Sent(_ *netio.Out, err error) {
	if err == nil && s.left.Add(-1) == 0 {
		s.finish(0)
	}
}

// finish completes the request of s, frees the slot and starts what waits for
// one, but for changes under a right that is no more.
func (s *slot) finish(depth uint8) {
	d, r, st := s.d, s.req, s.status
	n := uint32(binary.BigEndian.Uint64(s.out.Head[8:]))
	d.mu.Lock()
	s.req, s.out.Body = nil, nil
	d.free = append(d.free, n)
	var conn *netio.Conn
	var fenced block.Queue
	for next := d.wait.Pop(); next != nil; next = d.wait.Pop() {
		if !d.old(next) {
			conn = d.start(next)
			break
		}
		fenced.Push(next)
	}
	d.mu.Unlock()
	if conn != nil {
		conn.Flush()
	}
	r.Depth = depth
	block.Finish(r, st)
	d.in.Leave()
	d.finishAll(fenced, block.StatusConflict)
}

// finishAll ends requests that have no slot.
func (d *Device) finishAll(q block.Queue, st block.Status) {
	for r := q.Pop(); r != nil; r = q.Pop() {
		r.Depth = 0
		block.Finish(r, st)
		d.in.Leave()
	}
}

// resume sends on a new connection what is in use, in order, and lets new
// requests use it.
func (d *Device) resume(c *netio.Conn) {
	d.mu.Lock()
	var again, fenced []*slot
	for i := range d.slots {
		switch s := &d.slots[i]; {
		case s.req == nil:
		case d.old(s.req):
			fenced = append(fenced, s)
		default:
			again = append(again, s)
		}
	}
	slices.SortFunc(again, func(a, b *slot) int { return cmp.Compare(a.order, b.order) })
	for _, s := range again {
		if !s.queue(c) {
			break // it has failed already: the next one sends all
		}
	}
	d.conn = c
	d.mu.Unlock()
	if d.ctx.Err() != nil { // it ended before it could see the connection
		c.Close(block.StatusClosed)
		return
	}
	for _, s := range fenced {
		s.status = block.StatusConflict
		s.finish(0)
	}
	c.Flush()
}

// settle completes what was answered on a connection that has ended before its
// frame was known to be sent.
func (d *Device) settle() {
	for i := range d.slots {
		s := &d.slots[i]
		d.mu.Lock()
		open := s.req != nil && s.answered
		d.mu.Unlock()
		if open {
			s.finish(0)
		}
	}
}

// failAll ends everything with StatusIO. There is no connection, and only the
// run goroutine makes one.
func (d *Device) failAll() {
	d.mu.Lock()
	rest := d.wait.Take() // first: a slot that gets free takes nothing over
	d.mu.Unlock()
	for i := range d.slots {
		s := &d.slots[i]
		d.mu.Lock()
		used := s.req != nil
		d.mu.Unlock()
		if used {
			s.status = block.StatusIO
			s.finish(0)
		}
	}
	d.finishAll(rest, block.StatusIO)
}

var errReply = errors.New("the server's answer belongs to no request")

// read takes answers until the connection ends, and returns how many there were
// and why it ended.
func (d *Device) read(c *netio.Conn) (answers int, err error) {
	for ; ; answers++ {
		if err := c.Fill(replyLen); err != nil {
			return answers, err
		}
		b := c.Buffered()
		if binary.BigEndian.Uint32(b) != magicSimple {
			return answers, errors.New("the server's answer has a wrong magic number")
		}
		code, cookie := binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint64(b[8:])
		c.Advance(replyLen)
		if code == errShutdown {
			return answers, errors.New("the server is shutting down")
		}
		n := uint32(cookie)
		if n >= uint32(len(d.slots)) {
			return answers, errReply
		}
		s := &d.slots[n]
		d.mu.Lock()
		r, known := s.req, s.req != nil && !s.answered && uint64(s.use)<<32|uint64(n) == cookie
		d.mu.Unlock()
		if !known {
			return answers, errReply
		}
		if code == 0 && r.Op == block.OpRead {
			if err := c.ReadFull(r.Buf[:r.Len]); err != nil {
				return answers, fmt.Errorf("in the data of a read: %w", err)
			}
		}
		s.status, s.answered = status(code, r), true
		if s.left.Add(-1) == 0 {
			s.finish(0)
		}
	}
}

// status translates an error of the wire, as package nbd sends it.
func status(code uint32, r *block.Request) block.Status {
	switch code {
	case 0:
		return block.StatusOK
	case errPerm:
		return block.StatusConflict // that the export is read-only was known
	case errNoSpace:
		return block.StatusNoSpace
	case errInval:
		if r.Op == block.OpDiscard || r.Op == block.OpWriteZeroes {
			return block.StatusUnsupported
		}
		return block.StatusInvalid
	case errNotSup:
		return block.StatusUnsupported
	}
	return block.StatusIO
}
