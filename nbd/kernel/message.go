// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// include/uapi/linux/nbd-netlink.h
const (
	familyName    = "nbd"
	familyVersion = 1

	cmdConnect     = 1
	cmdDisconnect  = 2
	cmdReconfigure = 3
	cmdLinkDead    = 4

	attrIndex       = 1
	attrSize        = 2
	attrBlockSize   = 3
	attrTimeout     = 4
	attrServerFlags = 5
	attrSockets     = 7
	attrDeadConn    = 8
	attrIdentifier  = 10

	attrSocketItem = 1
	attrSocketFD   = 1
)

// connectionsTimeout is the timeout of a device with several connections, for
// which the kernel has none that is longer than that of the queue: see
// setTimer.
const connectionsTimeout = 0

// encode writes the attributes of a command: what is zero in c is left out.
func encode(c Config, connect bool) ([]byte, error) {
	e := netlink.NewAttributeEncoder()
	if c.Index >= 0 {
		e.Uint32(attrIndex, uint32(c.Index))
	}
	if c.Size > 0 {
		e.Uint64(attrSize, c.Size)
	}
	if connect {
		e.Uint64(attrBlockSize, uint64(c.BlockSize))
		e.Uint64(attrServerFlags, uint64(c.Flags))
		e.Uint64(attrTimeout, connectionsTimeout)
		e.Uint64(attrDeadConn, uint64(DeadTimeout.Seconds()))
	}
	if len(c.Sockets) > 0 {
		e.Nested(attrSockets, func(list *netlink.AttributeEncoder) error {
			for _, s := range c.Sockets {
				list.Nested(attrSocketItem, func(item *netlink.AttributeEncoder) error {
					item.Uint32(attrSocketFD, uint32(s.Fd()))
					return nil
				})
			}
			return nil
		})
	}
	if c.Identifier != "" {
		e.String(attrIdentifier, c.Identifier)
	}
	return e.Encode()
}

// parseIndex finds the device's number among attributes.
func parseIndex(b []byte) (int, error) {
	d, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return 0, fmt.Errorf("nbd driver: damaged message: %w", err)
	}
	for d.Next() {
		if d.Type()&^uint16(unix.NLA_F_NESTED) == attrIndex && len(d.Bytes()) == 4 {
			return int(d.Uint32()), nil
		}
	}
	return 0, errors.Join(errors.New("nbd driver: a message without a device"), d.Err())
}
