// SPDX-License-Identifier: Apache-2.0

package compare

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// WriteJSON writes the whole report with every sample.
func (r *Report) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", " ")
	return enc.Encode(r)
}

// WriteTable writes medians for people. Spread is the distance of the largest
// and the smallest sample in percent of the median.
func (r *Report) WriteTable(w io.Writer) error {
	m := r.Machine
	var head strings.Builder
	fmt.Fprintf(&head, "%s, %d CPUs (%s), %d MiB, kernel %s, %s, load before %s, after %s\n", r.Time.Format("2006-01-02 15:04 MST"),
		m.CPUs, m.Model, m.MemoryMiB, m.Kernel, m.FS, m.LoadBefore, m.LoadAfter)
	fmt.Fprintf(&head, "%d rounds of %g s, disks of %d MiB. CPU: utime+stime of all server processes for one request.\n", r.Rounds, r.Seconds, r.Size>>20)
	median, worst, repeats := r.noise()
	fmt.Fprintf(&head, "Others took %.0f%% of the CPUs (median), %.0f%% at worst; %d measurements were repeated because of them.\n", 100*median, 100*worst, repeats)
	names := make([]string, 0, len(r.Versions))
	for n := range r.Versions {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		fmt.Fprintf(&head, "  %s: %s\n", n, r.Versions[n])
	}
	if _, err := io.WriteString(w, head.String()+r.warnings()); err != nil {
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	last := ""
	for _, x := range r.Results {
		if x.Workload.Name != last {
			last = x.Workload.Name
			unit := "IOPS"
			if x.Workload.sequential() {
				unit = "MB/s"
			}
			fmt.Fprintf(tw, "\t\t\t\t\t\t\t\t\n%s\t%s\tspread\tCPU us/op\tspread\tp99 us\tclient us/op\t%s : ref\tCPU : ref\t\n", last, unit, unit)
		}
		x.row(tw)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\nref: %q for one hop, %q for two hops\n", referenceOne, referenceTwo)
	return err
}

func (x *Result) row(w io.Writer) {
	rate := x.IOPS
	if x.Workload.sequential() {
		rate = x.MBps
	}
	_, _ = fmt.Fprintf(w, "%s\t%.0f\t%s\t%.2f\t%s\t%.0f\t%.2f\t%.2f\t%.2f\t\n", x.Contender, rate.Median, x.spread(rate),
		x.ServerUS.Median, x.spread(x.ServerUS), x.P99US.Median, x.ClientUS.Median, x.IOPSRatio, x.ServerRatio) // Flush reports it
}

// spread is a dash for a single sample: nothing is known of it.
func (x *Result) spread(f Figure) string {
	if len(x.Samples) < 2 {
		return "-"
	}
	return fmt.Sprintf("%.0f%%", 100*f.Spread)
}

// warnings says who was not measured.
func (r *Report) warnings() string {
	var b strings.Builder
	for _, m := range r.Missing {
		fmt.Fprintf(&b, "!!! %s IS NOT MEASURED: %s\n", m.Contender, m.Why)
	}
	for _, m := range r.Failures {
		fmt.Fprintf(&b, "!!! %s FAILED in %s\n", m.Contender, m.Why)
	}
	return b.String()
}

// Complete reports whether every contender was measured under every workload.
func (r *Report) Complete() bool { return len(r.Missing) == 0 && len(r.Failures) == 0 }
