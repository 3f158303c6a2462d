// SPDX-License-Identifier: Apache-2.0

package file

import (
	"sync/atomic"

	"golang.org/x/sys/unix"

	"rsio/rsio/block"
	"rsio/rsio/buf"
)

// zero makes the range of r read as zeroes, in steps that let others at the
// inode's lock in between. What the file system cannot do is done the next
// best way: a hole, an unwritten range, zeroes written.
func (d *Device) zero(r *block.Request) block.Status {
	keep := r.Op == block.OpWriteZeroes && r.Flags&block.FlagNoHole != 0
	fast := r.Flags&block.FlagFastZero != 0
	for off := r.Off; off < r.End(); {
		n := min(r.End()-off, stepLen)
		if st := d.zeroStep(off, n, keep, fast); st != block.StatusOK {
			return st
		}
		off += n
	}
	return block.StatusOK
}

func (d *Device) zeroStep(off, n uint64, keep, fast bool) block.Status {
	d.caw.RLock()
	defer d.caw.RUnlock()
	if !keep {
		st := d.allocate(&d.noPunch, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
		if st != block.StatusUnsupported {
			return st
		}
	}
	st := d.allocate(&d.noZero, unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	if st != block.StatusUnsupported || fast {
		return st
	}
	return d.writeZeroes(off, n)
}

// allocate is fallocate; it remembers in lacks that the file system cannot do
// mode, and answers StatusUnsupported then.
func (d *Device) allocate(lacks *atomic.Bool, mode uint32, off, n uint64) block.Status {
	if lacks.Load() {
		return block.StatusUnsupported
	}
	err := d.sys.fallocate(d.fd, mode, int64(off), int64(n))
	for err == unix.EINTR {
		err = d.sys.fallocate(d.fd, mode, int64(off), int64(n))
	}
	st := status(err)
	if st == block.StatusUnsupported {
		lacks.Store(true)
	}
	return st
}

func (d *Device) writeZeroes(off, n uint64) block.Status {
	b := d.bounce.Get(int(min(n, buf.MaxLen)))
	clear(b)
	st := block.StatusOK
	for n > 0 && st == block.StatusOK {
		step := min(n, uint64(len(b)))
		st = d.writeFull(off, b[:step])
		off, n = off+step, n-step
	}
	d.bounce.Put(b)
	return st
}

// blockStatus describes the range by SEEK_DATA and SEEK_HOLE. A range that was
// zeroed and left allocated counts as a hole here: the kernel does not tell
// the two apart cheaply.
func (d *Device) blockStatus(r *block.Request) block.Status {
	r.N = 0
	for off := r.Off; off < r.End(); {
		end, flags, err := d.extent(off)
		if err != nil {
			return status(err)
		}
		end, flags = d.whole(off, min(end, r.End()), flags)
		if !block.AppendExtent(r, block.Extent{Len: end - off, Flags: flags}) {
			break
		}
		off = end
	}
	return block.StatusOK
}

// whole moves end to a multiple of the block size, so that the caller can ask
// on from there: data grows, a hole shrinks and may become data.
func (d *Device) whole(off, end uint64, flags uint32) (uint64, uint32) {
	if !d.opt.Direct {
		return end, flags
	}
	if flags == 0 {
		return (end + directAlign - 1) / directAlign * directAlign, 0
	}
	if end = end / directAlign * directAlign; end > off {
		return end, flags
	}
	return off + directAlign, 0
}

// extent returns where the data or hole at off ends.
func (d *Device) extent(off uint64) (end uint64, flags uint32, err error) {
	const hole = block.ExtentHole | block.ExtentZero
	data, err := unix.Seek(d.fd, int64(off), unix.SEEK_DATA)
	switch {
	case err == unix.ENXIO:
		return d.size.Load(), hole, nil // no data up to the end of the file
	case err == unix.EINVAL || err == unix.EOPNOTSUPP:
		return d.size.Load(), 0, nil // the file system does not say: all may be data
	case err != nil:
		return 0, 0, err
	case uint64(data) > off:
		return uint64(data), hole, nil
	}
	next, err := unix.Seek(d.fd, int64(off), unix.SEEK_HOLE)
	if err != nil {
		return 0, 0, err
	}
	if uint64(next) <= off { // a discard has come between the two calls
		next = int64(off) + 1
	}
	return uint64(next), 0, nil
}
