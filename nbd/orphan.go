// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"rsio/rsio/block"
)

// The rule: a changing request that is in flight when its connection closes
// finishes before an overlapping changing request of another connection to the
// same volume runs.
//
// How it is kept:
//
//  1. A changing request is marked running before it looks whether its
//     connection is fenced and whether there are orphans. A connection is
//     fenced before the server counts what it has running. So every request is
//     either counted as an orphan or not started.
//  2. The server fences a connection before it closes the socket (link), and
//     when it learns that the peer has. The reader may be busy or waiting when
//     the peer closes, with requests in its buffer that nobody has looked at.
//     So a reader that received changing requests asks the kernel first which
//     connections of the volume were hung up (probe): a client that closed one
//     connection before it wrote on another one is never overtaken by itself.
//  3. Requests of a fenced connection that were not started end in
//     StatusClosed, those that wait for an orphan too.
//
// A client that only shuts down its sending side is taken for closed if it has
// another connection to the volume that writes.

// Phases of a changing request.
const (
	phaseIdle    uint32 = iota // not started, or completed
	phaseRunning               // admitted, or about to be
	phaseHeld                  // waits for an orphan; in volume.held
	phaseOrphan                // runs though its connection is fenced; in volume.lost
)

// volume is what the connections to one volume share.
type volume struct {
	srv   *Server
	key   string
	refs  int // guarded by Server.mu
	epoll int // tells of connections the peer has closed

	conns   atomic.Int32
	orphans atomic.Int32 // len(lost)

	mu      sync.Mutex
	lost    []*slot
	held    []*slot
	members map[int32]*conn
	nextID  int32
}

// join makes c a member of the volume of its export. That happens before the
// client is told that it is logged in: were it later, a client could leave and
// write on another connection while nobody knows of what it left behind. For
// the same reason a client that has left already is fenced from the start.
func (s *Server) join(c *conn) error {
	key := c.export.key()
	s.mu.Lock()
	v := s.volumes[key]
	if v == nil {
		fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
		if err != nil {
			s.mu.Unlock()
			return err
		}
		v = &volume{srv: s, key: key, epoll: fd, members: make(map[int32]*conn)}
		s.volumes[key] = v
	}
	v.refs++
	s.mu.Unlock()

	c.vol = v
	v.mu.Lock()
	for v.nextID++; v.members[v.nextID] != nil; v.nextID++ {
	}
	c.id = v.nextID
	v.members[c.id] = c
	v.mu.Unlock()
	v.conns.Add(1)
	err := v.watch(c, unix.EPOLL_CTL_ADD)
	if err == nil && c.hungUp() {
		v.fence(c)
	}
	return err
}

// leave is the reverse of join, also of none or half of one. No request of c
// is in flight any more.
func (s *Server) leave(c *conn) {
	v := c.vol
	if v == nil {
		return
	}
	v.conns.Add(-1)
	v.mu.Lock()
	delete(v.members, c.id)
	v.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if v.refs--; v.refs == 0 {
		delete(s.volumes, v.key)
		_ = unix.Close(v.epoll) // nothing is lost with it
	}
}

func (v *volume) watch(c *conn, op int) error {
	raw, err := c.sock.SyscallConn()
	if err != nil {
		return err
	}
	ev := unix.EpollEvent{Events: unix.EPOLLRDHUP, Fd: c.id}
	var opErr error
	if err := raw.Control(func(fd uintptr) { opErr = unix.EpollCtl(v.epoll, op, int(fd), &ev) }); err != nil {
		return err
	}
	return opErr
}

// hungUp reports whether the peer of c has closed it.
func (c *conn) hungUp() bool {
	raw, err := c.sock.SyscallConn()
	if err != nil {
		return true
	}
	var p [1]unix.PollFd
	err = raw.Control(func(fd uintptr) {
		p[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLRDHUP}
		_, _ = unix.Poll(p[:], 0) // Revents stays zero
	})
	return err != nil || p[0].Revents != 0
}

// probe fences the connections of v that their peers have closed. self is the
// one that asks. Events repeat until the fence is complete, so that whoever
// asks at the same time waits for it too.
func (v *volume) probe(self *conn) {
	if v.conns.Load() < 2 || v.srv.opt.ignoreOrphans {
		return
	}
	var events [8]unix.EpollEvent
	for {
		n, err := unix.EpollWait(v.epoll, events[:], 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return
		}
		for _, e := range events[:n] {
			if e.Fd == self.id {
				continue
			}
			v.mu.Lock()
			c := v.members[e.Fd]
			v.mu.Unlock()
			if c != nil {
				v.fence(c)
				_ = v.watch(c, unix.EPOLL_CTL_DEL) // closed meanwhile: gone by itself
			}
		}
		if n < len(events) {
			return
		}
	}
}

// admit reports whether s, which changes data, may be submitted now. Else it
// has been completed, or will be submitted when the orphans in its way have
// completed.
func (v *volume) admit(s *slot) bool {
	s.phase.Store(phaseRunning)
	if s.c.fenced.Load() {
		v.refuse(s)
		return false
	}
	if v.orphans.Load() == 0 {
		return true
	}
	v.mu.Lock()
	switch {
	case s.c.fenced.Load():
		v.mu.Unlock()
		v.refuse(s)
		return false
	case !v.blocked(s):
		v.mu.Unlock()
		return true
	}
	s.phase.Store(phaseHeld)
	v.held = append(v.held, s)
	v.mu.Unlock()
	v.srv.heldBack.Add(1)
	return false
}

// refuse completes a request that was not started. If the fence took it for an
// orphan, Complete corrects that.
func (v *volume) refuse(s *slot) {
	v.srv.refusals.Add(1)
	block.Finish(&s.req, block.StatusClosed)
}

// blocked reports whether an orphan overlaps s. v.mu is held.
func (v *volume) blocked(s *slot) bool {
	for _, o := range v.lost {
		if o.req.Overlaps(&s.req) {
			return true
		}
	}
	return false
}

// fence keeps c from starting changing requests and makes orphans of those it
// has running. It is complete when it returns, whoever began it.
func (v *volume) fence(c *conn) {
	if v.srv.opt.ignoreOrphans {
		return
	}
	v.mu.Lock()
	if c.fenced.Swap(true) {
		v.mu.Unlock()
		return
	}
	c.mu.Lock()
	all := c.all // only ever appended to
	c.mu.Unlock()
	before := len(v.lost)
	var never []*slot
	for _, s := range all {
		switch {
		case s.phase.CompareAndSwap(phaseRunning, phaseOrphan):
			v.lost = append(v.lost, s)
		case s.phase.CompareAndSwap(phaseHeld, phaseIdle):
			never = append(never, s)
		}
	}
	v.orphans.Store(int32(len(v.lost)))
	v.srv.orphans.Add(uint64(len(v.lost) - before))
	v.held = slices.DeleteFunc(v.held, func(s *slot) bool { return s.c == c })
	v.mu.Unlock()
	for _, s := range never {
		v.refuse(s)
	}
}

// settle takes the orphan s, which has completed, out of the way of others.
// depth is that of the completion.
func (v *volume) settle(s *slot, depth uint8) {
	v.mu.Lock()
	v.lost = slices.DeleteFunc(v.lost, func(o *slot) bool { return o == s })
	v.orphans.Store(int32(len(v.lost)))
	var ready []*slot
	v.held = slices.DeleteFunc(v.held, func(h *slot) bool {
		if v.blocked(h) {
			return false
		}
		h.phase.Store(phaseRunning)
		ready = append(ready, h)
		return true
	})
	v.mu.Unlock()
	for _, h := range ready {
		h.req.Depth = depth + 1
		h.c.export.Device.Submit(&h.req)
	}
}
