// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

func be32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

// journalOf is a file in which saves were appended.
func journalOf(saves ...save) []byte { return journalFor(fileID{9}, saves) }

func journalFor(id fileID, saves []save) []byte {
	b, sum := appendHeader(nil, id)
	for i, s := range saves {
		b, sum = appendRecord(b, id, uint64(i+1), sum, &s.Record)
	}
	return b
}

// victim is a good file and what is where in it.
type victim struct {
	t     *testing.T
	data  []byte
	saves []save
	ends  []int  // where each record ends
	also  []save // those of an earlier file, of which damage may leave something
	count int
}

// dozens are saves of several volumes, with records of all kinds.
func dozens(from uint64, n int) []save {
	rnd := rand.New(rand.NewPCG(from, 3))
	var saves []save
	for i := range uint64(n) {
		s := put(string(rune('a'+rnd.IntN(5))), from+i, rnd.IntN(150)+rnd.IntN(3)/2*rnd.IntN(900))
		if rnd.IntN(10) == 0 {
			s = gone(s.Volume, from+i)
		}
		saves = append(saves, s)
	}
	return saves
}

func newVictim(t *testing.T) *victim {
	v := &victim{t: t, saves: dozens(100, 26)}
	v.data = journalOf(v.saves...)
	at := fileHeader
	for _, s := range v.saves {
		at += s.size()
		v.ends = append(v.ends, at)
	}
	return v
}

// newest is what the records that are not within any of the ranges say.
func (v *victim) newest(hit [][2]int) states {
	want := states{}
	for i, s := range v.saves {
		from, to := v.ends[i]-s.size(), v.ends[i]
		if !slices.ContainsFunc(hit, func(h [2]int) bool { return h[0] < to && from < h[1] }) {
			want[s.Volume] = s.Record
		}
	}
	return want
}

// check opens bad, which is data with changes in the ranges hit. Nothing is
// returned that was not written; what was not hit counts; and it is reported,
// unless only whole records are missing at the end.
func (v *victim) check(desc string, bad []byte, hit ...[2]int) {
	v.t.Helper()
	if v.count++; bytes.Equal(bad, v.data) {
		return
	}
	m := memWith(memPath, bad)
	j, found, err := open(memPath, m)
	if err != nil {
		v.t.Fatalf("%s: %v", desc, err)
	}
	for id, r := range found.Records {
		if !slices.ContainsFunc(slices.Concat(v.saves, v.also), func(s save) bool { return states{id: s.Record}.same(states{s.Volume: r}) }) {
			v.t.Fatalf("%s: volume %q: nobody has written version %d, %d bytes", desc, id, r.Version, len(r.State))
		}
	}
	for id, want := range v.newest(hit) {
		if r, ok := found.Records[id]; !ok || r.Version < want.Version {
			v.t.Fatalf("%s: volume %q: version %d, but %d is whole; %q", desc, id, r.Version, want.Version, found.Notes)
		}
	}
	quiet := len(bad) == fileHeader || slices.Contains(v.ends, len(bad)) // cut between records
	quiet = quiet && bytes.Equal(bad, v.data[:min(len(bad), len(v.data))])
	if reported := found.Torn || found.Damaged; reported == quiet || reported == (len(found.Notes) == 0) || reported == j.Usable() {
		v.t.Fatalf("%s: %+v, usable %v", desc, found, j.Usable())
	}
}

// TestDamageByte: single bytes.
func TestDamageByte(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	header := func(at int) bool { // all its bits are tried
		i, _ := slices.BinarySearch(v.ends, at+1)
		return at < fileHeader || at-(v.ends[i]-v.saves[i].size()) < recordHeader
	}
	for at := range v.data {
		for bit := range 8 {
			if bit != at%8 && !header(at) {
				continue
			}
			bad := slices.Clone(v.data)
			bad[at] ^= 1 << bit
			v.check(fmt.Sprintf("bit %d of byte %d", bit, at), bad, [2]int{at, at + 1})
		}
	}
	t.Logf("%d records, %d bytes, %d files", len(v.saves), len(v.data), v.count)
}

// TestDamageLength: the file is cut, and more is behind it.
func TestDamageLength(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	for n := range v.data {
		v.check(fmt.Sprint("cut to ", n), v.data[:n], [2]int{n, len(v.data)})
		if n%4 == 1 {
			zeroes := make([]byte, len(v.data))
			copy(zeroes, v.data[:n])
			v.check(fmt.Sprint("zeroes from ", n), zeroes, [2]int{n, len(v.data)})
		}
	}
	for _, n := range []int{1, 7, 8, 63, 64, 512, 4096, maxRecord, maxRecord + 8} {
		v.check(fmt.Sprint(n, " zeroes behind"), append(slices.Clone(v.data), make([]byte, n)...))
		v.check(fmt.Sprint(n, " bytes behind"), append(slices.Clone(v.data), blob(n)...))
		v.check(fmt.Sprint(n, " times 0xff behind"), append(slices.Clone(v.data), bytes.Repeat([]byte{0xff}, n)...))
	}
	v.check("the same file behind", append(slices.Clone(v.data), v.data...))
	v.check("an earlier file behind", append(slices.Clone(v.data), journalFor(fileID{8}, v.saves)...))
}

// TestDamagePage: pages that are lost, exchanged, or of another file.
func TestDamagePage(t *testing.T) {
	v := newVictim(t)
	v.also = dozens(50, 40)
	old := journalFor(fileID{8}, v.also)
	for _, size := range []int{512, 4096} {
		pages := (len(v.data) + size - 1) / size
		at := func(page int) [2]int { return [2]int{page * size, min(len(v.data), (page+1)*size)} }
		for p := range pages {
			for desc, fill := range map[string][]byte{"zeroes": make([]byte, size), "0xff": bytes.Repeat([]byte{0xff}, size), "noise": blob(size)} {
				bad := slices.Clone(v.data)
				copy(bad[p*size:], fill)
				v.check(fmt.Sprintf("page %d of %d is %s", p, size, desc), bad, at(p))
			}
			for q := range p {
				bad := slices.Clone(v.data)
				copy(bad[p*size:at(p)[1]], v.data[q*size:])
				copy(bad[q*size:at(q)[1]], v.data[p*size:at(p)[1]]) // the last page may be short
				v.check(fmt.Sprintf("pages %d and %d of %d are exchanged", p, q, size), bad, at(p), at(q))
			}
			bad := slices.Concat(v.data[:p*size], v.data[at(p)[1]:])
			v.check(fmt.Sprintf("page %d of %d is missing", p, size), bad, at(p))
		}
	}
	for _, size := range []int{512, 4096} {
		for p := 0; p*size < len(v.data); p++ {
			bad := slices.Clone(v.data)
			copy(bad[p*size:min(len(bad), (p+1)*size)], old[p*size:])
			hit := [2]int{p * size, (p + 1) * size}
			if p == 0 {
				hit[1] = len(v.data) // then it is the earlier file, and the rest does not belong to it
			}
			v.check(fmt.Sprintf("page %d of %d is of an earlier file", p, size), bad, hit)
		}
	}
	t.Logf("%d files", v.count)
}

// TestDamageMuch: several kinds of damage at several places.
func TestDamageMuch(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	rnd := rand.New(rand.NewPCG(5, 5))
	for i := range 2000 {
		bad, desc := slices.Clone(v.data), fmt.Sprintf("variant %d:", i)
		var hit [][2]int
		for range 1 + rnd.IntN(4) {
			at := rnd.IntN(len(bad))
			end := min(len(bad), at+1+rnd.IntN(700))
			switch rnd.IntN(4) {
			case 0:
				end = at + 1
				bad[at] ^= 1 << rnd.IntN(8)
			case 1:
				clear(bad[at:end])
			case 2:
				copy(bad[at:end], blob(end-at))
			case 3: // records in the place of others
				copy(bad[at&^7:end], v.data[rnd.IntN(len(v.data))&^7:])
			}
			hit = append(hit, [2]int{at &^ 7, end})
			desc += fmt.Sprintf(" %d..%d", at, end)
		}
		v.check(desc, bad, hit...)
	}
}
