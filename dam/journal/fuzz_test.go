// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

var seedCorpus = flag.Bool("update-corpus", false, "write the seeds of testdata/fuzz anew")

// seeds are files of every kind.
func seeds() map[string][]byte {
	saves := []save{put("a", 1, 10), put("b", 1, 40), gone("a", 2), put("b", 2, 3)}
	good := journalOf(saves...)
	hole := slices.Clone(good)
	clear(hole[200:264])
	return map[string][]byte{
		"empty":       nil,
		"good":        good,
		"header-only": good[:fileHeader],
		"torn":        good[:len(good)-9],
		"zeroes":      append(slices.Clone(good), make([]byte, 100)...),
		"hole":        hole,
		"no-header":   good[fileHeader:],
		"two-files":   append(slices.Clone(good), journalFor(fileID{8}, saves)...),
		"old-start":   slices.Concat(journalFor(fileID{8}, saves)[:144], good[144:]),
	}
}

// mend makes checksums right that stand where they would be, to let the fuzzer
// get past them.
func mend(b []byte) []byte {
	b = slices.Clone(b)
	if len(b) >= fileHeader {
		copy(b[fileHeader-sumLen:], be32(checksum(b[:fileHeader-sumLen])))
	}
	for at := fileHeader; at+minRecord <= len(b); at += align {
		r := b[at:]
		if binary.BigEndian.Uint32(r) != recordMagic {
			continue
		}
		copy(r[recordHeader-sumLen:], be32(checksum(r[:recordHeader-sumLen])))
		if total := binary.BigEndian.Uint32(r[4:]); total >= minRecord && uint64(total) <= uint64(len(r)) {
			copy(r[total-sumLen:], be32(checksum(r[:total-sumLen])))
		}
	}
	return b
}

// FuzzOpen: nothing panics; what is found is in the file, byte by byte as
// Append writes it; what is not found to be well is not appended to; and what
// was found is there again after Rewrite.
func FuzzOpen(f *testing.F) {
	for name, b := range seeds() {
		if *seedCorpus {
			path := filepath.Join("testdata", "fuzz", "FuzzOpen", name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				f.Fatal(err)
			}
			if err := os.WriteFile(path, fmt.Appendf(nil, "go test fuzz v1\n[]byte(%q)\n", b), 0o644); err != nil {
				f.Fatal(err)
			}
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		fuzzOne(t, b)
		fuzzOne(t, mend(b))
	})
}

func fuzzOne(t *testing.T, b []byte) {
	before := slices.Clone(b)
	m := memWith(memPath, b)
	j, found, err := open(memPath, m)
	if err != nil {
		if _, _, headerErr := parseHeader(b); headerErr == nil {
			t.Fatal(err) // only a newer format is an error
		}
		return
	}
	if !bytes.Equal(b, before) {
		t.Fatal("Open has changed the file")
	}
	s, err := judge(b)
	if err != nil || len(s.best) != len(found.Records) {
		t.Fatalf("%v: %d and %d records", err, len(s.best), len(found.Records))
	}
	for id, r := range found.Records {
		e := s.best[id]
		again, _ := appendRecord(nil, e.id, e.seq, e.chain, &r)
		if r.Volume != id || e.off+len(again) > len(b) || !bytes.Equal(again, b[e.off:e.off+len(again)]) {
			t.Fatalf("volume %q: version %d is not in the file", id, r.Version)
		}
	}
	bad := found.Torn || found.Damaged
	if bad == j.Usable() || bad != (len(found.Notes) > 0) || found.Missing {
		t.Fatalf("usable %v, %+v", j.Usable(), found)
	}
	now := states(found.Records)
	if !j.Usable() {
		must(t, "rewrite", j.Rewrite(now.list()))
	}
	next := save{Record: Record{Volume: "next", State: []byte{1}}}
	if old, ok := now["next"]; ok {
		if next.Version = old.Version + 1; next.Version == 0 {
			return
		}
	}
	must(t, "append", j.Append(next.Record))
	_, again, err := open(memPath, m)
	if err != nil || !now.with(next).same(again.Records) || len(again.Notes) != 0 {
		t.Fatalf("after going on: %v %+v", err, again)
	}
}
