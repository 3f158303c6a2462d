// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestOrder: records that are whole but not as Append puts them.
func TestOrder(t *testing.T) {
	id := fileID{9}
	type rec struct {
		seq     uint64
		chain   bool // as it should be
		version uint64
		text    string
	}
	for _, row := range []struct {
		desc string
		recs []rec
		note string // empty: all is well
		want string // text of what counts
	}{
		{"as it should be", []rec{{1, true, 1, "x"}, {2, true, 2, "y"}}, "", "y"},
		{"versions may leave gaps", []rec{{1, true, 7, "x"}, {2, true, 9, "y"}}, "", "y"},
		{"a gap in the sequence", []rec{{1, true, 1, "x"}, {3, true, 2, "y"}}, "sequence number 3 where 2 belongs", "y"},
		{"the first one is missing", []rec{{2, true, 1, "x"}}, "sequence number 2 where 1 belongs", "x"},
		{"the same record twice", []rec{{1, true, 1, "x"}, {1, true, 1, "x"}}, "sequence number 1 where 2 belongs", "x"},
		{"the sequence ends", []rec{{1<<64 - 1, true, 1, "x"}, {1, true, 2, "y"}}, "where 1 belongs", "y"},
		{"backwards", []rec{{2, true, 2, "y"}, {1, true, 1, "x"}}, "where 1 belongs", "y"},
		{"a broken chain", []rec{{1, true, 1, "x"}, {2, false, 2, "y"}}, "record 2 does not follow", "y"},
		{"a first record of another header", []rec{{1, false, 1, "x"}}, "record 1 does not follow", "x"},
		{"a version comes back", []rec{{1, true, 2, "x"}, {2, true, 1, "y"}}, "version 1 of volume \"a\" comes after version 2", "x"},
		{"a version comes twice", []rec{{1, true, 2, "x"}, {2, true, 2, "y"}}, "version 2 of volume \"a\" comes after version 2", "y"},
	} {
		b, sum := appendHeader(nil, id)
		for _, r := range row.recs {
			chain := sum
			if !r.chain {
				chain++
			}
			b, sum = appendRecord(b, id, r.seq, chain, &Record{Volume: "a", Version: r.version, State: []byte(r.text)})
		}
		j, found, err := open(memPath, memWith(memPath, b))
		must(t, row.desc, err)
		if string(found.Records["a"].State) != row.want || found.Torn || found.Damaged != (row.note != "") || j.Usable() == found.Damaged {
			t.Errorf("%s: %+v", row.desc, found)
		}
		if !strings.Contains(strings.Join(found.Notes, "\n"), row.note) || found.Damaged == (found.Notes == nil) {
			t.Errorf("%s: %q", row.desc, found.Notes)
		}
	}
}

// TestVerdict: torn or damaged.
func TestVerdict(t *testing.T) {
	saves := []save{put("a", 1, 100), put("b", 1, 100), put("a", 2, 100)}
	good := journalOf(saves...)
	last := len(good) - saves[2].size()
	flip := func(at int) []byte {
		b := slices.Clone(good)
		b[at] ^= 1
		return b
	}
	other := journalFor(fileID{8}, saves)
	replaced := slices.Concat(journalFor(fileID{8}, []save{put("a", 1, 600)})[:200], good[200:])
	for _, row := range []struct {
		desc          string
		data          []byte
		torn, damaged bool
		records       int
	}{
		{"good", good, false, false, 2},
		{"nothing but the header", good[:fileHeader], false, false, 0},
		{"empty: a new file is never seen so", nil, false, true, 0},
		{"a part of the header", good[:63], false, true, 0},
		{"nothing but zeroes", make([]byte, 4096), false, true, 0},
		{"something else", blob(5000), false, true, 0},
		{"a header that is wrong", flip(5), false, true, 2},
		{"a file ID that is wrong", flip(20), false, true, 2},
		{"a last record that is cut", good[:len(good)-20], true, false, 2},
		{"a last record that is wrong", flip(last + 99), true, false, 2},
		{"a last record whose file ID is wrong", flip(last + 9), true, false, 2},
		{"no file header, and then a header of another file", slices.Concat(other[fileHeader:fileHeader+recordHeader], good[fileHeader:]), false, true, 2},
		{"a record before that is wrong", flip(fileHeader + 99), false, true, 2},
		{"both", flip(fileHeader + 99)[:len(good)-20], true, true, 1},
		{"zeroes behind", append(slices.Clone(good), make([]byte, 3<<20)...), true, false, 2},
		{"as much behind as one append writes", append(slices.Clone(good), blob(maxRecord)...), true, false, 2},
		{"more behind", append(slices.Clone(good), blob(maxRecord+1)...), false, true, 2},
		{"a record of an earlier file behind", append(slices.Clone(good), other[last:]...), true, false, 2},
		{"a record of a later file behind", append(slices.Clone(good), journalFor(fileID{10}, saves)[last:]...), false, true, 2},
		{"a start of an earlier file", replaced, false, true, 0},
	} {
		_, found, err := open(memPath, memWith(memPath, row.data))
		must(t, row.desc, err)
		if found.Torn != row.torn || found.Damaged != row.damaged || len(found.Records) != row.records {
			t.Errorf("%s: %+v", row.desc, found)
		}
	}
}

// TestUnreadable: what the disk cannot read is damage, and what is before and
// behind it counts.
func TestUnreadable(t *testing.T) {
	saves := []save{put("a", 1, 10000), put("b", 1, 10), put("a", 2, 10000), put("c", 1, 10000)}
	good := journalOf(saves...)
	pages := (len(good) + readPage - 1) / readPage
	for page := range pages {
		m := memWith(memPath, good)
		m.names[memPath].bad = map[int]bool{page: true}
		j, found, err := open(memPath, m)
		must(t, fmt.Sprint("page ", page), err)
		if !found.Damaged || j.Usable() || !strings.Contains(strings.Join(found.Notes, "\n"), "cannot be read") || len(found.Records) < 2 {
			t.Errorf("page %d: %d records, %q", page, len(found.Records), found.Notes)
		}
		if v := found.Records["a"].Version; v != 2 && (page < 2 || page > 5) {
			t.Errorf("page %d: version %d", page, v)
		}
		must(t, "rewrite", j.Rewrite(nil))
	}
	m := memWith(memPath, make([]byte, 10<<20))
	m.names[memPath].bad = map[int]bool{}
	for page := range 10 << 20 / readPage {
		m.names[memPath].bad[page] = true
	}
	reads := 0
	m.fault = func(kind, _ string) error {
		if kind == "read" {
			reads++
		}
		return nil
	}
	if _, found, err := open(memPath, m); err != nil || !found.Damaged || reads > maxBad+1 {
		t.Errorf("%v, %+v after %d reads", err, found, reads)
	}
}
