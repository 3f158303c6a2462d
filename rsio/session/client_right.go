// SPDX-License-Identifier: Apache-2.0

package session

import (
	"fmt"
	"time"

	"rsio/rsio/block"
	"rsio/rsio/wire"
)

// askEvery is how often a request that would be refused here goes to the target
// all the same: only the target decides, and its word may have been lost.
const askEvery = time.Second

// rights is what is known of the right of the nexus on a volume.
type rights struct {
	number uint64       // generation; 0: never heard of
	access block.Access // as far as known
	asked  time.Duration
}

// allowed decides early about a request of v, and gives one without a right the
// present one. c.mu is held, as for all of this file.
func (c *Client) allowed(v *Volume, r *block.Request) bool {
	k := &v.rights
	if r.Right == 0 {
		r.Right = k.number
	}
	if k.number == 0 {
		return true
	}
	if r.Op.Changes() && r.Right != k.number {
		return false // for ever: generations only grow
	}
	if k.access&block.Needs(r.Op) != 0 {
		return true
	}
	now := c.cfg.Now()
	if k.asked != 0 && now-k.asked < askEvery {
		return false
	}
	k.asked = now
	return true
}

// righted takes the target's word about the right of the nexus. What is parked
// and was submitted under another one fails now: when a path comes back it must
// not be sent, and who waits for it should know.
func (c *Client) righted(v *Volume, number uint64, access block.Access, fx *effects) {
	k := &v.rights
	if number == 0 {
		return // the target knows nothing of rights
	}
	if k.number == number && k.access == access {
		return
	}
	if k.number != 0 {
		level := "info"
		if access != block.AccessAll {
			level = "warning"
		}
		fx.event(level, v.Name(), fmt.Sprintf("access of %s is %s now, under right %d", c.cfg.Nexus, access, number))
	}
	k.number, k.access, k.asked = number, access, 0
	c.refuse(v, &v.wait, fx)
	c.refuse(v, &v.replay, fx)
	fx.vols = append(fx.vols, v)
}

// refuse ends what waits in q and may not execute any more.
func (c *Client) refuse(v *Volume, q *block.Queue, fx *effects) {
	list := q.Take()
	n := 0
	for r := c.pop(&list); r != nil; r = c.pop(&list) {
		if r.Right == 0 {
			r.Right = v.rights.number // submitted before anything was known
		}
		if r.Op.Changes() && r.Right != v.rights.number || v.rights.access&block.Needs(r.Op) == 0 {
			v.stats.count(r, block.StatusConflict, 0)
			fx.finish(r, block.StatusConflict)
			n++
			continue
		}
		c.push(q, r)
	}
	if n > 0 {
		fx.event("warning", v.Name(), fmt.Sprintf("%d requests of %s that waited are refused: it lost its right meanwhile", n, c.cfg.Nexus))
	}
}

// refused takes a conflict that the target answered under the given right.
func (c *Client) refused(v *Volume, r *block.Request, number uint64, fx *effects) {
	k := &v.rights
	if number != 0 && number != k.number {
		c.righted(v, number, k.access, fx)
	}
	if !r.Op.Changes() || r.Right == number { // else it was refused for its age
		k.access &^= block.Needs(r.Op)
		k.asked = c.cfg.Now()
	}
}

// Righted takes an event about the right of the nexus on a volume.
func (c *Client) Righted(h *wire.Header) {
	var fx effects
	c.mu.Lock()
	for _, v := range c.volumes {
		if v.handle == h.Volume && v.current() {
			c.righted(v, h.Off, block.Access(h.Len)&block.AccessAll, &fx)
			c.pump(&fx)
		}
	}
	c.unlock(&fx)
}

// Attention takes a unit attention, for people.
func (c *Client) Attention(h *wire.Header) {
	var fx effects
	c.mu.Lock()
	for _, v := range c.volumes {
		if v.handle == h.Volume && v.current() {
			fx.event("warning", v.Name(), "unit attention for "+c.cfg.Nexus+": "+block.Attention(h.Off).String())
		}
	}
	c.unlock(&fx)
}

// Right returns the generation of the right of the nexus and what it may do, as
// far as known here.
func (v *Volume) Right() (uint64, block.Access) {
	v.client.mu.Lock()
	defer v.client.mu.Unlock()
	return v.rights.number, v.rights.access
}
