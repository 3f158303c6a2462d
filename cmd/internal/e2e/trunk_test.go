// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"rsio/rsio/blocktest"
)

// TestTrunk measures what a second link brings: `make trunk`. It judges nothing,
// since speed depends on the machine.
func TestTrunk(t *testing.T) {
	if os.Getenv("RSIO_TRUNK") == "" {
		blocktest.NotChecked(t, "throughput over two links is measured, not judged: make trunk")
	}
	needRoot(t)
	need(t, "tc", "fio", "nsenter")
	l := NewLab(t, binDir)
	n := l.NewNet(2)
	for k := range n.Links {
		for ns, dev := range map[string]string{n.I: fmt.Sprintf("i%d", k), n.T: fmt.Sprintf("t%d", k)} {
			n.In(ns, "tc", "qdisc", "add", "dev", dev, "root", "tbf", "rate", "400mbit", "burst", "128kb", "latency", "20ms")
		}
	}
	var portals, addrs []string
	for path := range 4 { // two links, two portals on each
		k := path % 2
		portals = append(portals, fmt.Sprintf("%s:%d", n.Remote(k), 8861+path/2))
		addrs = append(addrs, fmt.Sprintf("%s:%d%%%s", n.Remote(k), 8861+path/2, n.Local(k)))
	}
	p := l.NewPair(PairOptions{Portals: portals, Addresses: addrs, TargetNetns: n.T, InitiatorNetns: n.I, TargetArgs: []string{"--insecure"}, InMemory: true})
	p.Volume("v", "1G")
	l.Run("fio", "--name=fill", "--ioengine=nbd", "--uri="+p.URI("v"), "--rw=write", "--bs=1M", "--iodepth=8", "--size=256M")
	type row struct {
		name  string
		paths []int
	}
	rows := []row{{"1 path", []int{0}}, {"2 paths, 2 links", []int{0, 1}}, {"2 paths, 1 link", []int{0, 2}}, {"4 paths, 2 links", []int{0, 1, 2, 3}}}
	for _, w := range []struct{ name, rw, bs, depth string }{
		{"1 MiB sequential read", "read", "1M", "16"}, {"1 MiB sequential write", "write", "1M", "16"},
		{"4 KiB random read", "randread", "4k", "64"}, {"4 KiB random write", "randwrite", "4k", "64"},
	} {
		var one float64
		for _, r := range rows {
			want := map[int]bool{}
			for _, k := range r.paths {
				want[k] = true
			}
			for k := range 4 {
				verb := "disable"
				if want[k] {
					verb = "enable"
				}
				p.Ctl(p.Sock, "path", verb, fmt.Sprintf("st1/%d", k))
			}
			p.WaitPaths(len(r.paths))
			mb := fioMB(t, l, "--uri="+p.URI("v"), "--rw="+w.rw, "--bs="+w.bs, "--iodepth="+w.depth, "--size=256M", "--time_based", "--runtime=4")
			if one == 0 {
				one = mb
			}
			t.Logf("%-24s %-18s %7.1f MB/s  %.2f x one path", w.name, r.name, mb, mb/one)
		}
	}
}

// fioMB runs fio and returns its throughput in MB/s.
func fioMB(t *testing.T, l *Lab, args ...string) float64 {
	t.Helper()
	out := l.Run(append([]string{"fio", "--name=x", "--ioengine=nbd", "--output-format=json"}, args...)...)
	if i := strings.IndexByte(out, '{'); i > 0 {
		out = out[i:] // fio says other things first
	}
	var j struct {
		Jobs []struct {
			Read, Write struct {
				Bytes float64 `json:"bw_bytes"`
			}
		}
	}
	if err := json.Unmarshal([]byte(out), &j); err != nil || len(j.Jobs) != 1 {
		t.Fatalf("fio: %v\n%s", err, out)
	}
	return (j.Jobs[0].Read.Bytes + j.Jobs[0].Write.Bytes) / 1e6
}
