// SPDX-License-Identifier: Apache-2.0

package file

import (
	"golang.org/x/sys/unix"

	"rsio/rsio/block"
)

// Submit implements block.Device.
func (d *Device) Submit(r *block.Request) {
	if !d.in.Enter() {
		d.fin.Finish(r, block.StatusClosed)
		return
	}
	d.submit(r)
	d.in.Leave() // what went to workers or syncer they drain themselves
}

func (d *Device) submit(r *block.Request) {
	switch r.Op {
	case block.OpRead:
		if d.readInline(r) {
			d.fin.Finish(r, block.StatusOK)
			return
		}
		d.workers.Submit(r)
	case block.OpWrite, block.OpDiscard, block.OpWriteZeroes, block.OpCompareAndWrite:
		d.submitChange(r)
	case block.OpFlush:
		d.submitFlush(r)
	case block.OpBlockStatus:
		d.workers.Submit(r)
	default:
		d.fin.Finish(r, block.StatusUnsupported)
	}
}

// readInline fills r.Buf if that takes no waiting. A hit in the page cache
// costs a copy either way; a miss costs one system call of about 0.5 us.
func (d *Device) readInline(r *block.Request) bool {
	if d.tmpfs {
		return d.read(r.Off, r.Buf) == block.StatusOK // else a worker finds out why
	}
	if !d.nowait {
		return false
	}
	n, errno := d.preadNowait(r.Buf, int64(r.Off))
	return errno == 0 && n == len(r.Buf)
}

func (d *Device) submitChange(r *block.Request) {
	switch {
	case d.opt.ReadOnly:
		d.fin.Finish(r, block.StatusReadOnly)
	case d.failed.Load():
		d.fin.Finish(r, block.StatusIO)
	case d.tmpfs && (r.Op == block.OpWrite || r.Op == block.OpCompareAndWrite):
		st := d.serve(r)
		if st == block.StatusOK && r.Flags&block.FlagFUA != 0 {
			st = d.syncStatus()
		}
		d.fin.Finish(r, st)
	case r.Flags&block.FlagFUA != 0:
		d.workers.Submit(d.children.Get(r, (*written)(d)))
	default:
		d.workers.Submit(r)
	}
}

func (d *Device) submitFlush(r *block.Request) {
	switch {
	case d.opt.ReadOnly:
		d.fin.Finish(r, block.StatusOK)
	case d.failed.Load():
		d.fin.Finish(r, block.StatusIO)
	case d.tmpfs:
		d.fin.Finish(r, d.syncStatus())
	default:
		d.syncer.submit(r)
	}
}

// written is the Device as the Completer of the first half of a FUA: the data
// is written and now has to become durable.
type written Device

// Complete implements block.Completer, on a worker.
func (w *written) Complete(child *block.Request) {
	d, r, st := (*Device)(w), child.Parent, child.Status
	r.Depth, r.N = child.Depth, child.N
	d.children.Put(child)
	if st != block.StatusOK {
		d.fin.Finish(r, st)
		return
	}
	d.syncer.submit(r)
}

// serve executes r, except for the durability of FUA. It may block.
func (d *Device) serve(r *block.Request) block.Status {
	if r.End() > d.size.Load() {
		return block.StatusInvalid // Check was not called: never write behind the end
	}
	if r.Op.Changes() && d.failed.Load() {
		return block.StatusIO
	}
	switch r.Op {
	case block.OpRead:
		return d.read(r.Off, r.Buf)
	case block.OpWrite:
		d.caw.RLock() // uncontended 20 ns of a system call's 1 to 5 us
		defer d.caw.RUnlock()
		return d.write(r.Off, r.Buf)
	case block.OpCompareAndWrite:
		return d.compareAndWrite(r)
	case block.OpDiscard, block.OpWriteZeroes:
		return d.zero(r)
	case block.OpBlockStatus:
		return d.blockStatus(r)
	}
	return block.StatusUnsupported
}

// status translates the error of a system call. EROFS is StatusIO: a file
// system that turned read-only under a writable volume has failed.
func status(err error) block.Status {
	switch err {
	case nil:
		return block.StatusOK
	case unix.ENOSPC, unix.EDQUOT, unix.EFBIG:
		return block.StatusNoSpace
	case unix.EOPNOTSUPP, unix.ENOSYS:
		return block.StatusUnsupported
	}
	return block.StatusIO
}
