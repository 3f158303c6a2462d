// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"rsio/rsio/blocktest"
)

// kernelPackage is Debian's kernel for virtual machines; its image is only
// unpacked.
const kernelPackage = "linux-image-cloud-amd64"

// kernel returns where the unpacked kernel is, and its version. It is kept by
// version in the user's cache.
func (l *Lab) kernel() (dir, version string) {
	t := l.T
	t.Helper()
	for _, p := range []string{"qemu-system-x86_64", "cpio", "depmod"} {
		if _, err := exec.LookPath(p); err != nil {
			blocktest.Missing(t, "program "+p+" (make deps installs it)")
		}
	}
	out, err := exec.Command("apt-cache", "depends", kernelPackage).Output()
	image := ""
	for line := range strings.Lines(string(out)) {
		if _, name, ok := strings.Cut(line, "Depends: linux-image-"); ok {
			image = "linux-image-" + strings.TrimSpace(name)
			break
		}
	}
	cache, err2 := os.UserCacheDir()
	if err != nil || err2 != nil || image == "" {
		blocktest.NotChecked(t, "the package "+kernelPackage+" cannot be had here")
	}
	version = strings.TrimPrefix(image, "linux-image-")
	dir = filepath.Join(cache, "rsio-lab", image)
	if _, err := os.Stat(filepath.Join(dir, "boot", "vmlinuz-"+version)); err == nil {
		return dir, version
	}
	tmp := l.Path("kernel")
	script := fmt.Sprintf("set -e; mkdir -p %[1]s %[2]s; cd %[1]s; apt-get download %[3]s >/dev/null 2>&1 || { apt-get update >/dev/null 2>&1; apt-get download %[3]s >/dev/null 2>&1; }; dpkg-deb -x %[3]s_*.deb root; depmod -b root %[4]s; mkdir -p $(dirname %[2]s); rm -rf %[2]s; mv root %[2]s",
		tmp, dir, image, version)
	if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
		blocktest.NotChecked(t, fmt.Sprintf("the package %s cannot be unpacked: %v: %s", image, err, out))
	}
	return dir, version
}

// initrd makes the first file system of a QEMU guest: the userland and modules.
func (l *Lab) initrd(kernel, version string, modules []string) string {
	l.T.Helper()
	file := l.Path("initrd")
	var list []string
	for _, m := range modules {
		out := l.Run("modprobe", "-d", kernel, "-S", version, "--show-depends", m)
		for line := range strings.Lines(out) {
			if f := strings.Fields(line); len(f) >= 2 && f[0] == "insmod" {
				list = append(list, f[1])
			}
		}
	}
	mods := l.Path("mods")
	var script strings.Builder
	fmt.Fprintf(&script, "set -e\nmkdir -p %s/lib/modules/%s\ncp %s/lib/modules/%s/modules.* %s/lib/modules/%s/\n", mods, version, kernel, version, mods, version)
	for _, m := range list {
		_, rel, _ := strings.Cut(m, "/lib/modules/")
		fmt.Fprintf(&script, "mkdir -p %s/lib/modules/%s; cp %s %s/lib/modules/%s\n", mods, filepath.Dir(rel), m, mods, rel)
	}
	fmt.Fprintf(&script, "depmod -b %s %s\n(cd %s && find . | cpio -o -H newc --quiet; cd %s && find . | cpio -o -H newc --quiet) > %s\n", mods, version, l.root, mods, file)
	l.Run("sh", "-c", script.String())
	return file
}

// BootQEMU boots a guest with several CPUs, emulated, with a kernel for virtual
// machines. Its /host is its own.
func (l *Lab) BootQEMU(name string, mem, cpus int, modules ...string) *Guest {
	l.T.Helper()
	kernel, version := l.kernel()
	modules = append([]string{"virtio_pci", "virtio_net"}, modules...)
	g := l.guest(name)
	socket := g.Dir + ".jobs"
	words := []string{"console=ttyS0", "quiet", "panic=-1", "mitigations=off", "random.trust_cpu=on", "net.ifnames=0", "rdinit=/init",
		// Calibrated on a busy host, the emulated TSC is wrong.
		"tsc=unstable", "no_timer_check", "lab_load=" + strings.Join(modules, ",")}
	args := []string{"--net=/run/netns/" + l.NS, "qemu-system-x86_64", "-name", name, "-accel", "tcg,thread=multi", "-cpu", "qemu64", "-M", "pc",
		"-m", strconv.Itoa(mem), "-smp", strconv.Itoa(cpus), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-serial", "stdio", "-chardev", "socket,id=jobs,path=" + socket + ",server=on,wait=off", "-serial", "chardev:jobs",
		"-kernel", filepath.Join(kernel, "boot", "vmlinuz-"+version), "-initrd", l.initrd(kernel, version, modules)}
	for k, tap := range g.plug() {
		args = append(args, "-netdev", fmt.Sprintf("tap,id=n%d,ifname=%s,script=no,downscript=no", k, tap),
			"-device", fmt.Sprintf("virtio-net-pci,netdev=n%d,mac=52:54:00:00:%02x:%02x", k, k, g.N))
		words = append(words, fmt.Sprintf("lab_ip%d=%s/24", k, guestAddr(k, g.N)))
	}
	g.run(append(args, "-append", strings.Join(words, " ")))
	l.Eventually("QEMU listens for jobs", func() (ok bool) {
		var err error
		g.line, err = net.Dial("unix", socket)
		return err == nil
	})
	var wg sync.WaitGroup
	wg.Go(func() { g.results(bufio.NewReaderSize(g.line, 1<<20)) })
	l.T.Cleanup(func() {
		_ = g.line.Close()
		wg.Wait()
	})
	if !g.waitFor("up", 2*bootTimeout) {
		l.T.Fatalf("guest %s does not boot:\n%s", name, g.console())
	}
	return g
}

// results writes what comes over the line to where Wait looks for it.
func (g *Guest) results(r *bufio.Reader) {
	put := func(name, text string) {
		tmp := filepath.Join(g.Dir, name+".tmp")
		if os.WriteFile(tmp, []byte(text), 0o644) == nil {
			_ = os.Rename(tmp, filepath.Join(g.Dir, name)) // Wait says what is missing
		}
	}
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		f := strings.Fields(line)
		switch {
		case len(f) > 0 && f[0] == "UP":
			put("up", time.Now().String())
		case len(f) >= 3 && f[0] == "END":
			var out []byte
			if len(f) > 3 {
				out, _ = base64.StdEncoding.DecodeString(f[3]) // what is damaged shows in the test
			}
			put("out."+f[1], string(out))
			put("rc."+f[1], f[2])
		}
	}
}
