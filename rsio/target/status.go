// SPDX-License-Identifier: Apache-2.0

package target

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"rsio/rsio/admin/api"
	"rsio/rsio/netio"
)

// used returns the bytes a file takes.
func used(st os.FileInfo) uint64 {
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		return uint64(sys.Blocks) * 512
	}
	return 0
}

// Status tells how the target is.
func (t *Target) Status() api.Status {
	t.mu.Lock()
	st := api.Status{Role: "target", Name: t.opt.Name, Version: t.opt.Version, State: "ok", Started: t.started,
		Volumes: len(t.volumes), Portals: slices.Clone(t.portals)}
	refused := t.refused
	t.mu.Unlock()
	p := t.pool.Stats()
	st.Memory = api.Memory{Out: p.Out, High: p.High, Limit: p.Limit}
	st.Sessions = t.Sessions()
	if t.opt.Insecure {
		st.Warnings = append(st.Warnings, "--insecure: over any network a claimed identity is accepted, and data go in plain text")
	} else {
		st.Warnings = append(st.Warnings, "identities are claimed, not proven: accepted over loopback and unix sockets only")
	}
	if refused > 0 {
		st.Warnings = append(st.Warnings, fmt.Sprintf("%d connections were closed for want of room", refused))
	}
	st.Summary = fmt.Sprintf("target %s: all is well: %d volumes, %d sessions.", t.opt.Name, st.Volumes, len(st.Sessions))
	for _, v := range t.volumeList() {
		if why := v.failed.Load(); why != nil {
			st.State = "error"
			st.Summary = fmt.Sprintf("target %s: volume %s has failed: %s.", t.opt.Name, v.name(), *why)
		}
	}
	if notes := t.reg.Notes(); len(notes) > 0 && st.State == "ok" {
		st.State, st.Summary = "warning", fmt.Sprintf("target %s: the registry was repaired when it started: %s.", t.opt.Name, notes[0])
	}
	return st
}

// Sessions lists the sessions, sorted by nexus.
func (t *Target) Sessions() []api.Session {
	t.mu.Lock()
	list := make([]*sess, 0, len(t.sess))
	for _, s := range t.sess {
		list = append(list, s)
	}
	t.mu.Unlock()
	slices.SortFunc(list, func(a, b *sess) int { return compare(a.Nexus, b.Nexus) })
	out := make([]api.Session, 0, len(list))
	for _, s := range list {
		w, _ := s.Window.Get()
		a := api.Session{ID: hex.EncodeToString(s.ID[:4]), Nexus: s.Nexus, Paths: s.paths(), State: "open", Running: s.Running(),
			Window: uint64(w), Heard: max(0, netio.Now()-s.LastHeard()).Round(time.Millisecond), Plaintext: true}
		switch {
		case s.Closed():
			a.State = "draining"
		case s.control:
			a.State = "control"
		case len(a.Paths) == 0:
			a.State = "idle"
		}
		for _, h := range *s.handles.Load() {
			if h != nil {
				a.Volumes = append(a.Volumes, h.v.name())
			}
		}
		out = append(out, a)
	}
	return out
}

// Counters returns totals per volume.
func (t *Target) Counters() []api.Counters {
	out := []api.Counters{}
	for _, v := range t.volumeList() {
		c := &v.stats
		out = append(out, api.Counters{Name: v.name(), Reads: c.reads.Load(), Writes: c.writes.Load(), Flushes: c.flushes.Load(),
			Others: c.others.Load(), ReadBytes: c.readBytes.Load(), WriteBytes: c.writeBytes.Load(), Errors: c.errors.Load(), Conflicts: c.conflicts.Load(),
			Inflight: uint64(max(0, v.running()))})
	}
	return out
}

// Inflight lists how many requests each session has running; what they are
// stands at the initiators.
func (t *Target) Inflight() []api.Inflight {
	out := []api.Inflight{}
	for _, s := range t.Sessions() {
		for _, v := range s.Volumes {
			if s.Running > 0 {
				out = append(out, api.Inflight{Volume: v, Nexus: s.Nexus, Op: fmt.Sprintf("%d requests", s.Running), Where: "running"})
			}
		}
	}
	return out
}

// Events passes on the event log.
func (t *Target) Events(ctx context.Context, after uint64) []api.Event {
	return t.opt.Events.Since(ctx, after)
}

// running returns how many requests of the volume execute.
func (v *volume) running() int64 {
	n := v.stats.local.Load()
	for _, s := range v.t.sessionsOf(v) {
		if h := s.handleOf(v); h != nil {
			n += int64(h.seat.Running())
		}
	}
	return n
}
