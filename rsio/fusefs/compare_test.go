// SPDX-License-Identifier: Apache-2.0

package fusefs

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestCompare compares with nbdfuse over nbdkit, in interleaved rounds: both
// serve a device in memory. RSIO_BENCH is the number of rounds.
//
//	RSIO_BENCH=5 go test ./rsio/fusefs -run Compare -v
func TestCompare(t *testing.T) {
	rounds, _ := strconv.Atoi(os.Getenv("RSIO_BENCH"))
	if rounds == 0 {
		t.Skip("a benchmark: set RSIO_BENCH to the number of rounds")
	}
	need(t, "fio", "nbdkit", "nbdfuse", "fusermount3")
	const size = 256 << 20
	r := newRig(t, Options{})
	ours := r.add("vol", memory(t, size, 1))
	theirs := nbdfuse(t, size)
	kinds := []struct {
		name string
		args []string
	}{
		{"randread 4k", []string{"--rw=randread", "--bs=4k", "--iodepth=16"}},
		{"randwrite 4k", []string{"--rw=randwrite", "--bs=4k", "--iodepth=16"}},
		{"read 1m", []string{"--rw=read", "--bs=1m", "--iodepth=4"}},
		{"write 1m", []string{"--rw=write", "--bs=1m", "--iodepth=4"}},
	}
	if one := os.Getenv("RSIO_BENCH_KIND"); one != "" {
		i, _ := strconv.Atoi(one)
		kinds = kinds[i : i+1]
	}
	for _, path := range []string{ours, theirs} { // memory is there
		run(t, "dd", "if=/dev/zero", "of="+path, "bs=1M", "count=256", "conv=notrunc", "status=none")
	}
	only := os.Getenv("RSIO_BENCH_ONLY") != ""
	for _, k := range kinds {
		var a, b, cpu []float64
		for range rounds {
			before, began := cpuTime(), runtime.MemStats{}
			runtime.ReadMemStats(&began)
			n := fio(t, ours, k.args...)
			a = append(a, n)
			cpu = append(cpu, float64((cpuTime()-before).Microseconds())/n/2)
			var ended runtime.MemStats
			runtime.ReadMemStats(&ended)
			t.Logf("%s: %.0f/s; per request %.1f allocations, %.0f bytes; %d collections", k.name, n,
				float64(ended.Mallocs-began.Mallocs)/n/2, float64(ended.TotalAlloc-began.TotalAlloc)/n/2, ended.NumGC-began.NumGC)
			if !only {
				b = append(b, fio(t, theirs, k.args...))
			}
		}
		if only {
			b = a
		}
		fmt.Printf("%-14s fusefs %8.0f/s (%5.1f us CPU each), nbdfuse %8.0f/s, ratio %.2f\n", k.name, median(a), median(cpu), median(b), median(a)/median(b))
	}
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

func cpuTime() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u) // cannot fail
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// fio returns the requests per second of a run of two seconds.
func fio(t *testing.T, path string, args ...string) float64 {
	t.Helper()
	args = append([]string{"fio", "--name=x", "--filename=" + path, "--direct=1", "--ioengine=libaio", "--time_based", "--runtime=2",
		"--norandommap", "--randrepeat=0", "--output-format=json"}, args...)
	out := run(t, args...)
	var res struct {
		Jobs []struct {
			Read, Write struct{ IOPS float64 }
		}
	}
	if err := json.Unmarshal([]byte(out), &res); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return res.Jobs[0].Read.IOPS + res.Jobs[0].Write.IOPS
}

// nbdfuse serves nbdkit's memory plugin as a file.
func nbdfuse(t *testing.T, size int) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("nbdfuse", dir, "--command", "nbdkit", "-s", "--exit-with-parent", "memory", strconv.Itoa(size))
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Unmount(dir, unix.MNT_FORCE|unix.MNT_DETACH) // ends it
		_ = cmd.Wait()
	})
	path := filepath.Join(dir, "nbd")
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(path); err == nil {
			return path
		}
		if time.Now().After(end) {
			t.Fatal("nbdfuse does not come up")
		}
	}
}
