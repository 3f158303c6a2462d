// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"rsio/rsio/admin/api"
)

// oomScore makes the kernel end nearly everything else first.
const oomScore = "-900"

// ServeReclaim prepares this process for being what the kernel writes dirty
// pages back through. Without it: memory is short, the kernel writes dirty
// pages of /dev/nbd0 or of a file back to free some; serving that needs memory;
// the allocation waits for the write back, which waits for us.
//
// It sets PR_SET_IO_FLUSHER on all threads (allocations then never wait for
// file systems or block I/O of our own, prctl(2)), locks what is used of memory
// (else our own pages may be what has to be read back), and lowers the OOM
// score. What the system refuses is a check that says so, and is not fatal:
// only with little memory does it matter. It is called once, before anything is
// served.
func ServeReclaim() []api.Check {
	step := func(name string, err error, remedy string) api.Check {
		if err != nil {
			return api.Check{Name: name, State: "warning", Text: err.Error() + ": writing back through devices of this host may stall when memory is short", Remedy: remedy}
		}
		return api.Check{Name: name, State: "ok", Text: "set"}
	}
	var flusher error
	// New threads inherit it from the one that makes them (copy_process keeps
	// PF_MEMALLOC_NOIO and PF_LOCAL_THROTTLE).
	if _, _, e := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_SET_IO_FLUSHER, 1, 0); e != 0 {
		flusher = fmt.Errorf("PR_SET_IO_FLUSHER: %w", e)
	}
	return []api.Check{
		step("I/O flusher", flusher, "start it as root with CAP_SYS_RESOURCE"),
		step("locked memory", lockMemory(), "start it as root, or raise LimitMEMLOCK"),
		step("OOM score", os.WriteFile("/proc/self/oom_score_adj", []byte(oomScore), 0o644), "start it as root with CAP_SYS_RESOURCE"),
	}
}

// lockMemory keeps in memory what is used of it. Under a limit it does nothing:
// once the limit is reached every further mmap of the runtime would fail, and
// that ends the process.
func lockMemory() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
		return err
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&header, &caps[0]); err != nil {
		return err
	}
	if limit.Cur != unix.RLIM_INFINITY && caps[0].Effective&(1<<unix.CAP_IPC_LOCK) == 0 {
		return fmt.Errorf("RLIMIT_MEMLOCK is %d bytes", limit.Cur)
	}
	return unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT)
}

// Refused sums up in one line what of checks is not ok, or returns "".
func Refused(checks []api.Check) string {
	var all []string
	for _, c := range checks {
		if c.State != "ok" {
			all = append(all, c.Name)
		}
	}
	if len(all) == 0 {
		return ""
	}
	return "under memory pressure, writing back through devices of this host may stall: the system refuses " + strings.Join(all, ", ") + "; see rsioctl doctor"
}
