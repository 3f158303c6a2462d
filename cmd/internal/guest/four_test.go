// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestFourGuests: four guests, each with a volume of its own and two shared
// ones; each writes its part of the shared ones, and all see all parts.
func TestFourGuests(t *testing.T) {
	l := New(t, bin)
	l.Target("os1=64M", "os2=64M", "os3=64M", "os4=64M", "ccf=32M", "pv=32M")
	start := time.Now()
	guests := l.BootAll([]string{"box1", "box2", "box3", "box4"}, 160, "nbd", "ext4")
	var pss int64
	for _, g := range guests {
		pss += g.PSS()
	}
	t.Logf("4 guests up after %.1f s, memory %d MiB", time.Since(start).Seconds(), pss>>20)
	each := func(do func(g *Guest, n int)) {
		var wg sync.WaitGroup
		for n, g := range guests {
			wg.Go(func() { do(g, n) })
		}
		wg.Wait()
	}
	sums := make([]string, len(guests))
	each(func(g *Guest, n int) {
		g.Initiator()
		for k, v := range []string{fmt.Sprintf("os%d", n+1), "ccf", "pv"} {
			if dev := g.Ctl("attach " + v + " --nbd"); dev != fmt.Sprintf("/dev/nbd%d", k) {
				t.Errorf("%s: %s is %s", g.Name, v, dev)
			}
		}
		g.Sh("mkfs.ext4 -q /dev/nbd0 && mkdir -p /mnt/os && mount -t ext4 /dev/nbd0 /mnt/os && dd if=/dev/urandom of=/mnt/os/part bs=1M count=1 2>/dev/null && sync")
		sums[n] = strings.TrimSpace(g.Sh(fmt.Sprintf("for d in 1 2; do dd if=/mnt/os/part of=/dev/nbd$d bs=1M seek=%d oflag=direct 2>/dev/null || exit 1; done; sha256sum < /mnt/os/part", n)))
	})
	t.Logf("all have written after %.1f s", time.Since(start).Seconds())
	each(func(g *Guest, n int) {
		for k, want := range sums {
			for d := 1; d <= 2; d++ {
				got := strings.TrimSpace(g.Sh(fmt.Sprintf("dd if=/dev/nbd%d bs=1M skip=%d count=1 iflag=direct 2>/dev/null | sha256sum", d, k)))
				if got != want {
					t.Errorf("%s reads %s of box%d on /dev/nbd%d, want %s", g.Name, got, k+1, d, want)
				}
			}
		}
		g.Sh("umount /mnt/os && e2fsck -fn /dev/nbd0")
		for _, d := range []string{"/dev/nbd0", "/dev/nbd1", "/dev/nbd2"} {
			g.Ctl("detach " + d)
		}
	})
	pss = 0
	for _, g := range guests {
		pss += g.PSS()
	}
	t.Logf("verified after %.1f s, memory of guests at the end %d MiB", time.Since(start).Seconds(), pss>>20)
}
