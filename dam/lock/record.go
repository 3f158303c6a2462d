// SPDX-License-Identifier: Apache-2.0

package lock

import (
	"encoding/binary"
	"hash/crc32"
	"time"
)

// The layout; the package comment has the table.
const (
	magic   = "RSIOLOCK"
	format  = 1
	isFree  = 1
	isHeld  = 2
	ownerAt = 56
	crcAt   = BlockLen - 4
)

// record is the content of the block.
type record struct {
	held     bool
	token    uint64
	renewals uint64
	ttl      time.Duration
	nonce    [16]byte
	owner    string
}

// sameHolder reports whether o belongs to the acquisition of r.
func (r *record) sameHolder(o *record) bool { return r.token == o.token && r.nonce == o.nonce }

// encode returns a new block. The record is one that decode would return and
// not that of a block of zeroes.
func (r *record) encode() []byte {
	p := make([]byte, BlockLen)
	copy(p, magic)
	binary.BigEndian.PutUint32(p[8:], format)
	p[12] = isFree
	if r.held {
		p[12] = isHeld
	}
	p[13] = byte(len(r.owner))
	binary.BigEndian.PutUint64(p[16:], r.token)
	binary.BigEndian.PutUint64(p[24:], r.renewals)
	binary.BigEndian.PutUint32(p[32:], uint32(r.ttl.Milliseconds()))
	copy(p[40:], r.nonce[:])
	copy(p[ownerAt:], r.owner)
	binary.BigEndian.PutUint32(p[crcAt:], checksum(p))
	return p
}

func checksum(p []byte) uint32 {
	return crc32.Checksum(p[:crcAt], crc32.MakeTable(crc32.Castagnoli))
}

// decode reads a block of BlockLen bytes; zeroes are the record without
// values. It accepts exactly what encode makes, and errors are ErrForeign and
// ErrNewer.
func decode(p []byte) (record, error) {
	if zero(p) {
		return record{}, nil
	}
	if string(p[:len(magic)]) != magic {
		return record{}, ErrForeign
	}
	// Before the checksum, which may be elsewhere in a later format.
	if binary.BigEndian.Uint32(p[8:]) > format {
		return record{}, ErrNewer
	}
	n := int(p[13])
	if binary.BigEndian.Uint32(p[crcAt:]) != checksum(p) || binary.BigEndian.Uint32(p[8:]) != format ||
		p[12] != isFree && p[12] != isHeld || n > MaxOwner ||
		!zero(p[14:16]) || !zero(p[36:40]) || !zero(p[ownerAt+n:crcAt]) {
		return record{}, ErrForeign
	}
	r := record{
		held:     p[12] == isHeld,
		token:    binary.BigEndian.Uint64(p[16:]),
		renewals: binary.BigEndian.Uint64(p[24:]),
		ttl:      time.Duration(binary.BigEndian.Uint32(p[32:])) * time.Millisecond,
		nonce:    [16]byte(p[40:56]),
		owner:    string(p[ownerAt : ownerAt+n]),
	}
	if r.token == 0 || r.ttl < MinTTL || r.ttl > MaxTTL || !validOwner(r.owner) {
		return record{}, ErrForeign
	}
	return r, nil
}

// zero reports whether p has nothing but zeroes.
func zero(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

// validOwner: what is shown to people must not steer their terminals.
func validOwner(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return s != "" && len(s) <= MaxOwner
}
