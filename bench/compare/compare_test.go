// SPDX-License-Identifier: Apache-2.0

package compare

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"rsio/rsio/blocktest"
)

func TestParseStat(t *testing.T) {
	const rest = " S 41 7 7 0 -1 4194560 500 0 0 0 120 30 4 5 20 0 16 0 100 1 1"
	for _, row := range []struct {
		desc, line string
		ok         bool
	}{
		{"plain", "42 (rsio-target)" + rest, true},
		{"parentheses and spaces in the name", "42 (a) (b 1 2)" + rest, true},
		{"no name", "42" + rest, false},
		{"cut off", "42 (x) S 41 7", false},
		{"no number", "42 (x)" + strings.Replace(rest, "120", "x", 1), false},
	} {
		s, err := parseStat(row.line)
		if (err == nil) != row.ok {
			t.Errorf("%s: %v", row.desc, err)
		}
		want := procStat{pid: 42, parent: 41, cpu: 1500 * time.Millisecond, children: 90 * time.Millisecond}
		if row.ok && s != want {
			t.Errorf("%s: %+v", row.desc, s)
		}
	}
}

func TestTreeCPUCountsChildren(t *testing.T) {
	before, err := treeCPU([]int{os.Getpid()})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	most := before
	for end := time.Now().Add(10 * time.Second); most-before < 50*time.Millisecond && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if most, err = treeCPU([]int{os.Getpid()}); err != nil {
			t.Fatal(err)
		}
	}
	_ = cmd.Wait()
	after, err := treeCPU([]int{os.Getpid()})
	if err != nil || after-before < 50*time.Millisecond {
		t.Errorf("the child took %v (running) and %v (ended), %v", most-before, after-before, err)
	}
	if _, err := treeCPU([]int{1 << 30}); err == nil {
		t.Error("no error for a process that does not exist")
	}
}

const fioOut = `note: something
{"jobs":[{"error":0,"read":{"total_ios":1000,"io_bytes":4096000,"iops":500.5,"clat_ns":{"percentile":{"99.000000":120000}}},
"write":{"total_ios":0,"io_bytes":0,"iops":0,"clat_ns":{}}}]}`

func TestParseFio(t *testing.T) {
	f, err := parseFio([]byte(fioOut))
	if err != nil || f.ops != 1000 || f.iops != 500.5 || f.p99 != 120*time.Microsecond {
		t.Errorf("%+v, %v", f, err)
	}
	s := f.sample(20 * time.Millisecond)
	if s.ServerUS != 20 || s.MBps != 500.5*4096/1e6 {
		t.Errorf("%+v", s)
	}
	for _, bad := range []string{"", "{", `{"jobs":[]}`, strings.Replace(fioOut, `"error":0`, `"error":5`, 1)} {
		if _, err := parseFio([]byte(bad)); err == nil {
			t.Errorf("no error for %q", bad)
		}
	}
}

func TestReport(t *testing.T) {
	r := newReport(Options{Rounds: 3, Runtime: time.Second, Size: 1 << 20}, t.TempDir())
	w := Workloads()[0]
	for _, v := range []float64{100, 300, 200} {
		r.add(contender{name: referenceOne, hops: 1}, w, Sample{IOPS: v, ServerUS: 10})
		r.add(contender{name: "rsio 1 hop", hops: 1}, w, Sample{IOPS: 2 * v, ServerUS: 5})
		r.add(contender{name: "rsio 2 hops", hops: 2}, w, Sample{IOPS: v, ServerUS: 5})
	}
	r.Missing = []Missing{{"qemu-nbd", "not found"}}
	r.summarise()
	x := r.Results[0]
	if x.Contender != "rsio 1 hop" || x.IOPS != (Figure{400, 1}) || x.IOPSRatio != 2 || x.ServerRatio != 0.5 {
		t.Errorf("%+v", x)
	}
	if two := r.Results[2]; two.IOPSRatio != 0 {
		t.Errorf("a ratio to a reference that was not measured: %+v", two)
	}
	var b bytes.Buffer
	if err := r.WriteTable(&b); err != nil || !strings.Contains(b.String(), "!!! qemu-nbd IS NOT MEASURED: not found") {
		t.Errorf("%v\n%s", err, b.String())
	}
	if r.Complete() {
		t.Error("a report with a missing contender is complete")
	}
}

// TestMissing runs with a directory for the daemons in which there are none:
// that has to be said, and everything has to be gone afterwards.
func TestMissing(t *testing.T) {
	if testing.Short() {
		blocktest.NotChecked(t, "it starts servers, which -short leaves out; make test runs it")
	}
	for _, name := range []string{"fio", "nbdkit", "qemu-nbd", "nbd-server"} {
		if _, err := exec.LookPath(name); err != nil {
			blocktest.Missing(t, err.Error())
		}
	}
	dir, log := t.TempDir(), new(bytes.Buffer)
	rep, err := Run(t.Context(), Options{Rounds: 1, Runtime: 200 * time.Millisecond, Size: 16 << 20, Dir: dir, Bin: t.TempDir(),
		Workloads: QuickWorkloads()[1:3], Log: log})
	if err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	if len(rep.Missing) != 2 || len(rep.Failures) != 0 || strings.Count(log.String(), "IS NOT MEASURED") != 2 {
		t.Errorf("missing %v, failed %v\n%s", rep.Missing, rep.Failures, log)
	}
	if len(rep.Results) != 8 {
		t.Errorf("%d results, want those of 4 contenders in 2 workloads", len(rep.Results))
	}
	for _, x := range rep.Results {
		if x.IOPS.Median < 100 || x.ServerUS.Median <= 0 {
			t.Errorf("%s in %s: %+v", x.Contender, x.Workload.Name, x.Samples)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
