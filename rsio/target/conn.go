// SPDX-License-Identifier: Apache-2.0

package target

import (
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync/atomic"
	"time"

	"rsio/rsio/audit"
	"rsio/rsio/block"
	"rsio/rsio/netio"
	"rsio/rsio/session"
	"rsio/rsio/transport"
	"rsio/rsio/wire"
)

// preAuthBuf is the read buffer of a connection that has not logged in, in
// bytes; with two stacks and the writer's table it stays below 16 KiB.
const preAuthBuf = 1 << 10

// conn is one connection of an initiator: before the login a stranger, then a
// path of a session.
type conn struct {
	t       *Target
	nc      *netio.Conn
	s       *sess // nil until the login is accepted
	path    uint
	digest  bool
	reserve bool // FeatureReserve

	// batching says that the reader will flush soon, so that others need not.
	// It is false whenever the reader may wait for bytes.
	batching atomic.Bool
	pong     pong
	unread   atomic.Int32 // answers to control operations that are not sent yet
}

// pong is the one pong frame of a connection.
type pong struct {
	out  netio.Out
	busy atomic.Bool
}

// Sent frees the frame; netio.Sender.
func (p *pong) Sent(*netio.Out, error) { p.busy.Store(false) }

// run is the reader goroutine.
func (c *conn) run() {
	defer c.t.wg.Done()
	c.pong.out.Owner = &c.pong
	err := c.serve()
	c.nc.Close(err)
	c.nc.Wait()
	if c.s != nil {
		c.s.dropConn(c)
		c.t.endControl(c.s)
	}
	c.t.gone(c)
	c.report(err)
}

// report tells about connections that broke the protocol, once, at their end.
func (c *conn) report(err error) {
	var we wire.Error
	if errors.As(err, &we) || errors.Is(err, errCredit) || errors.Is(err, errUnread) {
		who := c.nc.NetConn().RemoteAddr().String()
		if c.s != nil {
			who += " (" + c.s.Nexus + ")"
		}
		c.t.opt.Events.Add(audit.Warning, who, "connection closed: "+err.Error())
	}
}

// serve logs in and serves frames until the connection ends. A panic costs the
// connection, not the target.
func (c *conn) serve() (err error) {
	defer func() {
		if p := recover(); p != nil {
			c.t.opt.Events.Add(audit.Error, c.nc.NetConn().RemoteAddr().String(), fmt.Sprintf("defect: panic while serving this connection: %v\n%s", p, debug.Stack()))
			err = errPanic
		}
	}()
	if err := c.login(); err != nil {
		return err
	}
	for {
		if len(c.nc.Buffered()) < wire.HeaderLen {
			c.endBatch()
		}
		if err := c.nc.Fill(wire.HeaderLen); err != nil {
			return err
		}
		c.s.Heard(c.nc.LastRead())
		var h wire.Header
		if err := h.Parse(c.nc.Buffered(), c.digest); err != nil {
			return err
		}
		if !c.reserve && h.Needs() != 0 {
			return wire.ErrReserved
		}
		c.nc.Advance(wire.HeaderLen)
		c.batching.Store(true)
		if err := c.frame(&h); err != nil {
			return err
		}
	}
}

// endBatch sends the answers of the frames served so far.
func (c *conn) endBatch() {
	c.batching.Store(false)
	c.nc.Flush()
}

func (c *conn) frame(h *wire.Header) error {
	switch h.Kind {
	case wire.KindRequest:
		c.s.Window.Heard(h.Window, h.Grant)
		c.s.active.Store(true)
		if wire.IsControl(h.Op) {
			return c.control(h)
		}
		if c.s.control {
			return wire.ErrOp
		}
		return c.request(h)
	case wire.KindPing:
		c.s.Window.Heard(h.Window, h.Grant)
		c.ping(h)
		return nil
	}
	return wire.ErrOrder
}

func (c *conn) ping(h *wire.Header) {
	if !c.pong.busy.CompareAndSwap(false, true) {
		return // the last pong is still being sent: its arrival says enough
	}
	r := wire.Header{Kind: wire.KindPong, Seq: h.Seq}
	r.Window, r.Grant = c.s.Window.Get()
	r.Put(c.pong.out.Head[:], c.digest)
	c.pong.out.HeadLen = wire.HeaderLen
	c.nc.Queue(&c.pong.out)
}

// request takes one request of the data path: payload, slot, device.
func (c *conn) request(h *wire.Header) error {
	s := c.s
	if s.Executing(h) {
		return c.duplicate(h)
	}
	cost := int64(wire.Cost(h.Op, h.Len))
	if err := s.reserve(c, cost); err != nil {
		return err
	}
	t := s.getTask()
	t.c, t.cost, t.hdr = c, cost, *h
	if n := bufLen(h); n > 0 {
		t.buf = c.buffer(n)
	}
	if h.PayloadLen > 0 {
		if len(c.nc.Buffered()) < int(h.PayloadLen) {
			c.endBatch()
		}
		if err := transport.ReadPayload(c.nc, h, t.buf, c.digest); err != nil {
			t.release()
			return err
		}
	}
	v, a := s.Claim(h, c.path)
	switch v {
	case session.Execute, session.ReadAgain:
		t.execute(v == session.ReadAgain)
		return nil
	case session.Attached:
		t.release()
		return nil
	case session.Repeat:
		t.req.N = uint32(a.Value)
		t.answer(c, a.Status, nil)
		return nil
	case session.Stale:
		t.answer(c, block.StatusStale, nil)
		return nil
	case session.Refused:
		t.release()
		return errReplaced
	}
	t.release()
	return wire.ErrSequence
}

// duplicate takes a copy of a request that executes. It needs no memory, and
// takes no credit: the initiator has taken that back with the path on which the
// first copy came. The interleaving: requests that fill the window hang in the
// disk, their path dies, they are sent again on another one. If they waited
// for credit there, which only the hung ones will give back, no ping of that
// path would be answered, and it would be closed for silence, again and again.
func (c *conn) duplicate(h *wire.Header) error {
	if len(c.nc.Buffered()) < int(h.PayloadLen) {
		c.endBatch()
	}
	if err := transport.SkipPayload(c.nc, h, c.digest); err != nil {
		return err
	}
	v, a := c.s.Claim(h, c.path)
	switch v {
	case session.Attached:
		return nil
	case session.Refused:
		return errReplaced
	case session.Violation, session.Execute: // Execute cannot be: the number was claimed
		return wire.ErrSequence
	}
	t := c.s.getTask() // it ended in this moment
	t.c, t.cost, t.hdr = c, 0, *h
	switch v {
	case session.ReadAgain:
		t.cost = int64(wire.Cost(h.Op, h.Len))
		if err := c.s.reserve(c, t.cost); err != nil {
			c.s.SideDone()
			t.cost = 0
			t.release()
			return err
		}
		t.buf = c.buffer(bufLen(h))
		t.execute(true)
	case session.Repeat:
		t.req.N = uint32(a.Value)
		t.answer(c, a.Status, nil)
	default:
		t.answer(c, block.StatusStale, nil)
	}
	return nil
}

// bufLen is the buffer a request needs.
func bufLen(h *wire.Header) int {
	switch h.Op {
	case block.OpRead, block.OpWrite:
		return int(h.Len)
	case block.OpCompareAndWrite:
		return 2 * int(h.Len)
	case block.OpBlockStatus:
		return 4096
	}
	return 0
}

// buffer takes a buffer from the pool. The pool covers the sum of all windows,
// so that waiting means somebody exceeds his; the answers of this batch go out
// first.
func (c *conn) buffer(n int) []byte {
	if b := c.t.pool.TryGet(n); b != nil {
		return b
	}
	c.endBatch()
	return c.t.pool.Get(n)
}

// event sends an event of the target; c is logged in.
func (c *conn) event(what block.Op, handle uint32, value uint64) {
	c.tell(wire.Header{Op: what, Volume: handle, Off: value})
}

func (c *conn) tell(h wire.Header) {
	h.Kind = wire.KindEvent
	h.Window, h.Grant = c.s.Window.Get()
	transport.Send(c.nc, h, nil, c.digest)
}

// login reads the login frame and answers it. Before it is accepted no volume
// is touched, and all that is read fits the first read buffer.
func (c *conn) login() error {
	sc := c.nc.NetConn()
	if err := sc.SetReadDeadline(time.Now().Add(HandshakeTimeout)); err != nil {
		return err
	}
	var h wire.Header
	if err := transport.ReadHeader(c.nc, &h, true); err != nil {
		return err
	}
	if h.Kind != wire.KindLogin {
		return wire.ErrOrder
	}
	if err := c.nc.Fill(int(h.PayloadLen)); err != nil {
		return err
	}
	payload := c.nc.Buffered()[:h.PayloadLen]
	if err := transport.CheckPayload(&h, payload, true); err != nil {
		return err
	}
	var l wire.Login
	if err := l.Parse(payload); err != nil {
		return err
	}
	st, text := c.admit(&l)
	c.nc.Advance(int(h.PayloadLen))
	c.answerLogin(st, text)
	if st != block.StatusOK {
		c.nc.Flush()
		_ = sc.SetReadDeadline(time.Now().Add(time.Second)) // the peer closes when it has read the answer
		_, err := io.Copy(io.Discard, io.LimitReader(sc, wire.MaxLoginPayload))
		if err == nil {
			err = io.EOF
		}
		return err
	}
	// Others may send on c only now: the answer to the login comes first.
	c.s.conns[c.path].Store(c)
	if c.s.Closed() { // replaced in this instant: nobody else will close c
		return errReplaced
	}
	c.t.loggedIn(c)
	c.news()
	return sc.SetReadDeadline(time.Time{})
}

// news tells a new path what the session may have missed while it had none.
func (c *conn) news() {
	for _, h := range *c.s.handles.Load() {
		if h == nil {
			continue
		}
		h.v.mu.Lock()
		gone := h.v.gone
		h.v.mu.Unlock()
		if gone {
			c.event(wire.EventGone, h.id, 0)
		} else {
			c.event(wire.EventResize, h.id, h.dev.Info().Size)
			if c.reserve {
				right, access := h.seat.Right()
				c.tell(wire.Header{Op: wire.EventRight, Volume: h.id, Off: right, Len: uint32(access)})
			}
		}
	}
}

// admit decides about a login and makes c a path of the session.
func (c *conn) admit(l *wire.Login) (block.Status, string) {
	if l.VersionMin > wire.VersionMax || l.VersionMax < wire.VersionMin {
		return block.StatusUnsupported, "no common version of the protocol"
	}
	nexus := string(l.Nexus)
	if err := block.CheckNexus(nexus); err != nil {
		return block.StatusInvalid, err.Error()
	}
	if !c.t.opt.Insecure && !transport.TrustedConn(c.nc.NetConn()) {
		return block.StatusDenied, "a claimed identity is accepted only over loopback or a unix socket: start the target with --insecure to accept it here"
	}
	if c.t.isClosing() {
		return block.StatusDraining, "the target shuts down"
	}
	c.digest, c.reserve = l.Features&wire.FeatureDigest != 0, l.Features&wire.FeatureReserve != 0
	if l.Mode == wire.LoginControl {
		return c.admitControl(nexus)
	}
	ss, st := c.t.sessions.Login(l, netio.Now())
	if st != block.StatusOK {
		return st, loginText(st, nexus)
	}
	s := c.t.attach(ss)
	path, ok := ss.AddPath()
	if !ok {
		return block.StatusBusy, "the session has all the paths it may have"
	}
	s.rights.Store(c.reserve)
	c.s, c.path = s, path
	return block.StatusOK, ""
}

func loginText(st block.Status, nexus string) string {
	switch st {
	case block.StatusInUse:
		return "another initiator holds nexus " + nexus + " and was heard of a moment ago"
	case block.StatusDraining:
		return "requests of the previous session of " + nexus + " are still being executed"
	case block.StatusBusy:
		return "the target has no credit left for another session"
	}
	return ""
}

func (c *conn) answerLogin(st block.Status, text string) {
	r := wire.LoginResponse{Version: wire.VersionMax, Target: c.t.id, Instance: c.t.instance,
		MaxPayload: wire.MaxPayload, Text: []byte(text)}
	if st == block.StatusOK {
		r.Session, r.Slots = c.s.ID, uint32(c.s.Len())
		r.Window, r.Grant = c.s.Window.Get()
		if c.digest {
			r.Features |= wire.FeatureDigest
		}
		if c.reserve {
			r.Features |= wire.FeatureReserve
		}
	}
	transport.Send(c.nc, wire.Header{Kind: wire.KindLoginResponse, Status: st}, r.Append(nil), true)
}

// MaxControls is the number of control sessions of a target.
const MaxControls = 256

// admitControl makes a control session, which lives as long as c.
func (c *conn) admitControl(nexus string) (block.Status, string) {
	if !c.reserve {
		return block.StatusUnsupported, "a control session needs the feature of reservations"
	}
	t := c.t
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.controls >= MaxControls {
		return block.StatusBusy, "there are too many control sessions"
	}
	t.controls++
	s := &sess{Session: session.NewControl(nexus, netio.Now()), t: t, quit: make(chan struct{}), control: true}
	s.rights.Store(true)
	s.handles.Store(&[]*handle{})
	t.sess[s.Session] = s
	c.path, _ = s.AddPath() // the first one
	c.s = s
	return block.StatusOK, ""
}

// endControl ends a control session with its connection.
func (t *Target) endControl(s *sess) {
	if !s.control {
		return
	}
	s.Leave()
	s.giveUp()
	t.mu.Lock()
	t.controls--
	t.mu.Unlock()
}
