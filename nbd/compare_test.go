// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"rsio/rsio/blocktest"
)

// cpu returns the CPU time of this process or of its children.
func cpu(who int) time.Duration {
	var r syscall.Rusage
	if syscall.Getrusage(who, &r) != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

type fioResult struct {
	iops   float64
	p99    time.Duration
	ios    float64
	server time.Duration // CPU of the server
}

func (r fioResult) String() string {
	return fmt.Sprintf("%8.0f IOPS  p99 %8v  server CPU %6.2f us/io", r.iops, r.p99, float64(r.server.Microseconds())/r.ios)
}

// runFio runs one job against uri. used returns the CPU the server has used.
func runFio(t *testing.T, uri, rw, bs string, depth int, used func() time.Duration) fioResult {
	t.Helper()
	before := used()
	args := []string{"--name=j", "--ioengine=nbd", "--uri=" + uri, "--rw=" + rw, "--bs=" + bs, "--iodepth=" + fmt.Sprint(depth),
		"--time_based", "--runtime=2", "--ramp_time=0", "--size=256m", "--randrepeat=0", "--norandommap", "--output-format=json"}
	out, err := exec.Command("fio", args...).Output()
	if err != nil {
		t.Fatalf("fio: %v\n%s", err, out)
	}
	spent := used() - before
	var j struct {
		Jobs []map[string]json.RawMessage `json:"jobs"`
	}
	text := string(out)
	if err := json.Unmarshal([]byte(text[strings.Index(text, "{"):]), &j); err != nil {
		t.Fatal(err)
	}
	var d struct {
		IOPS  float64 `json:"iops"`
		Total float64 `json:"total_ios"`
		Clat  struct {
			P map[string]float64 `json:"percentile"`
		} `json:"clat_ns"`
	}
	kind := "read"
	if strings.HasSuffix(rw, "write") {
		kind = "write"
	}
	if err := json.Unmarshal(j.Jobs[0][kind], &d); err != nil {
		t.Fatal(err)
	}
	return fioResult{iops: d.IOPS, ios: d.Total, p99: time.Duration(d.Clat.P["99.000000"]), server: spent}
}

// TestCompareNBDKit prints figures; it runs only when RSIO_COMPARE is set.
func TestCompareNBDKit(t *testing.T) {
	what := os.Getenv("RSIO_COMPARE")
	if what == "" {
		blocktest.NotChecked(t, "speed beside nbdkit is measured, not judged: RSIO_COMPARE=all, or a part of a name")
	}
	dir := t.TempDir()
	type target struct {
		name string
		uri  string
		used func() time.Duration
	}
	var all []target
	for _, w := range []int{0, 4} {
		d := newMemory(256<<20, w)
		defer closeDevice(t, d)
		b := serve(t, one(d), Options{})
		all = append(all, target{fmt.Sprintf("rsio/workers=%d", w), "nbd+unix:///vol?socket=" + b.addr.String(), func() time.Duration { return cpu(syscall.RUSAGE_SELF) }})
	}
	file := filepath.Join(dir, "f")
	if err := os.WriteFile(file, make([]byte, 256<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, plugin := range map[string][]string{"nbdkit/memory": {"memory", "256M"}, "nbdkit/file": {"file", file}} {
		sock := filepath.Join(dir, strings.ReplaceAll(name, "/", "-"))
		ctx, cancel := context.WithCancel(context.Background())
		cmd := exec.CommandContext(ctx, "nbdkit", append([]string{"-f", "-U", sock}, plugin...)...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { cancel(); _ = cmd.Wait() }()
		eventually(t, "socket of nbdkit", func() bool { _, err := os.Stat(sock); return err == nil })
		pid := cmd.Process.Pid
		all = append(all, target{name, "nbd+unix:///?socket=" + sock, func() time.Duration { return procCPU(pid) }})
	}
	if p := os.Getenv("RSIO_CPUPROFILE"); p != "" {
		f, err := os.Create(p)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			t.Fatal(err)
		}
		defer pprof.StopCPUProfile()
	}
	for _, job := range []struct {
		rw, bs string
		depth  int
	}{{"randread", "4k", 32}, {"randread", "4k", 1}, {"randwrite", "4k", 32}, {"randwrite", "4k", 1}, {"randread", "64k", 16}, {"randread", "1m", 4}, {"randwrite", "1m", 4}} {
		sum := map[string][]fioResult{}
		for range 5 { // in turns: the machine has other things to do
			for _, x := range all {
				name := fmt.Sprintf("%s-%s-%d %s", job.rw, job.bs, job.depth, x.name)
				if what == "all" || strings.Contains(name, what) {
					sum[name] = append(sum[name], runFio(t, x.uri, job.rw, job.bs, job.depth, x.used))
				}
			}
		}
		for name, r := range sum {
			slices.SortFunc(r, func(a, b fioResult) int { return int(a.iops - b.iops) })
			var server time.Duration
			var ios float64
			for _, x := range r {
				server, ios = server+x.server, ios+x.ios
			}
			m := r[len(r)/2]
			m.server, m.ios = server, ios
			t.Logf("%-36s %v", name, m)
		}
	}
}

// procCPU returns the CPU time of another process, in steps of 10 ms.
func procCPU(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+2:]))
	var u, s int64
	_, _ = fmt.Sscan(f[11], &u)
	_, _ = fmt.Sscan(f[12], &s)
	return time.Duration(u+s) * 10 * time.Millisecond
}
