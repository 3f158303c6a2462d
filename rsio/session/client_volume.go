// SPDX-License-Identifier: Apache-2.0

package session

import (
	"fmt"
	"slices"
	"time"

	"rsio/rsio/block"
	"rsio/rsio/wire"
)

// Control is one control operation: opening a volume, a call of the control
// API. Done is called once, without locks.
type Control struct {
	Op      block.Op
	Volume  uint32
	Payload []byte // owned by the Control until Done
	Reply   []byte
	Status  block.Status
	Done    func(*Control)
	next    *Control
}

// Control queues a control operation. It is not sent again after a restart of
// the target: then it ends in StatusUnknown.
func (c *Client) Control(ct *Control) {
	var fx effects
	c.mu.Lock()
	if c.failed != block.StatusOK {
		fx.finishCtl(ct, c.failed)
	} else {
		c.ctl = append(c.ctl, ct)
		c.pump(&fx)
	}
	c.unlock(&fx)
}

// Cancel ends a control operation that has not been sent in StatusTimeout. One
// that was sent ends with its answer.
func (c *Client) Cancel(ct *Control) {
	var fx effects
	c.mu.Lock()
	if i := slices.Index(c.ctl, ct); i >= 0 {
		c.ctl = slices.Delete(c.ctl, i, i+1)
		fx.finishCtl(ct, block.StatusTimeout)
	}
	c.unlock(&fx)
}

type volState uint8

const (
	volOpening volState = iota // not open in this session yet
	volReplay                  // what was in flight is being sent again
	volReclaim                 // waiting for the target to let everybody go on
	volReady
	volFailed
	volClosed
)

// VolState names the state of a volume for lists.
var volStateNames = [...]string{"opening", "replaying", "waiting for other writers", "ok", "failed", "closed"}

// Volume is one open volume of the session.
type Volume struct {
	client    *Client
	owner     any
	namespace string
	name      string
	readOnly  bool

	state  volState
	fail   block.Status
	opened bool // was open in some session
	handle uint32
	info   block.Info

	wait     block.Queue // not started
	replay   block.Queue // in flight when the last session ended
	inflight int         // slots in use

	incarnation uint64
	vouched     uint64 // the last incarnation whose losses were reported
	acked       uint64 // writes acknowledged that a flush must still cover
	durable     uint64 // of these, covered by a good flush
	stats       Stats
	opening     *Control           // under way or waiting to be sent
	closed      func(block.Status) // of CloseVolume, until it is called
	told        bool               // the target, of the end
	lost        bool               // the next flush must fail
	late        bool               // writes in flight may not be sent again
	rights      rights
}

// OpenVolume adds a volume; it is opened at once or when a session begins.
// Events.VolumeChanged tells of the outcome; requests may be submitted before.
// A successor of a process that died gives the incarnation that its
// predecessor last knew (0: none): what that one had acknowledged and not
// flushed is unknown to us, and if the incarnation has changed since, the
// first flush must fail. Owner is what Volume.Owner returns.
func (c *Client) OpenVolume(namespace, name string, readOnly bool, incarnation uint64, owner any) *Volume {
	var fx effects
	c.mu.Lock()
	v := &Volume{client: c, namespace: namespace, name: name, readOnly: readOnly, incarnation: incarnation, vouched: incarnation, owner: owner}
	if incarnation != 0 {
		v.acked = 1
	}
	c.volumes = append(c.volumes, v)
	if c.failed != block.StatusOK {
		v.state, v.fail = volFailed, c.failed
		fx.vols = append(fx.vols, v)
	} else if c.up {
		c.reopen(v, &fx)
	}
	c.unlock(&fx)
	return v
}

// Owner returns what OpenVolume was given.
func (v *Volume) Owner() any { return v.owner }

// Name returns NAMESPACE/VOLUME.
func (v *Volume) Name() string { return v.namespace + "/" + v.name }

// State returns the volume's state in words, its Info and, if it failed, why.
func (v *Volume) State() (string, block.Info, block.Status) {
	c := v.client
	c.mu.Lock()
	defer c.mu.Unlock()
	info := v.info
	info.Right = v.rights.number
	return volStateNames[v.state], info, v.fail
}

// Incarnation returns the last one whose losses, if any, a failed flush has
// reported; 0 if the volume was never open. It is kept for a successor before
// VolumeChanged returns.
func (v *Volume) Incarnation() uint64 {
	v.client.mu.Lock()
	defer v.client.mu.Unlock()
	return v.vouched
}

// Ready reports whether requests reach the target, as far as paths allow.
func (v *Volume) Ready() bool {
	v.client.mu.Lock()
	defer v.client.mu.Unlock()
	return v.state == volReady
}

// Load returns how many requests of the volume are in flight and how many
// wait.
func (v *Volume) Load() (inflight, waiting int) {
	v.client.mu.Lock()
	defer v.client.mu.Unlock()
	return v.inflight, v.wait.Len() + v.replay.Len()
}

// Submit starts or queues r, which was checked at the edge.
func (v *Volume) Submit(r *block.Request) {
	c := v.client
	var fx effects
	c.mu.Lock()
	if v.state == volFailed || v.state == volClosed {
		st := v.fail
		if v.state == volClosed {
			st = block.StatusClosed
		}
		c.mu.Unlock()
		c.inline.Finish(r, st) // the caller may submit again from its completion
		return
	}
	if !c.allowed(v, r) {
		v.stats.count(r, block.StatusConflict, 0)
		c.mu.Unlock()
		c.inline.Finish(r, block.StatusConflict)
		return
	}
	c.push(&v.wait, r)
	c.pump(&fx)
	c.unlock(&fx)
}

// current reports whether v.handle is a handle of the present session.
func (v *Volume) current() bool {
	return v.client.up && (v.state == volReplay || v.state == volReclaim || v.state == volReady)
}

// runnable is the queue that requests of v may be started from now.
func (v *Volume) runnable() *block.Queue {
	switch v.state {
	case volReady:
		return &v.wait
	case volReplay:
		return &v.replay
	}
	return &v.client.none
}

// push and pop keep the books of the credit that waiting requests will need.
func (c *Client) push(q *block.Queue, r *block.Request) {
	q.Push(r)
	c.waiting += uint64(wire.Cost(r.Op, r.Len))
}

func (c *Client) pop(q *block.Queue) *block.Request {
	r := q.Pop()
	if r != nil {
		c.waiting -= uint64(wire.Cost(r.Op, r.Len))
	}
	return r
}

// reopen opens v in the present session. c.mu is held.
func (c *Client) reopen(v *Volume, fx *effects) {
	if v.state == volClosed {
		return
	}
	v.state, v.opening = volOpening, nil
	for _, q := range c.leaving {
		if q.Name() == v.Name() {
			return // its close and this open must not meet at the target: gone opens v
		}
	}
	o := wire.Open{Namespace: []byte(v.namespace), Volume: []byte(v.name)}
	if v.readOnly {
		o.Flags |= wire.OpenReadOnly
	}
	if v.opened {
		o.Flags |= wire.OpenRecover
	}
	sess := c.sess.Session
	v.opening = &Control{Op: wire.OpOpen, Payload: o.Append(nil), Done: func(ct *Control) {
		v.openDone(ct, sess)
	}}
	c.ctl = append(c.ctl, v.opening)
	c.pump(fx)
}

// openDone takes the answer to an open.
func (v *Volume) openDone(ct *Control, sess wire.ID) {
	c := v.client
	var fx effects
	c.mu.Lock()
	if c.sess.Session == sess && v.opening == ct && ct.Status != block.StatusUnknown {
		v.opening = nil
		var o wire.OpenResponse
		switch {
		case v.state == volOpening:
			c.opened(v, ct, &fx)
		case v.state == volClosed && ct.Status == block.StatusOK && o.Parse(ct.Reply) == nil:
			v.handle = o.Handle
			c.tellClosed(v)
			c.pump(&fx)
		case v.state == volClosed:
			c.gone(v, block.StatusOK, &fx)
		}
	}
	c.unlock(&fx)
}

func (c *Client) opened(v *Volume, ct *Control, fx *effects) {
	var o wire.OpenResponse
	if ct.Status == block.StatusOK && o.Parse(ct.Reply) != nil {
		ct.Status = block.StatusProtocol
	}
	if ct.Status != block.StatusOK {
		fx.event("error", v.Name(), "cannot be opened at "+c.cfg.Target+": "+ct.Status.Error())
		c.failVolume(v, ct.Status, fx)
		return
	}
	v.handle, v.info, v.state, v.late = o.Handle, o.Info, volReplay, o.Replay != wire.ReplayAllowed
	if v.incarnation != 0 && v.incarnation != o.Incarnation && v.acked > v.durable {
		v.lost = true
		fx.event("error", v.Name(), fmt.Sprintf("the target lost memory with up to %d acknowledged writes that no flush had covered; the next flush fails", v.acked-v.durable))
	}
	v.opened, v.incarnation = true, o.Incarnation
	c.righted(v, o.Right, o.Access, fx)
	if !v.lost {
		v.vouched = o.Incarnation
	}
	c.sortReplay(v, fx)
	fx.vols = append(fx.vols, v)
	c.afterReplay(v, fx)
	c.pump(fx)
}

// sortReplay ends what may not be sent again: writes if others went on without
// us, flushes if data they cover may be gone.
func (c *Client) sortReplay(v *Volume, fx *effects) {
	q := v.replay.Take()
	told := false
	for r := c.pop(&q); r != nil; r = c.pop(&q) {
		switch {
		case r.Op.Changes() && v.late:
			fx.finish(r, block.StatusUnknown)
			fx.event("error", v.Name(), fmt.Sprintf("%s of %d bytes at %d was in flight when the target restarted and came back too late: outcome unknown", r.Op, r.Len, r.Off))
		case r.Op == block.OpFlush && v.lost:
			fx.finish(r, block.StatusLost)
			told = true
		default:
			c.push(&v.replay, r)
		}
	}
	if told {
		c.reported(v, fx)
	}
}

// reported notes that a failed flush has reported the loss. Those that wait
// were submitted before anybody knew, perhaps by somebody else: they fail too.
func (c *Client) reported(v *Volume, fx *effects) {
	v.lost, v.durable, v.vouched = false, v.acked, v.incarnation
	fx.vols = append(fx.vols, v)
	q := v.wait.Take()
	for r := c.pop(&q); r != nil; r = c.pop(&q) {
		if r.Op == block.OpFlush {
			fx.finish(r, block.StatusLost)
		} else {
			c.push(&v.wait, r)
		}
	}
}

// afterReplay tells the target that all has been sent again, once it has.
func (c *Client) afterReplay(v *Volume, fx *effects) {
	if v.state != volReplay || v.replay.Len() > 0 || v.inflight > 0 {
		return
	}
	v.state = volReclaim
	sess := c.sess.Session
	c.ctl = append(c.ctl, &Control{Op: wire.OpReclaim, Volume: v.handle, Done: func(ct *Control) {
		v.reclaimDone(ct, sess)
	}})
}

func (v *Volume) reclaimDone(ct *Control, sess wire.ID) {
	c := v.client
	var fx effects
	c.mu.Lock()
	if c.sess.Session == sess && v.state == volReclaim && ct.Status != block.StatusUnknown {
		if ct.Status == block.StatusOK {
			v.state = volReady
		} else {
			c.failVolume(v, ct.Status, &fx)
		}
		fx.vols = append(fx.vols, v)
		c.pump(&fx)
	}
	c.unlock(&fx)
}

// Resized takes the target's word about a volume's new size.
func (c *Client) Resized(handle uint32, size uint64) {
	var fx effects
	c.mu.Lock()
	for _, v := range c.volumes {
		if v.handle == handle && v.current() && v.info.Size != size {
			v.info.Size = size
			fx.vols = append(fx.vols, v)
			fx.event("info", v.Name(), fmt.Sprintf("has %d bytes now", size))
		}
	}
	c.unlock(&fx)
}

// Gone takes the target's word that a volume was deleted.
func (c *Client) Gone(handle uint32) {
	var fx effects
	c.mu.Lock()
	for _, v := range c.volumes {
		if v.handle == handle && v.current() {
			fx.event("error", v.Name(), "was deleted at "+c.cfg.Target)
			c.failVolume(v, block.StatusNotFound, &fx)
		}
	}
	c.unlock(&fx)
}

// CloseVolume takes v out of the session; done is called with the target's
// answer, at once if there is no session to tell: with StatusUnknown if the
// target may keep the nexus on record as a writer. Without force it refuses,
// with StatusInUse, while requests are in flight or wait. With force those that
// wait end in StatusClosed, or StatusUnknown if they had been in flight before
// a restart; those in flight end with their answer or with the session, and are
// not sent again after a restart.
func (c *Client) CloseVolume(v *Volume, force bool, done func(block.Status)) {
	var fx effects
	c.mu.Lock()
	if !force && (v.inflight > 0 || v.wait.Len() > 0 || v.replay.Len() > 0) {
		c.mu.Unlock()
		done(block.StatusInUse)
		return
	}
	tell, st := v.current() && c.failed == block.StatusOK, block.StatusOK
	if !tell && v.opened && v.state != volFailed && v.state != volClosed && c.failed == block.StatusOK {
		st = block.StatusUnknown
	}
	if i := slices.Index(c.ctl, v.opening); v.opening != nil && i >= 0 { // not sent
		c.ctl = slices.Delete(c.ctl, i, i+1)
		v.opening = nil
	}
	v.state, v.closed = volClosed, done
	c.failVolume(v, block.StatusClosed, &fx)
	c.volumes = slices.DeleteFunc(c.volumes, func(q *Volume) bool { return q == v })
	switch {
	case tell:
		c.leaving = append(c.leaving, v)
		if v.inflight == 0 {
			c.tellClosed(v)
			c.pump(&fx)
		}
	case v.opening != nil: // the answer will name a handle to close
		c.leaving = append(c.leaving, v)
	default:
		c.gone(v, st, &fx)
	}
	c.unlock(&fx)
}

// tellClosed closes v at the target. None of its requests is in flight: a copy
// that is sent afterwards would name a handle that is no longer v's.
func (c *Client) tellClosed(v *Volume) {
	if v.told || !slices.Contains(c.leaving, v) {
		return
	}
	v.told = true
	c.ctl = append(c.ctl, &Control{Op: wire.OpClose, Volume: v.handle, Done: func(ct *Control) {
		var fx effects
		c.mu.Lock()
		c.gone(v, ct.Status, &fx)
		c.unlock(&fx)
	}})
}

// gone ends CloseVolume and opens a volume of the same name that waited.
func (c *Client) gone(v *Volume, st block.Status, fx *effects) {
	c.leaving = slices.DeleteFunc(c.leaving, func(q *Volume) bool { return q == v })
	if done := v.closed; done != nil {
		v.closed = nil
		fx.finishCtl(&Control{Done: func(ct *Control) { done(ct.Status) }}, st)
	}
	if !c.up || c.failed != block.StatusOK {
		return
	}
	for _, q := range c.volumes {
		if q.state == volOpening && q.opening == nil && q.Name() == v.Name() {
			c.reopen(q, fx)
		}
	}
}

// leave ends what waits for the end of the old session, which is there. Closes
// that were sent or queued have been ended with its control operations.
func (c *Client) leave(fx *effects) {
	for len(c.leaving) > 0 {
		v := c.leaving[0]
		c.leaving = c.leaving[1:]
		if done := v.closed; done != nil {
			v.closed = nil
			fx.finishCtl(&Control{Done: func(ct *Control) { done(ct.Status) }}, block.StatusUnknown)
		}
	}
}

// InFlight describes one request in flight, for lists.
type InFlight struct {
	Volume string
	Op     block.Op
	Off    uint64
	Len    uint32
	Paths  string
	Age    time.Duration
}

// InFlight lists what is in flight.
func (c *Client) InFlight() []InFlight {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []InFlight
	now := c.cfg.Now()
	for i := range c.slots {
		sl := &c.slots[i]
		if sl.req == nil {
			continue
		}
		on := ""
		for k := range sl.copies {
			if cp := &sl.copies[k]; cp.state != copyFree {
				on += " " + cp.path.Name
			}
		}
		if on == "" {
			on = " parked"
		}
		out = append(out, InFlight{Volume: sl.vol.Name(), Op: sl.req.Op, Off: sl.req.Off, Len: sl.req.Len,
			Paths: on[1:], Age: now - sl.started})
	}
	return out
}

// Stats are totals of a volume since it was opened here.
type Stats struct {
	Reads, Writes, Flushes, Others, ReadBytes, WriteBytes, Errors uint64
	Conflicts                                                     uint64        // of the errors, those of a reservation
	Busy                                                          time.Duration // sum of service times
}

func (s *Stats) count(r *block.Request, st block.Status, took time.Duration) {
	switch r.Op {
	case block.OpRead:
		s.Reads++
		s.ReadBytes += uint64(r.Len)
	case block.OpWrite:
		s.Writes++
		s.WriteBytes += uint64(r.Len)
	case block.OpFlush:
		s.Flushes++
	default:
		s.Others++
	}
	switch st {
	case block.StatusOK, block.StatusMiscompare:
	case block.StatusConflict:
		s.Conflicts++
		fallthrough
	default:
		s.Errors++
	}
	s.Busy += took
}

// Stats returns the totals.
func (v *Volume) Stats() Stats {
	v.client.mu.Lock()
	defer v.client.mu.Unlock()
	return v.stats
}
