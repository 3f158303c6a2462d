// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || cgo

package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	gonbd "github.com/pojntfx/go-nbd/pkg/client"
	"golang.org/x/sys/unix"
)

// ioctlSetFlags is NBD_SET_FLAGS of include/uapi/linux/nbd.h.
const ioctlSetFlags = 0xab0a

// Ioctl is a device that was attached the old way, for drivers without
// netlink. It has one connection and no second: when that ends, requests fail,
// and it ends with the process that attached it. It cannot be resized.
//
// Since Linux 4.10 a signal to the thread that is in NBD_DO_IT ends it, too
// (nbd_start_device_ioctl waits interruptibly), and which thread a signal of the
// process comes to is the kernel's choice. go-nbd calls it on a goroutine of its
// own, which cannot be given a thread with blocked signals.
type Ioctl struct {
	Index int

	f     *os.File
	relay [2]*net.UnixConn // to the kernel, to the server
	wg    sync.WaitGroup
	once  sync.Once
	end   chan struct{}
	err   error // of the connection; valid after end
}

// AttachIoctl attaches a free device to an export by go-nbd's client. server is
// a connection in the transmission phase with simple replies; it is taken over.
//
// go-nbd negotiates by itself, and says in its option that no data follow, and
// sends some: a server that goes by the protocol refuses that. So it negotiates
// with this package, which passes on what follows. It does not tell the kernel
// the transmission flags either; without them no flush is ever sent.
func AttachIoctl(ctx context.Context, server *net.UnixConn, size uint64, flags uint16, blockSize uint32) (*Ioctl, error) {
	index, f, err := freeDevice()
	if err != nil {
		return nil, errors.Join(err, server.Close())
	}
	d := &Ioctl{Index: index, f: f, end: make(chan struct{})}
	// The driver keeps them until the device is closed, or the connection ends
	// (nbd_ioctl, nbd_config_put); NBD_DO_IT acts on them.
	if err := unix.IoctlSetInt(int(f.Fd()), ioctlSetFlags, int(flags)); err != nil {
		return nil, errors.Join(fmt.Errorf("kernel device %d: flags: %w", index, err), f.Close(), server.Close())
	}
	conn, ours, err := pair()
	if err != nil {
		return nil, errors.Join(err, f.Close(), server.Close())
	}
	d.relay = [2]*net.UnixConn{ours, server}
	d.wg.Go(func() { d.pass(size, flags, blockSize) })
	d.wg.Go(func() { // in NBD_DO_IT until the connection ends; joined by Detach
		// Without OnConnected: for that it polls, for ever if it fails.
		d.err = gonbd.Connect(conn, f, &gonbd.Options{ExportName: "v", BlockSize: blockSize})
		_ = conn.Close() // the kernel had a reference of its own
		close(d.end)
	})
	if err := d.ready(ctx); err != nil {
		_ = conn.Close() // ends what waits for the server
		return nil, errors.Join(fmt.Errorf("kernel device %d, by ioctl: %w", index, err), d.Detach())
	}
	return d, nil
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

// pair makes two connected sockets.
func pair() (a, b *net.UnixConn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	var out [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "nbd")
		c, err2 := net.FileConn(f)
		if err = errors.Join(err, err2, f.Close()); err2 == nil {
			out[i] = c.(*net.UnixConn)
		}
	}
	if err != nil {
		for _, c := range out {
			if c != nil {
				_ = c.Close() // nothing was sent
			}
		}
		return nil, nil, err
	}
	return out[0], out[1], nil
}

// pass plays the server in go-nbd's handshake and passes on what follows.
func (d *Ioctl) pass(size uint64, flags uint16, blockSize uint32) {
	defer d.cut()
	client, server := d.relay[0], d.relay[1]
	if greet(client, size, flags, blockSize) != nil {
		return
	}
	var wg sync.WaitGroup
	one := func(to, from *net.UnixConn) {
		_, _ = io.Copy(to, from) // splice; an error ends both
		_, _ = to.CloseWrite(), from.CloseRead()
	}
	wg.Go(func() { one(server, client) })
	wg.Go(func() { one(client, server) })
	wg.Wait()
}

// cut ends the connection at once. It may be repeated.
func (d *Ioctl) cut() { _, _ = d.relay[0].Close(), d.relay[1].Close() }

// greet does the server's part of the handshake that go-nbd's client does.
func greet(c io.ReadWriter, size uint64, flags uint16, blockSize uint32) error {
	be := binary.BigEndian
	if _, err := c.Write(be.AppendUint16([]byte("NBDMAGICIHAVEOPT"), 1)); err != nil { // fixed newstyle
		return err
	}
	var b [4 + 16 + 4 + 1 + 2]byte // flags, header of the option, name "v", no information asked for
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return err
	}
	const magic, optGo, repInfo, repAck = 0x3e889045565a9, 7, 3, 1
	reply := func(b []byte, typ uint32, data []byte) []byte {
		b = be.AppendUint32(be.AppendUint32(be.AppendUint64(b, magic), optGo), typ)
		return append(be.AppendUint32(b, uint32(len(data))), data...)
	}
	export := be.AppendUint16(be.AppendUint64([]byte{0, 0}, size), flags)
	blocks := be.AppendUint32(be.AppendUint32(be.AppendUint32([]byte{0, 3}, blockSize), blockSize), 32<<20)
	_, err := c.Write(reply(reply(reply(nil, repInfo, export), repInfo, blocks), repAck, nil))
	return err
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

// Detach ends the device and joins its goroutines. What is in flight fails.
func (d *Ioctl) Detach() error {
	var err error
	d.once.Do(func() {
		// The goodbye waits for a server that does not read, and the server for
		// what it has in flight.
		cut := time.AfterFunc(cutAfter, d.cut)
		defer cut.Stop()
		err = gonbd.Disconnect(d.f)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTCONN) { // it has ended already
			err = nil
		}
		select {
		case <-d.end:
			d.wg.Wait()
		case <-time.After(detachTimeout):
			err = errors.Join(err, fmt.Errorf("kernel device %d: its connection does not end", d.Index))
		}
		err = errors.Join(err, d.f.Close())
	})
	return err
}

const (
	cutAfter      = 2 * time.Second  // how long a server has to end what is in flight
	detachTimeout = 10 * time.Second // how long the kernel has to let go of a device
)
