// SPDX-License-Identifier: Apache-2.0

package compare

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// Workload is one kind of load.
type Workload struct {
	Name  string `json:"name"`
	RW    string `json:"rw"`    // as fio calls it
	Block int    `json:"block"` // bytes
	Depth int    `json:"depth"` // requests in flight of each job
	Jobs  int    `json:"jobs"`  // connections
}

// Workloads returns those of a full comparison.
func Workloads() []Workload {
	return []Workload{
		{"randread 4k qd1", "randread", 4096, 1, 1},
		{"randread 4k qd32", "randread", 4096, 32, 1},
		{"randread 4k 4xqd32", "randread", 4096, 32, 4},
		{"randwrite 4k qd1", "randwrite", 4096, 1, 1},
		{"randwrite 4k qd32", "randwrite", 4096, 32, 1},
		{"randwrite 4k 4xqd32", "randwrite", 4096, 32, 4},
		{"read 1M qd8", "read", 1 << 20, 8, 1},
		{"write 1M qd8", "write", 1 << 20, 8, 1},
	}
}

// QuickWorkloads returns a few that tell whether everything works.
func QuickWorkloads() []Workload {
	all := Workloads()
	return []Workload{all[0], all[1], all[4], all[6]}
}

func (w Workload) changes() bool { return strings.HasSuffix(w.RW, "write") }

// sequential workloads are reported in MB/s, the others in IOPS.
func (w Workload) sequential() bool { return !strings.HasPrefix(w.RW, "rand") }

// fioRun is the outcome of one run of fio.
type fioRun struct {
	ops    uint64
	bytes  uint64
	iops   float64
	p99    time.Duration // of completion
	client time.Duration // CPU of fio itself
}

// runFio loads a server for the run time.
func (l *lab) runFio(uri string, w Workload) (fioRun, error) {
	limit := l.opt.Runtime + 20*time.Second
	return l.fioArgs(limit, uri, "--rw="+w.RW, fmt.Sprintf("--bs=%d", w.Block), fmt.Sprintf("--iodepth=%d", w.Depth),
		fmt.Sprintf("--numjobs=%d", w.Jobs), "--norandommap", "--randrepeat=0", "--time_based",
		fmt.Sprintf("--runtime=%dms", l.opt.Runtime.Milliseconds()))
}

// fill writes the whole disk once.
func (l *lab) fill(uri string) error {
	_, err := l.fioArgs(2*time.Minute, uri, "--rw=write", "--bs=1m", "--iodepth=8", "--refill_buffers")
	return err
}

func (l *lab) fioArgs(limit time.Duration, uri string, args ...string) (fioRun, error) {
	ctx, cancel := context.WithTimeout(l.ctx, limit)
	defer cancel()
	args = append([]string{"--name=load", "--ioengine=nbd", "--uri=" + uri, "--group_reporting", "--output-format=json",
		fmt.Sprintf("--size=%d", l.opt.Size)}, args...)
	cmd := exec.CommandContext(ctx, l.fio, args...)
	cmd.Dir = l.dir
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it ends its jobs
	cmd.WaitDelay = 5 * time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return fioRun{}, fmt.Errorf("fio: %w: %s", err, tail(stderr.Bytes()))
	}
	f, err := parseFio(stdout.Bytes())
	f.client = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return f, err
}

// fioSide is the part of fio's output about one direction.
type fioSide struct {
	Ops   uint64  `json:"total_ios"`
	Bytes uint64  `json:"io_bytes"`
	IOPS  float64 `json:"iops"`
	Clat  struct {
		Percentile map[string]float64 `json:"percentile"`
	} `json:"clat_ns"`
}

// parseFio takes what counts from fio's output, which may have messages in
// front of the JSON.
func parseFio(out []byte) (fioRun, error) {
	var doc struct {
		Jobs []struct {
			Error int     `json:"error"`
			Read  fioSide `json:"read"`
			Write fioSide `json:"write"`
		} `json:"jobs"`
	}
	at := bytes.IndexByte(out, '{')
	if at < 0 {
		return fioRun{}, errors.New("fio: no JSON in its output")
	}
	if err := json.Unmarshal(out[at:], &doc); err != nil {
		return fioRun{}, fmt.Errorf("fio: %w", err)
	}
	var f fioRun
	for _, j := range doc.Jobs {
		if j.Error != 0 {
			return f, fmt.Errorf("fio: a job ended with error %d", j.Error)
		}
		for _, s := range []fioSide{j.Read, j.Write} {
			f.ops += s.Ops
			f.bytes += s.Bytes
			f.iops += s.IOPS
			f.p99 = max(f.p99, time.Duration(s.Clat.Percentile["99.000000"]))
		}
	}
	if f.ops == 0 {
		return f, errors.New("fio: not a single request was done")
	}
	return f, nil
}

// sample turns a run of fio and the CPU time of the servers into figures.
func (f fioRun) sample(server time.Duration) Sample {
	n := float64(f.ops)
	return Sample{
		IOPS:     f.iops,
		MBps:     f.iops * float64(f.bytes) / n / 1e6,
		ServerUS: float64(server.Nanoseconds()) / 1e3 / n,
		ClientUS: float64(f.client.Nanoseconds()) / 1e3 / n,
		P99US:    float64(f.p99.Nanoseconds()) / 1e3,
	}
}
