// SPDX-License-Identifier: Apache-2.0

package present

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// numbers returns MAJOR:MINOR of a block device and of its partitions.
func numbers(dev string) []string {
	base := filepath.Base(dev)
	list, _ := filepath.Glob("/sys/block/" + base + "/" + base + "p*/dev") // the pattern is right
	var out []string
	for _, f := range append(list, "/sys/block/"+base+"/dev") {
		if b, err := os.ReadFile(f); err == nil {
			out = append(out, strings.TrimSpace(string(b)))
		}
	}
	return out
}

// deviceUsers lists who uses a block device: mounts, swap, devices above it
// and processes. Only what this process may see is found; exclusive opening
// finds mounts of other namespaces too.
func deviceUsers(dev string) []string {
	nums := numbers(dev)
	if len(nums) == 0 {
		return nil
	}
	var out []string
	out = append(out, mountsOf(dev, nums)...)
	base := filepath.Base(dev)
	above, _ := filepath.Glob("/sys/block/" + base + "/holders/*")
	parts, _ := filepath.Glob("/sys/block/" + base + "/" + base + "p*/holders/*")
	for _, h := range append(above, parts...) {
		out = append(out, "device "+filepath.Base(h))
	}
	if b, err := os.ReadFile("/proc/swaps"); err == nil {
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) > 0 && (f[0] == dev || strings.HasPrefix(f[0], dev+"p")) {
				out = append(out, "swap")
			}
		}
	}
	return append(out, processesWith(nums)...)
}

// mountsOf lists the mounts of a device, in all mount namespaces.
func mountsOf(dev string, nums []string) []string {
	var out []string
	seen := make(map[string]bool)
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range append([]string{"/proc/self"}, procs...) {
		ns, err := os.Readlink(p + "/ns/mnt")
		if err != nil || seen[ns] {
			continue
		}
		seen[ns] = true
		b, err := os.ReadFile(p + "/mountinfo")
		if err != nil {
			continue
		}
		s := bufio.NewScanner(bytes.NewReader(b))
		for s.Scan() {
			// 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw;
			// proc(5). Of a btrfs the number is its own.
			f := strings.Fields(s.Text())
			dash := slices.Index(f, "-")
			if len(f) > 4 && (slices.Contains(nums, f[2]) || dash > 0 && dash+2 < len(f) && f[dash+2] == dev) {
				if m := "mounted on " + unescape.Replace(f[4]); !slices.Contains(out, m) {
					out = append(out, m)
				}
			}
		}
	}
	return out
}

// unescape is what proc(5) does to names, reversed.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// processesWith lists the processes, but this one, that have a block device
// open. Only what is open below /dev is looked at: to ask for the number of a
// file of a FUSE mount is to wait for whoever serves it.
func processesWith(nums []string) []string {
	var out []string
	procs, _ := filepath.Glob("/proc/[0-9]*")
	self := strconv.Itoa(os.Getpid())
	for _, p := range procs {
		pid := filepath.Base(p)
		if pid == self {
			continue
		}
		fds, err := os.ReadDir(p + "/fd")
		if err != nil {
			continue // gone, or not ours to see
		}
		for _, fd := range fds {
			path := p + "/fd/" + fd.Name()
			if to, err := os.Readlink(path); err != nil || !strings.HasPrefix(to, "/dev/") {
				continue
			}
			var st unix.Stat_t
			if unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK &&
				slices.Contains(nums, fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))) {
				out = append(out, process(pid))
				break
			}
		}
	}
	return out
}

// process names a process.
func process(pid string) string {
	name, err := os.ReadFile("/proc/" + pid + "/comm")
	if err != nil {
		return "process " + pid
	}
	return fmt.Sprintf("process %s (%s)", pid, strings.TrimSpace(string(name)))
}
