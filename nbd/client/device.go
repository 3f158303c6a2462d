// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"rsio/rsio/block"
	"rsio/rsio/netio"
)

// Defaults of Options.
const (
	DefaultMaxInflight = 256
	DefaultMissing     = 10 * time.Second
)

// Options say what a Device is.
type Options struct {
	Socket string // of the server
	Export string

	// MaxInflight is how many requests are with the server at a time, 1..4096;
	// 0 means DefaultMaxInflight. More wait here, as many as the callers have.
	MaxInflight int

	// Missing is how long a server may say that it does not know the export
	// before requests fail with StatusIO, until it does; 0 means
	// DefaultMissing. A server that does not answer is waited for for ever.
	Missing time.Duration

	// State, if not nil, is told of each change: connected, or why not. It is
	// called on the Device's goroutine and must not block.
	State func(up bool, err error)
}

// Device is a block.Device that outlives its server: see the package comment.
type Device struct {
	opt Options
	in  block.Inflight
	fin block.Finisher

	info  atomic.Pointer[block.Info]
	right atomic.Uint64

	mu      sync.Mutex
	conn    *netio.Conn // nil: none at the moment
	slots   []slot
	free    []uint32
	wait    block.Queue
	order   uint64 // of submissions
	failing bool   // the export is missing for too long, or Abandon was called
	given   bool   // Abandon was called

	ctx  context.Context // ends with Close
	stop context.CancelFunc
	done sync.WaitGroup
}

// Open connects to an export, which must exist now, and returns it as a
// device.
func Open(ctx context.Context, opt Options) (*Device, error) {
	if opt.MaxInflight == 0 {
		opt.MaxInflight = DefaultMaxInflight
	}
	if opt.MaxInflight < 1 || opt.MaxInflight > 4096 {
		return nil, fmt.Errorf("NBD export %q: %d requests in flight: 1 to 4096 are possible", opt.Export, opt.MaxInflight)
	}
	if opt.Missing == 0 {
		opt.Missing = DefaultMissing
	}
	d := &Device{opt: opt, slots: make([]slot, opt.MaxInflight)}
	for i := range d.slots {
		d.slots[i].d, d.slots[i].out.Owner = d, &d.slots[i]
		d.free = append(d.free, uint32(len(d.slots)-1-i))
	}
	conn, err := d.connect(ctx)
	if err != nil {
		return nil, err
	}
	d.ctx, d.stop = context.WithCancel(context.Background())
	d.done.Add(1)
	go d.run(conn)
	return d, nil
}

// Info implements block.Device. It is what the server last said, and the right
// that SetRight was told.
func (d *Device) Info() block.Info {
	i := *d.info.Load()
	i.Right = d.right.Load()
	return i
}

// SetRight says under which right of the nexus requests are sent from now on.
// Changes that carry another one end in StatusConflict, also those that were
// sent and are not answered when the connection breaks. NBD does not carry
// rights: who calls it tells the server too, after this.
//
// To the server old is what is in the socket when it is told. So no byte of an
// old change is sent after this has returned. The interleaving: the socket is
// full, or all slots are taken, and an old write waits here. The server is told
// of the new right, the write follows and is taken for a younger one: it is
// executed though it was submitted before the fence. A connection that such a
// write is queued on is broken.
func (d *Device) SetRight(right uint64) {
	d.right.Store(right)
	d.mu.Lock()
	conn, queued := d.conn, false
	if conn != nil && conn.Queued() > 0 {
		for i := range d.slots {
			queued = queued || d.slots[i].req != nil && d.old(d.slots[i].req)
		}
	}
	d.mu.Unlock()
	if queued {
		conn.Close(errFenced)
	}
}

// old reports whether r changes data under a right that is no more.
func (d *Device) old(r *block.Request) bool {
	right := d.right.Load()
	return r.Op.Changes() && r.Right != 0 && right != 0 && r.Right != right
}

// Submit implements block.Device.
func (d *Device) Submit(r *block.Request) {
	if !d.in.Enter() {
		d.fin.Finish(r, block.StatusClosed)
		return
	}
	if st := d.accepts(r); st != block.StatusOK {
		d.fin.Finish(r, st)
		d.in.Leave()
		return
	}
	d.mu.Lock()
	st := block.StatusOK
	switch {
	case d.failing:
		st = block.StatusIO
	case d.old(r): // since it was looked at
		st = block.StatusConflict
	}
	if st != block.StatusOK {
		d.mu.Unlock()
		d.fin.Finish(r, st)
		d.in.Leave()
		return
	}
	if len(d.free) == 0 {
		d.wait.Push(r)
		d.mu.Unlock()
		return
	}
	conn := d.start(r)
	d.mu.Unlock()
	if conn != nil {
		conn.Flush()
	}
}

// accepts says what of the contract this device cannot do.
func (d *Device) accepts(r *block.Request) block.Status {
	info := d.info.Load()
	switch r.Op {
	case block.OpRead:
		return block.StatusOK
	case block.OpWrite:
	case block.OpFlush:
		if info.Has(block.CanFlush) {
			return block.StatusOK
		}
		return block.StatusUnsupported
	case block.OpDiscard:
		if !info.Has(block.CanDiscard) {
			return block.StatusUnsupported
		}
	case block.OpWriteZeroes:
		if !info.Has(block.CanZero) || r.Flags&block.FlagFastZero != 0 && !info.Has(block.CanFastZero) {
			return block.StatusUnsupported
		}
	default:
		return block.StatusUnsupported
	}
	switch {
	case info.ReadOnly:
		return block.StatusReadOnly
	case d.old(r):
		return block.StatusConflict
	case r.Flags&block.FlagFUA != 0 && !info.Has(block.CanFUA):
		return block.StatusUnsupported
	}
	return block.StatusOK
}

// Close implements block.Device: it waits for the answers to what is in
// flight, for ever if the server never comes back; see Abandon.
func (d *Device) Close(ctx context.Context) error {
	return d.in.Close(ctx, func() error {
		d.stop()
		d.mu.Lock()
		conn := d.conn
		d.mu.Unlock()
		if conn != nil {
			conn.Close(block.StatusClosed)
		}
		d.done.Wait()
		d.fin.Close()
		return nil
	})
}

// Abandon gives up everything that waits or is in flight: it ends in StatusIO,
// and so does what is submitted from now on. It may or may not have been
// executed, and will not be from now on once the server has let go of the
// connection.
func (d *Device) Abandon() {
	d.mu.Lock()
	d.given, d.failing = true, true
	d.mu.Unlock()
	d.stop() // the run goroutine, which sees that it was given up, fails what there is
	d.mu.Lock()
	conn := d.conn // one that comes later is ended by resume
	d.mu.Unlock()
	if conn != nil {
		conn.Close(errAbandoned)
	}
}

var (
	errAbandoned = errors.New("given up")
	errFenced    = errors.New("the right of the nexus is another one, and old writes were queued")
)

// Refresh asks the server for the size, by a connection of its own.
func (d *Device) Refresh(ctx context.Context) error {
	c, info, err := Dial(ctx, d.opt.Socket, d.opt.Export)
	if err != nil {
		return err
	}
	d.learn(info)
	return c.Close()
}

func (d *Device) learn(info Info) {
	b := info.device()
	d.info.Store(&b)
}

// connect makes a connection.
func (d *Device) connect(ctx context.Context) (*netio.Conn, error) {
	c, info, err := Dial(ctx, d.opt.Socket, d.opt.Export)
	if err != nil {
		return nil, err
	}
	widen(c)
	conn, err := netio.New(c, 0, 0)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	d.learn(info)
	return conn, nil
}

// Backoff of connecting. A connection that brings no answer and ends sooner than
// retryMax is a try that failed.
const (
	retryFirst = 10 * time.Millisecond
	retryMax   = 250 * time.Millisecond
)

// run serves one connection after the other until Close or Abandon.
func (d *Device) run(conn *netio.Conn) {
	defer d.done.Done()
	wait := time.Duration(0) // before the next try
	for conn != nil {
		began := time.Now()
		d.state(true, nil)
		d.resume(conn)
		answers, err := d.read(conn)
		d.mu.Lock()
		d.conn = nil
		d.mu.Unlock()
		conn.Close(err)
		conn.Wait() // nobody sends from a slot any more
		d.settle()
		if d.ctx.Err() == nil {
			d.state(false, err)
		}
		if answers > 0 || time.Since(began) > retryMax {
			wait = 0
		}
		conn, wait = d.reconnect(wait)
	}
	if d.abandoned() {
		d.failAll()
	}
}

func (d *Device) abandoned() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.given
}

func (d *Device) state(up bool, err error) {
	if d.opt.State != nil {
		d.opt.State(up, err)
	}
}

// reconnect tries, at first after wait, until it has a connection; nil after
// Close or Abandon. It returns how long to wait if that one fails.
func (d *Device) reconnect(wait time.Duration) (*netio.Conn, time.Duration) {
	missing := time.Time{}
	for {
		select {
		case <-d.ctx.Done():
			return nil, 0
		case <-time.After(wait):
		}
		conn, err := d.connect(d.ctx)
		wait = min(max(2*wait, retryFirst), retryMax)
		if err == nil {
			d.mu.Lock()
			d.failing = d.given
			d.mu.Unlock()
			return conn, wait
		}
		if !errors.Is(err, block.StatusNotFound) {
			missing = time.Time{}
			continue
		}
		d.state(false, err)
		if missing.IsZero() {
			missing = time.Now()
		}
		if time.Since(missing) > d.opt.Missing {
			d.mu.Lock()
			d.failing = true
			d.mu.Unlock()
			d.failAll()
		}
	}
}

// sendBuffer is the kernel's buffer of a connection in bytes: a write of 1 MiB
// goes at once, instead of in five turns of both processes: 2 to 20 % more of
// them through a file, in three interleaved rounds on a busy machine.
const sendBuffer = 2 << 20

// widen enlarges the send buffer as far as this process may.
func widen(c *net.UnixConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { // it only gets slower without
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBuffer) != nil {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer)
		}
	})
}
