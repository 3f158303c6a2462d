// SPDX-License-Identifier: Apache-2.0

package initiator

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"rsio/rsio/block"
	"rsio/rsio/netio"
	"rsio/rsio/session"
	"rsio/rsio/transport"
	"rsio/rsio/wire"
)

// Timing of connections.
const (
	dialTimeout  = 2 * time.Second
	loginTimeout = time.Second
	backoffMin   = 10 * time.Millisecond
	backoffMax   = time.Second
)

// The states of a path, as lists show them.
const (
	stateConnecting = "connecting"
	stateUp         = "up"
	stateSuspect    = "suspect"
	stateDown       = "down"
	stateDisabled   = "disabled"
)

// path keeps one connection to one portal up, for ever. Its goroutine dials,
// logs in and then is the connection's reader.
type path struct {
	l    *link
	addr transport.Addr

	mu       sync.Mutex
	id       string
	state    string
	reason   string
	disabled bool
	failures uint64
	conn     *netio.Conn
	sp       *session.Path
	ifindex  int

	ctx  context.Context // ends with the path; for dialling only
	stop context.CancelFunc
	wake chan struct{}
}

func newPath(l *link, a transport.Addr) *path {
	p := &path{l: l, addr: a, state: stateConnecting, wake: make(chan struct{}, 1)}
	p.ctx, p.stop = context.WithCancel(l.ctx)
	l.wg.Add(1)
	go p.run()
	return p
}

func (p *path) rename(id string) {
	p.mu.Lock()
	p.id = id
	p.mu.Unlock()
}

// end stops the path; link.wg joins it.
func (p *path) end() {
	p.stop()
	p.cut(errPathRemoved)
}

// cut ends the present connection, if any.
func (p *path) cut(reason error) {
	p.mu.Lock()
	c := p.conn
	p.mu.Unlock()
	if c != nil {
		c.Close(reason)
	}
}

// enable lets the path connect, or keeps it from it.
func (p *path) enable(on bool) {
	p.mu.Lock()
	p.disabled = !on
	if !on {
		p.state, p.reason = stateDisabled, "by an administrator"
	}
	p.mu.Unlock()
	if !on {
		p.cut(errPathDisabled)
	}
	p.poke()
}

// poke ends a pause early.
func (p *path) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *path) set(state, reason string) {
	p.mu.Lock()
	if !p.disabled {
		p.state, p.reason = state, reason
	}
	p.mu.Unlock()
}

func (p *path) isDisabled() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.disabled
}

// pause waits about d, less if poked. It reports false when the path ends.
func (p *path) pause(d time.Duration) bool {
	t := time.NewTimer(d/2 + rand.N(d/2+1))
	defer t.Stop()
	select {
	case <-p.ctx.Done():
		return false
	case <-t.C:
	case <-p.wake:
	}
	return p.ctx.Err() == nil
}

// run is the path's goroutine.
func (p *path) run() {
	defer p.l.wg.Done()
	backoff := backoffMin
	for p.ctx.Err() == nil {
		if p.isDisabled() {
			p.pause(time.Hour)
			continue
		}
		next, err := p.connect()
		switch {
		case err == nil && next == session.NextUse: // was up
			backoff = backoffMin
		case next == session.NextSoon:
			backoff = backoffMin
		default:
			backoff = min(2*backoff, backoffMax)
		}
		if !p.pause(backoff) {
			return
		}
	}
}

// connect makes one connection, logs in and serves it until it ends.
func (p *path) connect() (session.Next, error) {
	p.set(stateConnecting, "")
	ctx, cancel := context.WithTimeout(p.ctx, dialTimeout)
	nc, err := transport.Dial(ctx, p.addr)
	cancel()
	if err != nil {
		p.set(stateDown, err.Error())
		return session.NextLater, err
	}
	c, err := netio.New(nc, 0, 0)
	if err != nil {
		_ = nc.Close() // it ended already
		return session.NextLater, err
	}
	p.mu.Lock()
	p.conn, p.ifindex = c, interfaceOf(nc.LocalAddr())
	p.mu.Unlock()
	if p.ctx.Err() != nil || p.isDisabled() {
		c.Close(errPathRemoved)
	}
	next, err := p.session(c)
	c.Close(err)
	c.Wait()
	p.mu.Lock()
	p.conn = nil
	p.mu.Unlock()
	if err != nil {
		p.set(stateDown, err.Error())
	}
	return next, err
}

// session logs in on c and, if that is accepted, reads until c ends.
func (p *path) session(c *netio.Conn) (session.Next, error) {
	client := p.l.client
	l, ok := client.LoginFor()
	for waited := time.Duration(0); !ok; waited += 5 * time.Millisecond {
		if waited > loginTimeout || p.ctx.Err() != nil {
			return session.NextSoon, errNotYet
		}
		time.Sleep(5 * time.Millisecond)
		l, ok = client.LoginFor()
	}
	st, r, err := exchange(c, &l)
	if err != nil {
		client.LoginAborted(&l)
		return session.NextLater, err
	}
	next := client.LoginDone(&l, st, r)
	if next != session.NextUse {
		return next, &refusal{st, string(r.Text)}
	}
	port := &port{c: c}
	sp := client.PathUp(p.name(), port, r.Session)
	if sp == nil {
		return session.NextSoon, errNotYet
	}
	p.mu.Lock()
	p.sp, p.state, p.reason = sp, stateUp, ""
	p.mu.Unlock()
	err = p.read(c, sp, r.Features)
	c.Close(err)
	c.Wait()
	if cause := c.Err(); cause != nil {
		err = cause
	}
	p.mu.Lock()
	p.sp = nil
	p.failures++
	p.mu.Unlock()
	p.set(stateDown, err.Error())
	client.PathDown(sp, err)
	return session.NextUse, nil
}

func (p *path) name() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.id
}

// exchange sends a login and reads the answer.
func exchange(c *netio.Conn, l *wire.Login) (block.Status, *wire.LoginResponse, error) {
	nc := c.NetConn()
	if err := nc.SetReadDeadline(time.Now().Add(loginTimeout)); err != nil {
		return 0, nil, err
	}
	transport.Send(c, wire.Header{Kind: wire.KindLogin}, l.Append(nil), true)
	var h wire.Header
	if err := transport.ReadHeader(c, &h, true); err != nil {
		return 0, nil, err
	}
	if h.Kind != wire.KindLoginResponse {
		return 0, nil, wire.ErrOrder
	}
	payload := make([]byte, h.PayloadLen)
	if err := transport.ReadPayload(c, &h, payload, true); err != nil {
		return 0, nil, err
	}
	r := new(wire.LoginResponse)
	if err := r.Parse(payload); err != nil {
		return 0, nil, err
	}
	if h.Status == block.StatusOK && (r.Version < wire.VersionMin || r.Version > wire.VersionMax ||
		r.Slots <= wire.ControlSlots && l.Mode != wire.LoginControl) {
		return 0, nil, wire.ErrReserved
	}
	return h.Status, r, nc.SetReadDeadline(time.Time{})
}

// read takes what the target sends until the connection ends.
func (p *path) read(c *netio.Conn, sp *session.Path, features uint64) error {
	digest := features&wire.FeatureDigest != 0
	for {
		var h wire.Header
		if err := transport.ReadHeader(c, &h, digest); err != nil {
			if err == io.EOF {
				return errEnded
			}
			return err
		}
		if h.Needs()&^features != 0 {
			return wire.ErrReserved
		}
		switch h.Kind {
		case wire.KindResponse:
			if err := p.response(c, sp, &h, digest); err != nil {
				return err
			}
		case wire.KindPong:
			p.l.client.Pong(sp, &h)
		case wire.KindEvent:
			p.event(sp, &h)
		default:
			return wire.ErrOrder
		}
	}
}

// response hands an answer to the session: small payloads from the read
// buffer, large ones straight from the socket into the request's buffer.
func (p *path) response(c *netio.Conn, sp *session.Path, h *wire.Header, digest bool) error {
	client := p.l.client
	n := int(h.PayloadLen)
	if n <= session.InlinePayload {
		if err := c.Fill(n); err != nil {
			return err
		}
		payload := c.Buffered()[:n]
		if err := transport.CheckPayload(h, payload, digest); err != nil {
			return err
		}
		err := client.Reply(sp, h, payload)
		c.Advance(n)
		return err
	}
	if h.Op != block.OpRead { // control operations: no buffer waits for them
		payload := make([]byte, n)
		if err := transport.ReadPayload(c, h, payload, digest); err != nil {
			return err
		}
		return client.Reply(sp, h, payload)
	}
	dst, err := client.BeginReply(sp, h)
	if err != nil {
		return err
	}
	if dst == nil {
		return c.Skip(n)
	}
	err = transport.ReadPayload(c, h, dst, digest)
	client.EndReply(sp, h, err == nil)
	return err
}

func (p *path) event(sp *session.Path, h *wire.Header) {
	client := p.l.client
	switch h.Op {
	case wire.EventResize:
		client.Resized(h.Volume, h.Off)
	case wire.EventGone:
		client.Gone(h.Volume)
	case wire.EventLeave:
		client.Leave(sp)
	case wire.EventRight:
		client.Righted(h)
	case wire.EventAttention:
		client.Attention(h)
	}
	client.Pong(sp, h) // every frame of the target may carry a window
}

// port is a connection as the session sees it.
type port struct {
	c *netio.Conn
}

// Send queues a frame.
func (p *port) Send(o *netio.Out) bool { return p.c.TryQueue(o) }

// Unlink takes a frame back.
func (p *port) Unlink(o *netio.Out) netio.Withdrawn { return p.c.Unlink(o) }

// Flush sends what is queued: at once if nothing else is in flight, else by
// the writer, which gathers what follows.
func (p *port) Flush(more bool) {
	if more {
		p.c.Kick()
	} else {
		p.c.Flush()
	}
}

// Close ends the connection; the reader notices. It is called under the
// session's lock.
func (p *port) Close(reason error) { p.c.Abort(reason) }

// Heard returns when bytes last arrived.
func (p *port) Heard() time.Duration { return p.c.LastRead() }

// Silent reports whether nothing waits to be read.
func (p *port) Silent() bool { return p.c.Unread() == 0 }

// refusal is a login that the target did not accept.
type refusal struct {
	status block.Status
	text   string
}

func (r *refusal) Error() string {
	if r.text != "" {
		return "login refused: " + r.text
	}
	return "login refused: " + r.status.Error()
}

// Unwrap returns the status.
func (r *refusal) Unwrap() error { return r.status }

var (
	errPathRemoved  = errors.New("the path was removed")
	errPathDisabled = errors.New("the path was disabled")
	errLinkDown     = errors.New("the network interface is down")
	errEnded        = errors.New("the target ended the connection")
	errNotYet       = errors.New("another path is making the session")
)
