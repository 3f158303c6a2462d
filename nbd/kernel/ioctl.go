// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// include/uapi/linux/nbd.h
const (
	ioctlSetSock       = 0xab00
	ioctlSetBlockSize  = 0xab01
	ioctlDoIt          = 0xab03
	ioctlClearSock     = 0xab04
	ioctlSetSizeBlocks = 0xab07
	ioctlDisconnect    = 0xab08
	ioctlSetFlags      = 0xab0a
)

// Ioctl is a device that was attached the old way, for drivers without
// netlink. It has one connection and no second: when that ends, requests fail,
// and it ends with the process that attached it. It cannot be resized.
type Ioctl struct {
	Index int

	f      *os.File
	server *net.UnixConn // cuts the connection; the kernel has a reference of its own
	wg     sync.WaitGroup
	once   sync.Once
	end    chan struct{}
	err    error // of the connection; valid after end
}

// AttachIoctl attaches a free device to an export. server is a connection in
// the transmission phase with simple replies; it is taken over.
func AttachIoctl(ctx context.Context, server *net.UnixConn, size uint64, flags uint16, blockSize uint32) (*Ioctl, error) {
	index, f, err := freeDevice()
	if err != nil {
		return nil, errors.Join(err, server.Close())
	}
	d := &Ioctl{Index: index, f: f, server: server, end: make(chan struct{})}
	d.wg.Go(func() { // in NBD_DO_IT until the connection ends; joined by Detach
		d.err = d.serve(size, flags, blockSize)
		close(d.end)
	})
	if err := d.ready(ctx); err != nil {
		d.cut()
		return nil, errors.Join(fmt.Errorf("kernel device %d, by ioctl: %w", index, err), d.Detach())
	}
	return d, nil
}

// serve sets the device up and is back when its connection has ended.
//
// A signal to the thread that is in NBD_DO_IT ends the device
// (nbd_start_device_ioctl waits interruptibly), and which thread a signal of the
// process comes to is the kernel's choice. So it gets none, and is given up
// afterwards.
func (d *Ioctl) serve(size uint64, flags uint16, blockSize uint32) error {
	runtime.LockOSThread()
	var all unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &all, nil); err != nil {
		return err
	}
	raw, err := d.server.File() // a duplicate, in blocking mode as the kernel wants it
	if err != nil {
		return err
	}
	for _, c := range []struct{ cmd, arg uint }{
		{ioctlSetFlags, uint(flags)}, // without them no flush is ever sent
		{ioctlSetBlockSize, uint(blockSize)},
		{ioctlSetSizeBlocks, uint(size / uint64(blockSize))},
		{ioctlSetSock, uint(raw.Fd())},
	} {
		if err == nil {
			err = unix.IoctlSetInt(int(d.f.Fd()), c.cmd, int(c.arg))
		}
	}
	_ = raw.Close() // the kernel has a reference of its own, if it took it
	if err != nil {
		return err
	}
	return unix.IoctlSetInt(int(d.f.Fd()), ioctlDoIt, 0)
}

// ready waits until the kernel serves the device.
func (d *Ioctl) ready(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !Connected(d.Index) || Size(d.Index) == 0 {
		select {
		case <-tick.C:
		case <-d.end:
			return d.err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Old reports whether there are devices that can be attached by ioctl.
func Old() bool {
	list, err := filepath.Glob("/sys/block/nbd*")
	return err == nil && len(list) > 0
}

// freeDevice opens the first device that nobody has attached.
func freeDevice() (int, *os.File, error) {
	list, err := filepath.Glob("/sys/block/nbd*")
	if err != nil {
		return -1, nil, err
	}
	for _, p := range list {
		var n int
		if _, err := fmt.Sscanf(filepath.Base(p), "nbd%d", &n); err != nil || Connected(n) {
			continue
		}
		f, err := os.OpenFile(Path(n), os.O_RDWR, 0)
		if err != nil {
			return -1, nil, err
		}
		return n, f, nil
	}
	return -1, nil, fmt.Errorf("%w: no free /dev/nbdN", ErrNoDriver)
}

// Done is closed when the connection has ended.
func (d *Ioctl) Done() <-chan struct{} { return d.end }

// cut ends the connection at once: the socket is the kernel's, too.
func (d *Ioctl) cut() {
	if raw, err := d.server.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_RDWR) }) // it may have ended
	}
}

// Detach ends the device and joins its goroutine. What is in flight fails.
func (d *Ioctl) Detach() error {
	var err error
	d.once.Do(func() {
		// The goodbye waits for a server that does not read, and the server for
		// what it has in flight.
		cut := time.AfterFunc(cutAfter, d.cut)
		defer cut.Stop()
		fd := int(d.f.Fd())
		err = unix.IoctlSetInt(fd, ioctlDisconnect, 0)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTCONN) { // it has ended already
			err = nil
		}
		select {
		case <-d.end:
			d.wg.Wait()
		case <-time.After(detachTimeout):
			err = errors.Join(err, fmt.Errorf("kernel device %d: its connection does not end", d.Index))
		}
		if err2 := unix.IoctlSetInt(fd, ioctlClearSock, 0); !errors.Is(err2, unix.EINVAL) {
			err = errors.Join(err, err2)
		}
		err = errors.Join(err, d.f.Close(), d.server.Close())
	})
	return err
}

const (
	cutAfter      = 2 * time.Second  // how long a server has to end what is in flight
	detachTimeout = 10 * time.Second // how long the kernel has to let go of a device
)
