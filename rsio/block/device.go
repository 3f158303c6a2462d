// SPDX-License-Identifier: Apache-2.0

// Package block is the contract every block device of RSIO speaks: leaves
// (store), layers, composites (volume), remote volumes (initiator) and the
// frontends that drive them (nbd, fusefs, target).
//
// # The twelve rules
//
//  1. Submit never blocks on I/O. It may complete the request inline.
//  2. Every request completes exactly once. After the completion nobody but
//     its owner touches the request or its Buf.
//  3. There is no order between requests in flight. A Flush covers every
//     write that completed before the Flush was submitted. FUA covers its
//     own write only.
//  4. The payload of a write is read-only for every layer.
//  5. Complete does not block. Completions that happen inline are counted
//     (Request.Depth) and past MaxInline go to a queue (Finisher), so that a
//     Completer that submits again cannot grow the stack without bound.
//  6. Close drains: it returns when every submitted request has completed.
//     A Submit that comes later ends in StatusClosed.
//  7. An aborted request completes only when nothing refers to its Buf any
//     more, and never with an error while it may still execute.
//  8. A layer forwards its caller's request untouched or makes a Child; it
//     never edits a request it was given.
//  9. Range, alignment and flags are checked once, at the edge (Check);
//     below the edge they are asserted only.
//  10. Every operation that can change data is an Op that each layer switches
//     on, with default StatusUnsupported: a new operation must never pass
//     unseen through an old layer.
//  11. Nobody calls Submit or Complete holding a lock.
//  12. A request reserves all it will need (parity, children) when it is
//     admitted, or holds nothing while it waits.
//
// Rules 11 and 12 are the small print of rules 1 and 5: they are what keeps
// "does not block" true. layer/check asserts what can be asserted from
// outside; blocktest tests the rest on every device.
package block

import "context"

// Device is one block device. All methods may be called from any goroutine.
type Device interface {
	// Info returns size, limits and abilities. It is cheap, never blocks and
	// may change between calls (a volume that grows).
	Info() Info

	// Submit starts r. The device owns r and r.Buf until r.Done.Complete(r)
	// is called, which may happen before Submit returns and on any goroutine.
	// The outcome is r.Status. See the rules in the package comment.
	Submit(r *Request)

	// Close refuses new requests with StatusClosed, waits until those in
	// flight have completed and releases what the device holds. If ctx ends
	// first it returns ctx.Err() and the drain goes on in the background; the
	// call may be repeated. Errors of the last flush of metadata are returned.
	Close(ctx context.Context) error
}

// Info describes a device as it is now.
type Info struct {
	Size      uint64   // bytes; a multiple of BlockSize
	BlockSize uint32   // bytes; Off and Len are multiples of it (power of two, 1..4096)
	MaxLen    uint32   // bytes; largest Len of a read or write
	MaxZero   uint32   // bytes; largest Len of a discard, zeroes or block-status
	Features  Features // what Submit accepts
	ReadOnly  bool     // every Op that can change data ends in StatusReadOnly
	Right     uint64   // generation of the right of the nexus it was opened under, for Request.Right; 0: nobody is fenced here
}

// Features is a set of abilities of a device.
type Features uint32

// The abilities a device may have. Without one, the Op or flag ends in
// StatusUnsupported.
const (
	CanFlush           Features = 1 << iota // OpFlush makes completed writes durable
	CanFUA                                  // FlagFUA on writes, zeroes and discards
	CanDiscard                              // OpDiscard
	CanZero                                 // OpWriteZeroes
	CanFastZero                             // FlagFastZero may be set
	CanBlockStatus                          // OpBlockStatus
	NeverBlocks                             // Submit serves everything inline from memory
	CanCompareAndWrite                      // OpCompareAndWrite
)

// Limits of the contract; a device may have lower ones in its Info.
const (
	MaxLen       = 1 << 20 // bytes; largest read or write a device must accept, and the default of Info.MaxLen
	MaxZero      = 1 << 30 // bytes; largest discard, zeroes or block-status
	AtomicLen    = 4096    // bytes; an aligned block of this size is never torn by a crash of a daemon
	MaxBlockSize = 4096    // bytes; largest Info.BlockSize
	MaxInline    = 8       // inline completions on one stack before Finisher queues
)

// Has reports whether all of f is present.
func (i Info) Has(f Features) bool { return i.Features&f == f }
