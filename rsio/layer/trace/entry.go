// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"time"

	"rsio/rsio/block"
)

// EntryLen is the length of an entry in a file, bytes. It divides a page.
const EntryLen = 256

// HeadLen is how much of what is written an entry holds, bytes.
const HeadLen = 32

// MaxNexus is the longest nexus in an entry, bytes; a longer one is cut.
const MaxNexus = 127

// Phase says which moment of a request an entry is about.
type Phase uint8

// The phases.
const (
	Begin Phase = 1 // the device below is about to get the request
	End   Phase = 2 // the device below has completed it, the caller does not know yet
)

// String returns the name of the phase.
func (p Phase) String() string {
	switch p {
	case Begin:
		return "begin"
	case End:
		return "end"
	}
	return "phase?"
}

// Entry is one line of the log.
type Entry struct {
	Phase  Phase
	Op     block.Op
	Flags  block.Flags
	Status block.Status  // at the end; StatusOK at the begin
	Mono   time.Duration // CLOCK_MONOTONIC of the host; grows with Seq within a process
	Seq    uint64        // position in the log, from 0; not part of a file
	PID    uint32        // process that wrote it
	ID     uint64        // the same at begin and end of a request, unique with PID, from 1
	Off    uint64        // bytes
	Len    uint32        // bytes
	Nexus  string        // at most MaxNexus bytes
	// Head is the start of what is written: of the payload of a write, of the
	// second half of that of a compare-and-write. Zeroes for all others and
	// behind a shorter one.
	Head [HeadLen]byte
}

// String returns the entry as a line for people.
func (e Entry) String() string {
	s := fmt.Sprintf("%d %v %d.%d %v %v at %d length %d flags %d of %q", e.Seq, e.Mono, e.PID, e.ID, e.Phase, e.Op, e.Off, e.Len, e.Flags, e.Nexus)
	if e.Phase == End {
		return s + ": " + e.Status.Error()
	}
	return s
}

const (
	magic   = "RTRC"
	format  = 1
	headAt  = 48
	nexusAt = headAt + HeadLen
	crcAt   = EntryLen - 4
)

// put encodes e into p.
func (e *Entry) put(p *[EntryLen]byte) {
	clear(p[:])
	copy(p[:], magic)
	p[4], p[5], p[6], p[7] = format, byte(e.Phase), byte(e.Op), byte(e.Flags)
	binary.BigEndian.PutUint64(p[8:], uint64(e.Mono))
	binary.BigEndian.PutUint64(p[16:], e.ID)
	binary.BigEndian.PutUint32(p[24:], e.PID)
	binary.BigEndian.PutUint32(p[28:], e.Len)
	binary.BigEndian.PutUint64(p[32:], e.Off)
	binary.BigEndian.PutUint16(p[40:], uint16(e.Status))
	p[42] = byte(copy(p[nexusAt:nexusAt+MaxNexus], e.Nexus))
	copy(p[headAt:], e.Head[:])
	binary.BigEndian.PutUint32(p[crcAt:], checksum(p[:]))
}

func checksum(p []byte) uint32 {
	return crc32.Checksum(p[:crcAt], crc32.MakeTable(crc32.Castagnoli))
}

// get decodes the EntryLen bytes of p; false if they are no entry. What the
// checksum covers was written by put, so that little else is looked at.
func get(p []byte) (Entry, bool) {
	if string(p[:len(magic)]) != magic || p[4] != format || p[42] > MaxNexus ||
		binary.BigEndian.Uint32(p[crcAt:]) != checksum(p) {
		return Entry{}, false
	}
	return Entry{
		Phase:  Phase(p[5]),
		Op:     block.Op(p[6]),
		Flags:  block.Flags(p[7]),
		Mono:   time.Duration(binary.BigEndian.Uint64(p[8:])),
		ID:     binary.BigEndian.Uint64(p[16:]),
		PID:    binary.BigEndian.Uint32(p[24:]),
		Len:    binary.BigEndian.Uint32(p[28:]),
		Off:    binary.BigEndian.Uint64(p[32:]),
		Status: block.Status(binary.BigEndian.Uint16(p[40:])),
		Nexus:  string(p[nexusAt : nexusAt+int(p[42])]),
		Head:   [HeadLen]byte(p[headAt:]),
	}, true
}
