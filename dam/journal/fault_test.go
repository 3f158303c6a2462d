// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// faultAt makes the nth operation of a kind fail.
func faultAt(m *memFS, kind string, nth int) {
	m.fault = func(k, _ string) error {
		if k == kind {
			if nth--; nth == 0 {
				return errFault
			}
		}
		return nil
	}
}

// TestFault: each operation fails once, at each of its calls. The error says
// where and what; the journal is not usable; what is on disk is the state
// before or after the save, also if the process dies and another goes on, with
// or without loss of power; and Rewrite mends it.
func TestFault(t *testing.T) {
	t.Parallel()
	short := []save{anew(put("a", 1, 40)), put("b", 2, 700), put("a", 3, 40), anew(put("c", 4, 60)), put("a", 5, 2000)}
	long := []save{anew(put("a", 1, writeChunk)), anew(put("b", 2, writeChunk))} // several writes each
	for _, row := range []struct {
		kind, text string
		saves      []save
		short      int // bytes that a failed write puts down
		times      int // that it must happen in these saves
	}{
		{"create", "rewrite: create " + memPath + ".new", short, 0, 2},
		{"write", "write", short, 0, 5},
		{"write", "write", short, 13, 5},
		{"write", "write", short, 512, 5},
		{"write", "write", short, 1 << 20, 5},
		{"write", "rewrite: write " + memPath + ".new", long, 700, 3},
		{"fdatasync", "append: fdatasync", short, 0, 3},
		{"fsync", "rewrite: fsync " + memPath + ".new", short, 0, 2},
		{"rename", "rewrite: rename " + memPath + ".new", short, 0, 2},
		{"fsync-dir", "rewrite: fsync of directory /pool", short, 0, 2},
		{"stat", "append: stat", short, 0, 3},
	} {
		for nth := 1; ; nth++ {
			desc := fmt.Sprintf("%s number %d, %d bytes", row.kind, nth, row.short)
			m := newMem()
			m.short = row.short
			faultAt(m, row.kind, nth)
			if !faulty(t, desc, m, row.saves, row.text) {
				if nth != row.times+1 {
					t.Errorf("%s: it was called %d times, not %d", desc, nth-1, row.times)
				}
				break
			}
		}
	}
}

// faulty saves until a fault strikes, and reports whether it did.
func faulty(t *testing.T, desc string, m *memFS, saves []save, text string) bool {
	t.Helper()
	j := mustOpen(t, desc, memPath, m, states{}, false)
	now := states{}
	for i, v := range saves {
		next, err := now.with(v), error(nil)
		if v.rewrite {
			err = j.Rewrite(next.list())
		} else {
			err = j.Append(v.Record)
		}
		if err == nil {
			now = next
			continue
		}
		if !errors.Is(err, errFault) || !strings.Contains(err.Error(), text) || !strings.Contains(err.Error(), "journal "+memPath) || j.Usable() {
			t.Errorf("%s: save %d: usable %v, %v", desc, i, j.Usable(), err)
		}
		if err := j.Append(put("d", 1, 9).Record); err == nil || !strings.Contains(err.Error(), "not usable") || !errors.Is(err, errFault) {
			t.Errorf("%s: append after it: %v", desc, err)
		}
		c := &crash{rnd: rand.New(rand.NewPCG(1, 1)), old: earlier(), large: j.Size() > writeChunk}
		may := []states{now, next}
		must(t, desc+": power lost", c.power(m, may))
		must(t, desc+": started again", c.run(m, may, []save{put("a", 100, 11), put("b", 101, 13)}, nil))
		must(t, desc+": mended", j.Rewrite(now.list()))
		must(t, desc+": mended, power lost", c.power(m, []states{now}))
		must(t, desc+": append", j.Append(put("d", 1, 9).Record))
		must(t, desc+": append, power lost", c.power(m, []states{now.with(put("d", 1, 9))}))
		if len(m.names) != 1 {
			t.Errorf("%s: left %v", desc, m.names)
		}
		return true
	}
	return false
}

// TestFaultTwice: a Rewrite that is to mend something fails as well.
func TestFaultTwice(t *testing.T) {
	for _, kind := range []string{"create", "write", "fsync", "rename", "fsync-dir"} {
		m := newMem()
		now := states{}.with(put("a", 1, 10))
		j := mustOpen(t, kind, memPath, m, states{}, false)
		must(t, kind, j.Rewrite(now.list()))
		faultAt(m, "fdatasync", 1)
		if err := j.Append(put("a", 2, 10).Record); !errors.Is(err, errFault) {
			t.Fatalf("%s: %v", kind, err)
		}
		for range 3 {
			faultAt(m, kind, 1)
			if err := j.Rewrite(now.list()); !errors.Is(err, errFault) || j.Usable() {
				t.Fatalf("%s: usable %v, %v", kind, j.Usable(), err)
			}
		}
		must(t, kind, j.Rewrite(now.list()))
		must(t, kind, j.Append(put("a", 3, 10).Record))
		mustOpen(t, kind, memPath, m, now.with(put("a", 3, 10)), true)
	}
}

// TestLeftover: a file that an earlier Rewrite has left is in the way of none,
// and of one that cannot be removed the error tells.
func TestLeftover(t *testing.T) {
	m := memWith(memPath+newSuffix, []byte("left"))
	j := mustOpen(t, "leftover", memPath, m, states{}, false)
	faultAt(m, "remove", 1)
	if err := j.Rewrite(nil); err == nil || !strings.Contains(err.Error(), newSuffix) || j.Usable() {
		t.Errorf("usable %v, %v", j.Usable(), err)
	}
	must(t, "rewrite", j.Rewrite(nil))
	mustOpen(t, "leftover", memPath, m, states{}, true)
}

// TestFaultOpen: what cannot be made durable when it is opened is shown, but
// nothing is appended to it.
func TestFaultOpen(t *testing.T) {
	now := states{}.with(put("a", 1, 10))
	for _, row := range []struct{ kind, note string }{
		{"fdatasync", "may not be durable: fdatasync: injected"},
		{"fsync-dir", "may not be durable: fsync of directory /pool: injected"},
	} {
		m := memWith(memPath, journalOf(put("a", 1, 10)))
		faultAt(m, row.kind, 1)
		j, found, err := open(memPath, m)
		must(t, row.kind, err)
		if j.Usable() || len(found.Notes) != 1 || !strings.Contains(found.Notes[0], row.note) || !now.same(found.Records) {
			t.Errorf("%s: %+v", row.kind, found)
		}
		must(t, row.kind, j.Rewrite(now.list()))
		must(t, row.kind, j.Append(put("a", 2, 10).Record))
	}
	for _, kind := range []string{"open", "stat", "read"} {
		m := memWith(memPath, journalOf(put("a", 1, 10)))
		faultAt(m, kind, 1)
		if _, _, err := open(memPath, m); !errors.Is(err, errFault) || !strings.Contains(err.Error(), memPath) {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

// TestFaultClose: an error of Close is told.
func TestFaultClose(t *testing.T) {
	m := memWith(memPath, journalOf(put("a", 1, 10)))
	j, _, err := open(memPath, m)
	must(t, "open", err)
	faultAt(m, "close", 1)
	if err := j.Close(); !errors.Is(err, errFault) || !strings.Contains(err.Error(), memPath+": close") {
		t.Error(err)
	}
}
