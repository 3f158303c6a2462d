// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"rsio/rsio/admin/api"
)

// The roles of a daemon.
const (
	Target    = "target"
	Initiator = "initiator"
)

const (
	systemRun  = "/run/rsio"
	systemData = "/var/lib/rsio"
	socketName = "admin.sock"
)

// RunDir is where a daemon of this user and role keeps its sockets and what
// may be lost at a reboot.
func RunDir(role string) string {
	if os.Geteuid() == 0 {
		return filepath.Join(systemRun, role)
	}
	if run := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(run) {
		return filepath.Join(run, "rsio", role)
	}
	return filepath.Join("/tmp", "rsio-"+strconv.Itoa(os.Geteuid()), role)
}

// DataDir is where a daemon of this user and role keeps what must not be lost.
func DataDir(role string) string {
	if os.Geteuid() == 0 {
		return filepath.Join(systemData, role)
	}
	if data := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(data) {
		return filepath.Join(data, "rsio", role)
	}
	if home, err := os.UserHomeDir(); err == nil {
		return filepath.Join(home, ".local", "share", "rsio", role)
	}
	return filepath.Join("/var/tmp", "rsio-"+strconv.Itoa(os.Geteuid()), role)
}

// Socket is the control socket of a daemon of this user and role.
func Socket(role string) string { return filepath.Join(RunDir(role), socketName) }

// MakeDir makes dir and its parents, for this user alone (root: readable by
// others, since the sockets inside have modes of their own), and refuses one
// that belongs to somebody else: in /tmp anybody could have made it before.
func MakeDir(dir string) error {
	mode := os.FileMode(0o700)
	if os.Geteuid() == 0 {
		mode = 0o755
	}
	if err := os.MkdirAll(dir, mode); err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		return nil
	}
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := checkOwner(d); err != nil {
			return err
		}
	}
	return nil
}

func checkOwner(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Uid == 0 || int(st.Uid) == os.Geteuid() {
		return nil
	}
	return fmt.Errorf("directory %s belongs to user %d: remove it, or choose another directory", dir, st.Uid)
}

// FindSocket returns the control socket to talk to when none is named: that of
// the initiator of this host, else of its target; a user's own daemons come
// before those of the system.
func FindSocket() (string, error) {
	places := []string{Socket(Initiator), Socket(Target)}
	if os.Geteuid() != 0 {
		places = append(places, filepath.Join(systemRun, Initiator, socketName), filepath.Join(systemRun, Target, socketName))
	}
	var denied string
	for _, path := range places {
		own := os.Geteuid() != 0 && !strings.HasPrefix(path, systemRun+"/")
		if own && checkOwner(filepath.Dir(path)) != nil {
			continue // somebody else's: it is not our daemon
		}
		c, err := net.DialTimeout("unix", path, time.Second)
		if err == nil {
			_ = c.Close() // nothing was said
			return path, nil
		}
		if os.IsPermission(err) && denied == "" {
			denied = path
		}
	}
	if denied != "" {
		return "", errDenied(denied)
	}
	return "", api.Errorf(api.Unreachable, "connect to", places[0]+" or "+places[1], "no daemon answers",
		"start rsio-initiator or rsio-target, or name a socket with --admin unix:PATH or RSIO_ADMIN")
}

func errDenied(path string) *api.Error {
	return api.Errorf(api.Denied, "connect to", path, "no permission to use the socket "+path, "join its group, or use sudo")
}
