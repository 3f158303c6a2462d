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

func (a *app) path() *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "List paths", Args: noArgs}
	c.RunE = a.run(func(ctx context.Context, c *admin.Client, _ []string) error {
		l, err := c.Paths(ctx)
		if err != nil {
			return err
		}
		return a.show(l, func(w io.Writer) error {
			t := newTable("PATH", "STATE", "NEXUS", "LOCAL", "REMOTE", "IN FLIGHT", "SERVICE", "REQUESTS", "BYTES", "RESENT", "FAILURES", "REASON")
			for _, p := range l {
				t.row(p.ID, p.State, p.Nexus, p.Local, p.Remote, api.FormatSize(p.Outstanding), fmt.Sprintf("%.0fus", p.ServiceUS),
					fmt.Sprint(p.Requests), api.FormatSize(p.Bytes), fmt.Sprint(p.Resent), fmt.Sprint(p.Failures), p.Reason)
			}
			return t.write(w)
		})
	})
	return noun("path", "The connections to targets", c,
		a.pathSet("disable", "Take a path out of use", false), a.pathSet("enable", "Use a path again", true))
}

func (a *app) pathSet(verb, short string, enabled bool) *cobra.Command {
	c := &cobra.Command{Use: verb + " ID|ADDRESS", Short: short, Args: args("PATH"), ValidArgsFunction: a.completeArgs(1, false, pathNames)}
	c.RunE = a.run(func(ctx context.Context, c *admin.Client, args []string) error {
		if err := c.PathSet(ctx, args[0], enabled); err != nil {
			return err
		}
		return a.show(struct{}{}, say("path %s %sd", args[0], verb))
	})
	return c
}
