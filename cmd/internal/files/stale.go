// SPDX-License-Identifier: Apache-2.0

package files

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// takeOff unmounts what a process that was killed has left at dir. It is called
// by the one that has the socket, so nobody serves it any more, though it may
// look alive for the moment that a process takes to die.
func takeOff(dir string) error {
	for range 16 { // they may lie on each other
		b, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			return err
		}
		if !mountedAt(string(b), dir) {
			return nil
		}
		if os.Geteuid() == 0 {
			err = unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		} else if out, err2 := exec.Command("fusermount3", "-u", "-z", dir).CombinedOutput(); err2 != nil {
			err = errors.New(strings.TrimSpace(string(out)))
		}
		if err != nil {
			return fmt.Errorf("the mount that a killed process left at %s: %w", dir, err)
		}
	}
	return fmt.Errorf("mounts that killed processes left at %s do not end", dir)
}

// mountedAt reports whether what is on top at dir is a mount of ours; proc(5).
// What somebody else has mounted over it is not ours to unmount.
func mountedAt(mountinfo, dir string) (ours bool) {
	escaped := strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`).Replace(dir)
	for line := range strings.Lines(mountinfo) {
		f := strings.Fields(line)
		if len(f) > 6 && f[4] == escaped { // they are listed in the order in which they were made
			ours = strings.Contains(line, " - fuse.rsio ")
		}
	}
	return ours
}
