// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"rsio/rsio/block"
)

// Values of the handshake; doc/proto.md of the NBD project.
const (
	magicInit   = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption = 0x49484156454f5054 // "IHAVEOPT"
	magicReply  = 0x3e889045565a9

	flagFixed    = 1 << 0
	flagNoZeroes = 1 << 1

	optGo = 7

	repAck        = 1
	repInfo       = 3
	repErr        = 1 << 31
	repErrUnknown = repErr | 6

	infoExport    = 0
	infoBlockSize = 3

	maxReply = 64 << 10 // bytes of an option's reply
	maxName  = 4096     // bytes of an export's name
)

// Transmission flags of an export.
const (
	FlagReadOnly  = uint16(1 << 1)
	FlagFlush     = uint16(1 << 2)
	FlagFUA       = uint16(1 << 3)
	FlagTrim      = uint16(1 << 5)
	FlagZeroes    = uint16(1 << 6)
	FlagMultiConn = uint16(1 << 8)
	FlagFastZero  = uint16(1 << 11)
)

// Info is what a server says of an export.
type Info struct {
	Size       uint64 // bytes
	Flags      uint16 // transmission flags
	MinBlock   uint32 // bytes, 1 if the server does not say
	Preferred  uint32 // bytes, 4096 if the server does not say
	MaxPayload uint32 // bytes, 32 MiB if the server does not say
}

// handshakeTimeout is how long a local server has for a handshake if the
// context has no deadline.
const handshakeTimeout = 10 * time.Second

// Dial connects to an export and returns the connection in the transmission
// phase, with simple replies and nothing read ahead, so that it can be handed
// to the kernel. An export that the server does not know is
// block.StatusNotFound. The caller owns the connection.
func Dial(ctx context.Context, socket, export string) (*net.UnixConn, Info, error) {
	if len(export) > maxName {
		return nil, Info{}, fmt.Errorf("NBD export at %s: a name of %d bytes is too long", socket, len(export))
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, Info{}, fmt.Errorf("NBD export %q: %w", export, err)
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(handshakeTimeout)
	}
	err = c.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) }) // of an open socket
	var info Info
	if err == nil {
		info, err = negotiate(c, export)
	}
	if !stop() {
		err = ctx.Err()
	}
	if err == nil {
		err = c.SetDeadline(time.Time{})
	}
	if err != nil {
		return nil, Info{}, errors.Join(fmt.Errorf("NBD export %q at %s: %w", export, socket, err), c.Close())
	}
	return c.(*net.UnixConn), info, nil
}

// negotiate does the handshake for export.
func negotiate(c io.ReadWriter, export string) (Info, error) {
	var hello [18]byte
	if _, err := io.ReadFull(c, hello[:]); err != nil {
		return Info{}, err
	}
	flags := binary.BigEndian.Uint16(hello[16:])
	if binary.BigEndian.Uint64(hello[:]) != magicInit || binary.BigEndian.Uint64(hello[8:]) != magicOption || flags&flagFixed == 0 {
		return Info{}, errors.New("this is no NBD server of the fixed newstyle handshake")
	}
	n := len(export)
	b := binary.BigEndian.AppendUint32(nil, uint32(flagFixed|flags&flagNoZeroes))
	b = binary.BigEndian.AppendUint64(b, magicOption)
	b = binary.BigEndian.AppendUint32(b, optGo)
	b = binary.BigEndian.AppendUint32(b, uint32(4+n+2+2))
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	b = append(b, export...)
	b = binary.BigEndian.AppendUint16(b, 1) // one kind of information is asked for
	b = binary.BigEndian.AppendUint16(b, infoBlockSize)
	if _, err := c.Write(b); err != nil {
		return Info{}, err
	}
	return readInfo(c)
}

// readInfo reads the replies to GO.
func readInfo(c io.Reader) (Info, error) {
	info := Info{MinBlock: 1, Preferred: 4096, MaxPayload: 32 << 20}
	known := false
	for range 64 { // a server that never comes to an end is none
		typ, b, err := readReply(c)
		if err != nil {
			return Info{}, err
		}
		switch {
		case typ == repAck && known:
			return info, info.check()
		case typ == repInfo:
			known = info.take(b) || known
		case typ == repErrUnknown:
			return Info{}, fmt.Errorf("%w: %.200q", block.StatusNotFound, b)
		case typ&repErr != 0:
			return Info{}, fmt.Errorf("refused with error %d: %.200q", typ&^repErr, b)
		default:
			return Info{}, fmt.Errorf("reply of type %d to GO", typ)
		}
	}
	return Info{}, errors.New("endless replies to GO")
}

// readReply reads a reply to GO.
func readReply(c io.Reader) (typ uint32, payload []byte, err error) {
	var head [20]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[16:])
	if binary.BigEndian.Uint64(head[:]) != magicReply || binary.BigEndian.Uint32(head[8:]) != optGo || n > maxReply {
		return 0, nil, errors.New("damaged reply to GO")
	}
	payload = make([]byte, n)
	if _, err := io.ReadFull(c, payload); err != nil {
		return 0, nil, err
	}
	return binary.BigEndian.Uint32(head[12:]), payload, nil
}

// take reads a reply with information; export reports whether it was that of
// the export.
func (i *Info) take(b []byte) (export bool) {
	if len(b) < 2 {
		return false
	}
	switch typ := binary.BigEndian.Uint16(b); {
	case typ == infoExport && len(b) == 12:
		i.Size, i.Flags = binary.BigEndian.Uint64(b[2:]), binary.BigEndian.Uint16(b[10:])
		return true
	case typ == infoBlockSize && len(b) == 14:
		i.MinBlock, i.Preferred, i.MaxPayload = binary.BigEndian.Uint32(b[2:]), binary.BigEndian.Uint32(b[6:]), binary.BigEndian.Uint32(b[10:])
	}
	return false
}

// check refuses what no server may say.
func (i *Info) check() error {
	power := i.MinBlock != 0 && i.MinBlock&(i.MinBlock-1) == 0
	switch {
	case !power || i.MinBlock > block.MaxBlockSize:
		return fmt.Errorf("a smallest block of %d bytes is not possible here", i.MinBlock)
	case i.MaxPayload < block.MaxBlockSize:
		return fmt.Errorf("a largest request of %d bytes is not possible here", i.MaxPayload)
	case i.Size > 1<<62:
		return fmt.Errorf("a size of %d bytes is not possible here", i.Size)
	}
	return nil
}

// device is Info as a block.Device says it.
func (i *Info) device() block.Info {
	d := block.Info{BlockSize: i.MinBlock, MaxLen: min(block.MaxLen, i.MaxPayload&^(block.MaxBlockSize-1)), MaxZero: block.MaxZero,
		ReadOnly: i.Flags&FlagReadOnly != 0, Size: i.Size / uint64(i.MinBlock) * uint64(i.MinBlock)}
	for bit, f := range map[uint16]block.Features{FlagFlush: block.CanFlush, FlagFUA: block.CanFUA, FlagTrim: block.CanDiscard, FlagZeroes: block.CanZero} {
		if i.Flags&bit != 0 {
			d.Features |= f
		}
	}
	if i.Flags&(FlagZeroes|FlagFastZero) == FlagZeroes|FlagFastZero {
		d.Features |= block.CanFastZero
	}
	return d
}
