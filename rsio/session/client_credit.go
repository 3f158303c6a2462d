// SPDX-License-Identifier: Apache-2.0

package session

import (
	"time"

	"rsio/rsio/wire"
)

// credit reports whether cost more bytes may be in flight. c.mu is held, as
// for all of this file.
func (c *Client) credit(cost uint32) bool {
	limit := c.window
	if c.pendNum != 0 {
		limit = min(limit, c.pending)
	}
	return c.inflight+uint64(cost) <= limit
}

// want is the credit in bytes that all that is in flight and waits would take.
func (c *Client) want() uint32 {
	return uint32(min(max(c.inflight+c.waiting, c.lacking), MaxWindow))
}

// granted takes the window that a response, pong or event carries. A larger
// one counts at once; a smaller one is adopted, and thereby acknowledged, when
// no more than that is in flight.
func (c *Client) granted(h *wire.Header, fx *effects) {
	if h.Window == 0 || int32(h.Grant-max(c.grant, c.pendNum)) <= 0 {
		return
	}
	if uint64(h.Window) >= c.window {
		c.window, c.grant, c.pendNum, c.lacking = uint64(h.Window), h.Grant, 0, 0
		c.resume(fx)
		return
	}
	c.pending, c.pendNum = uint64(h.Window), h.Grant
	c.adopt()
}

// adopt takes over a smaller window when what is in flight fits into it.
func (c *Client) adopt() {
	if c.pendNum != 0 && c.inflight <= c.pending {
		c.window, c.grant, c.pendNum = c.pending, c.pendNum, 0
	}
}

// askAgain bounds how often credit is asked for.
const askAgain = time.Millisecond

// askCredit tells the target that cost bytes more are wanted than the window
// has. Requests and their answers carry wants and windows too; the ping is for
// when none is under way.
func (c *Client) askCredit(cost uint32, fx *effects) {
	c.lacking = max(c.lacking, c.inflight+uint64(cost))
	now := c.cfg.Now()
	for _, p := range c.paths {
		if !p.fit() || p.ping.busy {
			continue
		}
		if c.inflight == 0 || now-p.pinged > askAgain {
			c.sendPing(p, now, fx)
		}
		return
	}
}
