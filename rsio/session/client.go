// SPDX-License-Identifier: Apache-2.0

package session

import (
	"sync"
	"time"

	"rsio/rsio/block"
	"rsio/rsio/netio"
	"rsio/rsio/wire"
)

// Port is one connection of the session as Client sees it. Send, Unlink and
// Close do not block and do not call back into Client, except that Send and
// Close may lead to Copy.Sent on another goroutine or after they returned.
type Port interface {
	Send(o *netio.Out) bool // false: the connection has ended, o was not taken
	Unlink(o *netio.Out) netio.Withdrawn
	Flush(more bool)      // more: frames are likely to follow soon
	Close(reason error)   // PathDown follows when nothing is touched any more
	Heard() time.Duration // when bytes last arrived
	Silent() bool         // nothing waits in the socket to be read
}

// Timing of path supervision (docs/protocol.md section 5.5).
const (
	TickEvery    = 50 * time.Millisecond
	PingEvery    = 250 * time.Millisecond
	SuspectAfter = 750 * time.Millisecond // of silence: requests go elsewhere
	CloseAfter   = 5 * time.Second        // of silence: the path is closed
	TickGap      = 4 * TickEvery          // longer means that we slept: timers start anew
)

// Limits of resending while the old path is still open.
const (
	resendShare = 4       // at most 1/resendShare of all bytes
	resendBurst = 8 << 20 // bytes on top
	maxCopies   = 4       // copies of one request that connections may hold
)

// Events is told what somebody may have to know. It is called without locks.
type Events interface {
	Event(level, object, text string)
	// VolumeChanged is called when size or state of a volume changed.
	VolumeChanged(v *Volume)
}

// Config is what a Client needs to know.
type Config struct {
	Nexus  string
	Secret wire.Secret   // of this nexus at this target
	Serial func() uint64 // grows with each call, over restarts too: wire.Login.Serial
	Target string        // name, for events
	Events Events
	Now    func() time.Duration // the clock of Port.Heard
}

// Client is the initiator's side of one session: all paths from one nexus to
// one target.
type Client struct {
	cfg Config
	mu  sync.Mutex

	slots   []cslot
	free    []uint32 // data slots
	freeCtl []uint32 // control slots
	paths   []*Path
	volumes []*Volume
	leaving []*Volume // closed here, but not yet at the target
	next    int       // volume to serve first, round robin
	ctl     []*Control

	sess    Established
	digest  bool
	reserve bool   // FeatureReserve is on
	up      bool   // a session is established
	logging bool   // a LoginNew is under way
	why     string // it failed
	usurped bool   // another initiator has taken the nexus over: final
	failed  block.Status
	failing bool

	window   uint64 // bytes of credit adopted
	grant    uint32 // its number
	pending  uint64 // a smaller window to adopt when less is in flight
	pendNum  uint32
	inflight uint64 // bytes of credit in use, ghosts included
	waiting  uint64 // bytes of credit that waiting requests will need
	busy     int    // data slots in use
	queued   int    // copies in state copyQueued
	lacking  uint64 // bytes of credit that something waited for
	stranded bool   // a request in a slot may be without a path
	none     block.Queue

	sentBytes   uint64
	resentBytes uint64
	lastTick    time.Duration
	silentAll   bool          // all paths lost was reported
	lostAt      time.Duration // when the last path was lost, 0 while there is one
	inline      block.Finisher
}

// Established is what a login that made a session returned.
type Established struct {
	Target     wire.ID
	Instance   wire.ID
	Session    wire.ID
	Slots      uint32
	Window     uint32
	Grant      uint32
	Features   uint64
	MaxPayload uint32
}

// NewClient returns a client without a session.
func NewClient(cfg Config) *Client { return &Client{cfg: cfg, lostAt: cfg.Now()} }

// cslot is a slot at the initiator.
type cslot struct {
	seq      uint64
	req      *block.Request // nil: free, or control
	ctl      *Control
	vol      *Volume
	replay   bool
	status   block.Status
	answered bool
	receiver *Path // reads a payload into req.Buf
	ackMark  uint64
	started  time.Duration
	copies   [maxCopies]Copy
}

func (s *cslot) idle() bool { return s.req == nil && s.ctl == nil }

// copyState says where a copy of a request is.
type copyState uint8

const (
	copyFree   copyState = iota
	copyQueued           // being built, or the connection has it; Sent will be called
	copySent             // the kernel has all of it
)

// Copy is one frame of a request on one path. It is the owner of its Out.
type Copy struct {
	out    netio.Out
	client *Client
	home   *cslot
	path   *Path
	slot   uint32
	seq    uint64
	cost   uint32
	want   uint32 // credit asked for when it was started
	grant  uint32
	digest bool
	right  bool // FeatureReserve: it carries one
	state  copyState
	orphan bool // its request was answered; only the connection still holds it
	resent bool
	sentAt time.Duration
	next   *Copy // in effects
}

// effects are done after c.mu is released.
type effects struct {
	done  block.Queue // requests to complete
	send  *Copy       // frames to build and queue, newest first
	last  *Copy
	flush [4]*Path // the first; no slice of it, that would move effects to the heap
	paths int
	rest  []*Path // with more paths than that
	ctl   *Control
	evs   []event
	vols  []*Volume
	more  bool
}

type event struct{ level, object, text string }

func (fx *effects) event(level, object, text string) {
	fx.evs = append(fx.evs, event{level, object, text})
}

func (fx *effects) touch(p *Path) {
	for i := range fx.paths {
		if fx.flush[i] == p {
			return
		}
	}
	if fx.paths < len(fx.flush) {
		fx.flush[fx.paths] = p
		fx.paths++
	} else {
		fx.rest = append(fx.rest, p)
	}
}

// run does the effects. c.mu is not held.
func (c *Client) run(fx *effects) {
	// First, because what is sent now may be acknowledged at once, and the
	// incarnation it belongs to must be on record by then.
	for _, v := range fx.vols {
		c.cfg.Events.VolumeChanged(v)
	}
	for cp := fx.send; cp != nil; {
		next := cp.next
		cp.next = nil
		c.emit(cp, cp.home)
		cp = next
	}
	for i := range fx.paths {
		fx.flush[i].port.Flush(fx.more)
	}
	for _, p := range fx.rest {
		p.port.Flush(fx.more)
	}
	for _, e := range fx.evs {
		c.cfg.Events.Event(e.level, e.object, e.text)
	}
	for r := fx.done.Pop(); r != nil; r = fx.done.Pop() {
		r.Done.Complete(r)
	}
	for ct := fx.ctl; ct != nil; {
		next := ct.next
		ct.next = nil
		ct.Done(ct)
		ct = next
	}
}

// unlock releases c.mu and does the effects.
func (c *Client) unlock(fx *effects) {
	fx.more = c.busy > 1
	c.mu.Unlock()
	c.run(fx)
}

// finish hands r to its owner after the lock is released.
func (fx *effects) finish(r *block.Request, st block.Status) {
	r.Status = st
	fx.done.Push(r)
}

func (fx *effects) finishCtl(ct *Control, st block.Status) {
	ct.Status = st
	ct.next = fx.ctl
	fx.ctl = ct
}

// Session returns what the last login that made a session returned.
func (c *Client) Session() (Established, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sess, c.up
}

// Why returns the reason that GiveUp was given.
func (c *Client) Why() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.why
}

// Parked returns for how long there has been no path.
func (c *Client) Parked() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lostAt == 0 {
		return 0
	}
	return c.cfg.Now() - c.lostAt
}

// Close waits for completions that are still being delivered. Nothing may be
// submitted any more.
func (c *Client) Close() { c.inline.Close() }

// Failed returns why the session was given up, StatusOK if it was not.
func (c *Client) Failed() block.Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failed
}

// Quiet reports whether no connection holds anything of the session: only then
// may Begin be called.
func (c *Client) Quiet() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.quiet()
}

func (c *Client) quiet() bool { return len(c.paths) == 0 && c.queued == 0 }

// Begin starts a new session after a login with LoginNew; the client must be
// Quiet. What was in flight is sent again as the answers to opening the
// volumes anew allow.
func (c *Client) Begin(e Established) {
	var fx effects
	c.mu.Lock()
	if !c.quiet() {
		panic("session: Begin while connections of the old session are in use")
	}
	c.dropSlots(&fx)
	c.dropControls(&fx)
	c.sess, c.up, c.failed, c.failing = e, true, block.StatusOK, false
	c.digest, c.reserve = e.Features&wire.FeatureDigest != 0, e.Features&wire.FeatureReserve != 0
	c.window, c.grant, c.pending = uint64(e.Window), e.Grant, 0
	c.inflight, c.busy, c.lostAt = 0, 0, c.cfg.Now()
	c.slots = make([]cslot, e.Slots)
	c.free, c.freeCtl = c.free[:0], c.freeCtl[:0]
	for i := int(e.Slots) - 1; i >= 0; i-- {
		if i < wire.ControlSlots {
			c.freeCtl = append(c.freeCtl, uint32(i))
		} else {
			c.free = append(c.free, uint32(i))
		}
		for k := range c.slots[i].copies {
			cp := &c.slots[i].copies[k]
			cp.client, cp.home, cp.slot, cp.out.Owner = c, &c.slots[i], uint32(i), cp
		}
	}
	c.leave(&fx)
	for _, v := range c.volumes {
		c.reopen(v, &fx)
	}
	c.unlock(&fx)
}

// dropSlots moves what the old session had in flight to the volumes' replay
// queues and ends control operations, whose outcome nobody knows.
func (c *Client) dropSlots(fx *effects) {
	for i := range c.slots {
		sl := &c.slots[i]
		switch {
		case sl.ctl != nil:
			fx.finishCtl(sl.ctl, block.StatusUnknown)
		case sl.req != nil && sl.answered:
			c.settle(sl, fx)
		// A compare-and-write is never sent again after a restart: if it had
		// executed, it would find its own work and report a miscompare. Who
		// asked for it reads back.
		case sl.req != nil && (sl.vol.state == volClosed || sl.req.Op == block.OpCompareAndWrite):
			sl.vol.inflight--
			fx.finish(sl.req, block.StatusUnknown)
		case sl.req != nil:
			c.push(&sl.vol.replay, sl.req)
			sl.vol.inflight--
		}
		sl.req, sl.ctl = nil, nil
	}
	c.up = false
}

// dropControls ends what waits to be sent and names a handle, or would make
// one, of the old session: in the new one the handle may be another volume's.
// The interleaving: a reclaim waits for a path, the target restarts, the
// volume is opened anew, then the reclaim arrives and ends the right to replay.
func (c *Client) dropControls(fx *effects) {
	kept := c.ctl[:0]
	for _, ct := range c.ctl {
		if ct.Op == wire.OpAdmin || ct.Op == wire.OpLogout {
			kept = append(kept, ct)
		} else {
			fx.finishCtl(ct, block.StatusUnknown)
		}
	}
	c.ctl = kept
}

// GiveUp fails the whole session: everything in flight and waiting ends in
// StatusUnknown or st once no connection holds a buffer any more, everything
// that comes later in st, until Begin.
func (c *Client) GiveUp(st block.Status, why string) {
	var fx effects
	c.mu.Lock()
	if c.failed == block.StatusOK {
		c.failed, c.failing, c.why = st, true, why
		level := "error"
		if st == block.StatusClosed && !c.usurped {
			level = "info" // an orderly end
		}
		fx.event(level, c.cfg.Target, "session of "+c.cfg.Nexus+" given up: "+why)
		for _, p := range c.paths {
			p.close(block.StatusClosed)
		}
		c.failAll(&fx)
	}
	c.unlock(&fx)
}

// failAll ends everything once the last path is gone.
func (c *Client) failAll(fx *effects) {
	if !c.quiet() || !c.failing {
		return
	}
	c.failing = false
	c.dropSlots(fx)
	c.slots, c.free, c.freeCtl = nil, c.free[:0], c.freeCtl[:0]
	c.inflight, c.busy = 0, 0
	for _, ct := range c.ctl {
		fx.finishCtl(ct, c.failed)
	}
	c.ctl = nil
	c.leave(fx)
	for _, v := range c.volumes {
		c.failVolume(v, c.failed, fx)
	}
}

// failVolume ends all requests of v.
func (c *Client) failVolume(v *Volume, st block.Status, fx *effects) {
	for r := c.pop(&v.replay); r != nil; r = c.pop(&v.replay) {
		fx.finish(r, block.StatusUnknown)
	}
	for r := c.pop(&v.wait); r != nil; r = c.pop(&v.wait) {
		fx.finish(r, st)
	}
	if v.state != volClosed {
		v.state, v.fail = volFailed, st
	}
	fx.vols = append(fx.vols, v)
}
