// SPDX-License-Identifier: Apache-2.0

package session

import (
	"rsio/rsio/block"
	"rsio/rsio/wire"
)

// LoginFor returns the login that a fresh connection shall send: to join the
// session, or to make one if there is none. ok is false while neither is
// possible: another connection is making the session, connections of the old
// one are still in use, or the nexus was lost to another initiator.
// After ok the caller reports the outcome with LoginDone or LoginAborted.
func (c *Client) LoginFor() (l wire.Login, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l = wire.Login{VersionMin: wire.VersionMin, VersionMax: wire.VersionMax, Features: wire.Features,
		Secret: c.cfg.Secret, Nexus: []byte(c.cfg.Nexus)}
	switch {
	case c.usurped:
		return l, false
	case c.up && c.failed == block.StatusOK:
		l.Mode, l.Session = wire.LoginJoin, c.sess.Session
		return l, true
	case c.logging || !c.quiet() || c.failing:
		return l, false
	}
	// The number tells the target which of two logins is the later one. The
	// interleaving: this login is stuck on a path, another one makes the
	// session, then this one arrives and would end the session it lost to.
	c.logging = true
	l.Mode, l.Serial = wire.LoginNew, c.cfg.Serial()
	return l, true
}

// Next is what to do after a login.
type Next uint8

// The outcomes of a login.
const (
	NextUse   Next = iota // call PathUp
	NextSoon              // close the connection, try again at once
	NextLater             // close the connection, try again after a pause
	NextNever             // close the connection; the nexus is lost
)

// LoginDone takes the answer to a login. With NextUse a new session, if it is
// one, has begun.
//
// Only the target of the first session will do. The interleaving: one of the
// portals given is another target's. It does not know the session, as if the
// target had been restarted, and would get the writes in flight.
func (c *Client) LoginDone(l *wire.Login, st block.Status, r *wire.LoginResponse) Next {
	c.mu.Lock()
	other := c.sess.Target != (wire.ID{}) && r.Target != c.sess.Target
	if other && l.Mode == wire.LoginNew {
		c.logging = false
	}
	c.mu.Unlock()
	if other {
		c.cfg.Events.Event("error", c.cfg.Target, "a portal belongs to another target: give each target its own")
		return NextLater
	}
	if l.Mode == wire.LoginJoin {
		return c.joined(l, st, r)
	}
	c.mu.Lock()
	c.logging = false
	c.mu.Unlock()
	switch st {
	case block.StatusOK:
		c.Begin(Established{Target: r.Target, Instance: r.Instance, Session: r.Session, Slots: r.Slots,
			Window: r.Window, Grant: r.Grant, Features: r.Features, MaxPayload: r.MaxPayload})
		return NextUse
	case block.StatusDraining:
		return NextSoon
	}
	return NextLater
}

// rejoined takes the window of an accepted join: it may have shrunk while the
// session had no path.
func (c *Client) rejoined(l *wire.Login, r *wire.LoginResponse) {
	var fx effects
	c.mu.Lock()
	if c.up && c.sess.Session == l.Session {
		c.granted(&wire.Header{Window: r.Window, Grant: r.Grant}, &fx)
	}
	c.unlock(&fx)
}

func (c *Client) joined(l *wire.Login, st block.Status, r *wire.LoginResponse) Next {
	switch {
	case st == block.StatusOK:
		c.rejoined(l, r)
		return NextUse
	case st != block.StatusNoSession:
		return NextLater
	}
	c.mu.Lock()
	current := c.up && c.sess.Session == l.Session
	// A session with no volume open holds nothing that could be lost: the
	// target forgets such a one after a while, and it is simply made anew.
	restarted := c.sess.Instance != r.Instance || len(c.volumes) == 0
	if current && restarted {
		// The session died with the old process of the target. What is left
		// of its connections must let go before a new one begins.
		c.up = false
		for _, p := range c.paths {
			p.close(block.StatusNoSession)
		}
	}
	if current && !restarted {
		c.usurped = true
	}
	c.mu.Unlock()
	if current && !restarted {
		c.GiveUp(block.StatusClosed, "another initiator took the nexus over")
		return NextNever
	}
	return NextSoon
}

// LoginAborted says that the connection ended before the answer to l came.
func (c *Client) LoginAborted(l *wire.Login) {
	if l.Mode == wire.LoginNew {
		c.mu.Lock()
		c.logging = false
		c.mu.Unlock()
	}
}
