// SPDX-License-Identifier: Apache-2.0

//go:build !amd64 && !cgo

package kernel

import (
	"context"
	"errors"
	"fmt"
	"net"
)

// Ioctl would be a device that was attached the old way: go-nbd knows the
// numbers of the calls for amd64, and elsewhere from C.
type Ioctl struct{ Index int }

// AttachIoctl fails.
func AttachIoctl(_ context.Context, server *net.UnixConn, _ uint64, _ uint16, _ uint32) (*Ioctl, error) {
	return nil, errors.Join(fmt.Errorf("%w: this program was built without cgo and attaches by netlink only", ErrNoDriver), server.Close())
}

// Old reports whether there are devices that can be attached by ioctl.
func Old() bool { return false }

// Done is closed when the connection has ended.
func (d *Ioctl) Done() <-chan struct{} { return nil }

// Detach ends the device.
func (d *Ioctl) Detach() error { return nil }
