// SPDX-License-Identifier: Apache-2.0

package dam

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	"rsio/dam/journal"
	"rsio/rsio/block"
)

// Limits of a DAM.
const (
	MaxQueued   = 1024    // changes of one volume that wait for their turn
	compactFrom = 1 << 20 // bytes; a journal this much larger than what it must hold is made anew
)

// JournalName is the name of the journal in the directory of the pool.
const JournalName = "reservations.journal"

// Second is where the second copy of the states is kept: the registry.
type Second interface {
	// Load returns the volumes there are, by UUID, with the copy of each; nil
	// if it has none.
	Load() map[string][]byte
	// Store keeps a copy, durably.
	Store(volume string, state []byte) error
}

// Entry is a line of the audit log.
type Entry struct {
	Volume        string // UUID
	Nexus         string // who acts
	By            string // on whose word: a session's nexus, or an administrator
	Action        block.ReserveOut
	Before, After string // the reservation, for people
	Generation    uint32 // PRgeneration
	Version       uint64 // of the state
	Recovered     bool   // found in the journal at a start: the process died before it could tell
}

// Options configure a DAM. The functions are called without locks, several of
// them at a time for different volumes, and must not call the DAM; each may be
// nil.
type Options struct {
	Dir    string // of the pool; the journal is in it
	Second Second

	Audit     func(Entry) error
	Warn      func(volume, text string) // volume may be empty
	Right     func(volume, nexus string, right uint64, a block.Access)
	Attention func(volume, nexus string, code block.Attention)
}

// DAM keeps the reservations of a pool. Open makes one; its methods may be
// called from any goroutine.
type DAM struct {
	opt  Options
	stop chan struct{}
	wg   sync.WaitGroup // volumes at work

	mu      sync.Mutex
	volumes map[string]*volume
	closed  bool

	disk sync.Mutex // around the journal
	j    *journal.Journal
	kept map[string]journal.Record // what the journal must hold
	base int64                     // its size after it was last made anew
}

// Open reads the journal and the second copies, takes the later of each, makes
// both the same, and refuses if neither can be trusted: it never starts with
// less than what was answered.
func Open(opt Options) (*DAM, error) {
	path := filepath.Join(opt.Dir, JournalName)
	j, found, err := journal.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reservations: %w", err)
	}
	d := &DAM{opt: opt, stop: make(chan struct{}), volumes: make(map[string]*volume), j: j, kept: make(map[string]journal.Record)}
	if err := d.load(path, found); err != nil {
		return nil, errors.Join(err, j.Close())
	}
	return d, nil
}

func (d *DAM) warn(volume, format string, args ...any) {
	if d.opt.Warn != nil {
		d.opt.Warn(volume, fmt.Sprintf(format, args...))
	}
}

// volume returns a volume, which is new if nobody has named it yet.
func (d *DAM) volume(id string) *volume {
	d.mu.Lock()
	defer d.mu.Unlock()
	v := d.volumes[id]
	if v == nil {
		v = newVolume(d, New(id))
		d.volumes[id] = v
	}
	return v
}

// Seat returns the seat of nexus at a volume. Everybody who sits there has the
// same one. Each Seat is followed by one Unseat, when nothing of the caller
// runs any more.
func (d *DAM) Seat(volume, nexus string) *block.Seat { return d.volume(volume).seat(nexus) }

// Unseat ends a use of Seat.
func (d *DAM) Unseat(volume, nexus string) { d.volume(volume).unseat(nexus) }

// Reserve queues a change of the reservation of a volume; by says on whose
// word nexus acts. done is called once, perhaps before Reserve returns, on a
// goroutine of the DAM. Until the change is durable, the end of quit takes it
// back: it is answered with StatusClosed and has not happened.
func (d *DAM) Reserve(volume, nexus, by string, r block.ReserveOut, quit <-chan struct{}, done func(block.ReserveResult)) {
	d.volume(volume).reserve(&job{nexus: nexus, by: by, r: r, quit: quit, done: done})
}

// Show returns the reservation of a volume as nexus sees it. With report it
// takes the unit attentions that wait for nexus. Conflicts is left to the
// caller, who counts them.
func (d *DAM) Show(volume, nexus string, report bool) block.ReserveState {
	return d.volume(volume).show(nexus, report)
}

// Drop forgets a volume that was deleted.
func (d *DAM) Drop(volume string) error {
	d.mu.Lock()
	v := d.volumes[volume]
	delete(d.volumes, volume)
	d.mu.Unlock()
	if v == nil {
		return nil
	}
	return d.drop(volume, v.gone())
}

// Close takes back what is not durable yet, and joins.
func (d *DAM) Close() error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil
	}
	d.closed = true
	d.mu.Unlock()
	close(d.stop)
	d.wg.Wait()
	d.disk.Lock()
	defer d.disk.Unlock()
	return d.j.Close()
}

// start adds a goroutine, unless the DAM is closed.
func (d *DAM) start(fn func()) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return false
	}
	d.wg.Add(1)
	go func() {
		defer d.wg.Done()
		fn()
	}()
	return true
}
