// SPDX-License-Identifier: Apache-2.0

package compare

import (
	"slices"
	"time"
)

// Report is the outcome of a comparison.
type Report struct {
	Time     time.Time         `json:"time"`
	Machine  Machine           `json:"machine"`
	Versions map[string]string `json:"versions"`
	Rounds   int               `json:"rounds"`
	Seconds  float64           `json:"seconds"`
	Size     int64             `json:"size"` // bytes of a disk
	Missing  []Missing         `json:"missing,omitempty"`
	Failures []Missing         `json:"failures,omitempty"`
	Results  []*Result         `json:"results"`
}

// Missing is a contender that was not measured, or not in one workload.
type Missing struct {
	Contender string `json:"contender"`
	Why       string `json:"why"`
}

// Result is one contender under one workload.
type Result struct {
	Workload  Workload `json:"workload"`
	Contender string   `json:"contender"`
	Hops      int      `json:"hops"`
	Samples   []Sample `json:"samples"` // one per round
	IOPS      Figure   `json:"iops"`
	MBps      Figure   `json:"mbps"`      // 10^6 bytes
	ServerUS  Figure   `json:"server_us"` // CPU of all servers for one request
	ClientUS  Figure   `json:"client_us"` // CPU of fio for one request
	P99US     Figure   `json:"p99_us"`    // latency
	Reference string   `json:"reference"`
	// Ratios to the reference; 0 if that was not measured.
	IOPSRatio   float64 `json:"iops_ratio"`
	ServerRatio float64 `json:"server_ratio"`
}

// Sample is one measurement.
type Sample struct {
	IOPS     float64 `json:"iops"`
	MBps     float64 `json:"mbps"`
	ServerUS float64 `json:"server_us"`
	ClientUS float64 `json:"client_us"`
	P99US    float64 `json:"p99_us"`
	Other    float64 `json:"other"`             // share of all processors that neither servers nor client took
	Repeats  int     `json:"repeats,omitempty"` // measurements given up for this one, because of others
}

// Figure is the median of some samples and how far they lie apart.
type Figure struct {
	Median float64 `json:"median"`
	Spread float64 `json:"spread"` // (largest - smallest) / median
}

func newReport(opt Options, dir string) *Report {
	return &Report{Time: time.Now().UTC().Truncate(time.Second), Machine: machine(dir), Rounds: opt.Rounds,
		Seconds: opt.Runtime.Seconds(), Size: opt.Size}
}

// result returns what there is of a contender under a workload, or nil.
func (r *Report) result(contender, workload string) *Result {
	i := slices.IndexFunc(r.Results, func(x *Result) bool { return x.Contender == contender && x.Workload.Name == workload })
	if i < 0 {
		return nil
	}
	return r.Results[i]
}

func (r *Report) add(c contender, w Workload, s Sample) {
	x := r.result(c.name, w.Name)
	if x == nil {
		x = &Result{Workload: w, Contender: c.name, Hops: c.hops, Reference: c.reference()}
		r.Results = append(r.Results, x)
	}
	x.Samples = append(x.Samples, s)
}

// summarise computes medians and ratios and sorts by workload and contender.
func (r *Report) summarise() {
	for _, x := range r.Results {
		x.IOPS = figure(x.Samples, func(s Sample) float64 { return s.IOPS })
		x.MBps = figure(x.Samples, func(s Sample) float64 { return s.MBps })
		x.ServerUS = figure(x.Samples, func(s Sample) float64 { return s.ServerUS })
		x.ClientUS = figure(x.Samples, func(s Sample) float64 { return s.ClientUS })
		x.P99US = figure(x.Samples, func(s Sample) float64 { return s.P99US })
	}
	for _, x := range r.Results {
		if ref := r.result(x.Reference, x.Workload.Name); ref != nil {
			x.IOPSRatio = ratio(x.IOPS.Median, ref.IOPS.Median)
			x.ServerRatio = ratio(x.ServerUS.Median, ref.ServerUS.Median)
		}
	}
	rank := make(map[string]int)
	for i, c := range contenders() {
		rank[c.name] = i
	}
	var order []string // of workloads: as they were measured
	for _, x := range r.Results {
		if !slices.Contains(order, x.Workload.Name) {
			order = append(order, x.Workload.Name)
		}
	}
	slices.SortStableFunc(r.Results, func(a, b *Result) int {
		if d := slices.Index(order, a.Workload.Name) - slices.Index(order, b.Workload.Name); d != 0 {
			return d
		}
		return rank[a.Contender] - rank[b.Contender]
	})
}

// noise returns how much others took of the processors in half of all
// measurements at most, in the worst one, and how often one was repeated.
func (r *Report) noise() (median, worst float64, repeats int) {
	var all []Sample
	for _, x := range r.Results {
		all = append(all, x.Samples...)
	}
	for _, s := range all {
		worst = max(worst, s.Other)
		repeats += s.Repeats
	}
	return figure(all, func(s Sample) float64 { return s.Other }).Median, worst, repeats
}

func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

func figure(samples []Sample, of func(Sample) float64) Figure {
	v := make([]float64, 0, len(samples))
	for _, s := range samples {
		v = append(v, of(s))
	}
	slices.Sort(v)
	n := len(v)
	if n == 0 {
		return Figure{}
	}
	median := (v[(n-1)/2] + v[n/2]) / 2
	return Figure{Median: median, Spread: ratio(v[n-1]-v[0], median)}
}
