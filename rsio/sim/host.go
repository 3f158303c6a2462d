// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"encoding/binary"
	"fmt"
	"time"

	"rsio/rsio/block"
	"rsio/rsio/session"
	"rsio/rsio/wire"
)

// host is an initiator with callers: the real session.Client over simulated
// connections.
type host struct {
	w           *World
	name        string
	life        int // number of this process
	alive       bool
	frozen      bool
	client      *session.Client
	vol         *session.Volume
	paths       []*hostPath
	outstanding int
	depth       int
	secret      wire.Secret
	logins      uint64
	incarnation uint64 // kept over kill -9
	stop        bool
}

// hostPath is a configured path: at most one connection at a time.
type hostPath struct {
	h     *host
	no    int
	link  *link
	c     *conn
	login wire.Login
	path  *session.Path
}

func newHost(w *World, name string, paths int) *host {
	h := &host{w: w, name: name, depth: 1 + w.rng.IntN(10)}
	for i := range paths {
		h.paths = append(h.paths, &hostPath{h: h, no: i, link: &link{}})
	}
	_, _ = rngReader{w}.Read(h.secret[:]) // cannot fail
	return h
}

func (h *host) describe() string {
	st, _, _ := h.vol.State()
	in, wait := h.vol.Load()
	return fmt.Sprintf("volume %s, %d in flight, %d waiting, paths %+v, flying %+v", st, in, wait, h.client.Paths(), h.client.InFlight())
}

// Event and VolumeChanged make host the session's Events.
func (h *host) Event(level, object, text string) {
	h.w.trace("%s: %s %s: %s", h.name, level, object, text)
}

// VolumeChanged keeps what a successor must know.
func (h *host) VolumeChanged(v *session.Volume) {
	h.incarnation = v.Incarnation()
	h.w.trace("%s vouched %d life %d", h.name, h.incarnation, h.life)
}

// start starts the initiator's process.
func (h *host) start() {
	h.life++
	h.alive, h.frozen, h.outstanding = true, false, 0
	h.client = session.NewClient(session.Config{Nexus: h.name, Secret: h.secret, Serial: h.serial, Target: "t", Events: h,
		Now: func() time.Duration { return h.w.now }})
	h.vol = h.client.OpenVolume("default", "v", false, h.incarnation, h)
	for _, hp := range h.paths {
		hp.c, hp.path = nil, nil
		h.later(h.w.between(0, 5*time.Millisecond), hp.dial)
	}
	h.tick()
	for range h.depth {
		h.later(h.w.between(0, 10*time.Millisecond), h.issue)
	}
}

// later runs fn in this life of the process, when it is not frozen.
func (h *host) later(d time.Duration, fn func()) {
	life := h.life
	var try func()
	try = func() {
		switch {
		case h.life != life || !h.alive:
		case h.frozen:
			h.w.after(5*time.Millisecond, try)
		default:
			fn()
		}
	}
	h.w.after(d, try)
}

// serial counts the logins over all lives.
func (h *host) serial() uint64 {
	h.logins++
	return h.logins
}

func (h *host) tick() {
	h.client.Tick()
	h.later(session.TickEvery, h.tick)
}

// dial tries to connect.
func (hp *hostPath) dial() {
	h, w := hp.h, hp.h.w
	if hp.c != nil {
		return
	}
	if !w.server.up || hp.link.heldUp || hp.link.heldDown || w.server.frozen {
		h.later(w.between(10*time.Millisecond, 200*time.Millisecond), hp.dial)
		return
	}
	l, ok := h.client.LoginFor()
	if !ok {
		h.later(w.between(time.Millisecond, 20*time.Millisecond), hp.dial)
		return
	}
	c := &conn{w: w, host: h, run: w.server.run, link: hp.link}
	c.port = &port{c: c, heard: w.now}
	w.server.conns = append(w.server.conns, c)
	hp.c, hp.login = c, l
	hd := wire.Header{Kind: wire.KindLogin}
	payload := l.Append(nil)
	hd.PayloadLen, hd.PayloadCRC = uint32(len(payload)), wire.Digest(payload)
	data := make([]byte, wire.HeaderLen)
	hd.Put(data, true)
	c.push(&c.toSrv, append(data, payload...), false)
	h.later(time.Second, func() { // handshake deadline
		if hp.c == c && hp.path == nil {
			hp.abort()
		}
	})
}

// abort gives a connection up whose login was not answered.
func (hp *hostPath) abort() {
	hp.h.client.LoginAborted(&hp.login)
	hp.c.closeCli()
	hp.c = nil
	hp.h.later(hp.h.w.between(10*time.Millisecond, 200*time.Millisecond), hp.dial)
}

func (h *host) pathOf(c *conn) *hostPath {
	for _, hp := range h.paths {
		if hp.c == c {
			return hp
		}
	}
	return nil
}

// receive takes a frame from the network.
func (h *host) receive(c *conn, f frame) {
	hp := h.pathOf(c)
	if hp == nil || !h.alive || c.cliEnd {
		return
	}
	c.port.heard = h.w.now
	if f.end {
		if hp.path == nil {
			hp.abort()
		} else {
			c.port.Close(errEOF)
		}
		return
	}
	var hd wire.Header
	if err := hd.Parse(f.data, true); err != nil {
		h.w.fail("initiator: %v", err)
		return
	}
	payload := f.data[wire.HeaderLen:]
	switch hd.Kind {
	case wire.KindLoginResponse:
		hp.answered(&hd, payload)
	case wire.KindPong:
		h.client.Pong(hp.path, &hd)
	case wire.KindResponse:
		h.response(hp, &hd, payload)
	}
}

// response delivers an answer at once or, sometimes, in two halves.
func (h *host) response(hp *hostPath, hd *wire.Header, payload []byte) {
	p, c := hp.path, hp.c
	if len(payload) == 0 || hd.Op != block.OpRead || !h.w.chance(4) {
		if err := h.client.Reply(p, hd, payload); err != nil {
			h.w.fail("initiator: %v", err)
		}
		return
	}
	dst, err := h.client.BeginReply(p, hd)
	if err != nil {
		h.w.fail("initiator: %v", err)
	}
	if dst == nil {
		return
	}
	half := len(payload) / 2
	copy(dst, payload[:half])
	took := h.w.between(0, 50*time.Microsecond)
	if h.w.chance(4) {
		took = h.w.between(0, 2*time.Second)
	}
	c.port.receiving = true
	h.later(took, func() {
		c.port.receiving = false
		if c.port.closed {
			h.client.EndReply(p, hd, false)
			c.port.downIfDue()
			return
		}
		copy(dst[half:], payload[half:])
		h.client.EndReply(p, hd, true)
	})
}

func (hp *hostPath) answered(hd *wire.Header, payload []byte) {
	h, w := hp.h, hp.h.w
	var r wire.LoginResponse
	if err := r.Parse(payload); err != nil {
		w.fail("initiator: login response: %v", err)
		return
	}
	switch next := h.client.LoginDone(&hp.login, hd.Status, &r); next {
	case session.NextUse:
		if hp.path = h.client.PathUp(fmt.Sprintf("%s/%d", h.name, hp.no), hp.c.port, r.Session); hp.path != nil {
			return
		}
		fallthrough
	case session.NextSoon, session.NextLater:
		hp.c.closeCli()
		hp.c = nil
		h.later(w.between(5*time.Millisecond, 60*time.Millisecond), hp.dial)
	case session.NextNever:
		hp.c.closeCli()
		hp.c = nil
	}
}

// portDown is called when the initiator's end has been closed: everything is
// let go, then the path is down.
func (h *host) portDown(p *port) {
	hp := h.pathOf(p.c)
	if hp == nil || p.receiving {
		return
	}
	path := hp.path
	hp.c, hp.path = nil, nil
	p.letGo()
	h.w.hist.result.Cuts++
	if path != nil {
		h.client.PathDown(path, p.reason)
	}
	h.later(h.w.between(time.Millisecond, 200*time.Millisecond), hp.dial)
}

func (p *port) downIfDue() { p.c.host.portDown(p) }

// kill is kill -9 of the initiator: its callers' requests have no end yet.
func (h *host) kill() {
	h.alive = false
	for _, hp := range h.paths {
		if hp.c != nil {
			hp.c.port.closed = true
			hp.c.port.queue, hp.c.port.sending = nil, nil
			hp.c.closeCli()
			hp.c = nil
		}
	}
	h.w.hist.died(h.name)
	h.w.trace("%s killed", h.name)
}

// call is a caller's request.
type call struct {
	h   *host
	req block.Request
	op  *op
}

// issue submits one random request; its completion issues the next.
func (h *host) issue() {
	if h.stop {
		return
	}
	w := h.w
	b := w.rng.IntN(nBlocks)
	ca := &call{h: h}
	ca.req = block.Request{Done: ca, Off: uint64(b) * blockLen, Len: blockLen, Buf: make([]byte, blockLen), Nexus: h.name}
	switch k := w.rng.IntN(20); {
	case k < 10:
		ca.req.Op = block.OpWrite
		if w.chance(8) {
			ca.req.Flags = block.FlagFUA
		}
	case k < 18:
		ca.req.Op = block.OpRead
	default:
		ca.req.Op, ca.req.Off, ca.req.Len, ca.req.Buf = block.OpFlush, 0, 0, nil
	}
	ca.op = w.hist.begin(h.name, &ca.req, b)
	if ca.req.Op == block.OpWrite {
		binary.BigEndian.PutUint64(ca.req.Buf, ca.op.id)
	}
	h.outstanding++
	h.vol.Submit(&ca.req)
}

// Complete takes the end of the request.
func (ca *call) Complete(r *block.Request) {
	h := ca.h
	h.outstanding--
	value := uint64(0)
	if r.Op == block.OpRead {
		value = binary.BigEndian.Uint64(r.Buf)
	}
	h.w.hist.end(ca.op, r.Status, value)
	if r.Op == block.OpWrite {
		clear(r.Buf) // the buffer is the caller's again
	}
	pause := h.w.between(0, 2*time.Millisecond)
	if h.w.chance(20) {
		pause = h.w.between(0, 200*time.Millisecond)
	}
	h.later(pause, h.issue)
}

type simError string

func (e simError) Error() string { return string(e) }

const errEOF = simError("end of stream")
