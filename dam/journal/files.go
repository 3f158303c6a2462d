// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// files is what a Journal does with the file system. Tests have their own.
type files interface {
	// open opens a regular file. If it can only be read, readOnly says why.
	open(path string) (f file, readOnly error, err error)
	// create makes a file that was not there, for reading and writing.
	create(path string) (file, error)
	remove(path string) error
	rename(from, to string) error
	// syncDir makes creations and renames in dir durable.
	syncDir(dir string) error
}

// file is an open file.
type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Sync() error
	// datasync makes what was written, and the length, durable.
	datasync() error
	// settle makes durable what a process that was killed has left in the
	// cache, and has reads come from the disk: the cache may hold, and show as
	// good, what the disk refused to take.
	settle() error
	// stat returns the length in bytes and how many names the file has.
	stat() (size int64, links uint64, err error)
}

// osFiles are the files of this machine.
type osFiles struct{}

func (osFiles) open(path string) (f file, readOnly error, err error) {
	// Looked at before it is opened: to open a FIFO or a device has effects.
	info, err := os.Lstat(path)
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("not a regular file but %v", info.Mode())
	}
	const flags = unix.O_NONBLOCK | unix.O_NOFOLLOW
	o, err := os.OpenFile(path, os.O_RDWR|flags, 0)
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EROFS) {
		readOnly = err
		o, err = os.OpenFile(path, os.O_RDONLY|flags, 0)
	}
	if err != nil {
		return nil, nil, err
	}
	return osFile{o}, readOnly, nil
}

func (osFiles) create(path string) (file, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (osFiles) remove(path string) error { return os.Remove(path) }

func (osFiles) rename(from, to string) error { return os.Rename(from, to) }

func (osFiles) syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if closeErr := d.Close(); err == nil {
		err = closeErr
	}
	return err
}

// osFile is an open file of this machine.
type osFile struct{ *os.File }

func (f osFile) datasync() error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func (f osFile) settle() error {
	if err := f.datasync(); err != nil {
		return err
	}
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) // not every file system can
	return nil
}

func (f osFile) stat() (size int64, links uint64, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, 0, err
	}
	return st.Size, uint64(st.Nlink), nil
}
