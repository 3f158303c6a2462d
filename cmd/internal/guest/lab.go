// SPDX-License-Identifier: Apache-2.0

// Package guest tests the initiator inside guest kernels that have an nbd
// driver: User-Mode Linux from Debian's packages, booted in two seconds. Its
// tests are the package; the other files are their tools.
//
// The host's side is a network namespace with one bridge for each of two
// networks; the target runs there. A guest has a card in both.
package guest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"rsio/cmd/internal/e2e"
	"rsio/rsio/blocktest"
)

// Networks is the number of networks, and of paths of a guest.
const Networks = 2

// Lab is a network namespace and a userland for guests.
type Lab struct {
	*e2e.Lab
	NS   string // network namespace of the host's side
	Bin  string // programs under test
	root string // of all guests, read-only for them
	mods string // modules of the kernel
	n    int    // guests booted
}

// tools are the programs of guests beside busybox and our own. Those after the
// first three are for cluster file systems.
var tools = []string{"mkfs.ext4", "e2fsck", "resize2fs", "mkfs.ocfs2", "fsck.ocfs2", "mount.ocfs2", "o2cb", "ocfs2_hb_ctl"}

// New builds a lab; programs lists what else guests need.
func New(t *testing.T, bin string) *Lab {
	t.Helper()
	if os.Geteuid() != 0 {
		blocktest.NotChecked(t, "guests need root, for networks")
	}
	for _, p := range append([]string{"linux.uml", "busybox", "ip", "nsenter"}, tools...) {
		if _, err := exec.LookPath(p); err != nil {
			blocktest.Missing(t, "program "+p+" (make deps installs it)")
		}
	}
	mods, _ := filepath.Glob("/usr/lib/uml/modules/*") // the pattern is right
	if len(mods) == 0 {
		blocktest.Missing(t, "modules of User-Mode Linux (make deps installs them)")
	}
	l := &Lab{Lab: e2e.NewLab(t, bin), Bin: bin, NS: fmt.Sprintf("rsio-g%d", os.Getpid()), mods: filepath.Dir(mods[0])}
	l.userland()
	l.network()
	return l
}

// userland assembles the root of the guests.
func (l *Lab) userland() {
	l.T.Helper()
	l.root = l.Path("root")
	for _, d := range []string{"bin", "usr/bin", "usr/sbin", "etc", "proc", "sys", "dev", "tmp", "run", "mnt", "var", "host", "root", "lib/modules", "lib64"} {
		if err := os.MkdirAll(filepath.Join(l.root, d), 0o755); err != nil {
			l.T.Fatal(err)
		}
	}
	if err := os.Symlink("usr/sbin", filepath.Join(l.root, "sbin")); err != nil { // where the kernel calls ocfs2_hb_ctl
		l.T.Fatal(err)
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		l.T.Fatal(err)
	}
	l.copy(busybox, "bin/busybox")
	for _, a := range strings.Fields(l.Run(busybox, "--list")) {
		if a != "busybox" {
			if err := os.Symlink("busybox", filepath.Join(l.root, "bin", a)); err != nil {
				l.T.Fatal(err)
			}
		}
	}
	for _, p := range tools {
		l.program(p)
	}
	l.copy("../../../testdata/lab/guest/init", "init")
	for _, p := range []string{"rsio-initiator", "rsioctl", "rsio-bench"} {
		l.copy(filepath.Join(l.Bin, p), "bin/"+p)
	}
	for name, text := range map[string]string{"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nbox:x:1000:1000:box:/tmp:/bin/sh\n", "etc/group": "root:x:0:\nbox:x:1000:\n", "etc/mtab": ""} {
		if err := os.WriteFile(filepath.Join(l.root, name), []byte(text), 0o644); err != nil {
			l.T.Fatal(err)
		}
	}
}

func (l *Lab) copy(from, to string) {
	l.T.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(filepath.Join(l.root, to), b, 0o755)
	}
	if err != nil {
		l.T.Fatal(err)
	}
}

var library = regexp.MustCompile(`/\S+`)

// program copies a program and the libraries that ldd names.
func (l *Lab) program(name string) {
	l.T.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		l.T.Fatal(err)
	}
	l.copy(path, "usr/sbin/"+name)
	out, err := exec.Command("ldd", path).Output()
	if err != nil {
		return // a script, or static
	}
	for _, lib := range library.FindAllString(string(out), -1) {
		if err := os.MkdirAll(filepath.Join(l.root, filepath.Dir(lib)), 0o755); err != nil {
			l.T.Fatal(err)
		}
		l.copy(lib, lib)
	}
}

// Addr is the host's address on a network, guestAddr that of guest n.
func Addr(network int) string { return fmt.Sprintf("10.78.%d.254", network) }

func guestAddr(network, n int) string { return fmt.Sprintf("10.78.%d.%d", network, n) }

// network makes the namespace with its bridges.
func (l *Lab) network() {
	l.T.Helper()
	l.Run("ip", "netns", "add", l.NS)
	l.T.Cleanup(func() { _, _ = l.Try("ip", "netns", "delete", l.NS) }) // with what is in it
	l.Run("ip", "-n", l.NS, "link", "set", "lo", "up")
	for k := range Networks {
		br := bridge(k)
		l.Run("ip", "-n", l.NS, "link", "add", br, "type", "bridge")
		l.Run("ip", "-n", l.NS, "addr", "add", Addr(k)+"/24", "dev", br)
		l.Run("ip", "-n", l.NS, "link", "set", br, "up")
	}
}

func bridge(k int) string { return fmt.Sprintf("br%d", k) }
