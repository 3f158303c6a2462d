// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// ErrNoDriver says that the kernel has no nbd driver; for errors.Is.
var ErrNoDriver = errors.New("no nbd driver")

// DeadTimeout is how long a device without a connection waits for one: longer
// than anybody takes to start a daemon again. The kernel counts in jiffies; two
// weeks fit in 32 bits at 1000 Hz.
const DeadTimeout = 14 * 24 * time.Hour

// Config says what a device is given.
type Config struct {
	Index      int        // N of /dev/nbdN; -1 for Connect: the kernel chooses
	Size       uint64     // bytes, a multiple of BlockSize
	BlockSize  uint32     // bytes, 512..4096: the logical block
	Flags      uint16     // transmission flags of the export
	Sockets    []*os.File // in the transmission phase; the caller closes them
	Identifier string     // tells the device again, see Find
}

// Driver talks with the kernel's driver. Its methods may be called from any
// goroutine.
type Driver struct {
	conn   *genetlink.Conn
	family genetlink.Family

	news *genetlink.Conn // nil: Watch was not called
	wg   sync.WaitGroup
}

// Open finds the driver; ErrNoDriver if the kernel has none.
func Open() (*Driver, error) {
	conn, err := genetlink.Dial(nil)
	if err != nil {
		return nil, fmt.Errorf("%w: generic netlink: %w", ErrNoDriver, err)
	}
	family, err := conn.GetFamily(familyName)
	if err != nil {
		_ = conn.Close() // nothing was asked of it
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: the kernel does not know the netlink family %q", ErrNoDriver, familyName)
		}
		return nil, fmt.Errorf("nbd driver: %w", err)
	}
	return &Driver{conn: conn, family: family}, nil
}

// Close ends the connection with the driver, and Watch. Devices stay.
func (d *Driver) Close() error {
	err := d.conn.Close()
	if d.news != nil {
		err = errors.Join(err, d.news.Close())
	}
	d.wg.Wait()
	return err
}

// Watch calls dead with the number of each device of which a connection has
// died, on a goroutine of its own until Close. It is called once.
func (d *Driver) Watch(dead func(index int)) error {
	conn, err := genetlink.Dial(nil)
	if err != nil {
		return err
	}
	for _, g := range d.family.Groups {
		if err := conn.JoinGroup(g.ID); err != nil {
			return errors.Join(err, conn.Close())
		}
	}
	d.news = conn
	d.wg.Go(func() {
		for {
			list, _, err := conn.Receive()
			if errors.Is(err, unix.ENOBUFS) {
				continue // some were lost; who watches looks by itself now and then
			}
			if err != nil {
				return
			}
			for _, m := range list {
				if m.Header.Command != cmdLinkDead {
					continue
				}
				if index, err := parseIndex(m.Data); err == nil {
					dead(index)
				}
			}
		}
	})
	return nil
}

// call sends a command and returns what the kernel answers: to connect the
// device's number, to all others an acknowledgement, which has to be asked for.
// Both would be two messages, and the second taken for the answer to the next.
func (d *Driver) call(cmd uint8, data []byte) ([]genetlink.Message, error) {
	flags := netlink.Request
	if cmd != cmdConnect {
		flags |= netlink.Acknowledge
	}
	return d.conn.Execute(genetlink.Message{Header: genetlink.Header{Command: cmd, Version: familyVersion}, Data: data}, d.family.ID, flags)
}

// Connect makes a device and returns its number. With one connection its
// requests wait for ever, see the package comment.
func (d *Driver) Connect(c Config) (int, error) {
	data, err := encode(c, true)
	if err != nil {
		return -1, err
	}
	list, err := d.call(cmdConnect, data)
	if err != nil {
		return -1, fmt.Errorf("connect a kernel device: %w", err)
	}
	index := -1
	for _, m := range list {
		if len(m.Data) == 0 {
			continue
		}
		if index, err = parseIndex(m.Data); err != nil {
			return -1, err
		}
	}
	if index < 0 {
		return -1, errors.New("connect a kernel device: the kernel did not say which one")
	}
	if len(c.Sockets) > 1 {
		return index, setTimer(index, ioTimeoutSeveral)
	}
	return index, setTimer(index, ioTimeout)
}

// The time after which the block layer asks the driver about a request: what
// was with a server that died is sent again that soon after its successor came.
// The kernel rounds it up to whole seconds. With several connections a request
// that takes longer costs its connection and is sent again, see the package
// comment.
const (
	ioTimeout        = time.Second
	ioTimeoutSeveral = 30 * time.Second
)

// setTimer sets the timer of the queue.
func setTimer(index int, ioTimeout time.Duration) error {
	path := fmt.Sprintf("/sys/block/nbd%d/queue/io_timeout", index)
	if err := os.WriteFile(path, fmt.Appendf(nil, "%d", ioTimeout.Milliseconds()), 0o644); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("kernel device %d: %w", index, err)
	}
	return nil
}

// Reconfigure hands a device new sockets in place of dead ones. Flags and sizes
// are left as they are. If none is dead, or the kernel has not noticed, it takes
// none and says nothing of it (nbd_genl_reconfigure forgets -ENOSPC): when the
// caller closes its own reference, the socket ends.
func (d *Driver) Reconfigure(c Config) error {
	data, err := encode(Config{Index: c.Index, Identifier: c.Identifier, Sockets: c.Sockets}, false)
	if err != nil {
		return err
	}
	_, err = d.call(cmdReconfigure, data)
	if err != nil {
		return fmt.Errorf("reconfigure kernel device %d: %w", c.Index, err)
	}
	return nil
}

// Resize gives a device another size in bytes, larger or smaller.
func (d *Driver) Resize(index int, identifier string, size uint64) error {
	data, err := encode(Config{Index: index, Identifier: identifier, Size: size}, false)
	if err == nil {
		_, err = d.call(cmdReconfigure, data)
	}
	if err != nil {
		return fmt.Errorf("resize kernel device %d to %d bytes: %w", index, size, err)
	}
	return nil
}

// Disconnect ends a device: what is in flight or comes later fails. It returns
// when the device is empty, which it is when its last opener has closed it, or
// when ctx ends. hold, if not nil, is an opener of the caller's and closed when
// nobody can do anything with the device any more.
//
// The kernel says goodbye to the server, and waits without end while it sends a
// request to a server that does not read: Disconnect is back when ctx ends, the
// call goes on, and keeps the whole system's generic netlink and Close waiting.
// A server whose reader may be stuck has to end the connection first, which
// ends that wait. (If it is in this process and does not, the process cannot be
// killed.)
func (d *Driver) Disconnect(ctx context.Context, index int, hold *os.File) error {
	called := make(chan error, 1)
	d.wg.Go(func() { called <- d.disconnect(index, hold) })
	var err error
	select {
	case err = <-called:
	case <-ctx.Done():
		err = ctx.Err()
	}
	for err == nil && Connected(index) {
		select {
		case <-ctx.Done():
			err = ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
	if err != nil {
		return fmt.Errorf("disconnect kernel device %d: %w", index, err)
	}
	return nil
}

// disconnect sends the command, on a connection of its own because it can take
// long, and closes hold.
func (d *Driver) disconnect(index int, hold *os.File) error {
	if hold != nil {
		defer func() { _ = hold.Close() }() // nothing was written through it
	}
	data, err := encode(Config{Index: index}, false)
	if err != nil {
		return err
	}
	own := &Driver{family: d.family}
	if own.conn, err = genetlink.Dial(nil); err != nil {
		return err
	}
	_, err = own.call(cmdDisconnect, data)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) { // it is none
		err = nil
	}
	return errors.Join(err, own.conn.Close())
}

// Path returns the device's file.
func Path(index int) string { return fmt.Sprintf("/dev/nbd%d", index) }

// Connected reports whether a device has a configuration.
func Connected(index int) bool {
	_, err := os.Stat(fmt.Sprintf("/sys/block/nbd%d/pid", index))
	return err == nil
}

// Size returns the size of a device in bytes; 0 if it has none.
func Size(index int) uint64 {
	var sectors uint64
	b, err := os.ReadFile(fmt.Sprintf("/sys/block/nbd%d/size", index))
	if err == nil {
		_, err = fmt.Sscan(string(b), &sectors)
	}
	if err != nil {
		return 0
	}
	return sectors * 512
}

// Find returns the number of the device with an identifier, or -1.
func Find(identifier string) (int, error) {
	list, err := filepath.Glob("/sys/block/nbd*/backend")
	if err != nil {
		return -1, err
	}
	for _, f := range list {
		b, err := os.ReadFile(f)
		if err != nil || string(trim(b)) != identifier {
			continue
		}
		var n int
		if _, err := fmt.Sscanf(f, "/sys/block/nbd%d/backend", &n); err == nil && Connected(n) {
			return n, nil
		}
	}
	return -1, nil
}

func trim(b []byte) []byte {
	for len(b) > 0 && (b[len(b)-1] == '\n' || b[len(b)-1] == 0) {
		b = b[:len(b)-1]
	}
	return b
}
