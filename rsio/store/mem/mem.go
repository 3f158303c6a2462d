// SPDX-License-Identifier: Apache-2.0

// Package mem is a sparse device in memory that completes everything inline.
//
// Memory is taken in chunks of 64 KiB when they are first written and given
// back when a whole chunk is discarded. A crashable device also remembers what
// each 4 KiB block held at the last flush; CrashClone makes of it the device
// that a power cut could have left behind.
//
// Locks: Device.mu (readers are requests, the writer is flush, resize and
// clone), then chunk.mu, then Device.dirtyMu. None is held for a completion.
package mem

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"rsio/rsio/block"
)

// Options says what New makes.
type Options struct {
	Size      uint64 // bytes; a multiple of BlockSize
	BlockSize uint32 // bytes; 0 means 1
	ReadOnly  bool
	Crashable bool // CrashClone works; costs a copy per block and flush, and allocations
	Tear      bool // CrashClone may tear an unflushed block between 512-byte sectors
}

// Device is a memory device. New makes one.
type Device struct {
	opt Options
	in  block.Inflight
	fin block.Finisher

	mu   sync.RWMutex
	size uint64
	node []atomic.Pointer[node]
	used atomic.Int64 // chunks

	dirtyMu sync.Mutex
	dirty   map[uint64]*chunk // chunks with unflushed blocks, by number
}

// New returns a device whose bytes are all zero.
func New(opt Options) (*Device, error) {
	if opt.BlockSize == 0 {
		opt.BlockSize = 1
	}
	if opt.BlockSize > block.MaxBlockSize || opt.BlockSize&(opt.BlockSize-1) != 0 {
		return nil, fmt.Errorf("mem: block size %d: give a power of two up to %d", opt.BlockSize, block.MaxBlockSize)
	}
	d := &Device{opt: opt, dirty: make(map[uint64]*chunk)}
	if err := d.Resize(opt.Size); err != nil {
		return nil, err
	}
	return d, nil
}

// Info implements block.Device.
func (d *Device) Info() block.Info {
	d.mu.RLock()
	size := d.size
	d.mu.RUnlock()
	return block.Info{
		Size: size, BlockSize: d.opt.BlockSize, MaxLen: block.MaxLen, MaxZero: block.MaxZero, ReadOnly: d.opt.ReadOnly,
		Features: block.CanFlush | block.CanFUA | block.CanDiscard | block.CanZero | block.CanFastZero |
			block.CanBlockStatus | block.NeverBlocks | block.CanCompareAndWrite,
	}
}

// Submit implements block.Device; everything completes inline.
func (d *Device) Submit(r *block.Request) {
	if !d.in.Enter() {
		d.fin.Finish(r, block.StatusClosed)
		return
	}
	d.fin.Finish(r, d.serve(r))
	d.in.Leave()
}

// Close implements block.Device. The content stays readable for CrashClone.
func (d *Device) Close(ctx context.Context) error {
	return d.in.Close(ctx, func() error {
		d.fin.Close()
		return nil
	})
}

// Resize grows the device to size bytes. It refuses to shrink it, because
// requests that were checked against the old size may be in flight.
func (d *Device) Resize(size uint64) error {
	if size%uint64(d.opt.BlockSize) != 0 {
		return fmt.Errorf("mem: size %d is not a multiple of the block size: round it to a multiple of %d", size, d.opt.BlockSize)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if size < d.size {
		return fmt.Errorf("mem: size %d is below the present %d: a device can only grow; copy to a smaller one instead", size, d.size)
	}
	if n := int((size + nodeLen - 1) / nodeLen); n > len(d.node) {
		grown := make([]atomic.Pointer[node], n)
		for i := range d.node {
			grown[i].Store(d.node[i].Load())
		}
		d.node = grown
	}
	d.size = size
	return nil
}

// Used returns the bytes of memory that hold data.
func (d *Device) Used() uint64 { return uint64(d.used.Load()) * chunkLen }

// serve executes r.
func (d *Device) serve(r *block.Request) block.Status {
	if r.Op.Changes() && d.opt.ReadOnly {
		return block.StatusReadOnly
	}
	if r.Op == block.OpFlush {
		if d.opt.Crashable {
			d.mu.Lock()
			d.settle()
			d.mu.Unlock()
		}
		return block.StatusOK
	}
	if r.Op == block.OpCompareAndWrite {
		return d.compareAndWrite(r)
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	if r.End() > d.size {
		return block.StatusInvalid // Check was not called: do not touch memory of nobody
	}
	switch r.Op {
	case block.OpRead:
		d.read(r.Off, r.Buf)
	case block.OpWrite:
		d.write(r.Off, r.Buf, r.Flags&block.FlagFUA != 0)
	case block.OpDiscard, block.OpWriteZeroes:
		d.zero(r)
	case block.OpBlockStatus:
		d.status(r)
	default:
		return block.StatusUnsupported
	}
	return block.StatusOK
}

// compareAndWrite executes r while no other request does.
func (d *Device) compareAndWrite(r *block.Request) block.Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	if r.End() > d.size {
		return block.StatusInvalid
	}
	now := make([]byte, r.Len)
	d.read(r.Off, now)
	if i := block.Differs(now, r.Buf[:r.Len]); i >= 0 {
		r.N = uint32(i)
		return block.StatusMiscompare
	}
	d.write(r.Off, r.Buf[r.Len:], r.Flags&block.FlagFUA != 0)
	return block.StatusOK
}
