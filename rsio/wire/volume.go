// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"encoding/binary"

	"rsio/rsio/block"
)

// Flags of Open.
const (
	OpenReadOnly uint8 = 1 << 0 // no operation that changes data
	OpenRecover  uint8 = 1 << 1 // opened before, under an earlier session; something may be in flight
)

// Open is the payload of an OpOpen request. Strings refer to the payload.
type Open struct {
	Flags     uint8
	Namespace []byte
	Volume    []byte
}

// Append appends the encoded payload to b.
func (o *Open) Append(b []byte) []byte {
	b = append(b, o.Flags)
	b = appendText(b, o.Namespace)
	return appendText(b, o.Volume)
}

// Parse decodes a payload.
func (o *Open) Parse(p []byte) error {
	c := cursor{b: p}
	o.Flags = c.u8()
	o.Namespace, o.Volume = c.text(), c.text()
	if err := c.done(); err != nil {
		return err
	}
	if o.Flags&^(OpenReadOnly|OpenRecover) != 0 {
		return ErrFlags
	}
	if len(o.Namespace) > block.MaxName || len(o.Volume) > block.MaxName {
		return ErrText
	}
	return nil
}

// Replay says what becomes of writes that were in flight when the target
// restarted (section 5.7).
type Replay uint8

// The answers to OpenRecover.
const (
	ReplayNone    Replay = 0 // not asked for
	ReplayAllowed Replay = 1 // send them again with FlagReplay, then OpReclaim
	ReplayLate    Replay = 2 // others went on: they end in StatusUnknown, then OpReclaim
)

// OpenResponse is the payload of the answer to OpOpen.
type OpenResponse struct {
	Handle      uint32
	Info        block.Info
	Replay      Replay
	Incarnation uint64 // changes when unflushed data may be gone

	// With FeatureReserve only; zero: the peer does not have it.
	Right  uint64       // generation of the right of the nexus
	Access block.Access // what it may do now
}

// Append appends the encoded payload to b.
func (o *OpenResponse) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, o.Handle)
	b = binary.BigEndian.AppendUint64(b, o.Info.Size)
	for _, v := range []uint32{o.Info.BlockSize, o.Info.MaxLen, o.Info.MaxZero, uint32(o.Info.Features)} {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	ro := byte(0)
	if o.Info.ReadOnly {
		ro = 1
	}
	b = append(b, ro, byte(o.Replay))
	b = binary.BigEndian.AppendUint64(b, o.Incarnation)
	if o.Right != 0 {
		b = append(binary.BigEndian.AppendUint64(b, o.Right), byte(o.Access))
	}
	return b
}

// Parse decodes a payload and checks the limits an initiator relies on.
func (o *OpenResponse) Parse(p []byte) error {
	c := cursor{b: p}
	o.Handle = c.u32()
	o.Info.Size = c.u64()
	o.Info.BlockSize, o.Info.MaxLen, o.Info.MaxZero = c.u32(), c.u32(), c.u32()
	o.Info.Features = block.Features(c.u32())
	ro := c.u8()
	o.Info.ReadOnly = ro == 1
	o.Replay = Replay(c.u8())
	o.Incarnation = c.u64()
	if o.Right, o.Access = 0, 0; len(c.b) > 0 {
		o.Right, o.Access = c.u64(), block.Access(c.u8())
		c.bad = c.bad || o.Right == 0 || o.Access > block.AccessAll
	}
	if err := c.done(); err != nil {
		return err
	}
	bs := o.Info.BlockSize
	if bs == 0 || bs > block.MaxBlockSize || bs&(bs-1) != 0 || o.Info.Size%uint64(bs) != 0 || o.Info.Size > 1<<62 ||
		o.Info.MaxLen < bs || o.Info.MaxLen > MaxPayload || o.Info.MaxZero > block.MaxZero || ro > 1 || o.Replay > ReplayLate {
		return ErrLength
	}
	return nil
}
