// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"
	"time"
)

// seal makes the checksums of a record right.
func seal(r []byte) []byte {
	copy(r[recordHeader-sumLen:], be32(checksum(r[:recordHeader-sumLen])))
	copy(r[len(r)-sumLen:], be32(checksum(r[:len(r)-sumLen])))
	return r
}

// TestHostileRecord: records whose checksums are right and whose content is
// not what Append writes are none.
func TestHostileRecord(t *testing.T) {
	header, sum := appendHeader(nil, fileID{9})
	record := func(r Record) []byte {
		b, _ := appendRecord(nil, fileID{9}, 1, sum, &r)
		return b
	}
	vol, state := Record{Volume: "vol", State: []byte("state")}, []byte("state")
	set := func(b []byte, at int, to ...byte) []byte {
		copy(b[at:], to)
		return b
	}
	for _, row := range []struct {
		desc, want string
		record     []byte
	}{
		{"nothing is wrong", "", record(vol)},
		{"sequence number 0", "out of range", set(record(vol), 24, make([]byte, 8)...)},
		{"a flag that is not known", "out of range", set(record(vol), 36, 2)},
		{"a byte that should be zero", "out of range", set(record(vol), 38, 1)},
		{"another that should be zero", "out of range", set(record(vol), 39, 1)},
		{"a UUID of no bytes", "out of range", set(record(Record{Volume: "v"}), 37, 0)},
		{"a UUID of 65 bytes", "out of range", record(Record{Volume: strings.Repeat("v", MaxVolume+1)})},
		{"a state that is too long", "out of range", record(Record{Volume: "v", State: make([]byte, MaxState+1)})},
		{"removed with a state", "out of range", record(Record{Volume: "v", State: state, Removed: true})},
		{"a length that is too short", "contradict", set(record(vol), 4, be32(minRecord)...)},
		{"a length that is too long", "contradict", set(append(record(vol), make([]byte, 8)...), 4, be32(80)...)},
		{"a length of 0", "contradict", set(record(vol), 4, be32(0)...)},
		{"a length of 4 GiB", "contradict", set(record(vol), 4, be32(1<<32-1)...)},
		{"a state of 4 GiB", "out of range", set(record(vol), 48, be32(1<<32-1)...)},
		{"a state that reaches behind the end", "only", set(set(record(vol), 48, be32(1000)...), 4, be32(uint32(recordLen(3, 1000)))...)},
		{"padding that is not zero", "not padded", set(record(vol), recordHeader+8, 1)},
	} {
		_, found, err := open(memPath, memWith(memPath, slices.Concat(header, seal(row.record))))
		must(t, row.desc, err)
		notes := strings.Join(found.Notes, "\n")
		if (len(found.Records) == 1) != (row.want == "") || found.Torn == (row.want == "") && !found.Damaged || !strings.Contains(notes, row.want) {
			t.Errorf("%s: %d records, torn %v, damaged %v, %q", row.desc, len(found.Records), found.Torn, found.Damaged, notes)
		}
	}
}

// TestHostileState: a state that is made of records hides nothing that
// follows, and nothing of it counts, also when its own record is damaged.
func TestHostileState(t *testing.T) {
	id := fileID{9}
	long, _ := appendRecord(nil, id, 7, 0, &Record{Volume: "fake", Version: 1 << 60, State: make([]byte, MaxState)})
	for desc, state := range map[string][]byte{
		"magics":                         bytes.Repeat([]byte("RPJR\x00\x10\x00\x00"), MaxState/8),
		"a whole file, earlier":          journalFor(fileID{8}, []save{put("fake", 1<<60, 10)}),
		"a whole file, later":            journalFor(fileID{10}, []save{put("fake", 1<<60, 10)}),
		"headers of long records, early": bytes.Repeat(withID(long[:recordHeader], fileID{8}), MaxState/recordHeader),
		"headers of long records, later": bytes.Repeat(withID(long[:recordHeader], fileID{10}), MaxState/recordHeader),
	} {
		start, sum := appendHeader(nil, id)
		b, sum := appendRecord(slices.Clone(start), id, 1, sum, &Record{Volume: "aaaaaaaa", State: state})
		_, torn, err := open(memPath, memWith(memPath, b[:len(b)-8]))
		must(t, desc, err)
		if len(torn.Records) != 0 || !torn.Torn && !torn.Damaged {
			t.Errorf("%s, torn: %d records, %q", desc, len(torn.Records), torn.Notes)
		}
		b, _ = appendRecord(b, id, 2, sum, &Record{Volume: "b", State: []byte("seen")})
		b[len(start)+recordHeader]++ // of the UUID
		_, found, err := open(memPath, memWith(memPath, b))
		must(t, desc, err)
		if len(found.Records) != 1 || string(found.Records["b"].State) != "seen" || !found.Damaged {
			t.Errorf("%s: %d records, %q", desc, len(found.Records), found.Notes)
		}
	}
}

// withID is a record's header with another file ID.
func withID(header []byte, id fileID) []byte {
	h := slices.Clone(header)
	copy(h[8:], id[:])
	binary.BigEndian.PutUint32(h[recordHeader-sumLen:], checksum(h[:recordHeader-sumLen]))
	return h
}

// TestTime: a file that was made to cost time does not.
func TestTime(t *testing.T) {
	const size = 4 << 20
	id := fileID{9}
	start, _ := appendHeader(nil, id)
	long, _ := appendRecord(nil, id, 1, 0, &Record{Volume: "a", State: make([]byte, MaxState)})
	for _, row := range []struct {
		desc, note string
		start      []byte
		unit       []byte
	}{
		{"magics", "more than one append", start, []byte("RPJR....")},
		{"headers of long records", "given up", start, long[:recordHeader]},
		{"the same without a file header", "no whole record", nil, long[:recordHeader]},
		{"records that follow nothing", "and more", start, journalFor(id, []save{put("a", 1, 8)})[fileHeader:]},
	} {
		data := append(slices.Clone(row.start), bytes.Repeat(row.unit, size/len(row.unit))...)
		began := time.Now()
		s, err := judge(data)
		must(t, row.desc, err)
		took := time.Since(began)
		f := s.result()
		if notes := strings.Join(f.Notes, "\n"); !f.Damaged || len(f.Notes) > maxNotes+1 || took > 5*time.Second || !strings.Contains(notes, row.note) {
			t.Errorf("%s: %v, %q", row.desc, took, notes)
		}
		t.Logf("%s: %v", row.desc, took)
	}
}
