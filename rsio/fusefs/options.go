// SPDX-License-Identifier: Apache-2.0

package fusefs

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"rsio/rsio/block"
)

// Errors of the methods of FS, for errors.Is.
var (
	ErrInUse      = errors.New("in use")
	ErrExists     = errors.New("a file of this name exists")
	ErrNotFound   = errors.New("no such file")
	ErrMounted    = errors.New("is mounted")
	ErrNotMounted = errors.New("is not mounted")
)

// Options says how New makes an FS. The zero value is ready.
type Options struct {
	// Log takes what is refused or goes wrong; nil discards.
	Log *slog.Logger

	// Private keeps other users out, whatever the modes of the files say.
	// Without it a mount by another user than root needs user_allow_other in
	// /etc/fuse.conf.
	Private bool

	// MaxBackground is the number of asynchronous requests (AIO, io_uring,
	// loop devices) that the kernel keeps in flight for the whole mount; 0
	// means DefaultBackground. It takes no memory until it is used.
	MaxBackground int
}

// DefaultBackground is the default of Options.MaxBackground: so many that one
// hung device hardly ever uses them up for all others.
const DefaultBackground = 1024

// maxIO is the largest read or write that the kernel sends, bytes.
const maxIO = 1 << 20

// File is one device under a name. Add takes it; the caller keeps the device
// and closes it after Remove.
type File struct {
	Namespace string
	Name      string // VOLUME or VOLUME~VM
	Device    block.Device
	Nexus     string // of all requests: HOST or HOST/VM
	ReadOnly  bool   // this attachment must not be changed, though the device could
	UID, GID  uint32
	Mode      uint32 // permission bits; 0 means 0600

	// Attr returns the extended attributes by full name (user.rsio.state).
	// It is called whenever somebody asks, on any goroutine, and must not
	// block; nil means none.
	Attr func() map[string]string
}

func (f *File) check() error {
	if err := block.CheckName("namespace", f.Namespace); err != nil {
		return err
	}
	volume, vm, isVM := strings.Cut(f.Name, "~")
	if err := block.CheckName("volume", volume); err != nil {
		return err
	}
	if isVM {
		if err := block.CheckName("VM", vm); err != nil {
			return err
		}
	}
	if f.Device == nil {
		return fmt.Errorf("file %s/%s has no device", f.Namespace, f.Name)
	}
	if f.Mode&^0o777 != 0 {
		return fmt.Errorf("file %s/%s: mode %#o has more than permission bits", f.Namespace, f.Name, f.Mode)
	}
	return nil
}

// Opener is a process that has a file open. A handle that was passed on, as
// to a child or to a loop device, still counts as of the process that opened
// the file.
type Opener struct {
	PID     uint32 // 0: in a PID namespace that is not seen from here
	UID     uint32
	Handles int
	Writes  bool // at least one handle may write
}

// InUseError says who has what open; it is ErrInUse.
type InUseError struct {
	What    string // the file, or the mount point
	Openers []Opener
}

// Error lists the processes.
func (e *InUseError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s is in use", e.What)
	for i, o := range e.Openers {
		sep := ", "
		if i == 0 {
			sep = " by "
		}
		fmt.Fprintf(&b, "%sprocess %d of user %d", sep, o.PID, o.UID)
	}
	return b.String()
}

// Is makes errors.Is(err, ErrInUse) true.
func (e *InUseError) Is(target error) bool { return target == ErrInUse }
