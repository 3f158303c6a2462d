// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"time"

	"rsio/rsio/block"
)

// never is an end that has not come.
const never = time.Duration(1) << 62

// op is one request of a caller.
type op struct {
	id     uint64
	host   string
	kind   block.Op
	fua    bool
	block  int
	start  time.Duration
	sent   time.Duration // write: when its first frame was queued
	end    time.Duration // when its outcome was told, or it became impossible
	status block.Status
	value  uint64 // read: the id of the write it saw, 0 for none
	ok     bool
	// executed is when a write last changed the disk.
	executed time.Duration
	ran      bool
	replayed bool // that was a copy sent again after a restart
}

// history is what all callers saw, with times. It lives outside the system.
type history struct {
	w      *World
	ops    []*op
	byID   map[uint64]*op
	open   map[string][]*op // per host: in flight, or of a process that died
	dead   map[string][]*op // of dead processes, until the successor is in
	losses []time.Duration
	// restarts is when the target started, newest the acknowledged write to
	// each block that was submitted last.
	restarts []time.Duration
	newest   [nBlocks]*op
	lost     []*op // flushes that said so
	result   Result
}

func newHistory(w *World) *history {
	return &history{w: w, byID: make(map[uint64]*op), open: make(map[string][]*op), dead: make(map[string][]*op)}
}

func (h *history) begin(host string, r *block.Request, b int) *op {
	o := &op{id: uint64(len(h.ops) + 1), host: host, kind: r.Op, fua: r.Flags&block.FlagFUA != 0, block: b, start: h.w.now, end: never}
	h.ops = append(h.ops, o)
	h.byID[o.id] = o
	h.open[host] = append(h.open[host], o)
	return o
}

func (h *history) end(o *op, st block.Status, value uint64) {
	o.end, o.status, o.value, o.ok = h.w.now, st, value, st == block.StatusOK
	list := h.open[o.host]
	for i, q := range list {
		if q == o {
			h.open[o.host] = append(list[:i], list[i+1:]...)
			break
		}
	}
	h.w.trace("%s: %v of block %d, id %d, value %d: %v", o.host, o.kind, o.block, o.id, value, st)
	switch o.kind {
	case block.OpWrite:
		h.result.Writes++
	case block.OpRead:
		h.result.Reads++
	case block.OpFlush:
		h.result.Flushes++
	}
	switch {
	case st == block.StatusOK:
		if o.kind == block.OpWrite && !o.replayed {
			if n := h.newest[o.block]; n == nil || n.start < o.start {
				h.newest[o.block] = o
			}
		}
		if o.kind == block.OpWrite && !o.ran {
			h.w.fail("write %d of block %d was acknowledged and never executed", o.id, o.block)
		}
	case st == block.StatusUnknown && o.kind == block.OpWrite && len(h.w.hosts) > 1 && h.result.Restarts > 0:
		h.result.Unknown++ // came back after the grace: section 5.7
	case st == block.StatusLost && o.kind == block.OpFlush && h.result.PowerLosses > 0:
		h.result.Lost++
		h.lost = append(h.lost, o)
	default:
		h.w.fail("P8: %s: %v of block %d ended in %v", o.host, o.kind, o.block, st)
	}
}

// died notes that the process of a host ended: nobody knows what becomes of
// its requests until its successor's session begins.
func (h *history) died(host string) {
	h.dead[host] = append(h.dead[host], h.open[host]...)
	h.open[host] = nil
}

// sessionBegins ends what a dead predecessor had in flight: from now on it must
// not execute.
func (h *history) sessionBegins(host string) {
	for _, o := range h.dead[host] {
		o.end = h.w.now
	}
	h.dead[host] = nil
}

// queued notes that a frame of a write was given to a connection.
func (h *history) queued(id uint64) {
	if o := h.byID[id]; o != nil && o.sent == 0 {
		o.sent = h.w.now
	}
}

// executed is called at the moment a write changes the disk.
func (h *history) executed(id uint64, b int, nexus string, replay bool) {
	o := h.byID[id]
	if o == nil || o.block != b || o.host != nexus {
		h.w.fail("block %d got value %d, which nobody wrote there", b, id)
		return
	}
	if o.end < h.w.now {
		h.w.fail("P3: write %d of %s to block %d executed %v after its end", id, nexus, b, h.w.now-o.end)
	}
	// A write that was in flight when the target restarted is older than all
	// that were submitted since; once one of those is acknowledged it must
	// not execute any more.
	if w := h.newest[b]; replay && w != nil && w.start > h.restartAfter(o.sent) {
		h.w.fail("P3: write %d of %s to block %d, sent again after the restart, executed after newer write %d of %s was acknowledged",
			id, nexus, b, w.id, w.host)
	}
	o.executed, o.ran, o.replayed = h.w.now, true, replay
	h.w.trace("disk: block %d = %d", b, id)
}

// restartAfter returns when the target first started after t.
func (h *history) restartAfter(t time.Duration) time.Duration {
	for _, r := range h.restarts {
		if r > t {
			return r
		}
	}
	return never
}

func (h *history) powerLoss() { h.losses = append(h.losses, h.w.now) }

// check looks at every read and at what is on the disk at the end.
func (h *history) check() {
	writes := make([][]*op, nBlocks)
	var flushes []*op
	for _, o := range h.ops {
		switch {
		case o.kind == block.OpWrite:
			writes[o.block] = append(writes[o.block], o)
		case o.kind == block.OpFlush && o.ok:
			flushes = append(flushes, o)
		}
	}
	for _, o := range h.ops {
		if o.kind == block.OpRead && o.ok {
			h.checkRead(o, writes[o.block], flushes)
		}
	}
	for b, v := range h.w.server.disk {
		last := &op{host: "disk", kind: block.OpRead, block: b, value: v.id, start: h.w.now, end: h.w.now, ok: true}
		h.checkRead(last, writes[b], flushes)
	}
}

// checkRead finds a write that ended before the read began and replaced what
// the read saw.
func (h *history) checkRead(r *op, writes []*op, flushes []*op) {
	seenEnd := time.Duration(-1)
	if r.value != 0 {
		w := h.byID[r.value]
		if w == nil || w.kind != block.OpWrite || w.block != r.block || w.start > r.end {
			h.w.fail("P1: read of block %d returned %d, which nobody had written there", r.block, r.value)
			return
		}
		seenEnd = w.end
	}
	for _, w := range writes {
		if w.ok && w.id != r.value && w.end < r.start && seenEnd < w.start && !h.mayBeLost(w, r, flushes) {
			h.w.fail("P1/P2: read of block %d by %s at %v returned write %d, but write %d of %s had been acknowledged at %v",
				r.block, r.host, r.start, r.value, w.id, w.host, w.end)
			return
		}
	}
}

// mayBeLost reports whether a power loss between the acknowledgement of w and
// the end of r was allowed to take w away.
func (h *history) mayBeLost(w, r *op, flushes []*op) bool {
	if w.fua {
		return false
	}
	for _, t := range h.losses {
		if w.executed > t || t > r.end {
			continue
		}
		safe := false
		for _, f := range flushes {
			if f.start > w.end && f.end < r.start && (f.end < t || f.host == w.host && !h.told(w, f)) {
				safe = true
				break
			}
		}
		if !safe {
			return true
		}
	}
	return false
}

// told reports whether a flush of w's host had failed between w and f, which
// said that w may be lost: f then promises nothing about w.
func (h *history) told(w, f *op) bool {
	for _, l := range h.lost {
		if l.host == w.host && l.end > w.end && l.end <= f.start {
			return true
		}
	}
	return false
}
