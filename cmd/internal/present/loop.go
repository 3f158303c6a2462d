// SPDX-License-Identifier: Apache-2.0

package present

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	loopControl = "/dev/loop-control"
	loopTries   = 32  // others take devices at the same time
	sector      = 512 // bytes; the logical block that disk images and their partition tables are made for
)

// loopAttach puts a loop device with direct I/O on a file and returns its
// name. With direct I/O the file's data is cached once, and a flush of the
// device is an fsync of the file: lo_req_flush in drivers/block/loop.c.
func loopAttach(path string, readOnly bool) (string, error) {
	if dev := loopOf(path); dev != "" {
		return dev, nil
	}
	flag, cfg := os.O_RDWR, unix.LoopConfig{Size: sector}
	cfg.Info.Flags = unix.LO_FLAGS_DIRECT_IO
	if readOnly {
		flag = os.O_RDONLY
		cfg.Info.Flags |= unix.LO_FLAGS_READ_ONLY
	}
	copy(cfg.Info.File_name[:len(cfg.Info.File_name)-1], path)
	file, err := os.OpenFile(path, flag, 0)
	if err != nil {
		return "", fmt.Errorf("loop device: %w", err)
	}
	defer func() { _ = file.Close() }() // the device has a reference of its own
	cfg.Fd = uint32(file.Fd())
	control, err := os.OpenFile(loopControl, os.O_RDWR, 0)
	if err != nil {
		return "", fmt.Errorf("loop device: %w: load the kernel module loop, or run as root", err)
	}
	defer func() { _ = control.Close() }()
	for range loopTries {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return "", fmt.Errorf("loop device: no free one: %w", err)
		}
		dev := "/dev/loop" + strconv.Itoa(n)
		err = loopConfigure(dev, &cfg)
		if err == nil {
			return dev, nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return "", fmt.Errorf("loop device %s: %w", dev, err)
		}
	}
	return "", errors.New("loop device: others take every free one: try again")
}

func loopConfigure(dev string, cfg *unix.LoopConfig) error {
	f, err := os.OpenFile(dev, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	return unix.IoctlLoopConfigure(int(f.Fd()), cfg)
}

// loopOf returns the loop device on a file, or "".
func loopOf(path string) string {
	list, _ := filepath.Glob("/sys/block/loop*/loop/backing_file") // the pattern is right
	for _, f := range list {
		if dev := "/dev/" + strings.Split(f, "/")[3]; loopFile(dev) == path {
			return dev
		}
	}
	return ""
}

// loopFile returns the file of a loop device as the kernel names it, or "". Of
// a mount that was taken off it is the path within the mount.
func loopFile(dev string) string {
	b, err := os.ReadFile("/sys/block/" + filepath.Base(dev) + "/loop/backing_file")
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(b), "\n")
}

// loopDetach takes a loop device off its file. hold is the device, opened
// exclusively unless it is to go by force: the kernel lets go of the file when
// the last opener closes, so it is closed here.
func loopDetach(dev string, hold *os.File) error {
	path := loopFile(dev)
	err := unix.IoctlSetInt(int(hold.Fd()), unix.LOOP_CLR_FD, 0)
	if err = errors.Join(err, hold.Close()); err != nil && !errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("loop device %s: %w", dev, err)
	}
	for range 100 {
		if path == "" || loopFile(dev) != path {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("loop device %s: somebody keeps it open: it goes when they close it", dev)
}

// loopResized tells a loop device that its file has another size.
func loopResized(dev string) error {
	f, err := os.OpenFile(dev, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	return unix.IoctlSetInt(int(f.Fd()), unix.LOOP_SET_CAPACITY, 0)
}
