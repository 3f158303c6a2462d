// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Commands of the NBD protocol that the load generator uses.
const (
	cmdRead  = 0
	cmdWrite = 1
	cmdDisc  = 2
	cmdFlush = 3
)

// Client is a small NBD client: simple replies, many requests in flight.
type Client struct {
	conn net.Conn
	Size uint64

	mu      sync.Mutex
	pending map[uint64]*Call
	next    uint64
	err     error
	done    chan struct{}
}

// Call is a request in flight.
type Call struct {
	buf  []byte // of a read
	done chan error
}

// Dial connects to an export.
func Dial(network, addr, export string) (*Client, error) {
	conn, err := net.DialTimeout(network, addr, 5*time.Second)
	if err != nil {
		return nil, err
	}
	c := &Client{conn: conn, pending: make(map[uint64]*Call), done: make(chan struct{})}
	if err := c.handshake(export); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	go c.reader()
	return c, nil
}

func (c *Client) handshake(export string) error {
	if err := c.conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	var hello [18]byte
	if _, err := io.ReadFull(c.conn, hello[:]); err != nil {
		return err
	}
	b := binary.BigEndian.AppendUint32(nil, 3) // fixed newstyle, no zeroes
	b = append(b, "IHAVEOPT"...)
	b = binary.BigEndian.AppendUint32(b, 1) // NBD_OPT_EXPORT_NAME
	b = binary.BigEndian.AppendUint32(b, uint32(len(export)))
	b = append(b, export...)
	if _, err := c.conn.Write(b); err != nil {
		return err
	}
	var info [10]byte
	if _, err := io.ReadFull(c.conn, info[:]); err != nil {
		return fmt.Errorf("export %s: %w", export, err)
	}
	c.Size = binary.BigEndian.Uint64(info[:])
	return c.conn.SetDeadline(time.Time{})
}

// Start sends a request; the error arrives on Call.done.
func (c *Client) Start(cmd uint16, flags uint16, off uint64, buf []byte) *Call {
	call := &Call{done: make(chan error, 1)}
	n := len(buf)
	if cmd == cmdRead {
		call.buf = buf
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		call.done <- c.err
		return call
	}
	c.next++
	h := make([]byte, 0, 28+n)
	h = binary.BigEndian.AppendUint32(h, 0x25609513)
	h = binary.BigEndian.AppendUint16(h, flags)
	h = binary.BigEndian.AppendUint16(h, cmd)
	h = binary.BigEndian.AppendUint64(h, c.next)
	h = binary.BigEndian.AppendUint64(h, off)
	h = binary.BigEndian.AppendUint32(h, uint32(n))
	if cmd == cmdWrite {
		h = append(h, buf...)
	}
	c.pending[c.next] = call
	if _, err := c.conn.Write(h); err != nil {
		delete(c.pending, c.next)
		call.done <- err
	}
	return call
}

// Wait waits for the end of a request.
func (call *Call) Wait() error { return <-call.done }

func (c *Client) reader() {
	defer close(c.done)
	r := bufio.NewReaderSize(c.conn, 1<<20)
	for {
		var h [16]byte
		_, err := io.ReadFull(r, h[:])
		if err == nil && binary.BigEndian.Uint32(h[:]) != 0x67446698 {
			err = errors.New("bad magic in a reply")
		}
		var call *Call
		if err == nil {
			id := binary.BigEndian.Uint64(h[8:])
			c.mu.Lock()
			call = c.pending[id]
			delete(c.pending, id)
			c.mu.Unlock()
			if call == nil {
				err = errors.New("a reply to nothing")
			}
		}
		if err != nil {
			c.fail(err)
			return
		}
		if code := binary.BigEndian.Uint32(h[4:]); code != 0 {
			call.done <- ErrNBD(code)
			continue
		}
		if call.buf != nil {
			if _, err := io.ReadFull(r, call.buf); err != nil {
				call.done <- err
				c.fail(err)
				return
			}
		}
		call.done <- nil
	}
}

func (c *Client) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = fmt.Errorf("NBD connection lost: %w", err)
	for id, call := range c.pending {
		delete(c.pending, id)
		call.done <- c.err
	}
}

// ErrNBD is an error of a reply.
type ErrNBD uint32

// Error returns its number.
func (e ErrNBD) Error() string { return fmt.Sprintf("NBD error %d", uint32(e)) }

// Close ends the connection.
func (c *Client) Close() {
	c.Start(cmdDisc, 0, 0, nil)
	_ = c.conn.Close() // the end is meant
	<-c.done
}
