// SPDX-License-Identifier: Apache-2.0

// Package file is a leaf over one thin file in a pool directory.
//
// # Life of a request
//
//  1. Submit serves inline what cannot block: reads that preadv2 with
//     RWF_NOWAIT finds in the page cache (probed when opened), and reads,
//     writes and flushes on tmpfs.
//  2. Everything else that is not a flush goes to Workers, which loop over
//     short and interrupted system calls.
//  3. Flushes, and writes with FUA once their data is written, go to the
//     syncer: one goroutine, one fdatasync for all that wait.
//
// # A failed fdatasync
//
// It is never retried: the kernel marks the pages clean, forgets the data and
// reports the error once, so a second fdatasync would succeed and lie. The
// device fails instead: Options.OnFail is called once and every later write,
// flush and FUA ends in StatusIO. Reads go on. Because the kernel reports the
// error to one caller per descriptor only, two fdatasync must not run side by
// side; RWF_DSYNC is not used for the same reason, it would take the report of
// another write's data away from the flush that needs it.
//
// Locks: syncer.mu and Device.syncMu are independent; none is held for a
// completion or for OnFail.
package file

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"rsio/rsio/block"
	"rsio/rsio/buf"
)

// DefaultWorkers is the number of system calls a device has in flight at most.
const DefaultWorkers = 16

const (
	directAlign = 4096             // bytes; offset, length and memory with O_DIRECT
	stepLen     = 64 << 20         // bytes; longest range of one fallocate
	tmpfsMagic  = unix.TMPFS_MAGIC // statfs; never blocks on I/O
)

// Options says what Open opens.
type Options struct {
	Path     string
	Direct   bool // O_DIRECT: no page cache, BlockSize 4096
	Workers  int  // 0 means DefaultWorkers
	ReadOnly bool

	// OnFail is told once when an fdatasync has failed, before the requests
	// that waited for it complete. It must not block.
	OnFail func(error)
}

// Device is an open file. Open makes one.
type Device struct {
	opt    Options
	fd     int
	sys    syscalls
	size   atomic.Uint64
	tmpfs  bool // reads, writes and flushes never block
	nowait bool // reads of the page cache may be tried inline
	bounce *buf.Pool

	noPunch atomic.Bool // the file system cannot punch holes
	noZero  atomic.Bool // the file system cannot zero a range

	in       block.Inflight
	fin      block.Finisher
	workers  *block.Workers
	children block.Children
	syncer   *syncer

	caw      sync.RWMutex // held for reading by changes, for writing by compare-and-write
	resizeMu sync.Mutex
	syncMu   sync.Mutex // around every fdatasync; see the package comment
	failed   atomic.Bool
}

// Create makes a file of size bytes, a multiple of 4096, that takes no space
// yet. It is durable when Create returns; an existing file is an error.
func Create(path string, size uint64) (err error) {
	if err := checkSize(path, size); err != nil {
		return err
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return &os.PathError{Op: "create", Path: path, Err: err}
	}
	defer func() {
		if e := unix.Close(fd); err == nil && e != nil {
			err = &os.PathError{Op: "close", Path: path, Err: e}
		}
		if err != nil {
			_ = unix.Unlink(path) // the first error is the one to report
		}
	}()
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		return &os.PathError{Op: "truncate", Path: path, Err: err}
	}
	if err := unix.Fsync(fd); err != nil {
		return &os.PathError{Op: "fsync", Path: path, Err: err}
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes names in dir durable.
func syncDir(dir string) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	err = errors.Join(unix.Fsync(fd), unix.Close(fd))
	if err != nil {
		return &os.PathError{Op: "fsync", Path: dir, Err: err}
	}
	return nil
}

func checkSize(path string, size uint64) error {
	if size == 0 || size%directAlign != 0 || size > 1<<62 {
		return fmt.Errorf("file %s: size %d is not allowed: give a positive multiple of %d bytes", path, size, directAlign)
	}
	return nil
}

// Open opens an existing file.
func Open(opt Options) (*Device, error) {
	return open(opt, realCalls())
}

func open(opt Options, sys syscalls) (*Device, error) {
	if opt.Workers <= 0 {
		opt.Workers = DefaultWorkers
	}
	flags := unix.O_RDWR | unix.O_CLOEXEC
	if opt.ReadOnly {
		flags = unix.O_RDONLY | unix.O_CLOEXEC
	}
	if opt.Direct {
		flags |= unix.O_DIRECT
	}
	fd, err := unix.Open(opt.Path, flags|unix.O_NONBLOCK, 0) // NONBLOCK: a FIFO must not hang the daemon
	if err == unix.EINVAL && opt.Direct {
		return nil, fmt.Errorf("file %s: its file system has no O_DIRECT: open it without Direct", opt.Path)
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: opt.Path, Err: err}
	}
	d := &Device{opt: opt, fd: fd, sys: sys}
	if err := d.probe(); err != nil {
		_ = unix.Close(fd) // nothing was written
		return nil, err
	}
	d.bounce = buf.New(int64(opt.Workers) * buf.MaxLen) // one for each worker: none ever waits
	d.workers = block.NewWorkers(opt.Workers, d.serve)
	d.syncer = newSyncer(d.sync)
	return d, nil
}

// probe learns what the file and its file system are.
func (d *Device) probe() error {
	var st unix.Stat_t
	if err := unix.Fstat(d.fd, &st); err != nil {
		return &os.PathError{Op: "stat", Path: d.opt.Path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Errorf("file %s: is not a regular file: give a file that was made in a pool", d.opt.Path)
	}
	if d.opt.Direct && st.Size%directAlign != 0 {
		return fmt.Errorf("file %s: size %d is not a multiple of %d as Direct needs it: open it without Direct", d.opt.Path, st.Size, directAlign)
	}
	d.size.Store(uint64(st.Size))
	var fs unix.Statfs_t
	if err := unix.Fstatfs(d.fd, &fs); err != nil {
		return &os.PathError{Op: "statfs", Path: d.opt.Path, Err: err}
	}
	d.tmpfs = int64(fs.Type) == tmpfsMagic && !d.opt.Direct
	if !d.opt.Direct && !d.tmpfs && st.Size > 0 {
		_, errno := d.preadNowait(make([]byte, 1), 0)
		d.nowait = errno == 0 || errno == unix.EAGAIN
	}
	return nil
}

// Info implements block.Device.
func (d *Device) Info() block.Info {
	i := block.Info{
		Size: d.size.Load(), BlockSize: 1, MaxLen: block.MaxLen, MaxZero: block.MaxZero, ReadOnly: d.opt.ReadOnly,
		Features: block.CanFlush | block.CanFUA | block.CanDiscard | block.CanZero | block.CanFastZero | block.CanBlockStatus |
			block.CanCompareAndWrite,
	}
	if d.opt.Direct {
		i.BlockSize = directAlign
	}
	return i
}

// Resize grows the file to size bytes, durably. It refuses to shrink it,
// because requests that were checked against the old size may be in flight.
func (d *Device) Resize(size uint64) error {
	if !d.in.Enter() {
		return fmt.Errorf("file %s: resize: %w", d.opt.Path, block.StatusClosed)
	}
	defer d.in.Leave()
	if err := checkSize(d.opt.Path, size); err != nil {
		return err
	}
	d.resizeMu.Lock()
	defer d.resizeMu.Unlock()
	if old := d.size.Load(); size < old {
		return fmt.Errorf("file %s: size %d is below the present %d: a volume can only grow; copy to a smaller one instead", d.opt.Path, size, old)
	}
	if err := unix.Ftruncate(d.fd, int64(size)); err != nil {
		return &os.PathError{Op: "truncate", Path: d.opt.Path, Err: err}
	}
	if err := d.sync(); err != nil {
		return err
	}
	d.size.Store(size)
	return nil
}

// Used returns the bytes of space the file takes in its pool, 0 if the file
// system does not say.
func (d *Device) Used() uint64 {
	var st unix.Stat_t
	if !d.in.Enter() {
		return 0
	}
	defer d.in.Leave()
	if err := unix.Fstat(d.fd, &st); err != nil {
		return 0
	}
	return uint64(st.Blocks) * 512
}

// Close implements block.Device: it drains, makes the file durable and closes
// it. The error of a device that has failed is returned again.
func (d *Device) Close(ctx context.Context) error {
	return d.in.Close(ctx, d.release)
}

func (d *Device) release() error {
	err := d.workers.Close(context.Background())
	d.syncer.close() // after the workers, which feed it
	d.fin.Close()
	if !d.opt.ReadOnly {
		err = errors.Join(err, d.sync())
	}
	if e := unix.Close(d.fd); e != nil {
		err = errors.Join(err, &os.PathError{Op: "close", Path: d.opt.Path, Err: e})
	}
	return err
}
