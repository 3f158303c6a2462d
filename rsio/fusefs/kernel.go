// SPDX-License-Identifier: Apache-2.0

package fusefs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// Mounts are made and ended here and not by go-fuse, which as root would leave
// the connection open in every child of this process, and as another user would
// not say why fusermount3 failed.

// connect mounts and returns the connection to the kernel.
func connect(dir string, private bool) (int, error) {
	opts := fmt.Sprintf("max_read=%d,default_permissions", maxIO)
	if !private {
		opts += ",allow_other"
	}
	if os.Geteuid() == 0 {
		return direct(dir, opts)
	}
	return viaHelper(dir, opts+",fsname=rsio,subtype=rsio", private)
}

// direct mounts as root.
func direct(dir, opts string) (int, error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("/dev/fuse: %w: load the kernel module fuse, or give the container the device", err)
	}
	opts = fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,%s", fd, opts)
	if err := unix.Mount("rsio", dir, "fuse.rsio", unix.MS_NOSUID|unix.MS_NODEV, opts); err != nil {
		_ = unix.Close(fd) // nothing was written
		if errors.Is(err, unix.EPERM) {
			err = fmt.Errorf("%w: root needs CAP_SYS_ADMIN for it", err)
		}
		return -1, err
	}
	return fd, nil
}

// viaHelper lets fusermount3 mount; it sends the connection through a socket.
func viaHelper(dir, opts string, private bool) (int, error) {
	if err := checkHelper(private); err != nil {
		return -1, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(pair[0]) }() // nothing was written
	theirs := os.NewFile(uintptr(pair[1]), "socket")
	cmd := exec.Command("fusermount3", "-o", opts, "--", dir)
	cmd.ExtraFiles = []*os.File{theirs} // descriptor 3
	cmd.Env = append(os.Environ(), "_FUSE_COMMFD=3")
	out, err := cmd.CombinedOutput()
	_ = theirs.Close() // nothing was written
	if err != nil {
		return -1, fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out)))
	}
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(pair[0], make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) != 1 {
		return -1, fmt.Errorf("fusermount3 sent no connection: %w", errors.Join(err, unix.EPROTO))
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return -1, fmt.Errorf("fusermount3 sent no connection: %w", errors.Join(err, unix.EPROTO))
	}
	return fds[0], nil
}

// checkHelper says what a mount by another user than root lacks.
func checkHelper(private bool) error {
	if _, err := exec.LookPath("fusermount3"); err != nil {
		return errors.New("fusermount3 is missing, which mounts for users other than root: install the package fuse3")
	}
	if private {
		return nil
	}
	conf, err := os.ReadFile("/etc/fuse.conf")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for line := range strings.Lines(string(conf)) {
		if strings.TrimSpace(line) == "user_allow_other" {
			return nil
		}
	}
	return errors.New("other users may not be let in: add the line user_allow_other to /etc/fuse.conf, mount as root, or keep them out (Private)")
}

// abort makes the kernel answer all requests itself, and detaches.
func (m *mount) abort() error {
	if m.root {
		err := unix.Unmount(m.dir, unix.MNT_FORCE|unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) { // somebody detached it before: files are open
			err = m.abortConn()
		}
		return err
	}
	return errors.Join(m.abortConn(), helper("-u", "-z", m.dir))
}

func (m *mount) abortConn() error {
	path := fmt.Sprintf("/sys/fs/fuse/connections/%d/abort", m.conn)
	err := os.WriteFile(path, []byte("1\n"), 0o200)
	if errors.Is(err, os.ErrNotExist) { // the connection has ended, or fusectl is not mounted
		return nil
	}
	return err
}

// detach takes whatever is mounted on dir out of the tree.
func detach(dir string, root bool) error {
	if root {
		return unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
	return helper("-u", "-z", dir)
}

// helper runs fusermount3.
func helper(args ...string) error {
	out, err := exec.Command("fusermount3", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("fusermount3: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
