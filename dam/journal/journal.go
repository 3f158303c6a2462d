// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"errors"
	"fmt"
)

// end is the end of a file, where the next record goes.
type end struct {
	f        file // nil if there is none
	id       fileID
	size     int64             // bytes of the file
	seq      uint64            // of the last record
	chain    uint32            // its CRC
	versions map[string]uint64 // of each volume the highest
}

// add appends r to buf as the next record of the file.
func (e *end) add(buf []byte, r *Record) []byte {
	buf, e.chain = appendRecord(buf, e.id, e.seq+1, e.chain, r)
	e.seq++
	e.size += int64(r.size())
	e.versions[r.Volume] = r.Version
	return buf
}

// Journal is a journal that Open has read. One goroutine at a time uses it.
type Journal struct {
	end
	path   string
	files  files
	refuse error  // why Append is refused; nil if it is not
	buf    []byte // kept from one Append to the next
	closed bool
}

// Usable reports whether Append may be called. If not, because there is no
// file, or it is torn, damaged or full, or something has failed, then Rewrite
// has to make it anew.
func (j *Journal) Usable() bool { return j.refuse == nil && !j.closed }

// Size returns the length of the file in bytes, as far as we have made or read
// it. What failed in the middle does not count.
func (j *Journal) Size() int64 { return j.size }

// Append puts r behind the last record. When it returns nil, r is durable. It
// keeps nothing of r.
//
// A record that breaks a limit, or whose version is not higher than what the
// file has of its volume, is refused and changes nothing. After any other
// error r may be in the file or not, and the journal is not Usable.
func (j *Journal) Append(r Record) error {
	if j.closed {
		return j.error("append", errors.New("it is closed"))
	}
	if j.refuse != nil {
		return j.error("append", fmt.Errorf("not usable until it is rewritten: %w", j.refuse))
	}
	if err := r.check(); err != nil {
		return j.error("append", err)
	}
	if err := grows(j.versions, &r); err != nil {
		return j.error("append", err)
	}
	if j.size+int64(r.size()) > MaxFile {
		return j.fail("append", fmt.Errorf("it is full: it has %d bytes of at most %d", j.size, MaxFile))
	}
	if err := j.untouched(); err != nil {
		return j.fail("append: stat", err)
	}
	next := j.end // its versions are shared: after an error they are of no use
	j.buf = next.add(j.buf[:0], &r)
	if _, err := j.f.WriteAt(j.buf, j.size); err != nil {
		return j.fail(fmt.Sprintf("append: write at %d", j.size), err)
	}
	if err := j.f.datasync(); err != nil {
		return j.fail("append: fdatasync", err)
	}
	j.end = next
	return nil
}

// grows returns an error if r is not newer than what is in versions.
func grows(versions map[string]uint64, r *Record) error {
	if old, ok := versions[r.Volume]; ok && r.Version <= old {
		return fmt.Errorf("volume %q: version %d comes after version %d: it must be higher", r.Volume, r.Version, old)
	}
	return nil
}

// untouched returns an error if somebody else has changed the file: what we
// append would overwrite what he wrote, or be in a file that nobody finds.
func (j *Journal) untouched() error {
	size, links, err := j.f.stat()
	switch {
	case err != nil:
		return err
	case size != j.size:
		return fmt.Errorf("it has %d bytes where we left %d: somebody else has changed it", size, j.size)
	case links == 0:
		return errors.New("somebody else has removed or replaced it")
	}
	return nil
}

// Close closes the file. All that was appended is durable already. A Journal
// that is closed refuses everything; to close it again does nothing.
func (j *Journal) Close() error {
	if j.closed || j.f == nil {
		j.closed = true
		return nil
	}
	j.closed = true
	if err := j.f.Close(); err != nil {
		return j.error("close", err)
	}
	return nil
}

// error says which file an error is about, and what was done.
func (j *Journal) error(op string, err error) error {
	return fmt.Errorf("journal %s: %s: %w", j.path, op, err)
}

// fail is error for what only Rewrite can mend.
func (j *Journal) fail(op string, err error) error {
	j.refuse = fmt.Errorf("%s: %w", op, err)
	return j.error(op, err)
}
