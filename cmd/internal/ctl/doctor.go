// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"rsio/rsio/admin"
	"rsio/rsio/admin/api"
)

func (a *app) doctor() *cobra.Command {
	c := &cobra.Command{
		Use: "doctor", Short: "Look at what devices and files of this host depend on", Args: noArgs,
		Long: "Shows what the initiator has found: drivers of the kernel, rights of the process, the state of\n" +
			"targets and attachments, each with what to do about it. The exit code is 1 if anything is an error.",
	}
	c.RunE = a.run(func(ctx context.Context, c *admin.Client, _ []string) error {
		s, err := c.Status(ctx, "")
		if err != nil {
			return err
		}
		checks := diagnose(s)
		if err := a.show(checks, checkTable(checks)); err != nil {
			return err
		}
		bad := 0
		for _, x := range checks {
			if x.State == "error" {
				bad++
			}
		}
		if bad > 0 {
			return api.Errorf(api.Failed, "doctor", s.Name, fmt.Sprintf("%d of %d checks failed", bad, len(checks)), "")
		}
		return nil
	})
	return c
}

// diagnose lists the daemon's checks and what its status says.
func diagnose(s api.Status) []api.Check {
	out := append([]api.Check{}, s.Checks...)
	for _, w := range s.Warnings {
		out = append(out, api.Check{Name: "daemon", State: "warning", Text: w})
	}
	for _, t := range s.Targets {
		state := map[string]string{"online": "ok", "degraded": "warning"}[t.State]
		if state == "" {
			state = "error"
		}
		c := api.Check{Name: "target " + t.Name, State: state, Text: fmt.Sprintf("%d of %d paths are up", t.PathsUp, t.Paths)}
		if t.Reason != "" {
			c.Text += ": " + t.Reason
			c.Remedy = "rsioctl path list"
		}
		out = append(out, c)
	}
	for _, x := range s.Attachments {
		c := api.Check{Name: "attachment " + x.Name, State: "ok", Text: shownText(x)}
		if x.State != "ok" {
			c.State, c.Text, c.Remedy = "error", x.Reason, "rsioctl path list, rsioctl events"
		}
		if x.Trouble != "" {
			c.State, c.Text, c.Remedy = "error", x.Trouble, "rsioctl events"
		}
		out = append(out, c)
	}
	return out
}

func checkTable(l []api.Check) func(io.Writer) error {
	return func(w io.Writer) error {
		t := newTable("CHECK", "STATE", "WHAT", "REMEDY")
		for _, x := range l {
			t.row(x.Name, x.State, x.Text, x.Remedy)
		}
		return t.write(w)
	}
}
