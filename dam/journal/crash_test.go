// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
)

const memPath = "/pool/j"

// save is one call: Append of a record, or Rewrite of all there is with the
// record in it, from which a removed volume is left out.
type save struct {
	Record
	rewrite bool
}

// states is what a journal has to hold: the record of each volume.
type states map[string]Record

func (s states) String() string {
	var b strings.Builder
	for _, v := range slices.Sorted(maps.Keys(s)) {
		fmt.Fprintf(&b, "%s:%d(%d bytes, removed %v) ", v, s[v].Version, len(s[v].State), s[v].Removed)
	}
	return b.String()
}

func (s states) same(o states) bool {
	return maps.EqualFunc(s, o, func(a, b Record) bool {
		return a.Volume == b.Volume && a.Version == b.Version && a.Removed == b.Removed && bytes.Equal(a.State, b.State)
	})
}

func (s states) list() []Record {
	return slices.SortedFunc(maps.Values(s), func(a, b Record) int { return strings.Compare(a.Volume, b.Volume) })
}

// with is s after a save.
func (s states) with(v save) states {
	s = maps.Clone(s)
	if s[v.Volume] = v.Record; v.rewrite && v.Removed {
		delete(s, v.Volume)
	}
	return s
}

// crash runs saves on a recorded file system, and then loses power in every
// way at every point.
type crash struct {
	rnd   *rand.Rand
	old   []byte // what blocks held before
	fine  bool   // every length of a torn write, not some
	large bool   // only few lengths
	lie   string // this kind of sync does nothing
	count int    // files that were looked at
}

// mark says what is durable from an operation on.
type mark struct {
	at    int // operations that were done
	state states
}

// run does the script on a copy of m, in which one of the states allowed is
// found. If kills is given, it kills the process at every point and goes on
// with kills in the next one, before power is lost.
func (c *crash) run(m *memFS, allowed []states, script, kills []save) error {
	w := m.clone()
	w.record, w.lie = true, c.lie
	j, found, err := open(memPath, w)
	if err != nil {
		return err
	}
	now := states(found.Records)
	if found.Damaged || !slices.ContainsFunc(allowed, now.same) {
		return fmt.Errorf("after a kill: found %v, allowed %v, %q", now, allowed, found.Notes)
	}
	if !j.Usable() {
		if err := j.Rewrite(now.list()); err != nil {
			return err
		}
	}
	marks := []mark{{len(w.log), now}}
	for _, v := range script {
		now = now.with(v)
		if v.rewrite {
			err = j.Rewrite(now.list())
		} else {
			err = j.Append(v.Record)
		}
		if err != nil {
			return err
		}
		marks = append(marks, mark{len(w.log), now})
	}
	return c.everywhere(m, w.log, marks, allowed, kills)
}

// everywhere replays a log on a copy of m and crashes behind each operation.
func (c *crash) everywhere(m *memFS, log []op, marks []mark, allowed []states, kills []save) error {
	m = m.clone()
	m.lie = c.lie
	for i := 0; i <= len(log); i++ {
		if i > 0 {
			m.replay(log[i-1])
		}
		done, _ := slices.BinarySearchFunc(marks, i, func(k mark, i int) int { return k.at - i - 1 })
		may := allowed
		if done > 0 {
			may = []states{marks[done-1].state}
			if i > marks[done-1].at {
				may = append(may, marks[done].state)
			}
		}
		if err := c.power(m, may); err != nil {
			return fmt.Errorf("power lost after %d of %d operations: %w", i, len(log), err)
		}
		if kills == nil {
			continue
		}
		coarse := *c
		coarse.fine, coarse.count = false, 0
		if err := coarse.run(m, may, later(kills), nil); err != nil {
			return fmt.Errorf("killed after %d of %d operations: %w", i, len(log), err)
		}
		c.count += coarse.count
	}
	return nil
}

// later are the saves with versions that nobody has used yet.
func later(script []save) []save {
	script = slices.Clone(script)
	for i := range script {
		script[i].Version += 1000
	}
	return script
}

// power loses power: what is durable is there, and of the rest anything.
func (c *crash) power(m *memFS, may []states) error {
	names := maps.Clone(m.durable)
	for i := 0; i <= len(m.changes); i++ {
		if i > 0 {
			m.changes[i-1].apply(names)
		}
		n := names[memPath]
		if n == nil {
			if err := c.look(newMem(), may); err != nil {
				return fmt.Errorf("%d changes of the directory: %w", i, err)
			}
			continue
		}
		err := c.images(n, func(desc string, content []byte) error {
			if err := c.look(memWith(memPath, content), may); err != nil {
				return fmt.Errorf("%d changes of the directory, %s: %w", i, desc, err)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// images yields what may be on disk of a file.
func (c *crash) images(n *node, yield func(desc string, content []byte) error) error {
	if err := yield("nothing of the last write", n.durable); err != nil || len(n.pending) == 0 {
		return err
	}
	full := n.durable
	for i, w := range n.pending {
		base := full
		full = w.apply(full)
		for _, cut := range c.cuts(w) {
			torn := write{w.off, w.data[:cut]}.apply(base)
			if err := yield(fmt.Sprintf("%d bytes of write %d", cut, i), torn); err != nil {
				return err
			}
			torn = write{len(full), nil}.apply(torn)
			if err := yield(fmt.Sprintf("%d bytes of write %d, and zeroes", cut, i), torn); err != nil {
				return err
			}
		}
	}
	for _, length := range []int{len(full), (len(full) + 4095) &^ 4095, len(full) + 9999} {
		if err := yield("nothing but the length", write{length, nil}.apply(n.durable)); err != nil {
			return err
		}
	}
	mixes := 6
	if c.fine {
		mixes = 24
	}
	for range mixes {
		desc, content := c.sectors(n.durable, full)
		if err := yield(desc, content); err != nil {
			return err
		}
	}
	return nil
}

// cuts are the lengths to which a write is torn.
func (c *crash) cuts(w write) []int {
	var cuts []int
	step := 512
	if len(w.data) <= 400 {
		if step = 1; !c.fine {
			step = 83
		}
	}
	if c.large {
		step = 32 << 10
	}
	for at := (w.off + step - 1) / step * step; at <= w.off+len(w.data); at += step {
		cuts = append(cuts, at-w.off)
	}
	for range 2 {
		cuts = append(cuts, c.rnd.IntN(len(w.data)+1))
	}
	return append(cuts, max(0, len(w.data)-1), len(w.data))
}

// sectors mixes the sectors of a file before and after a write. Those that are
// new and were not written hold zeroes or what the block held before.
func (c *crash) sectors(before, after []byte) (desc string, content []byte) {
	content = slices.Clone(after)
	stale := c.rnd.IntN(3) == 0
	for at := 0; at < len(after); at += 512 {
		end := min(at+512, len(after))
		if c.rnd.IntN(2) == 0 {
			continue
		}
		desc += fmt.Sprint(" ", at/512)
		sector := content[at:end]
		clear(sector)
		if stale && at < len(c.old) {
			copy(sector, c.old[at:])
		}
		if at < len(before) {
			if clear(sector); end > len(before) && stale {
				copy(sector[len(before)-at:], c.old[min(len(before), len(c.old)):])
			}
			copy(sector, before[at:])
		}
	}
	return fmt.Sprintf("without the sectors%s (stale %v)", desc, stale), content
}

// look opens what a crash has left, and goes on.
func (c *crash) look(m *memFS, may []states) error {
	c.count++
	j, found, err := open(memPath, m)
	if err != nil {
		return err
	}
	now := states(found.Records)
	if !slices.ContainsFunc(may, now.same) {
		return fmt.Errorf("found %v, allowed %v, %q", now, may, found.Notes)
	}
	if found.Damaged {
		return fmt.Errorf("a crash looks like damage: %q", found.Notes)
	}
	if j.Usable() == (found.Torn || found.Missing) || found.Torn == (len(found.Notes) == 0) {
		return fmt.Errorf("usable %v, %+v", j.Usable(), found)
	}
	next := Record{Volume: "a", Version: 1 << 40, State: []byte("next")}
	if !j.Usable() {
		if err := j.Append(next); err == nil || !strings.Contains(err.Error(), "not usable") {
			return fmt.Errorf("append to what is not usable: %v", err)
		}
		if err := j.Rewrite(now.list()); err != nil {
			return err
		}
	}
	if err := j.Append(next); err != nil {
		return err
	}
	_, again, err := open(memPath, m)
	if err != nil || len(again.Notes) != 0 || !now.with(save{next, false}).same(again.Records) {
		return fmt.Errorf("after going on: %w %+v", err, again)
	}
	return nil
}
