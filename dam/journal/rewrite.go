// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"errors"
	"fmt"
	"path/filepath"
)

const (
	newSuffix  = ".new"   // of the file that a Rewrite makes
	writeChunk = 64 << 10 // bytes; a Rewrite collects about as much before it writes
)

// Rewrite replaces the file by a new one that holds all, in this order, and
// nothing else. When it returns nil, that is durable, the journal is Usable,
// and Append goes on behind it. It keeps nothing of all. There may be several
// records of one volume if their versions grow.
//
// Records that break a limit are refused and nothing changes. After any other
// error the journal is not Usable, and the old file is there as it was, or the
// new one, whole; which of them is certain only after the next Rewrite.
func (j *Journal) Rewrite(all []Record) error {
	if j.closed {
		return j.error("rewrite", errors.New("it is closed"))
	}
	if err := checkAll(all); err != nil {
		return j.error("rewrite", err)
	}
	tmp := j.path + newSuffix
	e, op, err := j.writeNew(tmp, all)
	if err != nil {
		return j.fail("rewrite: "+op+" "+tmp, err)
	}
	if err := j.files.rename(tmp, j.path); err != nil {
		j.discard(e.f, tmp)
		return j.fail("rewrite: rename "+tmp, err)
	}
	if j.f != nil {
		_ = j.f.Close() // replaced; nothing in it counts any more
	}
	j.end = e
	dir := filepath.Dir(j.path)
	if err := j.files.syncDir(dir); err != nil {
		return j.fail("rewrite: fsync of directory "+dir, err)
	}
	j.refuse = nil
	return nil
}

// checkAll returns why all cannot be the content of a file.
func checkAll(all []Record) error {
	size, versions := int64(fileHeader), make(map[string]uint64, len(all))
	for i := range all {
		r := &all[i]
		if err := r.check(); err != nil {
			return err
		}
		if err := grows(versions, r); err != nil {
			return err
		}
		versions[r.Volume] = r.Version
		if size += int64(r.size()); size > MaxFile {
			return fmt.Errorf("%d records do not fit into one file of %d bytes", len(all), MaxFile)
		}
	}
	return nil
}

// writeNew makes a durable file of all at path. After an error, op says what
// failed, and the file is gone again.
func (j *Journal) writeNew(path string, all []Record) (e end, op string, err error) {
	// What an earlier Rewrite has left goes: the kernel may have forgotten
	// writes to it that failed, so it is not written again.
	_ = j.files.remove(path) // if it is still there, create says so
	e.f, err = j.files.create(path)
	if err != nil {
		return e, "create", err
	}
	defer func() {
		if err != nil {
			j.discard(e.f, path)
		}
	}()
	e.id = newID(j.id)
	buf := make([]byte, 0, fileHeader)
	buf, e.chain = appendHeader(buf, e.id)
	e.size, e.versions = fileHeader, make(map[string]uint64, len(all))
	written := int64(0)
	for i := range all {
		buf = e.add(buf, &all[i])
		if len(buf) < writeChunk {
			continue
		}
		if _, err := e.f.WriteAt(buf, written); err != nil {
			return e, "write", err
		}
		written, buf = written+int64(len(buf)), buf[:0]
	}
	if len(buf) > 0 {
		if _, err := e.f.WriteAt(buf, written); err != nil {
			return e, "write", err
		}
	}
	if err := e.f.Sync(); err != nil {
		return e, "fsync", err
	}
	return e, "", nil
}

// discard drops a file that did not come to replace the old one.
func (j *Journal) discard(f file, path string) {
	_ = f.Close() // the error that counts is the first one
	_ = j.files.remove(path)
}
