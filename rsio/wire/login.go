// SPDX-License-Identifier: Apache-2.0

package wire

import "encoding/binary"

// ID names a session, a target or one run of a target.
type ID [16]byte

// IsZero reports whether the ID is unset.
func (id ID) IsZero() bool { return id == ID{} }

// Secret proves that its holder is the session's initiator or its successor.
// The initiator chooses it once per nexus and target, at random, and keeps it.
type Secret [32]byte

// Modes of a login (section 4.4).
const (
	LoginNew  uint8 = 1 // make a session with that Secret; one that has the same is its predecessor
	LoginJoin uint8 = 2 // add this path to the session
	// LoginControl makes a session without I/O, of one path, beside any others
	// of the nexus. Nexus is HOST/VM, or a VM, which then acts for the nexus that
	// has the volume open under its name.
	LoginControl uint8 = 3
)

// Login is the payload of KindLogin. Nexus refers to the payload it was parsed
// from.
type Login struct {
	VersionMin uint16
	VersionMax uint16
	Features   uint64 // offered
	Mode       uint8
	Serial     uint64 // grows with each LoginNew of one Secret, over restarts too
	Session    ID
	Secret     Secret
	Nexus      []byte // HOST or HOST/VM
}

// Append appends the encoded payload to b.
func (l *Login) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, l.VersionMin)
	b = binary.BigEndian.AppendUint16(b, l.VersionMax)
	b = binary.BigEndian.AppendUint64(b, l.Features)
	b = append(b, l.Mode)
	b = binary.BigEndian.AppendUint64(b, l.Serial)
	b = append(b, l.Session[:]...)
	b = append(b, l.Secret[:]...)
	return appendText(b, l.Nexus)
}

// Parse decodes a payload. Fields that a later version appends are ignored if
// the version range says so (section 8).
func (l *Login) Parse(p []byte) error {
	c := cursor{b: p}
	l.VersionMin, l.VersionMax = c.u16(), c.u16()
	l.Features = c.u64()
	l.Mode = c.u8()
	l.Serial = c.u64()
	copy(l.Session[:], c.take(len(l.Session)))
	copy(l.Secret[:], c.take(len(l.Secret)))
	l.Nexus = c.text()
	if l.VersionMax > VersionMax && !c.bad {
		c.b = nil
	}
	if err := c.done(); err != nil {
		return err
	}
	if l.Mode < LoginNew || l.Mode > LoginControl || l.VersionMin > l.VersionMax {
		return ErrReserved
	}
	if len(l.Nexus) == 0 || len(l.Nexus) > MaxNexus {
		return ErrText
	}
	return nil
}

// LoginResponse is the payload of KindLoginResponse; the header's Status says
// whether the login was accepted. Text refers to the payload.
type LoginResponse struct {
	Version    uint16 // chosen
	Features   uint64 // chosen: a subset of those offered
	Target     ID     // of the pool; stays
	Instance   ID     // of this run of the target; a new one after a restart
	Session    ID
	Slots      uint32 // of the session, ControlSlots included
	Window     uint32 // bytes of credit
	Grant      uint32 // number of that grant
	MaxPayload uint32 // bytes
	Text       []byte // why the login was refused
}

// Append appends the encoded payload to b.
func (l *LoginResponse) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, l.Version)
	b = binary.BigEndian.AppendUint64(b, l.Features)
	b = append(b, l.Target[:]...)
	b = append(b, l.Instance[:]...)
	b = append(b, l.Session[:]...)
	for _, v := range []uint32{l.Slots, l.Window, l.Grant, l.MaxPayload} {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return appendText(b, l.Text)
}

// Parse decodes a payload and checks the limits an initiator relies on.
func (l *LoginResponse) Parse(p []byte) error {
	c := cursor{b: p}
	l.Version = c.u16()
	l.Features = c.u64()
	copy(l.Target[:], c.take(len(l.Target)))
	copy(l.Instance[:], c.take(len(l.Instance)))
	copy(l.Session[:], c.take(len(l.Session)))
	l.Slots, l.Window, l.Grant, l.MaxPayload = c.u32(), c.u32(), c.u32(), c.u32()
	l.Text = c.text()
	if err := c.done(); err != nil {
		return err
	}
	if l.Slots > MaxSlots || l.MaxPayload > MaxPayload {
		return ErrLength
	}
	return nil
}
