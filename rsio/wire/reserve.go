// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"encoding/binary"

	"rsio/rsio/block"
)

// ReserveOut is the payload of an OpReserveOut request (section 6.4). Strings
// refer to the payload.
type ReserveOut struct {
	Action     block.ReserveAction
	Type       block.ReserveType
	Scope      uint8
	Unregister bool
	Key        uint64
	NewKey     uint64
	Request    block.ReserveID
	Namespace  []byte
	Volume     []byte
	As         []byte // the nexus that acts; empty: the session's
	To         []byte // move: the other nexus
}

const (
	reserveUnregister = 1 << 0 // flag of ReserveOut
	reserveReport     = 1 << 0 // flag of ReserveIn
)

// Append appends the encoded payload to b.
func (r *ReserveOut) Append(b []byte) []byte {
	flags := byte(0)
	if r.Unregister {
		flags = reserveUnregister
	}
	b = append(b, byte(r.Action), byte(r.Type), r.Scope, flags)
	b = binary.BigEndian.AppendUint64(b, r.Key)
	b = binary.BigEndian.AppendUint64(b, r.NewKey)
	b = append(b, r.Request[:]...)
	for _, s := range [][]byte{r.Namespace, r.Volume, r.As, r.To} {
		b = appendText(b, s)
	}
	return b
}

// Parse decodes a payload. Action, type and scope may be any: the disk access
// manager answers for them.
func (r *ReserveOut) Parse(p []byte) error {
	c := cursor{b: p}
	r.Action, r.Type, r.Scope = block.ReserveAction(c.u8()), block.ReserveType(c.u8()), c.u8()
	flags := c.u8()
	r.Unregister = flags&reserveUnregister != 0
	r.Key, r.NewKey = c.u64(), c.u64()
	copy(r.Request[:], c.take(len(r.Request)))
	r.Namespace, r.Volume, r.As, r.To = c.text(), c.text(), c.text(), c.text()
	if err := c.done(); err != nil {
		return err
	}
	if flags&^reserveUnregister != 0 {
		return ErrFlags
	}
	return checkNames(r.Namespace, r.Volume, r.As, r.To)
}

func checkNames(namespace, volume []byte, nexuses ...[]byte) error {
	if len(namespace) > block.MaxName || len(volume) > block.MaxName {
		return ErrText
	}
	for _, n := range nexuses {
		if len(n) > MaxNexus {
			return ErrText
		}
	}
	return nil
}

// ReserveOutResponse is the payload of the answer to OpReserveOut; the header
// has the status. Reason refers to the payload.
type ReserveOutResponse struct {
	Generation uint32
	Sense      block.Sense
	Attentions []block.Attention
	Reason     []byte
}

// Append appends the encoded payload to b.
func (r *ReserveOutResponse) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, r.Generation)
	b = binary.BigEndian.AppendUint16(b, uint16(r.Sense))
	b = appendAttentions(b, r.Attentions)
	return appendText(b, r.Reason)
}

// Parse decodes a payload.
func (r *ReserveOutResponse) Parse(p []byte) error {
	c := cursor{b: p}
	r.Generation, r.Sense = c.u32(), block.Sense(c.u16())
	r.Attentions = c.attentions()
	r.Reason = c.text()
	return c.done()
}

func appendAttentions(b []byte, list []block.Attention) []byte {
	b = append(b, byte(len(list)))
	for _, a := range list {
		b = binary.BigEndian.AppendUint16(b, uint16(a))
	}
	return b
}

func (c *cursor) attentions() (list []block.Attention) {
	for n := c.u8(); n > 0 && !c.bad; n-- {
		list = append(list, block.Attention(c.u16()))
	}
	return list
}

// The reads of a reservation: service actions of PERSISTENT RESERVE IN.
const (
	ReadKeys         uint8 = 0
	ReadReservation  uint8 = 1
	ReadCapabilities uint8 = 2
	ReadFullStatus   uint8 = 3
)

// ReserveIn is the payload of an OpReserveIn request (section 6.4). Strings
// refer to the payload.
type ReserveIn struct {
	What      uint8  // one of the reads above
	Report    bool   // the unit attentions that wait for the nexus, which then wait no more
	Limit     uint32 // registrants at most; 0: all
	Namespace []byte
	Volume    []byte
	As        []byte // the nexus that asks; empty: the session's
}

// Append appends the encoded payload to b.
func (r *ReserveIn) Append(b []byte) []byte {
	flags := byte(0)
	if r.Report {
		flags = reserveReport
	}
	b = binary.BigEndian.AppendUint32(append(b, r.What, flags), r.Limit)
	for _, s := range [][]byte{r.Namespace, r.Volume, r.As} {
		b = appendText(b, s)
	}
	return b
}

// Parse decodes a payload.
func (r *ReserveIn) Parse(p []byte) error {
	c := cursor{b: p}
	r.What = c.u8()
	flags := c.u8()
	r.Report, r.Limit = flags&reserveReport != 0, c.u32()
	r.Namespace, r.Volume, r.As = c.text(), c.text(), c.text()
	if err := c.done(); err != nil {
		return err
	}
	if flags&^reserveReport != 0 {
		return ErrFlags
	}
	return checkNames(r.Namespace, r.Volume, r.As)
}

// ReserveInResponse is the payload of the answer to OpReserveIn. What was not
// asked for is zero.
type ReserveInResponse struct {
	Generation   uint32
	Capabilities uint32
	Type         block.ReserveType
	Key          uint64
	Right        uint64
	Access       block.Access
	Conflicts    uint64
	Total        uint32 // registrants, also those that Limit cut off
	Registrants  []block.Registrant
	Attentions   []block.Attention
	Reason       []byte // of a refusal; refers to the payload
}

// Append appends the encoded payload to b.
func (r *ReserveInResponse) Append(b []byte) []byte {
	be := binary.BigEndian
	b = be.AppendUint32(be.AppendUint32(b, r.Generation), r.Capabilities)
	b = append(b, byte(r.Type), byte(r.Access))
	b = be.AppendUint64(be.AppendUint64(be.AppendUint64(b, r.Key), r.Right), r.Conflicts)
	b = be.AppendUint32(be.AppendUint32(b, r.Total), uint32(len(r.Registrants)))
	for _, x := range r.Registrants {
		holder := byte(0)
		if x.Holder {
			holder = 1
		}
		b = appendText(append(be.AppendUint64(b, x.Key), holder), []byte(x.Nexus))
	}
	b = appendAttentions(b, r.Attentions)
	return appendText(b, r.Reason)
}

// registrantLen is the smallest registrant in bytes.
const registrantLen = 8 + 1 + 1

// Parse decodes a payload.
func (r *ReserveInResponse) Parse(p []byte) error {
	c := cursor{b: p}
	r.Generation, r.Capabilities = c.u32(), c.u32()
	r.Type, r.Access = block.ReserveType(c.u8()), block.Access(c.u8())
	r.Key, r.Right, r.Conflicts = c.u64(), c.u64(), c.u64()
	r.Total = c.u32()
	n := c.u32()
	if int64(n) > int64(len(c.b)/registrantLen) {
		return ErrShort
	}
	r.Registrants = nil
	for ; n > 0 && !c.bad; n-- {
		x := block.Registrant{Key: c.u64()}
		holder := c.u8()
		x.Holder, x.Nexus = holder == 1, string(c.text())
		c.bad = c.bad || holder > 1 || len(x.Nexus) > MaxNexus
		r.Registrants = append(r.Registrants, x)
	}
	r.Attentions = c.attentions()
	r.Reason = c.text()
	return c.done()
}
