// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"rsio/rsio/admin"
	"rsio/rsio/admin/api"
)

// Rate is the difference of two samples of one volume's counters.
type Rate struct {
	Name       string  `json:"name"`
	Reads      float64 `json:"reads"`       // per second
	Writes     float64 `json:"writes"`      // per second
	Others     float64 `json:"others"`      // per second, flushes included
	ReadBytes  float64 `json:"read_bytes"`  // per second
	WriteBytes float64 `json:"write_bytes"` // per second
	Errors     float64 `json:"errors"`      // per second
	Conflicts  float64 `json:"conflicts"`   // of the errors, those of a reservation, per second
	ServiceUS  float64 `json:"service_us"`  // mean time of a request, microseconds
	Inflight   uint64  `json:"inflight"`    // now
}

func (a *app) top() *cobra.Command {
	var target string
	var once bool
	var interval time.Duration
	c := &cobra.Command{Use: "top", Short: "Show what is going on, busiest first", Args: noArgs}
	c.RunE = a.runLong(func(ctx context.Context, c *admin.Client, _ []string) error {
		if interval < time.Millisecond {
			return usage("top", "the interval is too short", "give one like --interval 1s")
		}
		old, err := a.sample(ctx, c, target)
		for err == nil {
			select {
			case <-time.After(interval):
			case <-ctx.Done():
				return nil // the way to end it
			}
			var now sample
			if now, err = a.sample(ctx, c, target); err != nil {
				break
			}
			l := rates(old, now)
			if err = a.show(l, func(w io.Writer) error { return rateTable(w, l, isTerminal(w) && !once) }); once {
				break
			}
			old = now
		}
		if ctx.Err() != nil {
			return nil
		}
		return err
	})
	c.Flags().BoolVar(&once, "once", false, "one time only")
	c.Flags().DurationVar(&interval, "interval", time.Second, "between two samples")
	a.targetFlag(c, &target, "of this target")
	return c
}

type sample struct {
	at   time.Time
	list []api.Counters
}

func (a *app) sample(ctx context.Context, c *admin.Client, target string) (sample, error) {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	l, err := c.Counters(ctx, target)
	return sample{at: time.Now(), list: l}, err
}

// rates returns what happened between two samples. Counters that went back
// are those of a daemon that was started in between: they count from zero.
func rates(old, now sample) []Rate {
	before := map[string]api.Counters{}
	for _, c := range old.list {
		before[c.Name] = c
	}
	seconds := max(now.at.Sub(old.at).Seconds(), 1e-6)
	l := []Rate{}
	for _, c := range now.list {
		b := before[c.Name]
		if c.Reads < b.Reads || c.Writes < b.Writes || c.Others < b.Others || c.Flushes < b.Flushes {
			b = api.Counters{}
		}
		per := func(now, old uint64) float64 { return float64(now-min(old, now)) / seconds }
		r := Rate{
			Name: c.Name, Inflight: c.Inflight,
			Reads: per(c.Reads, b.Reads), Writes: per(c.Writes, b.Writes), Others: per(c.Others+c.Flushes, b.Others+b.Flushes),
			ReadBytes: per(c.ReadBytes, b.ReadBytes), WriteBytes: per(c.WriteBytes, b.WriteBytes), Errors: per(c.Errors, b.Errors),
			Conflicts: per(c.Conflicts, b.Conflicts),
		}
		if ops := (r.Reads + r.Writes + r.Others) * seconds; ops > 0 {
			r.ServiceUS = float64((c.Busy - b.Busy).Microseconds()) / ops
		}
		l = append(l, r)
	}
	slices.SortStableFunc(l, func(x, y Rate) int {
		return cmp.Compare(y.Reads+y.Writes+y.Others, x.Reads+x.Writes+x.Others)
	})
	return l
}

func rateTable(w io.Writer, l []Rate, clear bool) error {
	if clear {
		if _, err := io.WriteString(w, "\x1b[H\x1b[2J"); err != nil {
			return err
		}
	}
	t := newTable("NAME", "READ/S", "WRITE/S", "OTHER/S", "READ", "WRITTEN", "SERVICE", "IN FLIGHT", "ERRORS/S", "CONFLICTS/S")
	for _, r := range l {
		t.row(r.Name, fmt.Sprintf("%.0f", r.Reads), fmt.Sprintf("%.0f", r.Writes), fmt.Sprintf("%.0f", r.Others),
			api.FormatSize(uint64(r.ReadBytes))+"/s", api.FormatSize(uint64(r.WriteBytes))+"/s", fmt.Sprintf("%.0fus", r.ServiceUS),
			fmt.Sprint(r.Inflight), fmt.Sprintf("%.0f", r.Errors), fmt.Sprintf("%.0f", r.Conflicts))
	}
	return t.write(w)
}
