// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// The files in the directory.
const (
	boltName   = "names.db"   // first copy
	copyName   = "names.copy" // second copy
	markName   = "names.made" // there are names here: never start with an empty table
	tmpSuffix  = ".new"
	badSuffix  = ".damaged" // what a repair has replaced
	markNotice = "This directory holds an RSIO registry. While this file is here, missing names.db and names.copy are an error, not a fresh start.\n"
)

// found is what one copy turned out to be.
type found struct {
	name    string
	missing bool
	clean   bool // cannot be a former state
	state   *state
	err     error // why state is nil, if it is not missing
}

func (f *found) String() string {
	switch {
	case f.missing:
		return f.name + " is missing"
	case f.err != nil:
		return fmt.Sprintf("%s is damaged: %v", f.name, f.err)
	case !f.clean:
		return f.name + " is damaged: one of its meta pages is wrong"
	}
	return fmt.Sprintf("%s has generation %d", f.name, f.state.generation)
}

// readCopy reads a file into memory. Damage of the medium counts as a damaged
// copy; the returned error is anything else that keeps us from judging.
func readCopy(path string) (data []byte, f found, err error) {
	f = found{name: filepath.Base(path), clean: true}
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		f.missing = true
		return nil, f, nil
	}
	if err != nil {
		return nil, f, err
	}
	defer func() { _ = file.Close() }() // only read
	info, err := file.Stat()
	if err != nil {
		return nil, f, err
	}
	if !info.Mode().IsRegular() {
		return nil, f, fmt.Errorf("%s is not a regular file", path)
	}
	if info.Size() > maxFile {
		f.err = fmt.Errorf("%d bytes are too many", info.Size())
		return nil, f, nil
	}
	data, err = io.ReadAll(io.LimitReader(file, maxFile))
	if errors.Is(err, unix.EIO) {
		f.err = err
		return nil, f, nil
	}
	return data, f, err
}

func readBoth(dir string) (b, c found, err error) {
	data, b, err := readCopy(filepath.Join(dir, boltName))
	if err != nil {
		return b, c, err
	}
	if b.err == nil && !b.missing {
		b.err = guard(func() (err error) {
			b.state, b.clean, err = decodeBolt(data)
			return err
		})
	}
	data, c, err = readCopy(filepath.Join(dir, copyName))
	if err != nil {
		return b, c, err
	}
	if c.err == nil && !c.missing {
		c.err = guard(func() (err error) {
			c.state, err = decodeCopy(data)
			return err
		})
	}
	return b, c, nil
}

// choose returns the state to go on with, and whether either copy has to be
// written again. Every acknowledged change is in both copies, bbolt first. So
// a copy that is whole is never behind an acknowledged change, unless bbolt
// lost a meta page: then it may show a former state and does not count alone.
func choose(dir string, b, c found) (s *state, repair bool, err error) {
	refuse := func(why string) error {
		return fmt.Errorf("registry in %s: %s: %s; %s. Restore one of the two files from a backup of this directory; the data of the volumes was not touched", dir, why, b.String(), c.String())
	}
	switch {
	case b.state == nil && c.state == nil:
		return nil, false, refuse("no copy is usable")
	case b.state == nil:
		return c.state, true, nil
	case c.state == nil && !b.clean:
		return nil, false, refuse("both copies are damaged")
	case c.state == nil:
		return b.state, true, nil
	case b.state.id != c.state.id:
		return nil, false, refuse("the copies are of different targets")
	case b.state.generation > c.state.generation:
		return b.state, true, nil
	case b.state.generation < c.state.generation:
		return c.state, true, nil
	}
	same, err := equal(b.state, c.state)
	if err == nil && !same {
		err = refuse("the copies are of one generation but differ")
	}
	return b.state, !b.clean, err
}

func equal(a, b *state) (bool, error) {
	ea, err := a.encode()
	if err != nil {
		return false, err
	}
	eb, err := b.encode()
	return digest(ea) == digest(eb), err
}

// fresh reports whether dir has never held a registry.
func fresh(dir string, b, c found) (bool, error) {
	if !b.missing || !c.missing {
		return false, nil
	}
	_, err := os.Lstat(filepath.Join(dir, markName))
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return false, err
}

// newState is that of a new target. Its identity looks like a UUID.
func newState() *state {
	var u [16]byte
	_, _ = rand.Read(u[:]) // never fails, says its documentation
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
	id := fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
	return &state{id: id, generation: 1, meta: map[string]string{}, volumes: map[string]Volume{}}
}

// keepDamaged keeps a damaged copy under another name, for whoever wants to
// know why. The copy itself stays until it is replaced.
func keepDamaged(dir string, f found) string {
	if f.missing || f.err == nil && f.clean {
		return ""
	}
	path := filepath.Join(dir, f.name)
	_ = os.Remove(path + badSuffix) // of an earlier repair, if there was one
	if err := os.Link(path, path+badSuffix); err != nil {
		return fmt.Sprintf(" (it could not be kept: %v)", err)
	}
	return fmt.Sprintf(" (kept as %s)", f.name+badSuffix)
}
