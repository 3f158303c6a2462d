// SPDX-License-Identifier: Apache-2.0

// Package check is a layer that asserts the rules of package block from
// outside: on the requests that come from above and on what the device below
// makes of them. It keeps no data and changes nothing.
//
// What it sees of which rule:
//
//	2  a second completion; a request touched after its completion; a status
//	   nobody knows; an answer to block-status that makes no sense
//	4  the payload of a write changed (Options.CRC)
//	5  an inline completion past MaxInline
//	6  requests in flight when Close has returned; a request accepted after
//	8  a request edited on its way
//	9  a request that Check refuses
//
// Rules 1, 3, 7, 11 and 12 cannot be seen from outside; blocktest provokes
// what it can. An unknown operation ends here in StatusUnsupported (rule 10).
//
// Completed requests stay in quarantine for a while, so that a late second
// completion hits a request that is known to be done.
package check

import (
	"context"
	"fmt"
	"hash/crc32"
	"runtime"
	"sync"
	"sync/atomic"

	"rsio/rsio/block"
)

// Quarantine is the number of completed requests that wait before they are
// used again.
const Quarantine = 256

// Options says what to check and whom to tell.
type Options struct {
	// CRC compares the payload of writes before and after; costs about 0.1 us
	// per KiB.
	CRC bool

	// Fail is told of a broken rule, nil panics.
	Fail func(msg string)
}

// Device is a checking layer. New makes one.
type Device struct {
	below  block.Device
	opt    Options
	table  *crc32.Table
	fin    block.Finisher
	in     block.Inflight // inside Submit, until Close
	open   atomic.Int64   // requests below that came before Close
	closed atomic.Bool    // the device below has closed

	mu   sync.Mutex
	ring []*track // completed, kept of them, oldest at next
	next int
	kept int
}

// New puts a checking layer over below.
func New(below block.Device, opt Options) *Device {
	if opt.Fail == nil {
		opt.Fail = func(msg string) { panic(msg) }
	}
	d := &Device{below: below, opt: opt, table: crc32.MakeTable(crc32.Castagnoli), ring: make([]*track, Quarantine)}
	for range Quarantine / 2 {
		t := &track{d: d}
		t.child.Done = t
		d.put(t)
	}
	return d
}

// The states of a track.
const (
	stateFree int32 = iota
	stateBelow
	stateDone
)

// track is a child request and what it must still look like when it is done.
type track struct {
	d     *Device
	child block.Request
	was   block.Request // child as it was submitted
	state atomic.Int32
	early bool // submitted before Close was called
	late  bool // submitted after Close had returned
	crc   uint32
	gid   string // goroutine in Submit, if Depth leaves no inline completion
	in    atomic.Bool
}

// Info implements block.Device.
func (d *Device) Info() block.Info { return d.below.Info() }

// Submit implements block.Device.
func (d *Device) Submit(r *block.Request) {
	if !r.Op.Known() {
		st := block.StatusUnsupported
		if d.closed.Load() {
			st = block.StatusClosed
		}
		d.fin.Finish(r, st)
		return
	}
	if r.Done == nil {
		d.fail(2, r, "has nobody to complete to")
		return
	}
	if st := block.Check(d.below.Info(), r); st != block.StatusOK {
		d.fail(9, r, "was not checked at the edge: "+st.Error())
		d.fin.Finish(r, st)
		return
	}
	t := d.take()
	t.child = *r
	t.child.Parent, t.child.Done, t.child.Next, t.child.Tag = r, t, nil, 0
	t.was = t.child
	t.late = d.closed.Load()
	if d.opt.CRC && r.Op == block.OpWrite {
		t.crc = crc32.Checksum(r.Buf, d.table)
	}
	t.gid = ""
	if r.Depth >= block.MaxInline {
		t.gid = goroutine()
		t.in.Store(true)
	}
	t.state.Store(stateBelow)
	early, watch := d.in.Enter(), t.gid != ""
	if t.early = early; early {
		d.open.Add(1)
	}
	d.below.Submit(&t.child)
	if watch {
		t.in.Store(false)
	}
	if early {
		d.in.Leave()
	}
}

// Complete implements block.Completer for the child.
func (t *track) Complete(child *block.Request) {
	d := t.d
	if child != &t.child {
		d.fail(2, &t.was, "completed with a request that is not its own")
		return
	}
	if !t.state.CompareAndSwap(stateBelow, stateDone) {
		d.fail(2, &t.was, "completed a second time")
		return
	}
	t.inspect()
	r := t.was.Parent
	r.Status, r.N, r.Depth = child.Status, child.N, child.Depth
	t.child = block.Request{Done: t} // take compares: nobody may touch it from now on
	if t.early {
		d.open.Add(-1)
	}
	d.put(t)
	r.Done.Complete(r)
}

// inspect looks at a child that has completed.
func (t *track) inspect() {
	d, c, was := t.d, &t.child, &t.was
	switch {
	case !c.Status.Known():
		d.fail(2, was, fmt.Sprintf("ended with the unknown status %d", c.Status))
	case c.Op != was.Op || c.Flags != was.Flags || c.Off != was.Off || c.Len != was.Len || c.Nexus != was.Nexus ||
		c.Parent != was.Parent || c.Done != was.Done || !same(c.Buf, was.Buf):
		d.fail(8, was, "was edited on its way")
	case t.late && c.Status != block.StatusClosed:
		d.fail(6, was, "was submitted after Close and ended with: "+c.Status.Error())
	case was.Op == block.OpBlockStatus && c.Status == block.StatusOK:
		if why := extents(c); why != "" {
			d.fail(2, was, why)
		}
	case d.opt.CRC && was.Op == block.OpWrite && crc32.Checksum(was.Buf, d.table) != t.crc:
		d.fail(4, was, "came back with another payload")
	}
	if t.gid != "" && t.in.Load() && goroutine() == t.gid && c.Depth >= block.MaxInline {
		d.fail(5, was, fmt.Sprintf("completed inline at depth %d", was.Depth))
	}
}

// same reports whether a and b are the same bytes in memory.
func same(a, b []byte) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// extents returns what is wrong with the answer to a block-status.
func extents(r *block.Request) string {
	if r.N == 0 || r.N%block.ExtentLen != 0 || int(r.N) > len(r.Buf) {
		return fmt.Sprintf("has %d valid bytes of extents in a buffer of %d", r.N, len(r.Buf))
	}
	left := uint64(r.Len)
	for i := 0; i < int(r.N); i += block.ExtentLen {
		e := block.GetExtent(r.Buf[i:])
		if e.Len == 0 || e.Len > left || e.Flags&^(block.ExtentHole|block.ExtentZero) != 0 {
			return fmt.Sprintf("has an extent of %d bytes with flags %#x where %d bytes are left", e.Len, e.Flags, left)
		}
		left -= e.Len
	}
	return ""
}

// take returns the track that was longest in quarantine, or a new one while
// less than half of the places are taken.
func (d *Device) take() *track {
	d.mu.Lock()
	var t *track
	if d.kept >= Quarantine/2 {
		t = d.ring[d.next]
		d.next = (d.next + 1) % Quarantine
		d.kept--
	}
	d.mu.Unlock()
	if t == nil {
		return &track{d: d}
	}
	if t.touched() {
		d.fail(2, &t.was, "was touched after its completion")
	}
	t.state.Store(stateFree)
	return t
}

// touched reports whether somebody wrote to a child after it completed. Done
// stays, so that a second completion comes here and is reported.
func (t *track) touched() bool {
	r := &t.child
	return r.Op != 0 || r.Flags != 0 || r.Depth != 0 || r.Status != 0 || r.N != 0 || r.Len != 0 || r.Off != 0 ||
		r.Buf != nil || r.Nexus != "" || r.Done != t || r.Next != nil || r.Parent != nil || r.Tag != 0
}

// put sends a completed track into quarantine; what finds no place goes to the
// garbage collector.
func (d *Device) put(t *track) {
	d.mu.Lock()
	if d.kept < Quarantine {
		d.ring[(d.next+d.kept)%Quarantine] = t
		d.kept++
	}
	d.mu.Unlock()
}

// Close implements block.Device. Requests that race with it are not counted:
// they may end either way.
func (d *Device) Close(ctx context.Context) error {
	return d.in.Close(ctx, func() error {
		err := d.below.Close(context.Background())
		if n := d.open.Load(); n != 0 {
			d.opt.Fail(fmt.Sprintf("check: rule 6: Close has returned and %d requests have not completed", n))
		}
		d.closed.Store(true)
		d.fin.Close()
		return err
	})
}

func (d *Device) fail(rule int, r *block.Request, what string) {
	d.opt.Fail(fmt.Sprintf("check: rule %d: %v at %d length %d flags %d %s", rule, r.Op, r.Off, r.Len, r.Flags, what))
}

// goroutine names the calling goroutine; it is asked only past MaxInline.
func goroutine() string {
	var b [32]byte
	n := runtime.Stack(b[:], false)
	for i, c := range b[:n] {
		if i > len("goroutine ") && c == ' ' {
			return string(b[:i])
		}
	}
	return string(b[:n])
}
