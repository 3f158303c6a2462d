// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"bytes"
	"errors"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"rsio/rsio/admin/api"
)

// Progress is told how far an import or export is: done of total bytes; total
// is zero if it is not known. It is called from one goroutine at a time.
type Progress func(done, total uint64)

// Source is an image to import: a file, a block device or a stream. Reading
// it gives an image stream. One goroutine reads; Close and Err may be called
// from others.
type Source struct {
	name     string
	in       io.Reader
	file     *os.File // if it can be read at any offset
	size     uint64   // unknownSize for a stream
	progress Progress

	out     bytes.Buffer // records not yet read
	w       *streamWriter
	chunk   []byte
	pos     uint64
	dataEnd uint64 // of the extent of data that pos is in
	ended   bool

	reading sync.Mutex // held while the file is read or closed
	closed  bool
	mu      sync.Mutex // for err, which is also read while a read is blocked
	err     error
}

// OpenSource opens the image at path; "-" is stdin. progress may be nil.
func OpenSource(path string, stdin io.Reader, progress Progress) (*Source, error) {
	s := &Source{name: path, in: stdin, size: unknownSize, progress: progress, chunk: make([]byte, maxData)}
	if progress == nil {
		s.progress = func(uint64, uint64) {}
	}
	if path == "-" {
		return s, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fileError(err, "read", path)
	}
	info, err := f.Stat()
	if err == nil {
		err = s.useFile(f, info)
	}
	if err != nil {
		_ = f.Close() // the error that counts is the first one
		return nil, fileError(err, "read", path)
	}
	return s, nil
}

func (s *Source) useFile(f *os.File, info os.FileInfo) error {
	s.in = f
	mode := info.Mode()
	switch {
	case mode.IsRegular():
		s.file, s.size = f, uint64(info.Size())
	case mode&os.ModeDevice != 0 && mode&os.ModeCharDevice == 0:
		end, err := f.Seek(0, io.SeekEnd)
		if err != nil {
			return err
		}
		s.file, s.size = f, uint64(end)
		s.dataEnd = s.size // devices have no holes to seek
	case mode.IsDir():
		return errors.New("it is a directory")
	}
	return nil
}

// Size returns the size of the image in bytes, if it is known.
func (s *Source) Size() (n uint64, known bool) {
	return s.size, s.size != unknownSize
}

// Close closes the file. It waits for a read of a file that is in progress,
// but not for one of a stream, which may take for ever.
func (s *Source) Close() error {
	if s.file == nil {
		if f, ok := s.in.(*os.File); ok && s.name != "-" {
			return f.Close()
		}
		return nil
	}
	s.reading.Lock()
	defer s.reading.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	return s.file.Close()
}

// Err returns why the image could not be read to its end, or nil.
func (s *Source) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Read gives the next bytes of the stream.
func (s *Source) Read(p []byte) (int, error) {
	if s.file != nil {
		s.reading.Lock()
		defer s.reading.Unlock()
		if s.closed {
			return 0, os.ErrClosed
		}
	}
	for s.out.Len() == 0 {
		if s.ended {
			return 0, io.EOF
		}
		if err := s.Err(); err != nil {
			return 0, err
		}
		if err := s.step(); err != nil {
			s.mu.Lock()
			s.err = fileError(err, "read", s.name)
			s.mu.Unlock()
		}
	}
	return s.out.Read(p)
}

// step puts more records into s.out; it may take several calls until one is
// complete.
func (s *Source) step() (err error) {
	if s.w == nil {
		s.w, err = newStreamWriter(&s.out, s.size)
		return err
	}
	if s.file == nil {
		return s.stepStream()
	}
	if s.pos >= s.dataEnd && s.pos < s.size {
		if err := s.seek(); err != nil {
			return err
		}
	}
	if s.pos == s.size {
		return s.finish()
	}
	b := s.chunk[:min(maxData, s.dataEnd-s.pos)]
	if n, err := s.file.ReadAt(b, int64(s.pos)); n < len(b) {
		if errors.Is(err, io.EOF) {
			err = errors.New("the file became shorter while it was read")
		}
		return err
	}
	return s.add(b)
}

// seek moves pos over a hole and finds the end of the data behind it.
func (s *Source) seek() error {
	data, err := unix.Seek(int(s.file.Fd()), int64(s.pos), unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO): // nothing but a hole up to the end
		s.w.zero(s.size - s.pos)
		s.pos = s.size
		return nil
	case err != nil: // the file system does not know
		s.dataEnd = s.size
		return nil
	}
	at := max(uint64(data)&^(streamUnit-1), s.pos)
	s.w.zero(at - s.pos)
	s.pos = at
	hole, err := unix.Seek(int(s.file.Fd()), data, unix.SEEK_HOLE)
	if err != nil {
		return err
	}
	s.dataEnd = min(roundUp(uint64(hole)), s.size)
	if s.dataEnd <= s.pos { // it has changed since
		s.dataEnd = s.size
	}
	return nil
}

func (s *Source) stepStream() error {
	n, err := io.ReadFull(s.in, s.chunk)
	if n > 0 {
		if addErr := s.add(s.chunk[:n]); addErr != nil {
			return addErr
		}
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return s.finish()
	}
	return err
}

func (s *Source) add(b []byte) error {
	s.pos += uint64(len(b))
	err := s.w.image(b)
	s.report()
	return err
}

func (s *Source) report() {
	total, known := s.Size()
	if !known {
		total = 0
	}
	s.progress(s.pos, total)
}

func (s *Source) finish() error {
	s.ended = true
	s.report()
	return s.w.end()
}

// fileError makes an error of a file that rsioctl reads or writes.
func fileError(err error, op, path string) error {
	if err == nil {
		return nil
	}
	kind := api.Failed
	switch {
	case errors.Is(err, os.ErrNotExist):
		kind = api.NotFound
	case errors.Is(err, os.ErrPermission):
		kind = api.Denied
	case errors.Is(err, unix.ENOSPC):
		return api.Errorf(kind, op, path, "no space left", "make room, or choose another file system")
	}
	var pe *os.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return api.Wrap(err, kind, op, path, "")
}
