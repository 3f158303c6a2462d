// SPDX-License-Identifier: Apache-2.0

package session

import (
	"fmt"
	"time"

	"rsio/rsio/block"
	"rsio/rsio/netio"
	"rsio/rsio/wire"
)

// errSilent and errTakenOver are the reasons for which the client closes a
// path on its own.
const (
	errSilent    = pathError("silent for too long")
	errTakenOver = pathError("another path took over a half-sent frame")
	errResends   = pathError("too much had to be sent again while it was silent")
)

type pathError string

func (e pathError) Error() string { return string(e) }

// Path is one connection of the session at the initiator.
type Path struct {
	Name string // for events and lists

	client *Client
	port   Port
	ping   pingOut

	up      time.Duration // when it came up
	suspect bool
	leaving bool // the target said that it will close it
	closing bool // ended, or about to; PathDown will come
	down    bool // PathDown has been here

	outstanding uint64  // bytes of credit in use on it
	ghosts      uint64  // of these: requests that another path answered
	svc         float64 // ns per outstanding byte, exponential average
	pinged      time.Duration
	pingSeq     uint64

	requests, bytes, resent uint64
}

// pingOut is the one ping frame of a path.
type pingOut struct {
	out  netio.Out
	path *Path
	busy bool
}

// Sent frees the ping frame for the next one.
func (po *pingOut) Sent(*netio.Out, error) {
	c := po.path.client
	c.mu.Lock()
	po.busy = false
	c.mu.Unlock()
}

// PathInfo is what is known of a path.
type PathInfo struct {
	Name                    string
	Suspect, Leaving        bool
	Outstanding             uint64
	Service                 time.Duration // of 4 KiB
	Requests, Bytes, Resent uint64
}

// firstService is assumed of a path that has not been measured: 50 us for
// 4 KiB.
const firstService = 50e3 / 4096

// PathUp adds a connection on which the login to the session sess was
// accepted. The caller hands it responses from now on and calls PathDown once
// when it is gone. Nil means that the session has ended since: the caller
// closes the connection.
func (c *Client) PathUp(name string, port Port, sess wire.ID) *Path {
	var fx effects
	c.mu.Lock()
	if !c.up || c.sess.Session != sess || c.failed != block.StatusOK {
		c.mu.Unlock()
		return nil
	}
	now := c.cfg.Now()
	p := &Path{Name: name, client: c, port: port, up: now, svc: firstService, pinged: now}
	p.ping.path = p
	p.ping.out.Owner = &p.ping
	for _, q := range c.paths {
		p.svc = min(p.svc, q.svc)
	}
	c.paths = append(c.paths, p)
	c.lostAt = 0
	if c.silentAll {
		c.silentAll = false
		fx.event("info", c.cfg.Target, "a path of "+c.cfg.Nexus+" is back, I/O goes on")
	}
	c.resume(&fx)
	c.unlock(&fx)
	return p
}

// PathDown removes a connection after its reader has ended and every frame
// given to it has been let go.
func (c *Client) PathDown(p *Path, reason error) {
	var fx effects
	c.mu.Lock()
	p.closing, p.down = true, true
	for i, q := range c.paths {
		if q == p {
			c.paths = append(c.paths[:i], c.paths[i+1:]...)
			break
		}
	}
	if len(c.paths) == 0 {
		c.lostAt = c.cfg.Now()
	}
	c.inflight -= p.ghosts
	p.outstanding -= p.ghosts
	p.ghosts = 0
	for i := range c.slots {
		sl := &c.slots[i]
		if sl.receiver == p {
			sl.receiver = nil
		}
		for k := range sl.copies {
			cp := &sl.copies[k]
			if cp.path == p && cp.state == copySent {
				c.uncount(cp)
				cp.state = copyFree
				p.resent++
			}
		}
		c.ensure(sl, &fx)
	}
	fx.event("warning", c.cfg.Target, fmt.Sprintf("path %s of %s lost: %v", p.Name, c.cfg.Nexus, reason))
	if len(c.paths) == 0 && c.failed == block.StatusOK && !c.silentAll {
		c.silentAll = true
		fx.event("error", c.cfg.Target, "all paths of "+c.cfg.Nexus+" are lost, I/O waits")
	}
	c.adopt()
	c.pump(&fx)
	c.failAll(&fx)
	c.unlock(&fx)
}

// resume sends what no path carries and starts what waits. c.mu is held.
func (c *Client) resume(fx *effects) {
	c.stranded = true
	c.pump(fx)
}

// choose returns the path with the least outstanding bytes weighted by its
// measured service time; not is excluded. Nil if none is fit.
func (c *Client) choose(not *Path, cost uint32) *Path {
	var best *Path
	var least float64
	for _, p := range c.paths {
		if p == not || !p.fit() {
			continue
		}
		score := float64(p.outstanding+uint64(cost)) * p.svc
		if best == nil || score < least {
			best, least = p, score
		}
	}
	return best
}

// fit reports whether new frames may go out on p.
func (p *Path) fit() bool { return !p.suspect && !p.leaving && !p.closing }

// close ends the connection; PathDown will come.
func (p *Path) close(reason error) {
	p.closing = true
	p.port.Close(reason)
}

// measure takes the time of a finished request into the path's average.
func (p *Path) measure(took time.Duration, cost uint32) {
	per := float64(took) / float64(max(p.outstanding, uint64(cost)))
	p.svc += (per - p.svc) / 16
}

// Pong takes the answer to a ping.
func (c *Client) Pong(_ *Path, h *wire.Header) {
	var fx effects
	c.mu.Lock()
	c.granted(h, &fx)
	if c.lacking > 0 {
		c.pump(&fx)
	}
	c.unlock(&fx)
}

// Leave takes the target's word that it will close this path.
func (c *Client) Leave(p *Path) {
	c.mu.Lock()
	p.leaving = true
	c.mu.Unlock()
}

// Tick supervises the paths; it is called every TickEvery.
func (c *Client) Tick() {
	var fx effects
	c.mu.Lock()
	now := c.cfg.Now()
	slept := c.lastTick != 0 && now-c.lastTick > TickGap
	c.lastTick = now
	recovered := false
	for _, p := range c.paths {
		if slept {
			p.up = now // our own sleep is not the peer's silence
		}
		recovered = c.supervise(p, now, &fx) || recovered
	}
	if recovered || c.want() > uint32(c.window) {
		c.resume(&fx)
	}
	c.unlock(&fx)
}

// supervise looks after one path and reports whether it came back from being
// suspect.
func (c *Client) supervise(p *Path, now time.Duration, fx *effects) bool {
	if p.closing {
		return false
	}
	heard := max(p.port.Heard(), p.up)
	silent := now - heard
	if p.outstanding == 0 {
		c.forget(p)
	}
	if now-p.pinged >= PingEvery {
		c.sendPing(p, now, fx)
	}
	switch {
	case silent < SuspectAfter || !p.port.Silent():
		if p.suspect {
			p.suspect = false
			fx.event("info", c.cfg.Target, "path "+p.Name+" of "+c.cfg.Nexus+" answers again")
			return true
		}
	case silent >= CloseAfter:
		p.close(errSilent)
	default:
		if !p.suspect {
			p.suspect = true
			fx.event("warning", c.cfg.Target, "path "+p.Name+" of "+c.cfg.Nexus+" is silent, its requests go elsewhere")
		}
		c.takeOver(p, now, fx)
	}
	return false
}

// forget lets the measured service time of an idle path drift to that of the
// best one, so that one bad sample does not keep it idle for ever.
func (c *Client) forget(p *Path) {
	best := p.svc
	for _, q := range c.paths {
		best = min(best, q.svc)
	}
	p.svc += (best - p.svc) / 16
}

// takeOver sends what hangs on a suspect path again on others. A frame that is
// half sent or half received refers to the request's buffer: its path is
// closed, and PathDown sends it again.
func (c *Client) takeOver(p *Path, now time.Duration, fx *effects) {
	defer c.adopt() // not between taking a frame back and sending it elsewhere
	for i := range c.slots {
		sl := &c.slots[i]
		if sl.idle() || sl.answered || !sl.only(p) {
			continue
		}
		if sl.receiver == p {
			p.close(errTakenOver)
			return
		}
		q := c.choose(p, sl.cost())
		if q == nil {
			return
		}
		if !c.release(sl, p) {
			return
		}
		if sl.live() { // the old copy is still under way
			if c.resentBytes > c.sentBytes/resendShare+resendBurst {
				p.close(errResends)
				return
			}
			if !c.credit(sl.cost()) {
				c.askCredit(sl.cost(), fx)
				return
			}
		}
		if !c.sendCopy(sl, q, now, true, fx) {
			return
		}
		p.resent++
	}
}

// only reports whether p alone carries the request.
func (s *cslot) only(p *Path) bool {
	on := false
	for k := range s.copies {
		cp := &s.copies[k]
		if cp.state == copyFree || cp.orphan {
			continue
		}
		if cp.path != p && !cp.path.suspect {
			return false
		}
		on = true
	}
	return on
}

// release takes the request's unsent frames off p. It reports false, having
// closed p, if one is half sent.
func (c *Client) release(sl *cslot, p *Path) bool {
	for k := range sl.copies {
		cp := &sl.copies[k]
		if cp.path != p || cp.state != copyQueued || cp.orphan {
			continue
		}
		switch p.port.Unlink(&cp.out) {
		case netio.Unlinked:
			p.outstanding -= uint64(cp.cost)
			c.inflight -= uint64(cp.cost)
			c.queued--
			cp.state, cp.out.Body = copyFree, nil
		case netio.HalfSent:
			p.close(errTakenOver)
			return false
		}
	}
	return true
}

// sendPing sends a ping; it carries the credit we want and the grant we know.
func (c *Client) sendPing(p *Path, now time.Duration, fx *effects) {
	if p.ping.busy {
		return
	}
	p.pinged = now
	p.pingSeq++
	p.ping.busy = true
	h := wire.Header{Kind: wire.KindPing, Seq: p.pingSeq, Window: c.want(), Grant: c.grant}
	h.Put(p.ping.out.Head[:], c.digest)
	p.ping.out.HeadLen = wire.HeaderLen
	if !p.port.Send(&p.ping.out) {
		p.ping.busy = false
		return
	}
	fx.touch(p)
}

// Describe tells what is known of the path.
func (p *Path) Describe() PathInfo {
	p.client.mu.Lock()
	defer p.client.mu.Unlock()
	return p.info()
}

func (p *Path) info() PathInfo {
	return PathInfo{Name: p.Name, Suspect: p.suspect, Leaving: p.leaving, Outstanding: p.outstanding,
		Service: time.Duration(p.svc * 4096), Requests: p.requests, Bytes: p.bytes, Resent: p.resent}
}

// Paths describes all paths.
func (c *Client) Paths() []PathInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]PathInfo, 0, len(c.paths))
	for _, p := range c.paths {
		out = append(out, p.info())
	}
	return out
}
