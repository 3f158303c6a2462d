// SPDX-License-Identifier: Apache-2.0

package compare

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Machine is where a comparison ran.
type Machine struct {
	CPUs       int    `json:"cpus"`
	Model      string `json:"model"`
	MemoryMiB  uint64 `json:"memory_mib"`
	Kernel     string `json:"kernel"`
	FS         string `json:"fs"` // of the disks
	Go         string `json:"go"` // that the harness was built with
	LoadBefore string `json:"load_before"`
	LoadAfter  string `json:"load_after"`
}

func machine(dir string) Machine {
	m := Machine{CPUs: runtime.NumCPU(), Model: cpuModel(), Kernel: firstLine("/proc/sys/kernel/osrelease"), FS: fsName(dir), Go: runtime.Version()}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		m.MemoryMiB = info.Totalram * uint64(info.Unit) >> 20
	}
	return m
}

// firstLine returns the first line of a file of /proc, "" if there is none.
func firstLine(name string) string {
	b, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return line
}

func cpuModel() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// loadAverage is that of the last minute, five and fifteen minutes.
func loadAverage() string {
	f := strings.Fields(firstLine("/proc/loadavg"))
	return strings.Join(f[:min(3, len(f))], " ")
}

func fsName(dir string) string {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return err.Error()
	}
	switch st.Type {
	case unix.TMPFS_MAGIC:
		return "tmpfs"
	case unix.EXT4_SUPER_MAGIC:
		return "ext4"
	case unix.XFS_SUPER_MAGIC:
		return "xfs"
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs"
	}
	return fmt.Sprintf("%#x", st.Type)
}

// versions asks the programs that took part.
func versions(ctx context.Context, paths map[string]string) map[string]string {
	out := make(map[string]string)
	for name, path := range paths {
		flag := "--version"
		switch name {
		case "nbd-server":
			flag = "-V"
		case "rsioctl":
			continue // comes with the daemons
		}
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		b, err := exec.CommandContext(ctx, path, flag).CombinedOutput()
		cancel()
		line, _, _ := strings.Cut(strings.TrimSpace(string(b)), "\n")
		if line == "" && err != nil {
			line = err.Error()
		}
		out[name] = line
	}
	return out
}
