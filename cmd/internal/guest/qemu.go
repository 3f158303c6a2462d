// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
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
// version in the user's cache; vmlinux is what QEMU boots.
func (l *Lab) kernel() (dir, version string) {
	t := l.T
	t.Helper()
	for _, p := range []string{"qemu-system-x86_64", "cpio", "depmod", "lz4"} {
		if _, err := exec.LookPath(p); err != nil {
			blocktest.Missing(t, "program "+p+" (make deps installs it)")
		}
	}
	image := kernelImage()
	if image == "" { // no lists of packages yet
		_, _ = l.Try("apt-get", "update") // shows in what comes next
		image = kernelImage()
	}
	cache, err := os.UserCacheDir()
	if err != nil || image == "" {
		blocktest.Missing(t, "the package "+kernelPackage)
	}
	cache = filepath.Join(cache, "rsio-lab")
	version = strings.TrimPrefix(image, "linux-image-")
	dir = filepath.Join(cache, image)
	vmlinux := filepath.Join(dir, "vmlinux")
	if _, err := os.Stat(vmlinux); err == nil {
		return dir, version
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	tmp, err := os.MkdirTemp(cache, "new-")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(tmp) }() // moved, if all went well
	script := fmt.Sprintf("set -e; cd %[1]s; apt-get download %[2]s || { apt-get update; apt-get download %[2]s; }; dpkg-deb -x %[2]s_*.deb root; depmod -b root %[3]s", tmp, image, version)
	if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
		blocktest.Missing(t, fmt.Sprintf("the package %s: %v: %s", image, err, out))
	}
	root := filepath.Join(tmp, "root")
	if err := unpackKernel(filepath.Join(root, "boot", "vmlinuz-"+version), filepath.Join(root, "vmlinux")); err != nil {
		t.Fatal(err)
	}
	if os.Rename(root, dir) == nil {
		return dir, version
	}
	if _, err := os.Stat(vmlinux); err != nil { // else another test was faster
		if err := errors.Join(os.RemoveAll(dir), os.Rename(root, dir)); err != nil {
			t.Fatal(err)
		}
	}
	return dir, version
}

// kernelImage returns the name of the package that kernelPackage stands for.
func kernelImage() string {
	out, _ := exec.Command("apt-cache", "depends", kernelPackage).Output() // no output: no package
	for line := range strings.Lines(string(out)) {
		if _, name, ok := strings.Cut(line, "Depends: linux-image-"); ok {
			return "linux-image-" + strings.TrimSpace(name)
		}
	}
	return ""
}

// unpackKernel takes vmlinux out of a bzImage (Documentation/arch/x86/boot.rst
// of the kernel), so that no decompressor has to run emulated: that takes
// several seconds on a busy host. If it is not compressed with LZ4, the bzImage
// itself has to do.
func unpackKernel(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	if len(b) < 0x250 || string(b[0x202:0x206]) != "HdrS" {
		return fmt.Errorf("%s is no bzImage", from)
	}
	at := (int(b[0x1f1])+1)*512 + int(le.Uint32(b[0x248:]))
	end := at + int(le.Uint32(b[0x24c:])) - 4 // the length of what is packed follows it
	if at < 0 || end < at+4 || end > len(b) {
		return fmt.Errorf("%s: its payload is outside", from)
	}
	if string(b[at:at+4]) != "\x02\x21\x4c\x18" {
		return os.WriteFile(to, b, 0o644)
	}
	cmd := exec.Command("lz4", "-dc")
	cmd.Stdin = bytes.NewReader(b[at:end])
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("lz4 of the kernel in %s: %w", from, err)
	}
	return os.WriteFile(to, out, 0o644)
}

// initrd makes the guest's first file system: the userland and modules.
func (g *Guest) initrd(kernel, version string, modules []string) string {
	l := g.l
	l.T.Helper()
	file := g.Dir + ".initrd"
	var list []string
	for _, m := range modules {
		out := l.Run("modprobe", "-d", kernel, "-S", version, "--show-depends", m)
		for line := range strings.Lines(out) {
			if f := strings.Fields(line); len(f) >= 2 && f[0] == "insmod" {
				list = append(list, f[1])
			}
		}
	}
	mods := g.Dir + ".mods"
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
		"-kernel", filepath.Join(kernel, "vmlinux"), "-initrd", g.initrd(kernel, version, modules)}
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
