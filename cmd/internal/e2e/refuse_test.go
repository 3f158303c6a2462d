// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"strings"
	"testing"

	"rsio/rsio/blocktest"
)

// TestDevicesRefused: what would go wrong later is refused now, with the reason
// and what to do; what was there before stays.
func TestDevicesRefused(t *testing.T) {
	needFUSE(t)
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		blocktest.NotChecked(t, "the kernel has no loop devices")
	}
	l := NewLab(t, binDir)
	p := l.filePair()
	p.Ctl(p.Sock, "volume", "create", "v", "--size", "16M")
	p.attachAs("v", "--as", "a", "--loop")
	_, hasNBD := os.Stat("/sys/block/nbd0")
	rows := []struct {
		desc string
		args []string
		want []string // in the message; nil: it is allowed
	}{
		{"a second block device", []string{"v", "--as", "b", "--loop"}, []string{"two page caches", "/dev/rsio/default/v~a", "--fuse", "--shared"}},
		{"a file beside it", []string{"v", "--as", "b", "--fuse"}, nil},
		{"a second block device that is cared for", []string{"v", "--as", "b", "--loop", "--shared"}, nil},
		{"both kinds of block device", []string{"v", "--as", "c", "--loop", "--nbd"}, []string{"page cache", "ask for one of them"}},
		{"connections of a file", []string{"v", "--as", "c", "--fuse", "--connections", "2"}, []string{"kernel devices"}},
		{"an unknown owner", []string{"v", "--as", "c", "--fuse", "--owner", "nobody-of-that-name"}, []string{"nobody-of-that-name", "USER[:GROUP]"}},
		{"too many connections", []string{"v", "--as", "c", "--nbd", "--connections", "99"}, []string{"1 to 16"}},
	}
	if hasNBD != nil {
		rows = append(rows, struct {
			desc string
			args []string
			want []string
		}{"a kernel device without the driver", []string{"v", "--as", "c", "--nbd", "--shared"}, []string{"no nbd driver", "modprobe nbd", "--fuse", "--loop"}})
	}
	for _, row := range rows {
		out, err := p.CtlTry(p.Sock, append([]string{"attach"}, row.args...)...)
		if (err == nil) != (row.want == nil) {
			t.Errorf("%s: %v, %s", row.desc, err, out)
		}
		for _, w := range row.want {
			if !strings.Contains(out, w) {
				t.Errorf("%s: the message does not say %q: %s", row.desc, w, out)
			}
		}
	}
	for name, want := range map[string]string{"v~a": "detached", "v~b": "detached", "v~c": "v~c is not attached"} {
		for range 2 { // twice is no error
			if out := p.Ctl(p.Sock, "detach", name); !strings.Contains(out, want) {
				t.Errorf("detach %s: %s, want %s", name, out, want)
			}
			want = "is not attached"
		}
	}
}
