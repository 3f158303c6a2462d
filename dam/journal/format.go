// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"
)

// Limits.
const (
	MaxVolume = 64      // bytes of a UUID
	MaxState  = 1 << 20 // bytes of a state
	MaxFile   = 1 << 30 // bytes of a file; a longer one is neither read nor written
)

// The layout; see the package comment.
const (
	fileMagic    = "RSIOPRJ1"
	fileFormat   = 1
	fileHeader   = 64
	recordMagic  = 0x52504a52 // "RPJR"
	recordHeader = 56
	sumLen       = 4
	align        = 8
	minRecord    = (recordHeader + 1 + sumLen + align - 1) / align * align
	maxRecord    = (recordHeader + MaxVolume + MaxState + sumLen + align - 1) / align * align
	flagRemoved  = 1
)

// Record is one state of one volume.
type Record struct {
	Volume  string // UUID, 1..MaxVolume bytes
	Version uint64 // of the volume's state; grows, never reused
	Removed bool   // the volume was deleted; State is empty
	State   []byte // opaque, at most MaxState bytes
}

// check returns why r cannot be stored.
func (r *Record) check() error {
	switch {
	case r.Volume == "":
		return errors.New("the record names no volume")
	case len(r.Volume) > MaxVolume:
		return fmt.Errorf("volume %.20q... has %d bytes: at most %d are allowed", r.Volume, len(r.Volume), MaxVolume)
	case len(r.State) > MaxState:
		return fmt.Errorf("volume %q: the state has %d bytes: at most %d are allowed", r.Volume, len(r.State), MaxState)
	case r.Removed && len(r.State) != 0:
		return fmt.Errorf("volume %q: it is removed and yet has a state", r.Volume)
	}
	return nil
}

// size is the length of r in a file.
func (r *Record) size() int { return recordLen(len(r.Volume), len(r.State)) }

func recordLen(volume, state int) int {
	return (recordHeader + volume + state + sumLen + align - 1) &^ (align - 1)
}

// fileID tells the records of one file from those of all others, and which of
// two files is the later one.
type fileID [16]byte

// newID returns the ID of a file that is made after prev.
func newID(prev fileID) (id fileID) {
	_, _ = rand.Read(id[8:]) // never fails, says its documentation
	// The time is for a file that was made after one that is not known.
	binary.BigEndian.PutUint64(id[:8], max(binary.BigEndian.Uint64(prev[:8])+1, uint64(time.Now().UnixNano())))
	return id
}

func (id fileID) compare(o fileID) int { return bytes.Compare(id[:], o[:]) }

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// formatError is a file header that is whole but of another format.
type formatError uint32

func (e formatError) Error() string {
	return fmt.Sprintf("format %d is not known: made by a newer version", uint32(e))
}

// appendHeader appends the header of the file id to b, and returns its CRC,
// which the first record has as its chain.
func appendHeader(b []byte, id fileID) (out []byte, sum uint32) {
	from := len(b)
	b = append(b, fileMagic...)
	b = binary.BigEndian.AppendUint32(b, fileFormat)
	b = append(b, id[:]...)
	b = append(b, make([]byte, fileHeader-sumLen-(len(b)-from))...)
	sum = checksum(b[from:])
	return binary.BigEndian.AppendUint32(b, sum), sum
}

// parseHeader is the reverse of appendHeader. A formatError means that only
// the format keeps us from reading on.
func parseHeader(b []byte) (id fileID, sum uint32, err error) {
	if len(b) < fileHeader {
		return id, 0, fmt.Errorf("%d bytes are too few", len(b))
	}
	if string(b[:8]) != fileMagic {
		return id, 0, errors.New("it does not start as it should")
	}
	sum = checksum(b[:fileHeader-sumLen])
	if binary.BigEndian.Uint32(b[fileHeader-sumLen:]) != sum {
		return id, 0, errors.New("checksum is wrong")
	}
	if f := binary.BigEndian.Uint32(b[8:]); f != fileFormat {
		return id, 0, formatError(f)
	}
	return fileID(b[12:28]), sum, nil
}

// appendRecord appends r as number seq of the file id to b, and returns its
// last CRC. r has passed check.
func appendRecord(b []byte, id fileID, seq uint64, chain uint32, r *Record) (out []byte, sum uint32) {
	from, total := len(b), r.size()
	b = binary.BigEndian.AppendUint32(b, recordMagic)
	b = binary.BigEndian.AppendUint32(b, uint32(total))
	b = append(b, id[:]...)
	b = binary.BigEndian.AppendUint64(b, seq)
	b = binary.BigEndian.AppendUint32(b, chain)
	flags := byte(0)
	if r.Removed {
		flags = flagRemoved
	}
	b = append(b, flags, byte(len(r.Volume)), 0, 0)
	b = binary.BigEndian.AppendUint64(b, r.Version)
	b = binary.BigEndian.AppendUint32(b, uint32(len(r.State)))
	b = binary.BigEndian.AppendUint32(b, checksum(b[from:]))
	b = append(b, r.Volume...)
	b = append(b, r.State...)
	b = append(b, make([]byte, total-sumLen-(len(b)-from))...)
	sum = checksum(b[from:])
	return binary.BigEndian.AppendUint32(b, sum), sum
}

// entry is a record and how it lies in a file.
type entry struct {
	Record // State is a part of the file's bytes
	id     fileID
	seq    uint64
	chain  uint32
	sum    uint32 // its last CRC: the chain of the next
	off    int    // bytes from the start of the file
	length int    // bytes
	volume int    // bytes of Volume
	state  int    // bytes of State
}

// parseHead reads the header of the record that b starts with, and holds every
// number against its limit.
func parseHead(b []byte) (e entry, err error) {
	if len(b) < minRecord {
		return e, fmt.Errorf("%d bytes are no whole record", len(b))
	}
	if binary.BigEndian.Uint32(b) != recordMagic {
		return e, errors.New("no record starts here")
	}
	if checksum(b[:recordHeader-sumLen]) != binary.BigEndian.Uint32(b[recordHeader-sumLen:]) {
		return e, errors.New("the checksum of the record's header is wrong")
	}
	e = entry{id: fileID(b[8:24]), seq: binary.BigEndian.Uint64(b[24:]), chain: binary.BigEndian.Uint32(b[32:])}
	total, flags, volume, state := binary.BigEndian.Uint32(b[4:]), b[36], int(b[37]), binary.BigEndian.Uint32(b[48:])
	e.Version, e.Removed = binary.BigEndian.Uint64(b[40:]), flags == flagRemoved
	if e.seq == 0 || flags > flagRemoved || volume == 0 || volume > MaxVolume || state > MaxState || b[38]|b[39] != 0 || e.Removed && state != 0 {
		return entry{}, errors.New("a number in the record's header is out of range")
	}
	e.volume, e.state, e.length = volume, int(state), recordLen(volume, int(state))
	if total != uint32(e.length) {
		return entry{}, errors.New("the lengths in the record's header contradict each other")
	}
	return e, nil
}

// parseBody reads the rest of a record that parseHead has begun. work is how
// many bytes may still be read for the sake of a CRC.
func (e *entry) parseBody(b []byte, work *int64) error {
	if e.length > len(b) {
		return fmt.Errorf("record %d has only %d of %d bytes", e.seq, len(b), e.length)
	}
	if *work -= int64(e.length); *work < 0 {
		return errors.New("too much was looked at already")
	}
	end := recordHeader + e.volume + e.state
	e.Volume, e.State = string(b[recordHeader:recordHeader+e.volume]), b[recordHeader+e.volume:end]
	if e.sum = checksum(b[:e.length-sumLen]); e.sum != binary.BigEndian.Uint32(b[e.length-sumLen:]) {
		return fmt.Errorf("the checksum of record %d (volume %q, version %d) is wrong", e.seq, e.Volume, e.Version)
	}
	if !zero(b[end : e.length-sumLen]) {
		return fmt.Errorf("record %d is not padded with zeroes", e.seq)
	}
	return nil
}

// zero reports whether b has nothing but zeroes.
func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
