// SPDX-License-Identifier: Apache-2.0

// Package registry keeps the names of a target that stands alone: which
// volumes there are, who is on record as writing them, and a generation that
// grows with every change.
//
// There are two copies in the directory: names.db (bbolt, a CRC32C per record
// and a digest over all) and names.copy (one file with a checksum, replaced as
// a whole). A change is in both, durably, before its method returns:
//
//  1. the record and the head go into bbolt in one transaction,
//  2. the second copy is written beside, synced, renamed, and the directory
//     is synced.
//
// Open reads both without bbolt, from memory, with every number checked
// (walk.go); takes the whole copy with the higher generation, repairs the
// other, and refuses if neither can be trusted. It never starts with an empty
// table where names were. bbolt itself only ever works on a file that this
// process has made: the first change after Open makes a new one.
//
// If storing a change fails, the change has not happened as far as this
// process is concerned, and the next one writes both copies anew; after a
// crash in between, Open may find the change done. The table itself is in
// memory: Get and List do not wait for disks.
//
// Lock order: write, then mu. There are no goroutines.
package registry

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"rsio/rsio/block"
)

// options are what tests vary.
type options struct {
	noSync bool
	fault  func(name string) error // asked before each sync outside of bbolt
}

// Registry is an open registry. Its methods may be called from any goroutine.
type Registry struct {
	dir  string
	opts options

	write sync.Mutex // held during a change
	db    *boltDB    // nil: the next change makes both copies anew
	tried uint64     // highest generation ever given to a disk
	shut  bool

	mu    sync.RWMutex
	state *state
	notes []string
}

// Open opens the registry in dir, which must exist and should be locked (see
// Lock), or makes a new one. What was damaged and how it was repaired is in
// Notes.
func Open(dir string) (*Registry, error) { return open(dir, options{}) }

func open(dir string, o options) (*Registry, error) {
	b, c, err := readBoth(dir)
	if err != nil {
		return nil, fmt.Errorf("registry in %s: %w", dir, err)
	}
	r := &Registry{dir: dir, opts: o}
	isNew, err := fresh(dir, b, c)
	if err != nil {
		return nil, fmt.Errorf("registry in %s: %w", dir, err)
	}
	if isNew {
		return r, r.create()
	}
	s, repair, err := choose(dir, b, c)
	if err != nil {
		return nil, err
	}
	r.state, r.tried = s, max(generation(b), generation(c))
	if repair {
		r.repair(b, c)
	}
	r.dropOld()
	return r, nil
}

func generation(f found) uint64 {
	if f.state == nil {
		return 0
	}
	return f.state.generation
}

func (r *Registry) create() error {
	r.state = newState()
	r.tried = r.state.generation
	if err := r.rewrite(r.state); err != nil {
		return fmt.Errorf("registry in %s: make a new one: %w", r.dir, err)
	}
	return nil
}

// repair writes both copies from the chosen state. If that fails (a full
// disk), the registry serves what it has and tries again at the next change.
func (r *Registry) repair(b, c found) {
	for _, f := range []found{b, c} {
		if f.state == nil || !f.clean || f.state.generation != r.state.generation {
			r.notes = append(r.notes, f.String()+"; taken from the other copy, generation "+fmt.Sprint(r.state.generation)+keepDamaged(r.dir, f))
		}
	}
	if err := r.rewrite(r.state); err != nil {
		r.notes = append(r.notes, fmt.Sprintf("repair failed: %v; there is only one good copy now, the next change tries again", err))
	}
}

// dropOld removes what a killed process has left half done.
func (r *Registry) dropOld() {
	for _, name := range []string{boltName, copyName, markName} {
		_ = os.Remove(filepath.Join(r.dir, name+tmpSuffix)) // they are ignored anyway
	}
}

// rewrite makes both copies and the mark anew from s.
func (r *Registry) rewrite(s *state) error {
	r.drop()
	encoded, err := s.encode()
	if err != nil {
		return err
	}
	if err := r.opts.replaceFile(filepath.Join(r.dir, copyName), encodeCopy(encoded)); err != nil {
		return err
	}
	db, err := r.opts.makeBolt(filepath.Join(r.dir, boltName), s, encoded)
	if err != nil {
		return err
	}
	if err := r.mark(); err != nil {
		_ = db.close() // the error that counts is the first one
		return err
	}
	r.db = db
	return nil
}

// drop closes bbolt, of which nothing is expected any more: each change was
// synced on its own.
func (r *Registry) drop() {
	_ = r.db.close()
	r.db = nil
}

func (r *Registry) mark() error {
	path := filepath.Join(r.dir, markName)
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	return r.opts.replaceFile(path, []byte(markNotice))
}

// Notes tells what Open found damaged and what it did about it.
func (r *Registry) Notes() []string { return slices.Clone(r.notes) }

// ID returns the identity of the target: made once, the same for ever.
func (r *Registry) ID() string { return r.view().id }

// Generation returns the number of the present state. It goes up with every
// change and never back.
func (r *Registry) Generation() uint64 { return r.view().generation }

// Meta returns a value set by SetMeta, or "".
func (r *Registry) Meta(k string) string { return r.view().meta[k] }

func (r *Registry) view() *state {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.state
}

// Get returns the record of a volume, or an error that is
// block.StatusNotFound.
func (r *Registry) Get(namespace, name string) (Volume, error) {
	if err := checkKey(namespace, name); err != nil {
		return Volume{}, err
	}
	v, ok := r.view().volumes[key(namespace, name)]
	if !ok {
		return Volume{}, fmt.Errorf("volume %s/%s: %w", namespace, name, block.StatusNotFound)
	}
	return v.clone(), nil
}

// List returns all records, sorted by namespace and name.
func (r *Registry) List() []Volume { return r.view().list() }

// Create adds a record. A taken name is an error that is block.StatusExists.
func (r *Registry) Create(v Volume) error {
	if err := v.check(); err != nil {
		return err
	}
	k := key(v.Namespace, v.Name)
	return r.change("create", k, func(s *state) error {
		if _, ok := s.volumes[k]; ok {
			return block.StatusExists
		}
		s.volumes[k] = v.clone()
		return nil
	})
}

// Update lets fn change the record of a volume; fn may not change its names.
// If fn returns an error, nothing changes and Update returns that error. fn
// must not call the registry.
func (r *Registry) Update(namespace, name string, fn func(*Volume) error) error {
	if err := checkKey(namespace, name); err != nil {
		return err
	}
	k := key(namespace, name)
	return r.change("update", k, func(s *state) error {
		old, ok := s.volumes[k]
		if !ok {
			return block.StatusNotFound
		}
		v := old.clone()
		if err := fn(&v); err != nil {
			return err
		}
		if key(v.Namespace, v.Name) != k {
			return fmt.Errorf("its name may not become %s/%s", v.Namespace, v.Name)
		}
		if err := v.check(); err != nil {
			return err
		}
		s.volumes[k] = v.clone()
		return nil
	})
}

// Delete removes a record; none is an error that is block.StatusNotFound.
func (r *Registry) Delete(namespace, name string) error {
	if err := checkKey(namespace, name); err != nil {
		return err
	}
	k := key(namespace, name)
	return r.change("delete", k, func(s *state) error {
		if _, ok := s.volumes[k]; !ok {
			return block.StatusNotFound
		}
		delete(s.volumes, k)
		return nil
	})
}

// SetMeta stores a value that belongs to the target as a whole; "" removes it.
func (r *Registry) SetMeta(k, value string) error {
	return r.change("set "+k, "", func(s *state) error {
		s.meta = maps.Clone(s.meta)
		if s.meta[k] = value; value == "" {
			delete(s.meta, k)
		}
		return nil
	})
}

// change stores what fn makes of the state; k is the record it touches.
func (r *Registry) change(what, k string, fn func(*state) error) error {
	r.write.Lock()
	defer r.write.Unlock()
	wrap := func(err error) error {
		if k == "" {
			return fmt.Errorf("registry in %s: %s: %w", r.dir, what, err)
		}
		return fmt.Errorf("%s volume %s: %w", what, k, err)
	}
	if r.shut {
		return wrap(block.StatusClosed)
	}
	s := r.view().next()
	if err := fn(s); err != nil {
		return wrap(err)
	}
	r.tried++
	s.generation = r.tried
	if err := r.store(s, k); err != nil {
		r.drop()
		return wrap(fmt.Errorf("registry in %s: %w", r.dir, err))
	}
	r.mu.Lock()
	r.state = s
	r.mu.Unlock()
	return nil
}

func (r *Registry) store(s *state, k string) error {
	if r.db == nil {
		return r.rewrite(s)
	}
	encoded, err := s.encode()
	if err != nil {
		return err
	}
	if err := r.db.update(s, k, encoded); err != nil {
		return err
	}
	return r.opts.replaceFile(filepath.Join(r.dir, copyName), encodeCopy(encoded))
}

// Close waits for a change in progress and closes the files. Get and List go
// on working, changes end in block.StatusClosed.
func (r *Registry) Close() error {
	r.write.Lock()
	defer r.write.Unlock()
	if r.shut {
		return errors.New("registry: closed twice")
	}
	r.shut = true
	return r.db.close()
}
