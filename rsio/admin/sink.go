// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
)

// Sink is where an export goes: a file, which appears under its name only
// when it is whole and durable; a device; or a stream.
type Sink struct {
	name string
	out  io.Writer // a device or stream: written in order, zeroes included
	file *os.File  // closed at the end
	tmp  string    // a regular file: its name until it is whole
	path string    // and afterwards
	zero []byte
}

// OpenSink prepares an export to path; "-" is stdout.
func OpenSink(path string, stdout io.Writer) (*Sink, error) {
	if path == "-" {
		return &Sink{name: path, out: stdout}, nil
	}
	s, err := openSink(path)
	if err != nil {
		return nil, fileError(err, "write", path)
	}
	return s, nil
}

func openSink(path string) (*Sink, error) {
	mode := os.FileMode(0o666) // less the umask
	s := &Sink{name: path, path: path}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		s.path = real
	}
	info, err := os.Stat(s.path)
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return nil, err
	case info.IsDir():
		return nil, errors.New("it is a directory")
	case !info.Mode().IsRegular():
		s.file, err = os.OpenFile(s.path, os.O_WRONLY, 0)
		s.out = s.file
		return s, err
	default:
		mode = info.Mode().Perm()
	}
	s.tmp = filepath.Join(filepath.Dir(s.path), "."+filepath.Base(s.path)+"."+rand.Text()[:8])
	s.file, err = os.OpenFile(s.tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	return s, err
}

// data writes b at off.
func (s *Sink) data(off uint64, b []byte) (err error) {
	if s.out != nil {
		_, err = s.out.Write(b)
	} else {
		_, err = s.file.WriteAt(b, int64(off))
	}
	return fileError(err, "write", s.name)
}

// hole leaves out n bytes.
func (s *Sink) hole(n uint64) error {
	if s.out == nil {
		return nil
	}
	if s.zero == nil {
		s.zero = make([]byte, maxData)
	}
	for n > 0 {
		b := s.zero[:min(n, maxData)]
		if _, err := s.out.Write(b); err != nil {
			return fileError(err, "write", s.name)
		}
		n -= uint64(len(b))
	}
	return nil
}

// commit makes the image of size bytes durable and lets it appear.
func (s *Sink) commit(size uint64) error {
	if s.tmp == "" {
		return fileError(s.closeDevice(), "write", s.name)
	}
	err := s.file.Truncate(int64(size))
	if err == nil {
		err = s.file.Sync()
	}
	if closeErr := s.file.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(s.tmp, s.path)
	}
	if err != nil {
		_ = os.Remove(s.tmp) // the error that counts is the first one
		return fileError(err, "write", s.name)
	}
	d, err := os.Open(filepath.Dir(s.path))
	if err == nil {
		err = d.Sync()
		_ = d.Close() // only synced
	}
	return fileError(err, "write", s.name)
}

func (s *Sink) closeDevice() error {
	if s.file == nil {
		return nil
	}
	info, err := s.file.Stat()
	if err == nil && info.Mode()&os.ModeDevice != 0 && info.Mode()&os.ModeCharDevice == 0 {
		err = s.file.Sync()
	}
	if closeErr := s.file.Close(); err == nil {
		err = closeErr
	}
	return err
}

// Abort leaves no half file behind. It does nothing after a commit.
func (s *Sink) Abort() {
	if s.file != nil {
		_ = s.file.Close() // what it holds is given up
	}
	if s.tmp != "" {
		_ = os.Remove(s.tmp) // gone already after a commit
	}
}
