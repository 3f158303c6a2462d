// SPDX-License-Identifier: Apache-2.0

// Package null is a leaf that keeps nothing: reads return zeroes and writes
// are dropped. It is what a benchmark puts below the thing it measures.
package null

import (
	"context"

	"rsio/rsio/block"
)

// Device is a null device. New makes one.
type Device struct {
	info block.Info
	in   block.Inflight
	fin  block.Finisher
}

// New returns a device of size bytes.
func New(size uint64) *Device {
	return &Device{info: block.Info{
		Size: size, BlockSize: 1, MaxLen: block.MaxLen, MaxZero: block.MaxZero,
		Features: block.CanFlush | block.CanFUA | block.CanDiscard | block.CanZero | block.CanFastZero |
			block.CanBlockStatus | block.NeverBlocks | block.CanCompareAndWrite,
	}}
}

// Info implements block.Device.
func (d *Device) Info() block.Info { return d.info }

// Submit implements block.Device; everything completes inline.
func (d *Device) Submit(r *block.Request) {
	if !d.in.Enter() {
		d.fin.Finish(r, block.StatusClosed)
		return
	}
	d.fin.Finish(r, serve(r))
	d.in.Leave()
}

func serve(r *block.Request) block.Status {
	switch r.Op {
	case block.OpRead:
		clear(r.Buf)
	case block.OpWrite, block.OpFlush, block.OpDiscard, block.OpWriteZeroes:
	case block.OpCompareAndWrite:
		if i := block.Differs(r.Buf[:r.Len], make([]byte, r.Len)); i >= 0 { // what is there is zeroes
			r.N = uint32(i)
			return block.StatusMiscompare
		}
	case block.OpBlockStatus:
		r.N = 0
		block.AppendExtent(r, block.Extent{Len: uint64(r.Len), Flags: block.ExtentHole | block.ExtentZero})
	default:
		return block.StatusUnsupported
	}
	return block.StatusOK
}

// Close implements block.Device.
func (d *Device) Close(ctx context.Context) error {
	return d.in.Close(ctx, func() error {
		d.fin.Close()
		return nil
	})
}
