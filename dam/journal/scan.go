// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Bounds of a scan. Looking for a record behind damage costs one comparison
// for each 8 bytes, 52 bytes of CRC where the magic stands, and the CRC of the
// record where its header is right and has the ID of this file. Right headers
// without a right body, many of them within one record, do not come from
// accidents: a file of them is given up when workFactor times its length was
// looked at. Records that honestly lie in a file need it once.
const (
	workFactor = 16
	maxNotes   = 32
)

// scan judges the content of a file. Every place is looked at once, either as
// the end of the record before or in the search behind damage.
type scan struct {
	data  []byte
	id    fileID // of this file; zero until it is known
	work  int64  // bytes of CRC that are left
	spent bool   // none are left: what follows is unknown
	later bool   // there are records of a later file
	at    int    // behind the last whole record

	seq   uint64 // of the last record
	chain uint32 // its CRC
	best  map[string]entry
	found Found
}

// judge scans data. An error is a format that we do not know.
func judge(data []byte) (*scan, error) {
	s := &scan{data: data, work: workFactor * int64(len(data)), best: make(map[string]entry)}
	if err := s.start(); err != nil {
		return nil, err
	}
	for s.at < len(data) {
		e, err := s.parse(s.at)
		if err == nil {
			s.follow(e)
			continue
		}
		s.note(s.at, "%v", err)
		e, ok := s.search(s.at + align)
		if !ok {
			s.end()
			break
		}
		s.found.Damaged = true
		s.note(e.off, "record %d is whole", e.seq)
		s.take(e)
	}
	return s, nil
}

// start reads the file header. If it is wrong, the first whole record says
// which file this was.
func (s *scan) start() error {
	id, sum, err := parseHeader(s.data)
	if newer, ok := err.(formatError); ok {
		return newer
	}
	if err == nil {
		s.id, s.chain, s.at = id, sum, fileHeader
		return nil
	}
	s.found.Damaged = true
	s.note(0, "the file header is wrong: %v", err)
	e, ok := s.search(0)
	if !ok {
		s.note(0, "no whole record was found")
		s.at = len(s.data)
		return nil
	}
	s.note(e.off, "record %d is whole", e.seq)
	s.take(e)
	return nil
}

// parse returns the record at off, if it is of this file. Nothing of another
// file ever counts, nor has its CRC looked at: a state may be made to look so.
// A block that is used again holds what is earlier; of a later file nothing can
// be here, unless the start of this one was put in its place.
func (s *scan) parse(off int) (entry, error) {
	e, err := parseHead(s.data[off:])
	if err != nil {
		return e, err
	}
	unknown := s.id == fileID{}
	switch c := e.id.compare(s.id); {
	case unknown || c == 0:
	case c < 0:
		return e, fmt.Errorf("record %d of an earlier file", e.seq)
	default:
		s.later = true
		return e, fmt.Errorf("record %d of a later file", e.seq)
	}
	e.off = off
	err = e.parseBody(s.data[off:], &s.work)
	s.spent = s.spent || s.work < 0
	if err == nil && unknown {
		s.id = e.id
	}
	return e, err
}

// search returns the first whole record of this file at or behind off.
func (s *scan) search(off int) (entry, bool) {
	for ; off+minRecord <= len(s.data) && !s.spent; off += align {
		if binary.BigEndian.Uint32(s.data[off:]) != recordMagic {
			continue
		}
		if e, err := s.parse(off); err == nil {
			return e, true
		}
	}
	return entry{}, false
}

// follow takes a record that begins where the one before ends.
func (s *scan) follow(e entry) {
	old, had := s.best[e.Volume]
	switch {
	case e.seq != s.seq+1:
		s.found.Damaged = true
		s.note(e.off, "sequence number %d where %d belongs", e.seq, s.seq+1)
	case e.chain != s.chain:
		s.found.Damaged = true
		s.note(e.off, "record %d does not follow the one before it", e.seq)
	case had && e.Version <= old.Version:
		s.found.Damaged = true
		s.note(e.off, "record %d: version %d of volume %q comes after version %d", e.seq, e.Version, e.Volume, old.Version)
	}
	s.take(e)
}

func (s *scan) take(e entry) {
	s.at, s.seq, s.chain = e.off+e.length, e.seq, e.sum
	old, had := s.best[e.Volume]
	if !had || e.Version > old.Version || e.Version == old.Version && e.seq > old.seq {
		s.best[e.Volume] = e
	}
}

// end judges what is behind the last whole record. One append that a crash cut
// short leaves at most one record there, and in it perhaps what the blocks
// held before: records of earlier files.
func (s *scan) end() {
	rest := bytes.TrimRight(s.data[s.at:], "\x00")
	switch {
	case s.spent:
		s.note(s.at, "what follows was made to cost time, and was given up")
	case len(rest) > maxRecord:
		s.note(s.at, "%d bytes are more than one append can leave", len(rest))
	case s.later:
		s.note(s.at, "what follows is of a later file: what comes before is old")
	default:
		s.note(s.at, "the last %d bytes are no whole record", len(s.data)-s.at)
		s.found.Torn = true
		return
	}
	s.found.Damaged = true
}

// note adds a line for people, unless there are too many already.
func (s *scan) note(off int, format string, args ...any) {
	switch n := len(s.found.Notes); {
	case n < maxNotes:
		s.found.Notes = append(s.found.Notes, fmt.Sprintf("offset %d: ", off)+fmt.Sprintf(format, args...))
	case n == maxNotes:
		s.found.Notes = append(s.found.Notes, "and more")
	}
}

// result returns what was found, with nothing in it that belongs to data.
func (s *scan) result() Found {
	f := s.found
	f.Records = make(map[string]Record, len(s.best))
	for volume, e := range s.best {
		r := e.Record
		r.State = append([]byte{}, r.State...)
		f.Records[volume] = r
	}
	return f
}
