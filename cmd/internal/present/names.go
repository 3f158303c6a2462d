// SPDX-License-Identifier: Apache-2.0

package present

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"rsio/rsio/admin/api"
)

// devDir is where devices have stable names; where udev runs, its rule
// (packaging/udev) makes the same links.
const devDir = "/dev/rsio"

// fileName returns NAMESPACE/VOLUME[~VM], below devDir and below the mount.
func fileName(namespace, volume, vm string) string {
	if vm != "" {
		volume += "~" + vm
	}
	return namespace + "/" + volume
}

// link makes the stable name of a device.
func link(path, dev string) error {
	if to, err := os.Readlink(path); err == nil && to == dev {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)) // no volume's name: none begins so
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(dev, tmp); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// unlink removes the stable name if it leads to dev, and a folder that is
// empty then.
func unlink(path, dev string) {
	if to, err := os.Readlink(path); err != nil || to != dev {
		return
	}
	if os.Remove(path) == nil {
		_ = os.Remove(filepath.Dir(path)) // not empty: others are in it
	}
}

// owner looks up USER[:GROUP]; numbers are taken as they are. Empty is the
// process itself.
func owner(s string) (uid, gid int, err error) {
	if s == "" {
		return os.Getuid(), os.Getgid(), nil
	}
	name, group, _ := strings.Cut(s, ":")
	usage := func(err error) error {
		return api.Errorf(api.Usage, "attach", "owner "+s, err.Error(), "give USER[:GROUP], names or numbers")
	}
	gid = -1
	if uid, err = strconv.Atoi(name); err != nil {
		u, err := user.Lookup(name)
		if err != nil {
			return 0, 0, usage(err)
		}
		uid, _ = strconv.Atoi(u.Uid) // numbers on every unix
		gid, _ = strconv.Atoi(u.Gid)
	}
	switch {
	case group == "" && gid < 0:
		gid = uid
	case group != "":
		if gid, err = strconv.Atoi(group); err != nil {
			g, err := user.LookupGroup(group)
			if err != nil {
				return 0, 0, usage(err)
			}
			gid, _ = strconv.Atoi(g.Gid)
		}
	}
	if most := uint64(1<<32 - 2); uint64(uid) > most || uint64(gid) > most { // the last one means "leave it"
		return 0, 0, usage(fmt.Errorf("user and group are numbers from 0 to %d", most))
	}
	return uid, gid, nil
}

// permissions returns the mode of device and file.
func permissions(s api.Show) os.FileMode {
	if s.Mode == 0 {
		return 0o600
	}
	return os.FileMode(s.Mode) & os.ModePerm
}

// own gives a device node its owner and mode.
func own(dev string, s api.Show) error {
	uid, gid, err := owner(s.Owner)
	if err != nil {
		return err
	}
	if err := errors.Join(os.Chown(dev, uid, gid), os.Chmod(dev, permissions(s))); err != nil {
		return fmt.Errorf("owner and mode: %w", err)
	}
	return nil
}
