// SPDX-License-Identifier: Apache-2.0

package netio

import (
	"io"
	"unsafe"

	"golang.org/x/sys/unix"
)

// HeadMax is the largest header of a frame in bytes.
const HeadMax = 64

// Sender is told when the connection has let go of an Out. It is called once
// per Queue, without locks, on the goroutine that sent or closed; it must not
// block. Body may be reused from then on.
type Sender interface {
	Sent(o *Out, err error)
}

// Out is one frame to send. Its owner fills Head, Body and Owner, and does not
// touch them between Queue and Sent.
type Out struct {
	Head  [HeadMax]byte
	Body  []byte
	Owner Sender

	// Tag belongs to the owner.
	Tag uint64

	HeadLen    int
	off        int // bytes of Head and Body that are sent
	state      outState
	prev, next *Out
}

type outState uint8

const (
	outIdle   outState = iota
	outQueued          // in the list, no byte sent
	outBusy            // in the list, being sent or partly sent
)

// Queue appends o; somebody has to Flush or Kick. On a closed connection Sent
// is called at once.
func (c *Conn) Queue(o *Out) {
	if !c.TryQueue(o) {
		o.Owner.Sent(o, c.Err())
	}
}

// TryQueue is Queue that reports false on a closed connection instead of
// calling Sent, for callers that hold a lock which Sent takes.
func (c *Conn) TryQueue(o *Out) bool {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return false
	}
	o.off, o.state, o.next, o.prev = 0, outQueued, nil, c.tail
	if c.tail == nil {
		c.head = o
	} else {
		c.tail.next = o
	}
	c.tail = o
	c.queued++
	c.mu.Unlock()
	return true
}

// Withdrawn is the answer of Unlink.
type Withdrawn uint8

// What Unlink found.
const (
	NotQueued Withdrawn = iota // sent before, or never queued
	Unlinked                   // taken back; no byte was sent, Sent will not be called
	HalfSent                   // being sent: only closing the connection stops it
)

// Unlink takes o back if no byte of it has been sent.
func (c *Conn) Unlink(o *Out) Withdrawn {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch o.state {
	case outIdle:
		return NotQueued
	case outBusy:
		return HalfSent
	}
	c.remove(o)
	return Unlinked
}

func (c *Conn) remove(o *Out) {
	if o.prev == nil {
		c.head = o.next
	} else {
		o.prev.next = o.next
	}
	if o.next == nil {
		c.tail = o.prev
	} else {
		o.next.prev = o.prev
	}
	o.prev, o.next, o.state = nil, nil, outIdle
	c.queued--
}

// Queued returns the number of frames that are not sent yet.
func (c *Conn) Queued() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.queued
}

// Kick leaves what is queued to the writer goroutine, so that frames that
// follow soon share its writev.
func (c *Conn) Kick() {
	c.mu.Lock()
	if !c.sending && c.head != nil {
		c.sending = true
		c.handOver()
	}
	c.mu.Unlock()
}

// Flush sends what is queued without blocking; see the package comment.
func (c *Conn) Flush() {
	c.mu.Lock()
	if c.sending || c.head == nil {
		c.mu.Unlock()
		return
	}
	c.sending = true
	c.mu.Unlock()
	c.send(false)
}

// handOver gives the right to send to the writer. c.mu is held and c.err was
// nil, so the wake-up is in the channel before Close can end the writer.
func (c *Conn) handOver() {
	select {
	case c.wake <- struct{}{}:
	default: // one is pending; the writer takes all
	}
}

// writer sends what Flush could not, until the connection ends.
func (c *Conn) writer() {
	defer c.done.Done()
	for {
		select {
		case <-c.wake:
			c.send(true)
		case <-c.end:
			select {
			case <-c.wake:
				c.send(true) // fails what is queued
			default:
			}
			return
		}
	}
}

// send sends batches until the queue is empty, the connection fails, or, if
// block is false, the socket is full. The caller owns c.sending and loses it.
func (c *Conn) send(block bool) {
	for {
		c.mu.Lock()
		if c.err != nil {
			c.mu.Unlock()
			c.failQueued()
			return
		}
		if c.gather() == 0 {
			c.sending = false
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()

		c.wait, c.wrote, c.wrErr = block, 0, nil
		err := c.raw.Write(c.writeFn)
		if err == nil && c.wrErr != nil && c.wrErr != unix.EAGAIN {
			err = c.wrErr
		}
		full := c.wrErr == unix.EAGAIN

		c.mu.Lock()
		sent := c.account(c.wrote)
		c.mu.Unlock()
		for sent != nil {
			o := sent
			sent, o.next = o.next, nil
			o.Owner.Sent(o, nil)
		}
		if err != nil {
			c.Close(err)
			continue
		}
		if full && c.leave() {
			return
		}
	}
}

// leave hands what a full socket did not take to the writer. It reports false
// if there is nothing to hand over, or nobody to hand it to.
func (c *Conn) leave() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil || c.head == nil {
		return false
	}
	c.handOver()
	return true
}

// gather points c.iov at the oldest frames and marks them busy. c.mu is held.
func (c *Conn) gather() int {
	c.iov = c.iov[:0]
	for o := c.head; o != nil && len(c.iov)+2 <= maxPieces; o = o.next {
		o.state = outBusy
		skip := o.off
		if skip < o.HeadLen {
			c.piece(o.Head[skip:o.HeadLen])
			skip = 0
		} else {
			skip -= o.HeadLen
		}
		if skip < len(o.Body) {
			c.piece(o.Body[skip:])
		}
	}
	return len(c.iov)
}

func (c *Conn) piece(b []byte) {
	v := unix.Iovec{Base: unsafe.SliceData(b)}
	v.SetLen(len(b))
	c.iov = append(c.iov, v)
}

// writev is called by the runtime's poller; false means wait and call again.
func (c *Conn) writev(fd uintptr) bool {
	for {
		n, _, errno := unix.Syscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&c.iov[0])), uintptr(len(c.iov)))
		switch errno {
		case 0:
			c.wrote, c.wrErr = int(n), nil
			if n == 0 {
				c.wrErr = io.ErrNoProgress
			}
			return true
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			c.wrErr = unix.EAGAIN
			return !c.wait
		default:
			c.wrErr = errno
			return true
		}
	}
}

// account takes n sent bytes off the queue and returns the frames that are
// complete, linked by next. A frame that is partly sent stays busy, the rest
// is merely queued again. c.mu is held.
func (c *Conn) account(n int) *Out {
	var first, last *Out
	for o := c.head; o != nil && o.state == outBusy; o = c.head {
		rest := o.HeadLen + len(o.Body) - o.off
		if n < rest {
			o.off += n
			break
		}
		n -= rest
		c.remove(o)
		if last == nil {
			first = o
		} else {
			last.next = o
		}
		last = o
	}
	for o := c.head; o != nil && o.state == outBusy; o = o.next {
		if o.off == 0 {
			o.state = outQueued
		}
	}
	return first
}

// failQueued lets go of every frame with c.err and gives up c.sending.
func (c *Conn) failQueued() {
	for {
		c.mu.Lock()
		o, err := c.head, c.err
		if o == nil {
			c.sending = false
			c.idle.Broadcast()
			c.mu.Unlock()
			return
		}
		c.remove(o)
		c.mu.Unlock()
		o.Owner.Sent(o, err)
	}
}
