// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"rsio/rsio/block"
)

// memory is a device of the tests. It serves inline, or from workers, and can
// be told to keep requests.
type memory struct {
	is       atomic.Pointer[block.Info]
	finisher block.Finisher
	workers  *block.Workers // nil: inline

	mu   sync.RWMutex
	data []byte
	used []bool // by block of 4 KiB: allocated

	// hold, if not nil, is asked for every request; those it wants are kept
	// until letGo.
	holdMu sync.Mutex
	hold   func(*block.Request) bool
	kept   []*block.Request
	fail   atomic.Pointer[func(*block.Request) block.Status]

	flushes, reads, largest atomic.Int64
	nexus                   atomic.Value
}

const allFeatures = block.CanFlush | block.CanFUA | block.CanDiscard | block.CanZero |
	block.CanFastZero | block.CanBlockStatus

func newMemory(size int, workers int) *memory {
	m := &memory{data: make([]byte, size), used: make([]bool, (size+4095)/4096)}
	m.is.Store(&block.Info{Size: uint64(size), BlockSize: 1, MaxLen: block.MaxLen, MaxZero: block.MaxZero, Features: allFeatures})
	if workers > 0 {
		m.workers = block.NewWorkers(workers, m.execute)
	}
	return m
}

func (m *memory) Info() block.Info { return *m.is.Load() }

// change changes what Info returns.
func (m *memory) change(f func(*block.Info)) {
	i := m.Info()
	f(&i)
	m.is.Store(&i)
}

func (m *memory) Submit(r *block.Request) {
	if block.Check(m.Info(), r) != block.StatusOK {
		panic("the device was given what Check forbids")
	}
	m.holdMu.Lock()
	if m.hold != nil && m.hold(r) {
		m.kept = append(m.kept, r)
		m.holdMu.Unlock()
		return
	}
	m.holdMu.Unlock()
	if m.workers != nil {
		m.workers.Submit(r)
		return
	}
	m.finisher.Finish(r, m.execute(r))
}

func (m *memory) Close(ctx context.Context) error {
	if m.workers != nil {
		return m.workers.Close(ctx)
	}
	m.finisher.Close()
	return nil
}

// setHold sets what is kept.
func (m *memory) setHold(f func(*block.Request) bool) {
	m.holdMu.Lock()
	m.hold = f
	m.holdMu.Unlock()
}

func (m *memory) held() int {
	m.holdMu.Lock()
	defer m.holdMu.Unlock()
	return len(m.kept)
}

// letGo executes what was kept and keeps nothing any more.
func (m *memory) letGo() {
	m.holdMu.Lock()
	kept := m.kept
	m.kept, m.hold = nil, nil
	m.holdMu.Unlock()
	for _, r := range kept {
		r.Depth = 0
		block.Finish(r, m.execute(r))
	}
}

func (m *memory) execute(r *block.Request) block.Status {
	if n := m.nexus.Load(); n == nil || n.(string) != r.Nexus {
		m.nexus.Store(r.Nexus)
	}
	if n := int64(r.Len); n > m.largest.Load() {
		m.largest.Store(n)
	}
	if f := m.fail.Load(); f != nil {
		if st := (*f)(r); st != block.StatusOK {
			return st
		}
	}
	switch r.Op {
	case block.OpFlush:
		m.flushes.Add(1)
		return block.StatusOK
	case block.OpRead:
		m.reads.Add(1)
		m.mu.RLock()
		copy(r.Buf, m.data[r.Off:r.End()])
		m.mu.RUnlock()
		return block.StatusOK
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch r.Op {
	case block.OpWrite:
		copy(m.data[r.Off:], r.Buf)
		m.mark(r, true)
	case block.OpWriteZeroes:
		clear(m.data[r.Off:r.End()])
		m.mark(r, r.Flags&block.FlagNoHole != 0)
	case block.OpDiscard:
		clear(m.data[r.Off:r.End()])
		m.mark(r, false)
	case block.OpBlockStatus:
		m.extents(r)
	default:
		return block.StatusUnsupported
	}
	return block.StatusOK
}

// set puts data into the device from outside.
func (m *memory) set(off int, data []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	copy(m.data[off:], data)
	m.mark(&block.Request{Off: uint64(off), Len: uint32(len(data))}, true)
}

// content returns a copy of what is in the device.
func (m *memory) content() []byte {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return slices.Clone(m.data)
}

// mark allocates every block r touches, or frees those it covers.
func (m *memory) mark(r *block.Request, used bool) {
	first, end := r.Off/4096, (r.End()+4095)/4096
	if !used {
		first, end = (r.Off+4095)/4096, r.End()/4096
	}
	for b := first; b < end; b++ {
		m.used[b] = used
	}
}

func (m *memory) extents(r *block.Request) {
	r.N = 0
	for off := r.Off; off < r.End(); {
		end := min((off/4096+1)*4096, r.End())
		e := block.Extent{Len: end - off}
		if !m.used[off/4096] {
			e.Flags = block.ExtentHole | block.ExtentZero
		}
		if !block.AppendExtent(r, e) {
			return
		}
		off = end
	}
}

// list is an Exports for tests.
type list struct {
	mu       sync.Mutex
	all      []*Export
	open     int
	released int
}

func (l *list) List() []ExportInfo {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []ExportInfo
	for _, e := range l.all {
		out = append(out, ExportInfo{e.Name, e.Description})
	}
	return out
}

func (l *list) Open(name string) (*Export, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := slices.IndexFunc(l.all, func(e *Export) bool { return e.Name == name })
	if name == "" && len(l.all) == 1 {
		k = 0
	}
	if k < 0 {
		return nil, block.StatusNotFound
	}
	e := *l.all[k]
	l.open++
	e.Release = func() {
		l.mu.Lock()
		l.released++
		l.mu.Unlock()
	}
	return &e, nil
}

func (l *list) outstanding() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open - l.released
}

func one(d block.Device) *list {
	return &list{all: []*Export{{Name: "vol", Description: "a volume", Device: d, Nexus: "host/vm"}}}
}

// close ends a device at the end of a test.
func closeDevice(t testing.TB, d block.Device) {
	if err := d.Close(context.Background()); err != nil {
		t.Errorf("closing the device: %v", err)
	}
}
