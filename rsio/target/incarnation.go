// SPDX-License-Identifier: Apache-2.0

package target

import (
	"bufio"
	"fmt"
	"hash/fnv"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// poolIncarnation returns a number that changes when page cache that was not
// flushed may be gone: when the host booted, or the pool's file system was
// mounted anew. It does not change when the daemon restarts, also not in a
// mount namespace of its own: there a mount has another ID, but names the peer
// group of the one it was copied from.
func poolIncarnation(dir string) (uint64, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return 0, fmt.Errorf("incarnation of pool %s: %w", dir, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return 0, fmt.Errorf("incarnation of pool %s: stat: %w", dir, err)
	}
	var stx unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, 0, unix.STATX_MNT_ID, &stx); err != nil {
		return 0, fmt.Errorf("incarnation of pool %s: statx: %w", dir, err)
	}
	h := fnv.New64a()
	fmt.Fprintf(h, "%s %d %s", boot, st.Dev, mountName(stx.Mnt_id))
	return h.Sum64(), nil
}

// mountName returns the peer group of a mount, or its ID if it is in none.
func mountName(id uint64) string {
	own := "id:" + strconv.FormatUint(id, 10)
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return own
	}
	defer func() { _ = f.Close() }() // read only
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) < 7 || fields[0] != strconv.FormatUint(id, 10) {
			continue
		}
		for _, o := range fields[6:] {
			if o == "-" {
				break
			}
			if kind, group, ok := strings.Cut(o, ":"); ok && (kind == "shared" || kind == "master") {
				return "group:" + group
			}
		}
	}
	return own
}
