// SPDX-License-Identifier: Apache-2.0

package dam

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"rsio/dam/journal"
)

// load makes one state of the two copies of each volume.
func (d *DAM) load(path string, found journal.Found) error {
	copies := d.opt.Second.Load()
	repair := !d.j.Usable()
	for _, note := range found.Notes {
		d.warn("", "reservations: %s", note)
	}
	if found.Missing && slices.ContainsFunc(slices.Collect(maps.Values(copies)), func(b []byte) bool { return b != nil }) {
		d.warn("", "reservations: %s is missing: taken from the registry", path)
	}
	for id, second := range copies {
		first, ok := found.Records[id]
		if ok && first.Removed {
			return fmt.Errorf("reservations: %s says that volume %s was deleted, and the registry has it: restore both from one backup of the pool's directory", path, id)
		}
		v, behind, err := d.choose(path, id, first.State, second, d.j.Usable())
		if err != nil {
			return err
		}
		if v == nil {
			continue
		}
		d.volumes[id] = v
		encoded, err := v.state.Encode()
		if err != nil {
			return err
		}
		d.kept[id] = journal.Record{Volume: id, Version: v.state.Version, State: encoded}
		repair = repair || behind
	}
	for id := range found.Records {
		if _, ok := copies[id]; !ok {
			repair = true // of a volume that was deleted
		}
	}
	if repair {
		if err := d.rewrite(); err != nil {
			d.warn("", "reservations: %v: the next change tries again", err)
		}
	}
	d.base = d.j.Size()
	return nil
}

// choose returns a volume in the later of its two states, nil if it has none;
// whole says that the journal is not damaged.
// Every answered change is in both copies, the journal first. So a copy that
// cannot be read loses nothing that was answered, as long as the other can.
func (d *DAM) choose(path, id string, first, second []byte, whole bool) (v *volume, behind bool, err error) {
	a, errA := decodeFor(id, first)
	b, errB := decodeFor(id, second)
	switch {
	case errB != nil && (a == nil || !whole): // what is left of the journal may be older than what was answered
		return nil, false, fmt.Errorf("reservations of volume %s: no copy can be trusted: %s: %w; registry: %w. Restore one of them from a backup; the data of the volume was not touched", id, path, orNone(errA), errB)
	case errA != nil && b == nil:
		return nil, false, fmt.Errorf("reservations of volume %s: %s: %w; the registry has no copy. Restore one from a backup; the data of the volume was not touched", id, path, errA)
	case errA != nil:
		d.warn(id, "%v: taken from the registry", errA)
	case errB != nil:
		d.warn(id, "the registry's copy: %v: taken from the journal", errB)
	}
	s := a
	switch {
	case a == nil && b == nil:
		return nil, false, nil
	case a == nil || b != nil && b.Version > a.Version:
		if s = b; errA == nil {
			d.warn(id, "the journal is behind the registry (version %d): taken from the registry", b.Version)
		}
		behind = true
	case b != nil && a.Version == b.Version && !same(a, b):
		return nil, false, fmt.Errorf("reservations of volume %s: %s and the registry hold different states of version %d: restore both from one backup", id, path, a.Version)
	}
	v = newVolume(d, s)
	if b == nil || b.Version < s.Version {
		d.recover(v, b)
	}
	return v, behind, nil
}

// recover tells of a change that the last process had made durable, and writes
// the second copy that it had not come to.
func (d *DAM) recover(v *volume, before *State) {
	if before == nil {
		before = New(v.id)
	}
	e := Entry{Volume: v.id, Before: before.Text(), After: v.state.Text(), Generation: v.state.Generation, Version: v.state.Version, Recovered: true}
	if n := len(v.state.Done); n > 0 {
		e.Nexus, e.Action.Action = v.state.Done[n-1].Nexus, v.state.Done[n-1].Action
	}
	d.audit(e)
	if err := d.second(v.state); err != nil {
		v.behind = true
		d.warn(v.id, "second copy: %v: tried again before the next answer", err)
	}
}

// errNone stands for a copy that cannot be told to be the last one.
var errNone = errors.New("it is damaged, or has none")

func orNone(err error) error {
	if err == nil {
		return errNone
	}
	return err
}

// decodeFor decodes a copy; no copy is no state.
func decodeFor(id string, b []byte) (*State, error) {
	if b == nil {
		return nil, nil
	}
	s, err := Decode(b)
	if err == nil && s.Volume != id {
		err = fmt.Errorf("it is of volume %.64q", s.Volume)
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (d *DAM) audit(e Entry) {
	if d.opt.Audit == nil {
		return
	}
	if err := d.opt.Audit(e); err != nil {
		d.warn(e.Volume, "audit log: %v", err)
	}
}

func (d *DAM) second(s *State) error {
	encoded, err := s.Encode()
	if err != nil {
		return err
	}
	return d.opt.Second.Store(s.Volume, encoded)
}

// journal makes a state durable. After an error it may be on disk or not; the
// next call makes the journal anew.
func (d *DAM) journal(s *State) error {
	encoded, err := s.Encode()
	if err != nil {
		return err
	}
	return d.record(journal.Record{Volume: s.Volume, Version: s.Version, State: encoded})
}

// drop records that a volume was deleted.
func (d *DAM) drop(id string, version uint64) error {
	return d.record(journal.Record{Volume: id, Version: version, Removed: true})
}

func (d *DAM) record(r journal.Record) error {
	d.disk.Lock()
	defer d.disk.Unlock()
	old, had := d.kept[r.Volume]
	if r.Removed && !had {
		return nil // it never was in it
	}
	if d.kept[r.Volume] = r; r.Removed {
		delete(d.kept, r.Volume)
	}
	var err error
	if d.j.Usable() && d.j.Size() < 4*d.base+compactFrom {
		err = d.j.Append(r)
	} else {
		err = d.rewrite()
	}
	if err != nil {
		if delete(d.kept, r.Volume); had {
			d.kept[r.Volume] = old
		}
	}
	return err
}

// rewrite makes the journal anew from what it must hold. d.disk is held, or
// the DAM is not in use yet.
func (d *DAM) rewrite() error {
	all := slices.SortedFunc(maps.Values(d.kept), func(a, b journal.Record) int {
		if a.Volume < b.Volume {
			return -1
		}
		return 1
	})
	err := d.j.Rewrite(all)
	d.base = d.j.Size()
	return err
}
