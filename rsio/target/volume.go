// SPDX-License-Identifier: Apache-2.0

package target

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"rsio/rsio/audit"
	"rsio/rsio/block"
	"rsio/rsio/netio"
	"rsio/rsio/registry"
	"rsio/rsio/session"
	"rsio/rsio/stack"
)

func key(namespace, name string) string { return namespace + "/" + name }

// volume is a volume of the pool.
type volume struct {
	t     *Target
	grace *session.Grace
	stats counters

	ns, vol, uuid string // as in rec, never change

	change sync.Mutex // around a change of the record, here and in the registry
	mu     sync.Mutex // serialises opening, closing, resizing, deleting
	rec    registry.Volume
	graph  *stack.Graph // nil while nobody uses it
	users  int
	gone   bool
	cut    bool // being shrunk: cannot be opened

	failed atomic.Pointer[string] // why the store failed
	full   atomic.Int64           // when it was last said that the pool is full, ns
}

// counters are totals since the start.
type counters struct {
	reads, writes, flushes, others, readBytes, writeBytes, errors, conflicts atomic.Uint64
	local                                                                    atomic.Int64 // requests of local users that run
}

// count notes a finished request.
func (c *counters) count(op block.Op, n uint32, st block.Status) {
	switch op {
	case block.OpRead:
		c.reads.Add(1)
		c.readBytes.Add(uint64(n))
	case block.OpWrite:
		c.writes.Add(1)
		c.writeBytes.Add(uint64(n))
	case block.OpFlush:
		c.flushes.Add(1)
	default:
		c.others.Add(1)
	}
	if st != block.StatusOK && st != block.StatusMiscompare {
		c.errors.Add(1)
	}
}

func newVolume(t *Target, rec registry.Volume, now time.Duration) *volume {
	return &volume{t: t, ns: rec.Namespace, vol: rec.Name, uuid: rec.UUID, rec: rec, grace: session.NewGrace(rec.Writers, now)}
}

func (v *volume) name() string { return key(v.ns, v.vol) }

func (v *volume) path() string { return filepath.Join(v.t.volumeDir(), v.uuid+".img") }

func (v *volume) spec() stack.Spec {
	return stack.Spec{Kind: v.rec.Kind, Path: v.path(), Size: v.rec.Size, Direct: v.rec.Direct, Layers: v.rec.Layers}
}

// open returns the volume's device; every open is followed by one release.
func (v *volume) open() (block.Device, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.gone {
		return nil, block.StatusNotFound
	}
	if v.cut {
		return nil, block.StatusBusy
	}
	if v.graph == nil {
		g, err := stack.Open(v.spec(), stack.Hooks{OnFail: v.storeFailed})
		if err != nil {
			return nil, fmt.Errorf("open volume %s: %w", v.name(), err)
		}
		v.graph = g
	}
	v.users++
	return v.graph, nil
}

// release ends one open. The device stays open for the next one, but for
// memory volumes nothing would be left of it otherwise.
func (v *volume) release() {
	v.mu.Lock()
	v.users--
	v.mu.Unlock()
}

// close drains and closes the device.
func (v *volume) close(ctx context.Context) error {
	v.mu.Lock()
	g := v.graph
	v.graph = nil
	v.mu.Unlock()
	if g == nil {
		return nil
	}
	if err := g.Close(ctx); err != nil {
		return fmt.Errorf("close volume %s: %w", v.name(), err)
	}
	return nil
}

// storeFailed is told that a flush of the store failed. What had been
// acknowledged may be gone, also for those who come after a restart: the
// incarnation changes, durably, so that no later flush claims otherwise.
func (v *volume) storeFailed(cause error) {
	why := cause.Error()
	v.failed.Store(&why)
	v.t.opt.Events.Add(audit.Error, v.name(), "the store failed and takes no more writes: "+why)
	err := v.update(func(r *registry.Volume) error { // also here: a session that opens it anew must see it
		r.Incarnation++
		return nil
	})
	if err != nil {
		v.t.opt.Events.Add(audit.Error, v.name(), "its failure could not be recorded: "+err.Error())
	}
}

// noSpace tells, at most every ten seconds, that the pool is full.
func (v *volume) noSpace() {
	now, last := int64(netio.Now()), v.full.Load()
	if (last == 0 || now-last > int64(10*time.Second)) && v.full.CompareAndSwap(last, now) {
		v.t.opt.Events.Add(audit.Error, v.name(), "the pool "+v.t.opt.Dir+" is full: writes fail until there is room again")
	}
}

// incarnation changes whenever data that were not flushed may be gone: with
// the boot of the host, the mount of the pool, or a failure of the store.
func (v *volume) incarnation(pool uint64) uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := pool ^ v.rec.Incarnation*0x9e3779b97f4a7c15
	if v.rec.Kind == "mem" { // nothing outlives the process
		n ^= binary.BigEndian.Uint64(v.t.instance[:])
	}
	return max(n, 1)
}

// recordWriter puts the nexus on record as a writer of the volume, durably.
func (v *volume) recordWriter(nexus string) error {
	v.mu.Lock()
	known := slices.Contains(v.rec.Writers, nexus)
	v.mu.Unlock()
	if known {
		return nil
	}
	return v.update(func(r *registry.Volume) error {
		if !slices.Contains(r.Writers, nexus) {
			r.Writers = append(r.Writers, nexus)
		}
		return nil
	})
}

func (v *volume) dropWriter(nexus string) error {
	v.grace.Reclaimed(nexus)
	return v.update(func(r *registry.Volume) error {
		r.Writers = slices.DeleteFunc(r.Writers, func(w string) bool { return w == nexus })
		return nil
	})
}

// mayWrite is Grace.Open that takes those that are late off the record first.
func (v *volume) mayWrite(nexus string, now time.Duration) bool {
	if v.grace.Open(nexus, now) {
		return true
	}
	late := v.grace.Late()
	if len(late) == 0 {
		return false
	}
	err := v.update(func(r *registry.Volume) error {
		r.Writers = slices.DeleteFunc(r.Writers, func(w string) bool { return slices.Contains(late, w) })
		return nil
	})
	if err != nil {
		v.t.opt.Events.Add(audit.Error, v.name(), fmt.Sprintf("taking %v off the record of writers: %v", late, err))
		return false
	}
	v.grace.Recorded(late)
	return v.grace.Open(nexus, now)
}

// update changes the record durably and then what is known of it here.
func (v *volume) update(fn func(*registry.Volume) error) error {
	v.change.Lock()
	defer v.change.Unlock()
	if err := v.t.reg.Update(v.ns, v.vol, fn); err != nil {
		return err
	}
	rec, err := v.t.reg.Get(v.ns, v.vol)
	if err != nil {
		return err
	}
	v.mu.Lock()
	v.rec = rec
	v.mu.Unlock()
	return nil
}

func (v *volume) record() registry.Volume {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.rec
}

// find returns a volume, or nil.
func (t *Target) find(namespace, name string) *volume {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.volumes[key(namespace, name)]
}

func (t *Target) volumeList() []*volume {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]*volume, 0, len(t.volumes))
	for _, v := range t.volumes {
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b *volume) int { return compare(a.name(), b.name()) })
	return out
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// sessionsOf returns the sessions that have v open.
func (t *Target) sessionsOf(v *volume) []*sess {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []*sess
	for _, s := range t.sess {
		if s.handleOf(v) != nil {
			out = append(out, s)
		}
	}
	return out
}

// tell sends an event about v to all paths of all sessions that have it open.
func (t *Target) tell(v *volume, what block.Op, value uint64) {
	for _, s := range t.sessionsOf(v) {
		h := s.handleOf(v)
		if h == nil {
			continue
		}
		for i := range s.conns {
			if c := s.conns[i].Load(); c != nil {
				c.event(what, h.id, value)
			}
		}
	}
}

// removeFile deletes the volume's data; a store without a file has none.
func (v *volume) removeFile() error {
	if err := os.Remove(v.path()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("delete the data of volume %s: %w", v.name(), err)
	}
	return nil
}
