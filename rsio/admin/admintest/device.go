// SPDX-License-Identifier: Apache-2.0

// Package admintest has services in memory for tests of the control API and
// of rsioctl: a Target with volumes, and an Initiator in front of Targets.
package admintest

import (
	"context"
	"sync"

	"rsio/rsio/block"
)

// Device is a volume in memory. Its fields may be set before it is used.
type Device struct {
	Caps  block.Info                              // what Info returns, but for Size
	Fault func(r *block.Request) block.Status     // asked first; StatusOK goes on
	Delay func(r *block.Request)                  // called on a goroutine of its own, before Fault
	Seen  func(r *block.Request, st block.Status) // told of each outcome

	mu       sync.Mutex
	data     []byte
	finisher block.Finisher
	running  sync.WaitGroup
}

// NewDevice returns a device of size bytes that can do everything.
func NewDevice(size uint64) *Device {
	return &Device{
		Caps: block.Info{
			BlockSize: 512, MaxLen: block.MaxLen, MaxZero: block.MaxZero,
			Features: block.CanFlush | block.CanFUA | block.CanDiscard | block.CanZero | block.CanBlockStatus | block.CanCompareAndWrite,
		},
		data: make([]byte, size),
	}
}

// Content returns a copy of what is stored.
func (d *Device) Content() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]byte(nil), d.data...)
}

// SetContent replaces what is stored, and the size.
func (d *Device) SetContent(b []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.data = append([]byte(nil), b...)
}

// Info implements block.Device.
func (d *Device) Info() block.Info {
	d.mu.Lock()
	defer d.mu.Unlock()
	i := d.Caps
	i.Size = uint64(len(d.data))
	return i
}

// Submit implements block.Device.
func (d *Device) Submit(r *block.Request) {
	if d.Delay == nil {
		d.finisher.Finish(r, d.run(r))
		return
	}
	d.running.Go(func() {
		d.Delay(r)
		r.Depth = 0
		block.Finish(r, d.run(r))
	})
}

// Close implements block.Device.
func (d *Device) Close(ctx context.Context) error {
	d.finisher.Close()
	return block.Await(ctx, &d.running)
}

func (d *Device) run(r *block.Request) block.Status {
	st := block.StatusOK
	if d.Fault != nil {
		st = d.Fault(r)
	}
	if st == block.StatusOK {
		st = d.execute(r)
	}
	if d.Seen != nil {
		d.Seen(r, st)
	}
	return st
}

func (d *Device) execute(r *block.Request) block.Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	if r.End() > uint64(len(d.data)) {
		return block.StatusInvalid
	}
	b := d.data[r.Off:r.End()]
	switch r.Op {
	case block.OpRead:
		copy(r.Buf, b)
	case block.OpWrite:
		copy(b, r.Buf)
	case block.OpDiscard, block.OpWriteZeroes:
		clear(b)
	case block.OpBlockStatus:
		r.N = 0
		for ; len(b) > 0; b = b[min(len(b), 512):] {
			e := block.Extent{Len: uint64(min(len(b), 512))}
			if isZero(b[:e.Len]) {
				e.Flags = block.ExtentHole | block.ExtentZero
			}
			if !block.AppendExtent(r, e) {
				break
			}
		}
	case block.OpCompareAndWrite:
		old, fresh := r.Buf[:r.Len], r.Buf[r.Len:]
		for n := range old {
			if old[n] != b[n] {
				r.N = uint32(n)
				return block.StatusMiscompare
			}
		}
		copy(b, fresh)
	case block.OpFlush:
	default:
		return block.StatusUnsupported
	}
	return block.StatusOK
}

func isZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
