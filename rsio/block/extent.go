// SPDX-License-Identifier: Apache-2.0

package block

import "encoding/binary"

// ExtentLen is the encoded size of an Extent in bytes.
const ExtentLen = 16

// The flags of an Extent; zero means allocated data.
const (
	ExtentHole uint32 = 1 << 0 // no space is allocated
	ExtentZero uint32 = 1 << 1 // reads as zeroes
)

// Extent describes a contiguous range in the answer to OpBlockStatus. The
// extents of an answer follow each other from Request.Off on; they may end
// before Request.Len (the caller asks again) but cover at least one byte.
type Extent struct {
	Len   uint64 // bytes, never zero
	Flags uint32
}

// PutExtent encodes e into the first ExtentLen bytes of b, big-endian, as it
// goes over the wire: length (8), flags (4), zero (4).
func PutExtent(b []byte, e Extent) {
	binary.BigEndian.PutUint64(b, e.Len)
	binary.BigEndian.PutUint32(b[8:], e.Flags)
	binary.BigEndian.PutUint32(b[12:], 0)
}

// GetExtent decodes the first ExtentLen bytes of b.
func GetExtent(b []byte) Extent {
	return Extent{Len: binary.BigEndian.Uint64(b), Flags: binary.BigEndian.Uint32(b[8:])}
}

// AppendExtent adds e behind the r.N bytes valid in r.Buf, merging it with the
// last one if the flags are equal. It reports false when Buf is full.
func AppendExtent(r *Request, e Extent) bool {
	if r.N >= ExtentLen {
		last := GetExtent(r.Buf[r.N-ExtentLen:])
		if last.Flags == e.Flags {
			last.Len += e.Len
			PutExtent(r.Buf[r.N-ExtentLen:], last)
			return true
		}
	}
	if int(r.N)+ExtentLen > len(r.Buf) {
		return false
	}
	PutExtent(r.Buf[r.N:], e)
	r.N += ExtentLen
	return true
}
