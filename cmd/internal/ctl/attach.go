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

func (a *app) attach() *cobra.Command {
	var spec api.AttachSpec
	c := &cobra.Command{
		Use: "attach [NS/]VOL", Short: "Attach a volume and print its NBD URI", Args: args("VOL"),
		Long:              "Prints one line, the URI. Attaching again prints the same line. An attachment lasts until\nit is detached, also over a reboot, unless --once is given.",
		Example:           "  qemu-img info \"$(rsioctl attach v1)\"",
		ValidArgsFunction: a.completeArgs(1, false, volumeNames),
	}
	c.RunE = a.run(func(ctx context.Context, c *admin.Client, args []string) error {
		spec.Namespace, spec.Volume = volumeArg(args[0])
		t, err := c.Attach(ctx, spec)
		if err != nil {
			return err
		}
		return a.show(t, say("%s", t.URI))
	})
	c.Flags().StringVar(&spec.VM, "as", "", "attach under the nexus HOST/VM of this VM")
	c.Flags().BoolVar(&spec.ReadOnly, "read-only", false, "refuse writes")
	c.Flags().BoolVar(&spec.Once, "once", false, "forget it when the initiator stops")
	a.targetFlag(c, &spec.Target, targetHelp)
	return c
}

func (a *app) detach() *cobra.Command {
	var force bool
	c := &cobra.Command{Use: "detach [NS/]VOL[~VM]|URI", Short: "End an attachment", Args: args("ATTACHMENT"), ValidArgsFunction: a.completeArgs(1, false, attachmentNames)}
	c.RunE = a.run(func(ctx context.Context, c *admin.Client, args []string) error {
		if err := c.Detach(ctx, strings.TrimPrefix(args[0], api.DefaultNamespace+"/"), force); err != nil {
			return err
		}
		return a.show(struct{}{}, say("%s detached", args[0]))
	})
	c.Flags().BoolVar(&force, "force", false, "even if a client is connected")
	return c
}

func (a *app) attachment() *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "List attachments", Args: noArgs}
	c.RunE = a.run(func(ctx context.Context, c *admin.Client, _ []string) error {
		l, err := c.Attachments(ctx)
		if err != nil {
			return err
		}
		return a.show(l, attachmentTable(l))
	})
	return noun("attachment", "What the initiator of this host presents", c)
}

func attachmentTable(l []api.Attachment) func(io.Writer) error {
	return func(w io.Writer) error {
		t := newTable("ATTACHMENT", "SIZE", "STATE", "PATHS UP", "TARGET", "NEXUS", "CLIENTS", "URI", "REASON")
		for _, x := range l {
			state := x.State
			if x.ReadOnly {
				state += ",read-only"
			}
			if x.Once {
				state += ",once"
			}
			t.row(x.Name, api.FormatSize(x.Size), state, fmt.Sprintf("%d of %d", x.PathsUp, x.Paths), x.Target, x.Nexus, fmt.Sprint(x.Clients), x.URI, x.Reason)
		}
		return t.write(w)
	}
}
