// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Reading. A page that cannot be read is passed over, but not for ever: a disk
// may take seconds for each.
const (
	readChunk = 1 << 20
	readPage  = 4096
	maxBad    = 64 // pages
)

// Found is what Open found in a file. It belongs to the caller.
type Found struct {
	Records map[string]Record // of each volume the whole record with the highest version, wherever it was; never nil
	Missing bool              // there is no file
	Torn    bool              // the end is no whole record: an append that a crash cut short, or damage of the last record
	Damaged bool              // something is wrong that no crash leaves
	Notes   []string          // for people: what is wrong where; empty if all is well, and if there is no file
}

// Open reads the journal at path and changes nothing. What it finds is durable
// if the journal is Usable, also what a process that was killed had not synced.
//
// Whatever the file holds, it is not an error but in Found, also what the disk
// cannot read. The error is what keeps us from judging: no permission, not a
// regular file (a symbolic link is none), longer than MaxFile, a format that is
// newer than this program.
func Open(path string) (*Journal, Found, error) { return open(path, osFiles{}) }

func open(path string, fsys files) (*Journal, Found, error) {
	j := &Journal{path: path, files: fsys}
	f, readOnly, err := fsys.open(path)
	if errors.Is(err, fs.ErrNotExist) {
		j.refuse = errors.New("there is no file")
		return j, Found{Records: map[string]Record{}, Missing: true}, nil
	}
	if err != nil {
		return nil, Found{}, fmt.Errorf("journal %s: open: %w", path, err)
	}
	unsynced := j.settle(f)
	s, err := read(f)
	if err != nil {
		_ = f.Close() // only read
		return nil, Found{}, fmt.Errorf("journal %s: read: %w", path, err)
	}
	found := s.result()
	switch {
	case found.Damaged:
		j.refuse = errors.New("it is damaged")
	case found.Torn:
		j.refuse = errors.New("its end is torn")
	case readOnly != nil:
		j.refuse = readOnly
		found.Notes = append(found.Notes, fmt.Sprintf("it can only be read: %v", readOnly))
	case unsynced != nil:
		j.refuse = unsynced
		found.Notes = append(found.Notes, fmt.Sprintf("it may not be durable: %v", unsynced))
	}
	j.end = end{f: f, id: s.id, size: int64(len(s.data)), seq: s.seq, chain: s.chain, versions: make(map[string]uint64, len(s.best))}
	for volume, e := range s.best {
		j.versions[volume] = e.Version
	}
	return j, found, nil
}

// settle makes durable what Open will find: a process that was killed between
// a write or a rename and its sync has left it in the cache.
func (j *Journal) settle(f file) error {
	if err := f.settle(); err != nil {
		return fmt.Errorf("fdatasync: %w", err)
	}
	dir := filepath.Dir(j.path)
	if err := j.files.syncDir(dir); err != nil {
		return fmt.Errorf("fsync of directory %s: %w", dir, err)
	}
	return nil
}

// read reads and judges a file.
func read(f file) (*scan, error) {
	size, _, err := f.stat()
	if err != nil {
		return nil, err
	}
	if size > MaxFile {
		return nil, fmt.Errorf("%d bytes are too many: at most %d are allowed", size, MaxFile)
	}
	data, bad, err := readAll(f, make([]byte, size))
	if err != nil {
		return nil, err
	}
	s, err := judge(data)
	if err == nil && len(bad) > 0 {
		s.found.Damaged = true
		s.note(bad[0], "%d sectors cannot be read, this is the first", len(bad))
	}
	return s, err
}

// readAll fills data from f and returns it, shorter if the file is. It returns
// where the disk could not read; there it leaves zeroes.
func readAll(f file, data []byte) (filled []byte, bad []int, err error) {
	for off := 0; off < len(data); {
		n, err := f.ReadAt(data[off:min(len(data), off+readChunk)], int64(off))
		off += n
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			return data[:off], bad, nil // cut while we read
		case !errors.Is(err, unix.EIO):
			return nil, nil, err
		case len(bad) == maxBad:
			return data, append(bad, off), nil
		default:
			bad = append(bad, off)
			off = (off/readPage + 1) * readPage
		}
	}
	return data, bad, nil
}
