// SPDX-License-Identifier: Apache-2.0

package sim

import "time"

// scheduleFaults lets things go wrong until heal.
func (w *World) scheduleFaults() {
	// How often which class of fault happens differs from run to run, so that
	// some runs see only one of them and others all.
	rates := make([]int, 7)
	for i := range rates {
		if w.chance(2) {
			rates[i] = 1 + w.rng.IntN(5)
		}
	}
	total := 0
	for _, r := range rates {
		total += r
	}
	if total == 0 {
		return
	}
	every := w.between(20*time.Millisecond, 1500*time.Millisecond)
	var next func()
	next = func() {
		if w.calm {
			return
		}
		k := w.rng.IntN(total)
		for i, r := range rates {
			if k -= r; k < 0 {
				w.fault(i)
				break
			}
		}
		w.after(w.between(0, 2*every), next)
	}
	w.after(w.between(0, every), next)
}

func (w *World) fault(class int) {
	h := w.hosts[w.rng.IntN(len(w.hosts))]
	hp := h.paths[w.rng.IntN(len(h.paths))]
	switch class {
	case 0: // a connection is reset
		if hp.c != nil && hp.path != nil {
			w.trace("%s path %d reset", h.name, hp.no)
			hp.c.closeSrv()
			hp.c.port.Close(simError("reset"))
		}
	case 1: // a link holds one or both directions
		w.hold(h, hp)
	case 2: // all links of a host
		for _, p := range h.paths {
			w.hold(h, p)
		}
	case 3:
		w.freezeServer()
	case 4: // an initiator freezes
		w.trace("%s freezes", h.name)
		h.frozen = true
		life := h.life
		w.after(w.between(0, 4*time.Second), func() {
			if h.life == life {
				h.frozen = false
			}
		})
	case 5: // the target dies
		if w.server.up {
			w.server.kill(w.chance(2))
			w.after(w.between(time.Millisecond, time.Second), w.server.start)
		}
	case 6: // an initiator dies, and starts again
		if h.alive {
			h.kill()
			w.after(w.between(time.Millisecond, time.Second), h.start)
		}
	}
	for _, ss := range w.server.sortedSessions() {
		if w.chance(4) {
			ss.s.Window.Shrink()
		}
	}
}

func (w *World) hold(h *host, hp *hostPath) {
	up, down := w.chance(2), w.chance(2)
	if !up && !down {
		up, down = true, true
	}
	l := hp.link
	l.heldUp, l.heldDown = l.heldUp || up, l.heldDown || down
	took := w.between(0, 8*time.Second)
	if w.chance(2) {
		took = w.between(0, 900*time.Millisecond)
	}
	w.trace("%s path %d held up=%v down=%v for %v", h.name, hp.no, up, down, took)
	w.after(took, func() {
		if up {
			l.heldUp = false
		}
		if down {
			l.heldDown = false
		}
	})
}

func (w *World) freezeServer() {
	if w.server.up {
		w.trace("server freezes")
		w.server.frozen = true
		run := w.server.run
		w.after(w.between(0, 3*time.Second), func() {
			if w.server.run == run {
				w.server.frozen = false
			}
		})
	}
}

// heal ends all faults; from here on everything must come to an end.
func (w *World) heal() {
	w.trace("heal")
	w.calm = true
	w.server.frozen = false
	for _, h := range w.hosts {
		h.frozen, h.stop = false, true
		for _, hp := range h.paths {
			*hp.link = link{}
		}
	}
}
