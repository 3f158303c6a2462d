// SPDX-License-Identifier: Apache-2.0

package file

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"rsio/rsio/block"
)

// syscalls are the calls that tests replace to see what a failing disk or an
// older kernel does to the device.
type syscalls struct {
	pread     func(fd int, p []byte, off int64) (int, error)
	pwrite    func(fd int, p []byte, off int64) (int, error)
	fallocate func(fd int, mode uint32, off, n int64) error
	fdatasync func(fd int) error
}

func realCalls() syscalls {
	return syscalls{pread: unix.Pread, pwrite: unix.Pwrite, fallocate: unix.Fallocate, fdatasync: unix.Fdatasync}
}

// preadNowait reads what the page cache has, without waiting for anything.
func (d *Device) preadNowait(p []byte, off int64) (int, unix.Errno) {
	iov := unix.Iovec{Base: unsafe.SliceData(p)}
	iov.SetLen(len(p))
	for {
		n, _, errno := unix.Syscall6(unix.SYS_PREADV2, uintptr(d.fd), uintptr(unsafe.Pointer(&iov)), 1,
			uintptr(off), uintptr(uint64(off)>>32), unix.RWF_NOWAIT)
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}

// aligned reports whether the kernel can transfer to or from p directly.
func (d *Device) aligned(p []byte) bool {
	return !d.opt.Direct || uintptr(unsafe.Pointer(unsafe.SliceData(p)))%directAlign == 0
}

func (d *Device) read(off uint64, p []byte) block.Status {
	if d.aligned(p) {
		return d.readFull(off, p)
	}
	b := d.bounce.Get(len(p))
	st := d.readFull(off, b)
	if st == block.StatusOK {
		copy(p, b)
	}
	d.bounce.Put(b)
	return st
}

func (d *Device) write(off uint64, p []byte) block.Status {
	if d.aligned(p) {
		return d.writeFull(off, p)
	}
	b := d.bounce.Get(len(p))
	copy(b, p)
	st := d.writeFull(off, b)
	d.bounce.Put(b)
	return st
}

// compareAndWrite executes r while no other change does.
func (d *Device) compareAndWrite(r *block.Request) block.Status {
	d.caw.Lock()
	defer d.caw.Unlock()
	b := d.bounce.Get(int(r.Len)) // one for each worker: it never waits but inline on tmpfs, and then not for disks
	defer d.bounce.Put(b)
	if st := d.readFull(r.Off, b); st != block.StatusOK {
		return st
	}
	if i := block.Differs(b, r.Buf[:r.Len]); i >= 0 {
		r.N = uint32(i)
		return block.StatusMiscompare
	}
	copy(b, r.Buf[r.Len:])
	return d.writeFull(r.Off, b)
}

func (d *Device) readFull(off uint64, p []byte) block.Status {
	for len(p) > 0 {
		n, err := d.sys.pread(d.fd, p, int64(off))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return status(err)
		case n == 0:
			return block.StatusIO // somebody has cut the file off below its size
		default:
			p, off = p[n:], off+uint64(n)
		}
	}
	return block.StatusOK
}

func (d *Device) writeFull(off uint64, p []byte) block.Status {
	for len(p) > 0 {
		n, err := d.sys.pwrite(d.fd, p, int64(off))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return status(err)
		case n == 0:
			return block.StatusIO // a file system that takes nothing would loop for ever
		default:
			p, off = p[n:], off+uint64(n)
		}
	}
	return block.StatusOK
}
