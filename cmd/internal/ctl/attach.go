// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"rsio/rsio/admin"
	"rsio/rsio/admin/api"
)

func (a *app) attach() *cobra.Command {
	var spec api.AttachSpec
	var uri bool
	var mode string
	c := &cobra.Command{
		Use: "attach [NS/]VOL", Short: "Attach a volume and print its NBD URI, device or file", Args: args("VOL"),
		Long: "Prints one line: the URI, or with --nbd or --loop the block device, or with --fuse the file.\n" +
			"Attaching again prints the same line, or adds what was not there. An attachment lasts until\n" +
			"it is detached, also over a reboot, unless --once is given. Devices also have a stable name,\n" +
			"/dev/rsio/NAMESPACE/VOLUME[~VM].\n\n" +
			"Files have no page cache: any number of attachments of one volume on one host see each other's\n" +
			"writes. Each block device has a page cache of its own; a second one on the same volume is\n" +
			"refused unless --shared says that whoever opens them takes care (O_DIRECT, a cluster file system).",
		Example: "  qemu-img info \"$(rsioctl attach v1)\"\n  mount \"$(rsioctl attach v1 --nbd)\" /mnt\n" +
			"  rsioctl attach disk --as box1 --fuse --owner box1 --mode 0600",
		ValidArgsFunction: a.completeArgs(1, false, volumeNames),
	}
	c.RunE = a.run(func(ctx context.Context, c *admin.Client, args []string) (err error) {
		spec.Namespace, spec.Volume = volumeArg(args[0])
		if spec.Mode, err = modeArg(mode); err != nil {
			return err
		}
		if uri && (spec.NBD || spec.Loop || spec.File) {
			return usage("attach", "--uri and a device or file: one line is printed, of one of them", "attach again for the other")
		}
		t, err := c.Attach(ctx, spec)
		if err != nil {
			return err
		}
		return a.show(t, say("%s", attachLine(spec, t)))
	})
	c.Flags().BoolVar(&uri, "uri", false, "print the NBD URI, the default: needs no root")
	c.Flags().BoolVar(&spec.NBD, "nbd", false, "make a kernel device /dev/nbdN and print it")
	c.Flags().BoolVar(&spec.File, "fuse", false, "make a file of the FUSE mount and print it")
	c.Flags().BoolVar(&spec.Loop, "loop", false, "make a loop device on that file and print it, where the kernel has no nbd driver")
	c.Flags().IntVar(&spec.Connections, "connections", 0, "of the kernel device: one for each CPU that does I/O (default 1)")
	c.Flags().StringVar(&spec.Owner, "owner", "", "USER[:GROUP] that may open device and file (default: the initiator's)")
	c.Flags().StringVar(&mode, "mode", "", "permissions of device and file (default 0600)")
	c.Flags().BoolVar(&spec.Shared, "shared", false, "allow a second block device on the volume: see above")
	c.Flags().StringVar(&spec.VM, "as", "", "attach under the nexus HOST/VM of this VM")
	c.Flags().BoolVar(&spec.ReadOnly, "read-only", false, "refuse writes")
	c.Flags().BoolVar(&spec.Once, "once", false, "forget it when the initiator stops")
	a.targetFlag(c, &spec.Target, targetHelp)
	return c
}

// attachLine is what was asked for.
func attachLine(spec api.AttachSpec, t api.Attachment) string {
	switch {
	case spec.NBD:
		return t.Device
	case spec.Loop:
		return t.Loop
	case spec.File:
		return t.File
	}
	return t.URI
}

func modeArg(s string) (uint32, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 8, 32)
	if err != nil || n == 0 || n > 0o777 {
		return 0, usage("attach", fmt.Sprintf("--mode %.20q is no permission", s), "give an octal number like 0660")
	}
	return uint32(n), nil
}

func (a *app) detach() *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: "detach [NS/]VOL[~VM]|DEVICE|FILE|URI", Short: "End an attachment", Args: args("ATTACHMENT"), ValidArgsFunction: a.completeArgs(1, false, attachmentNames),
		Long: "Flushes, takes devices and files off and ends the attachment. What is mounted or open is refused,\n" +
			"and who has it open is named; --force gives them I/O errors. What is not attached is no error.",
	}
	c.RunE = a.run(func(ctx context.Context, c *admin.Client, args []string) error {
		err := c.Detach(ctx, strings.TrimPrefix(args[0], api.DefaultNamespace+"/"), force)
		var e *api.Error
		// Scripts that stop things stop them twice. A device or file that is there
		// is another matter: it may be somebody else's.
		if _, err2 := os.Stat(args[0]); errors.As(err, &e) && e.Kind == api.NotFound && (!strings.HasPrefix(args[0], "/") || err2 != nil) {
			return a.show(struct{}{}, say("%s is not attached", args[0]))
		}
		if err != nil {
			return err
		}
		return a.show(struct{}{}, say("%s detached", args[0]))
	})
	c.Flags().BoolVar(&force, "force", false, "even if it is in use: its users get I/O errors")
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
		t := newTable("ATTACHMENT", "SIZE", "STATE", "PATHS UP", "TARGET", "NEXUS", "CLIENTS", "SHOWN AS", "OPEN BY", "REASON")
		for _, x := range l {
			state := x.State
			if x.ReadOnly {
				state += ",read-only"
			}
			if x.Once {
				state += ",once"
			}
			t.row(x.Name, api.FormatSize(x.Size), state, fmt.Sprintf("%d of %d", x.PathsUp, x.Paths), x.Target, x.Nexus, fmt.Sprint(x.Clients), shownText(x), strings.Join(x.OpenBy, "; "), cmp.Or(x.Trouble, x.Reason))
		}
		return t.write(w)
	}
}

// shownText lists device and file, or the URI.
func shownText(x api.Attachment) string {
	var out []string
	for _, s := range []string{x.Device, x.Loop, x.File} {
		if s != "" {
			out = append(out, s)
		}
	}
	if len(out) == 0 {
		return x.URI
	}
	return strings.Join(out, " ")
}
