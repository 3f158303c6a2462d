// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"

	"rsio/rsio/admin/api"
)

// An image stream carries every byte of an image exactly once, in order.
// Integers are big-endian.
//
//	header  magic "RSIOIMG1" (8), size of the image in bytes (8), all ones if
//	        the sender does not know it yet
//	record  offset (8), length (4), kind (4), then length bytes if it is data
//
// Records follow each other without gap or overlap. Only the last one before
// the end may start or end off a multiple of 4096. The end record has the
// total size as its offset, and behind it the CRC32C of all bytes before (4).
// A stream without an end record was cut. A failed record carries the error
// that ended it (JSON).
const (
	streamMagic  = "RSIOIMG1"
	streamHeader = 16
	recordLen    = 16
	unknownSize  = ^uint64(0)

	kindData   = 1
	kindZero   = 2
	kindEnd    = 3
	kindFailed = 4

	maxData    = 1 << 20 // bytes of a data record
	maxZero    = 1 << 30 // bytes of a zero record
	maxFailure = 1 << 16 // bytes of an error
	streamUnit = 4096    // alignment of records

	// zeroGrain is the length of a run of zeroes among data, aligned, that is
	// worth a hole.
	zeroGrain = 64 << 10
)

// errCut is what a stream without its end comes to.
var errCut = errors.New("the stream was cut before its end")

func newCRC() hash.Hash32 { return crc32.New(crc32.MakeTable(crc32.Castagnoli)) }

// streamWriter writes an image stream. Zeroes are collected, so that a hole
// of any length is one record.
type streamWriter struct {
	w       io.Writer
	crc     hash.Hash32
	pos     uint64 // end of what was given to data and zero
	zeroes  uint64 // of which at the end still to be written
	scratch [streamHeader]byte
}

func newStreamWriter(w io.Writer, size uint64) (*streamWriter, error) {
	s := &streamWriter{w: w, crc: newCRC()}
	return s, s.write(binary.BigEndian.AppendUint64(append(s.scratch[:0], streamMagic...), size))
}

func (s *streamWriter) write(b []byte) error {
	_, _ = s.crc.Write(b) // a hash never fails
	_, err := s.w.Write(b)
	return err
}

func (s *streamWriter) record(off uint64, n uint32, kind uint32) error {
	b := binary.BigEndian.AppendUint64(s.scratch[:0], off)
	b = binary.BigEndian.AppendUint32(b, n)
	return s.write(binary.BigEndian.AppendUint32(b, kind))
}

func (s *streamWriter) flushZeroes() error {
	for s.zeroes > 0 {
		n := min(s.zeroes, maxZero)
		if err := s.record(s.pos-s.zeroes, uint32(n), kindZero); err != nil {
			return err
		}
		s.zeroes -= n
	}
	return nil
}

// data writes b, at most maxData bytes.
func (s *streamWriter) data(b []byte) error {
	if err := s.flushZeroes(); err != nil {
		return err
	}
	if err := s.record(s.pos, uint32(len(b)), kindData); err != nil {
		return err
	}
	s.pos += uint64(len(b))
	return s.write(b)
}

// image writes b, at most maxData bytes, with holes where it has only zeroes.
func (s *streamWriter) image(b []byte) error {
	from := 0
	for at := 0; at < len(b); at += zeroGrain {
		grain := b[at:min(at+zeroGrain, len(b))]
		if !isZero(grain) {
			continue
		}
		if at > from {
			if err := s.data(b[from:at]); err != nil {
				return err
			}
		}
		s.zero(uint64(len(grain)))
		from = at + len(grain)
	}
	if from == len(b) {
		return nil
	}
	return s.data(b[from:])
}

func (s *streamWriter) zero(n uint64) {
	s.pos += n
	s.zeroes += n
}

func (s *streamWriter) end() error {
	if err := s.flushZeroes(); err != nil {
		return err
	}
	if err := s.record(s.pos, 0, kindEnd); err != nil {
		return err
	}
	_, err := s.w.Write(binary.BigEndian.AppendUint32(nil, s.crc.Sum32()))
	return err
}

// fail ends the stream with an error for the reader.
func (s *streamWriter) fail(e *api.Error) error {
	js, err := json.Marshal(e)
	if err != nil || len(js) > maxFailure {
		js, _ = json.Marshal(api.Errorf(e.Kind, e.Op, "", "the reason is too long", "")) // short strings
	}
	if err := s.record(s.pos-s.zeroes, uint32(len(js)), kindFailed); err != nil {
		return err
	}
	return s.write(js)
}

// record is what streamReader.next returns.
type record struct {
	kind uint32
	off  uint64
	len  uint64 // at the end: zero
}

// streamReader reads an image stream and checks all of it.
type streamReader struct {
	r    io.Reader
	crc  hash.Hash32
	size uint64 // unknownSize if not known
	pos  uint64
}

func newStreamReader(r io.Reader) (*streamReader, error) {
	s := &streamReader{r: r, crc: newCRC()}
	var b [streamHeader]byte
	if err := s.read(b[:]); err != nil {
		return nil, err
	}
	if string(b[:8]) != streamMagic {
		return nil, errors.New("this is not an image stream")
	}
	s.size = binary.BigEndian.Uint64(b[8:])
	return s, nil
}

// read fills b; a stream that ends early is cut.
func (s *streamReader) read(b []byte) error {
	_, err := io.ReadFull(s.r, b)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errCut
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errCut, err)
	}
	_, _ = s.crc.Write(b) // a hash never fails
	return nil
}

// next reads a record; the data of a data record is put into buf, which has
// room for maxData bytes. After kindEnd nothing may follow.
func (s *streamReader) next(buf []byte) (record, error) {
	var b [recordLen]byte
	if err := s.read(b[:]); err != nil {
		return record{}, err
	}
	rec := record{kind: binary.BigEndian.Uint32(b[12:]), off: binary.BigEndian.Uint64(b[:]), len: uint64(binary.BigEndian.Uint32(b[8:]))}
	if rec.off != s.pos {
		return rec, fmt.Errorf("the stream goes on at byte %d where %d belongs", rec.off, s.pos)
	}
	switch rec.kind {
	case kindData, kindZero:
		return rec, s.content(rec, buf)
	case kindEnd:
		return rec, s.finish(rec)
	case kindFailed:
		return rec, s.failure(rec)
	}
	return rec, fmt.Errorf("a record is of the unknown kind %d", rec.kind)
}

func (s *streamReader) content(rec record, buf []byte) error {
	limit := uint64(maxZero)
	if rec.kind == kindData {
		limit = maxData
	}
	if rec.len == 0 || rec.len > limit {
		return fmt.Errorf("a record of %d bytes is not allowed", rec.len)
	}
	if rec.off%streamUnit != 0 {
		return fmt.Errorf("a record starts at byte %d, off a multiple of %d", rec.off, streamUnit)
	}
	if rec.len > s.size-rec.off {
		return fmt.Errorf("the stream has more than the %d bytes it announced", s.size)
	}
	s.pos += rec.len
	if rec.kind == kindData {
		return s.read(buf[:rec.len])
	}
	return nil
}

func (s *streamReader) finish(rec record) error {
	want := s.crc.Sum32()
	var b [4]byte
	if err := s.read(b[:]); err != nil {
		return err
	}
	if rec.len != 0 || s.size != unknownSize && s.pos != s.size {
		return fmt.Errorf("the stream ends at byte %d of %d", s.pos, s.size)
	}
	if binary.BigEndian.Uint32(b[:]) != want {
		return errors.New("the checksum of the stream is wrong")
	}
	if n, err := s.r.Read(b[:1]); n != 0 || !errors.Is(err, io.EOF) {
		return errors.New("there is something behind the end of the stream")
	}
	return nil
}

func (s *streamReader) failure(rec record) error {
	if rec.len > maxFailure {
		return errCut
	}
	js := make([]byte, rec.len)
	if err := s.read(js); err != nil {
		return err
	}
	var e api.Error
	if err := json.Unmarshal(js, &e); err != nil || e.Reason == "" {
		return errCut
	}
	return &e
}

// isZero reports whether b holds zeroes only.
func isZero(b []byte) bool {
	return len(b) == 0 || b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1])
}
