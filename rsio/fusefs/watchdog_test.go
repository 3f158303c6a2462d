// SPDX-License-Identifier: Apache-2.0

package fusefs

import (
	"os"
	"os/signal"
	"runtime/pprof"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// hangs is when the tests of this package hang; they take about 20 s.
const hangs = 4 * time.Minute

// watchdog ends a process that hangs on its own mount, which nothing else can:
// a thread that waits in the kernel for an answer of this process cannot be
// killed, and keeps the descriptor open whose close would end the wait. It says
// where all goroutines are, ends the mounts with what waits for them, and exits.
func watchdog() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM, unix.SIGINT)
	select {
	case <-stop:
	case <-time.After(hangs):
	}
	_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 2)
	b, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if strings.Contains(line, " - fuse.rsio ") && len(f) > 4 && strings.HasPrefix(f[4], os.TempDir()+"/Test") {
			_ = unix.Unmount(f[4], unix.MNT_FORCE|unix.MNT_DETACH)
		}
	}
	os.Exit(3)
}
