// SPDX-License-Identifier: Apache-2.0

package block

// Op is what a request does. Values are those of the RSIO wire and are never
// renumbered (docs/protocol.md, "Operations").
type Op uint8

// The operations. A layer switches on all it knows and answers
// StatusUnsupported to the rest (rule 10).
const (
	OpRead        Op = 1 // fill Buf from [Off, Off+Len)
	OpWrite       Op = 2 // write Buf to [Off, Off+Len)
	OpFlush       Op = 3 // make completed writes durable; Off and Len are zero
	OpDiscard     Op = 4 // [Off, Off+Len) reads as zeroes afterwards, space may be given back
	OpWriteZeroes Op = 5 // [Off, Off+Len) reads as zeroes afterwards
	OpBlockStatus Op = 6 // describe [Off, Off+Len) as extents in Buf; Request.N bytes are valid
	// OpCompareAndWrite writes the second half of Buf to [Off, Off+Len) if the
	// first half is what is there, as one step: no change of the range by
	// anybody else falls in between. If it is not there, the request ends in
	// StatusMiscompare and N is the place of the first byte that differs,
	// counted from Off (SBC-3, 5.2). At most AtomicLen bytes within one aligned
	// block of that size.
	OpCompareAndWrite Op = 7
	opEnd             Op = 8
)

var opNames = [opEnd]string{"none", "read", "write", "flush", "discard", "zeroes", "block-status", "compare-and-write"}

// String returns the name used in logs, events and specifications of faults.
func (o Op) String() string {
	if o < opEnd {
		return opNames[o]
	}
	return "op?"
}

// ParseOp is the reverse of Op.String for the operations above.
func ParseOp(s string) (Op, bool) {
	for o := OpRead; o < opEnd; o++ {
		if opNames[o] == s {
			return o, true
		}
	}
	return 0, false
}

// Known reports whether o is one of the operations above.
func (o Op) Known() bool { return o >= OpRead && o < opEnd }

// Changes reports whether o can change data.
func (o Op) Changes() bool {
	return o == OpWrite || o == OpDiscard || o == OpWriteZeroes || o == OpCompareAndWrite
}

// Flags modify a request.
type Flags uint8

// The flags. Which Op takes which is checked by Check.
const (
	FlagFUA      Flags = 1 << 0 // of a change: durable before completion
	FlagNoHole   Flags = 1 << 1 // zeroes: the range must stay allocated
	FlagFastZero Flags = 1 << 2 // zeroes: StatusUnsupported unless faster than writing zeroes
	flagsAll           = FlagFUA | FlagNoHole | FlagFastZero
)

// Completer is told of the end of a request. Complete must not block (rule 5)
// and must not be called with a lock held (rule 11). The receiver is a
// pointer that lives as long as the request, so that no closure is allocated
// per request (a closure and a method value cost 3 allocations, 56 bytes).
type Completer interface {
	Complete(r *Request)
}

// Request is one operation in flight. The caller owns it, fills it in, hands
// it to Device.Submit and gets it back in Done.Complete. It may then be used
// again; Reset clears what a former use left.
type Request struct {
	Op    Op
	Flags Flags

	// Depth counts the inline completions on the present stack. Zero from a
	// goroutine of its own; a Completer that submits from inside Complete
	// sets one more than the completed request had.
	Depth uint8

	// Status is the outcome, valid in Complete.
	Status Status

	// N is the number of valid bytes in Buf after OpBlockStatus, and the place
	// of the first difference after StatusMiscompare.
	N uint32

	Len uint32 // bytes
	Off uint64 // bytes

	// Buf holds the payload of a write (read-only for every layer), takes
	// that of a read, both of exactly Len bytes, or takes extents for
	// OpBlockStatus (at least ExtentLen bytes), or holds what is compared and
	// what is written (2 Len bytes, read-only). Nil otherwise.
	Buf []byte

	// Nexus is who asks: HOST or HOST/VM. The DAM decides by it.
	Nexus string
	// Right is the generation of the nexus's right that the frontend saw in
	// Info when the request was submitted: however long it then waits and
	// wherever, it does not outlive a fence. A frontend that leaves it zero
	// sees the present one in the moment of Submit.
	Right uint64

	// Done is told of the completion.
	Done Completer

	// Next links the request into one queue of whoever owns it at the moment.
	Next *Request

	// Parent is the request a Child was made for.
	Parent *Request

	// Tag belongs to whoever submitted the request; no layer reads it.
	Tag uint64
}

// Reset clears r for another use and keeps Done, Nexus and Tag.
func (r *Request) Reset() {
	*r = Request{Done: r.Done, Nexus: r.Nexus, Tag: r.Tag}
}

// End returns Off+Len. Check has made sure that it does not overflow.
func (r *Request) End() uint64 { return r.Off + uint64(r.Len) }

// Overlaps reports whether the byte ranges of r and o have a byte in common.
func (r *Request) Overlaps(o *Request) bool {
	return r.Off < o.End() && o.Off < r.End()
}

// Differs returns the place of the first byte in which a and b, of the same
// length, differ, or -1.
func Differs(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}

// Finish completes r with st from a goroutine that did not get here through
// Submit. Inside Submit a device uses a Finisher.
func Finish(r *Request, st Status) {
	r.Status = st
	r.Done.Complete(r)
}

// Check is the one validation of a request against a device (rule 9), called
// at the edge: by frontends and by sessions. It returns StatusOK or the
// reason why the device must not see the request.
func Check(i Info, r *Request) Status {
	if !r.Op.Known() || r.Flags&^flagsAll != 0 {
		return StatusUnsupported
	}
	if r.Op == OpFlush {
		if r.Off != 0 || r.Len != 0 || r.Flags != 0 {
			return StatusInvalid
		}
		return need(i, CanFlush)
	}
	if r.Len == 0 || r.Off > i.Size || uint64(r.Len) > i.Size-r.Off {
		return StatusInvalid
	}
	if mask := uint64(i.BlockSize) - 1; (r.Off|uint64(r.Len))&mask != 0 {
		return StatusInvalid
	}
	if r.Op.Changes() && i.ReadOnly {
		return StatusReadOnly
	}
	if st := checkFlags(i, r); st != StatusOK {
		return st
	}
	return checkBuf(i, r)
}

func need(i Info, f Features) Status {
	if !i.Has(f) {
		return StatusUnsupported
	}
	return StatusOK
}

func checkFlags(i Info, r *Request) Status {
	if r.Flags&FlagFUA != 0 && (!r.Op.Changes() || !i.Has(CanFUA)) {
		return StatusUnsupported
	}
	if r.Flags&(FlagNoHole|FlagFastZero) != 0 && r.Op != OpWriteZeroes {
		return StatusInvalid
	}
	if r.Flags&FlagFastZero != 0 && !i.Has(CanFastZero) {
		return StatusUnsupported
	}
	return StatusOK
}

func checkBuf(i Info, r *Request) Status {
	switch r.Op {
	case OpRead, OpWrite:
		if r.Len > i.MaxLen || len(r.Buf) != int(r.Len) {
			return StatusInvalid
		}
	case OpCompareAndWrite:
		if r.Len > AtomicLen || r.Off/AtomicLen != (r.End()-1)/AtomicLen || len(r.Buf) != 2*int(r.Len) {
			return StatusInvalid
		}
		return need(i, CanCompareAndWrite)
	case OpDiscard, OpWriteZeroes:
		if r.Len > i.MaxZero || r.Buf != nil {
			return StatusInvalid
		}
		if r.Op == OpDiscard {
			return need(i, CanDiscard)
		}
		return need(i, CanZero)
	case OpBlockStatus:
		if r.Len > i.MaxZero || len(r.Buf) < ExtentLen {
			return StatusInvalid
		}
		return need(i, CanBlockStatus)
	}
	return StatusOK
}
