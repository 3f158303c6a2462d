// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"encoding/binary"
	"hash/crc32"

	"rsio/rsio/block"
)

// Header is the fixed part of every frame (section 3.1). All fields are
// big-endian on the wire. Fields that a kind does not use are zero.
type Header struct {
	Kind       Kind
	Op         block.Op
	Flags      uint16
	Status     block.Status
	Slot       uint32
	PayloadLen uint32 // bytes that follow the header
	Seq        uint64 // sequence number in the slot; of a ping, its number
	Off        uint64 // bytes; after a miscompare the place of the first difference, counted from the request's
	Len        uint32 // bytes the operation is about
	Volume     uint32 // handle from OpOpen
	Right      uint64 // generation of the right of the nexus; zero without FeatureReserve
	Window     uint32 // bytes: wanted (to the target), granted (from it)
	Grant      uint32 // number of the grant last seen or given
	PayloadCRC uint32 // CRC32C of the payload, zero without FeatureDigest
}

// Error is a violation of the protocol: the connection is closed.
type Error string

// Error returns the text.
func (e Error) Error() string { return "protocol violation: " + string(e) }

// The violations that decoding finds.
const (
	ErrShort    Error = "frame is cut short"
	ErrMagic    Error = "wrong magic"
	ErrDigest   Error = "header digest does not match"
	ErrPayload  Error = "payload digest does not match"
	ErrKind     Error = "unknown kind of frame"
	ErrOp       Error = "unknown operation"
	ErrFlags    Error = "unknown flags"
	ErrStatus   Error = "unknown status"
	ErrSlot     Error = "slot out of range"
	ErrLength   Error = "length out of range"
	ErrReserved Error = "reserved field is not zero"
	ErrText     Error = "string is not valid"
	ErrOrder    Error = "frame is not allowed in this phase"
	ErrSequence Error = "sequence number skips the slot's next one"
)

// castagnoli selects the processor's CRC32C instruction; read-only.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Digest returns the CRC32C of b.
func Digest(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// DigestMore returns the digest of what crc is the digest of, followed by b.
func DigestMore(crc uint32, b []byte) uint32 { return crc32.Update(crc, castagnoli, b) }

// Put encodes h into b[:HeaderLen]. With digest it fills in the digest of the
// header; PayloadCRC is taken from h.
func (h *Header) Put(b []byte, digest bool) {
	_ = b[HeaderLen-1]
	be := binary.BigEndian
	be.PutUint16(b[0:], Magic)
	b[2] = byte(h.Kind)
	b[3] = byte(h.Op)
	be.PutUint16(b[4:], h.Flags)
	be.PutUint16(b[6:], uint16(h.Status))
	be.PutUint32(b[8:], h.Slot)
	be.PutUint32(b[12:], h.PayloadLen)
	be.PutUint64(b[16:], h.Seq)
	be.PutUint64(b[24:], h.Off)
	be.PutUint32(b[32:], h.Len)
	be.PutUint32(b[36:], h.Volume)
	be.PutUint64(b[40:], h.Right)
	be.PutUint32(b[48:], h.Window)
	be.PutUint32(b[52:], h.Grant)
	be.PutUint32(b[56:], h.PayloadCRC)
	sum := uint32(0)
	if digest {
		sum = Digest(b[:60])
	}
	be.PutUint32(b[60:], sum)
}

// Parse decodes b[:HeaderLen] into h and checks what can be checked without
// knowing the phase: magic, digest, kind, flags, status and length limits.
func (h *Header) Parse(b []byte, digest bool) error {
	if len(b) < HeaderLen {
		return ErrShort
	}
	be := binary.BigEndian
	if be.Uint16(b) != Magic {
		return ErrMagic
	}
	sum := be.Uint32(b[60:])
	if digest && sum != Digest(b[:60]) || !digest && sum != 0 {
		return ErrDigest
	}
	h.Kind = Kind(b[2])
	h.Op = block.Op(b[3])
	h.Flags = be.Uint16(b[4:])
	h.Status = block.Status(be.Uint16(b[6:]))
	h.Slot = be.Uint32(b[8:])
	h.PayloadLen = be.Uint32(b[12:])
	h.Seq = be.Uint64(b[16:])
	h.Off = be.Uint64(b[24:])
	h.Len = be.Uint32(b[32:])
	h.Volume = be.Uint32(b[36:])
	h.Right = be.Uint64(b[40:])
	h.Window = be.Uint32(b[48:])
	h.Grant = be.Uint32(b[52:])
	h.PayloadCRC = be.Uint32(b[56:])
	return h.check()
}

func (h *Header) check() error {
	if h.Kind == 0 || h.Kind >= kindEnd {
		return ErrKind
	}
	if h.Flags&^flagsKnown != 0 {
		return ErrFlags
	}
	if !h.Status.Known() {
		return ErrStatus
	}
	if h.Slot >= MaxSlots {
		return ErrSlot
	}
	if h.PayloadLen > MaxPayload || h.Len > block.MaxZero {
		return ErrLength
	}
	switch h.Kind {
	case KindLogin, KindLoginResponse:
		if h.PayloadLen > MaxLoginPayload {
			return ErrLength
		}
	case KindRequest:
		return h.checkRequest()
	case KindResponse:
		return h.checkResponse()
	default:
		if h.PayloadLen != 0 {
			return ErrLength
		}
	}
	return nil
}

// checkRequest checks what a target relies on before it takes a buffer.
func (h *Header) checkRequest() error {
	if h.Status != block.StatusOK || IsControl(h.Op) && h.Right != 0 {
		return ErrReserved
	}
	if IsControl(h.Op) {
		if h.Slot >= ControlSlots {
			return ErrSlot
		}
		if h.PayloadLen > MaxControl {
			return ErrLength
		}
		return nil
	}
	if !h.Op.Known() {
		return ErrOp
	}
	if h.Slot < ControlSlots {
		return ErrSlot
	}
	want := uint32(0)
	switch h.Op {
	case block.OpWrite:
		want = h.Len
	case block.OpCompareAndWrite:
		if h.Len > block.AtomicLen {
			return ErrLength
		}
		want = 2 * h.Len
	}
	if h.PayloadLen != want {
		return ErrLength
	}
	if (h.Op == block.OpRead || h.Op == block.OpWrite) && h.Len > block.MaxLen {
		return ErrLength
	}
	return nil
}

// checkResponse checks what an initiator relies on.
func (h *Header) checkResponse() error {
	switch {
	case IsControl(h.Op):
		if h.PayloadLen > MaxControl {
			return ErrLength
		}
	case !h.Op.Known():
		return ErrOp
	case h.Op == block.OpRead && h.Status == block.StatusOK:
		if h.PayloadLen != h.Len {
			return ErrLength
		}
	case h.Op == block.OpBlockStatus && h.Status == block.StatusOK:
		if h.PayloadLen > MaxStatusPayload || h.PayloadLen%block.ExtentLen != 0 {
			return ErrLength
		}
	default:
		if h.PayloadLen != 0 {
			return ErrLength
		}
	}
	return nil
}

// Needs returns the features that a header of the transmission phase is
// allowed with only.
func (h *Header) Needs() uint64 {
	switch {
	case h.Right != 0, h.Status == block.StatusMiscompare:
		return FeatureReserve
	case h.Kind == KindRequest, h.Kind == KindResponse:
		if h.Op == block.OpCompareAndWrite || h.Op == OpReserveIn || h.Op == OpReserveOut {
			return FeatureReserve
		}
	case h.Kind == KindEvent:
		if h.Op == EventRight || h.Op == EventAttention {
			return FeatureReserve
		}
	}
	return 0
}
