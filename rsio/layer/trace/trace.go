// SPDX-License-Identifier: Apache-2.0

// Package trace is a layer that writes down every request that passes: once
// before the device below sees it, and once when it has completed, before the
// caller knows. Tests put it over the store of a target and judge fencing by
// what happened there, not by what clients saw. It changes nothing.
//
// What the order of entries proves: if the end of A stands before the begin of
// B, A had executed before B was submitted. If a caller was answered, the end
// of his request is in the log. A begin without an end belongs to a request
// that was in flight when the log was read, the process died or the log
// failed: it may have executed. Requests that never got below, because the
// device was closed or the operation is unknown, are not in the log.
//
// # The way of a request
//
//  1. Submit makes a child and logs its begin.
//  2. The device below gets the child.
//  3. Complete logs the end, copies the outcome, and completes the caller's
//     request.
//
// Logging is a copy of 256 bytes under a mutex, and a write(2) into the page
// cache if the log is a file. That is the one place where this layer bends
// rules 1 and 5, which is why it drops NeverBlocks; it is made for tests.
// Nothing is synced: the log survives the death of the process, not that of
// the machine.
//
// Locks: Log.mu, not held for a Submit or a completion. Goroutines: none but
// those of block.Finisher and block.Inflight, which Close joins.
//
// # Format
//
// A file is entries of 256 bytes and nothing else. Several processes may
// append to one file; their entries do not mix. All of an entry is in one page
// of the cache, so that it is whole or not there after a kill. Big-endian:
//
//	offset  length
//	     0       4  magic "RTRC"
//	     4       1  format, 1
//	     5       1  phase: 1 = begin, 2 = end
//	     6       1  operation, block.Op
//	     7       1  flags, block.Flags
//	     8       8  CLOCK_MONOTONIC, ns
//	    16       8  ID: the same at begin and end, unique in the process
//	    24       4  process ID
//	    28       4  length of the request, bytes
//	    32       8  offset of the request, bytes
//	    40       2  status, block.Status; 0 at begin
//	    42       1  length of the nexus, 0..127
//	    43       5  zeroes
//	    48      32  head: the first bytes of what is written, then zeroes
//	    80     127  nexus, then zeroes
//	   207      45  zeroes
//	   252       4  CRC32C of bytes 0..251
//
// # Failures
//
//	what happened                       what comes of it
//	no space, I/O error                 the request goes on without its entry; Entries
//	                                    and Close return the error
//	part of an entry was written        ErrCut; the entries around it are found
//	something else is in the file       ErrCut; it is left out
//	more than MaxMemory in memory       the oldest are dropped, which Seq shows
package trace

import (
	"context"
	"fmt"

	"rsio/rsio/block"
)

// Device is a layer that logs. New makes one.
type Device struct {
	below    block.Device
	log      *Log
	in       block.Inflight
	fin      block.Finisher
	children block.Children
}

// New puts a layer over below that logs to w. The layer closes below and not
// w, which several layers may share: the caller closes it after them.
func New(below block.Device, w *Log) *Device { return &Device{below: below, log: w} }

// Info implements block.Device. Abilities that this layer does not know are
// left out, for it refuses their operations.
func (d *Device) Info() block.Info {
	i := d.below.Info()
	i.Features &= block.CanFlush | block.CanFUA | block.CanDiscard | block.CanZero | block.CanFastZero |
		block.CanBlockStatus | block.CanCompareAndWrite
	return i
}

// Submit implements block.Device.
func (d *Device) Submit(r *block.Request) {
	if !d.in.Enter() {
		d.fin.Finish(r, block.StatusClosed)
		return
	}
	switch r.Op {
	case block.OpRead, block.OpWrite, block.OpFlush, block.OpDiscard, block.OpWriteZeroes, block.OpBlockStatus,
		block.OpCompareAndWrite:
		d.in.Hold() // until Complete
		c := d.children.Get(r, d)
		c.Tag = d.log.begin(c)
		d.below.Submit(c)
	default:
		d.fin.Finish(r, block.StatusUnsupported)
	}
	d.in.Leave()
}

// Complete implements block.Completer for the child; only the device below
// calls it.
func (d *Device) Complete(c *block.Request) {
	d.log.end(c, c.Tag)
	r, st := c.Parent, c.Status
	r.N, r.Depth = c.N, c.Depth
	d.children.Put(c)
	d.fin.Finish(r, st)
	d.in.Leave()
}

// Close implements block.Device.
func (d *Device) Close(ctx context.Context) error {
	return d.in.Close(ctx, func() error {
		d.fin.Close()
		return d.below.Close(context.Background())
	})
}

// String describes the layer for logs.
func (d *Device) String() string { return fmt.Sprintf("trace layer, log %v", d.log) }
