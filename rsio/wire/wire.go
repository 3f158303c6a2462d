// SPDX-License-Identifier: Apache-2.0

// Package wire encodes and decodes the frames of the RSIO protocol: pure
// functions on the caller's memory that allocate nothing. docs/protocol.md is
// the specification; section numbers in comments are its sections.
package wire

import (
	"math/bits"

	"rsio/rsio/block"
)

// Version numbers of the protocol that this package speaks (section 4.2).
const (
	VersionMin = 1
	VersionMax = 1
)

// Magic is the first field of every frame, "Rs" (section 3.1).
const Magic = 0x5273

// Limits (section 9). A length is compared with its limit before any
// arithmetic and before any allocation.
const (
	HeaderLen        = 64
	MaxPayload       = block.MaxLen // bytes behind one header
	MaxLoginPayload  = 512          // bytes; all that an unknown peer may send
	MaxControl       = 256 << 10    // bytes; payload of control requests and responses
	MaxStatusPayload = 4096 * block.ExtentLen
	MaxSlots         = 4096 // slots of a session
	MaxText          = 255  // bytes of a reason in clear text
	ControlSlots     = 16   // slots 0..15 carry control operations, the others data
	MaxNexus         = 2*block.MaxName + 1
)

// Kind says what a frame is (section 3.2).
type Kind uint8

// The kinds of frames.
const (
	KindLogin         Kind = 1 // initiator: first frame of a path
	KindLoginResponse Kind = 2 // target: the answer
	KindRequest       Kind = 3 // initiator: one operation in one slot
	KindResponse      Kind = 4 // target: its outcome
	KindPing          Kind = 5 // initiator: are you there; carries wanted window
	KindPong          Kind = 6 // target: yes; carries granted window
	KindEvent         Kind = 7 // target: something happened
	kindEnd           Kind = 8
)

// Control operations share the number space of block.Op (section 6.3).
const (
	OpReserveIn  block.Op = 8  // read the reservation of a volume
	OpReserveOut block.Op = 9  // change it
	OpOpen       block.Op = 16 // open a volume: handle, size, limits
	OpClose      block.Op = 17 // close it and take the nexus off the record of writers
	OpReclaim    block.Op = 18 // all that was in flight before the restart has been sent again
	OpAdmin      block.Op = 19 // a call of the control API
	OpLogout     block.Op = 20 // end the session
)

// IsControl reports whether op goes through the control slots.
func IsControl(op block.Op) bool {
	return op >= OpOpen && op <= OpLogout || op == OpReserveIn || op == OpReserveOut
}

// Flags of a request beyond those of block.Flags, which take the low byte.
const (
	FlagReplay uint16 = 1 << 8 // sent again after a restart of the target
	flagsKnown        = 0x0007 | FlagReplay
)

// Feature bits (section 4.3).
const (
	FeatureDigest  uint64 = 1 << 0 // CRC32C over header and payload
	FeatureReserve uint64 = 1 << 1 // reservations: rights, compare-and-write, reserve-in and -out, control sessions
	// Features are those this implementation offers.
	Features = FeatureDigest | FeatureReserve
)

// Event codes, in Header.Op of a KindEvent frame (section 7).
const (
	EventResize block.Op = 1 // Volume has Offset bytes now
	EventGone   block.Op = 2 // Volume was deleted
	EventLeave  block.Op = 3 // this path will be closed; use others
	EventWindow block.Op = 4 // a new window, without a request to carry it
	// EventRight: Offset is the generation of the right of the nexus on
	// Volume now, Len what it may do (block.Access).
	EventRight     block.Op = 5
	EventAttention block.Op = 6 // Offset is a unit attention of the nexus on Volume (block.Attention)
)

// Cost returns the credit in bytes that a request with Len bytes takes
// (section 5.4): its payload in whichever direction, rounded up to a power of
// two of at least 4 KiB, which is what buffers take.
func Cost(op block.Op, n uint32) uint32 {
	if op != block.OpRead && op != block.OpWrite || n <= 4096 {
		return 4096
	}
	return 1 << bits.Len32(n-1)
}
