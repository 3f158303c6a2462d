// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"rsio/rsio/admin"
	"rsio/rsio/admin/api"
)

func (a *app) target() *cobra.Command {
	return noun("target", "The targets that the initiator of this host knows",
		a.targetAdd(), a.targetList(), a.targetShow(), a.targetRemove())
}

func (a *app) targetAdd() *cobra.Command {
	c := &cobra.Command{
		Use: "add NAME ADDR[%LOCAL]...", Short: "Add a target; each address is a path", Args: args("NAME", "ADDR", "..."),
		Example: "  rsioctl target add t1 10.0.1.2:8861%10.0.1.1 10.0.2.2:8861%10.0.2.1",
	}
	c.RunE = a.run(func(ctx context.Context, c *admin.Client, args []string) error {
		t, err := c.TargetAdd(ctx, api.TargetSpec{Name: args[0], Addresses: args[1:]})
		if err != nil {
			return err
		}
		return a.show(t, say("target %s added, it is %s", t.Name, strings.TrimSpace(t.State+" "+t.Reason)))
	})
	return c
}

func (a *app) targetList() *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "List targets", Args: noArgs}
	c.RunE = a.run(func(ctx context.Context, c *admin.Client, _ []string) error {
		l, err := c.TargetList(ctx)
		if err != nil {
			return err
		}
		return a.show(l, targetTable(l))
	})
	return c
}

func targetTable(l []api.Target) func(io.Writer) error {
	return func(w io.Writer) error {
		t := newTable("TARGET", "STATE", "PATHS UP", "ADDRESSES", "REASON")
		for _, x := range l {
			t.row(x.Name, x.State, fmt.Sprintf("%d of %d", x.PathsUp, x.Paths), strings.Join(x.Addresses, " "), x.Reason)
		}
		return t.write(w)
	}
}

func (a *app) targetShow() *cobra.Command {
	c := &cobra.Command{Use: "show NAME", Short: "Show a target", Args: args("NAME"), ValidArgsFunction: a.completeArgs(1, false, targetNames)}
	c.RunE = a.run(func(ctx context.Context, c *admin.Client, args []string) error {
		t, err := c.TargetShow(ctx, args[0])
		if err != nil {
			return err
		}
		return a.show(t, targetTable([]api.Target{t}))
	})
	return c
}

func (a *app) targetRemove() *cobra.Command {
	c := &cobra.Command{
		Use: "remove NAME", Short: "Forget a target; its volumes stay as they are", Args: args("NAME"),
		ValidArgsFunction: a.completeArgs(1, false, targetNames),
	}
	c.RunE = a.run(func(ctx context.Context, c *admin.Client, args []string) error {
		if err := c.TargetRemove(ctx, args[0]); err != nil {
			return err
		}
		return a.show(struct{}{}, say("target %s removed", args[0]))
	})
	return c
}
