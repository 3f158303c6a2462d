// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"rsio/rsio/admin"
	"rsio/rsio/admin/api"
)

const (
	targetHelp = "the target, if there are several (default: the one that has the volume)"
	sizeHelp   = "size in bytes, or with K, M, G, T"
)

func (a *app) volume() *cobra.Command {
	return noun("volume", "Make, change and destroy volumes",
		a.volumeCreate(), a.volumeList(), a.volumeShow(), a.volumeResize(), a.volumeDelete(), a.volumeImport(), a.volumeExport())
}

func parseSize(op, volume, text string) (uint64, error) {
	if text == "" {
		return 0, api.Errorf(api.Usage, op, volume, "the size is missing", "give one like --size 20G")
	}
	n, err := api.ParseSize(text)
	if err == nil && n == 0 {
		return 0, api.Errorf(api.Usage, op, volume, "the size is zero", "give one like --size 20G")
	}
	return n, api.Wrap(err, api.Usage, op, volume, "")
}

func (a *app) volumeCreate() *cobra.Command {
	var spec api.VolumeSpec
	var size, target string
	c := &cobra.Command{
		Use: "create [NS/]VOL --size SIZE", Short: "Make a volume", Args: args("NAME"),
		Example: "  rsioctl volume create v1 --size 20G",
	}
	c.RunE = a.run(func(ctx context.Context, c *admin.Client, args []string) (err error) {
		spec.Namespace, spec.Name = volumeArg(args[0])
		if spec.Size, err = parseSize("volume create", args[0], size); err != nil {
			return err
		}
		v, err := c.VolumeCreate(ctx, target, spec)
		if err != nil {
			return err
		}
		return a.show(v, say("volume %s created, %s", volumeText(v.Namespace, v.Name), api.FormatSize(v.Size)))
	})
	f := c.Flags()
	f.StringVar(&size, "size", "", sizeHelp)
	f.BoolVar(&spec.Direct, "direct", false, "bypass the page cache of the target (O_DIRECT)")
	f.StringVar(&spec.Kind, "kind", "", "where the data is kept: file (default), mem or null")
	f.StringArrayVar(&spec.Layers, "layer", nil, "a test layer, lowest first, like fault:op=write,nth=3 (may be repeated)")
	a.complete(c, "kind", []string{"file", "mem", "null"})
	a.targetFlag(c, &target, "the target, if there are several")
	return c
}

func (a *app) volumeList() *cobra.Command {
	var target string
	c := &cobra.Command{Use: "list", Short: "List volumes", Args: noArgs}
	c.RunE = a.run(func(ctx context.Context, c *admin.Client, _ []string) error {
		l, err := c.VolumeList(ctx, target)
		if err != nil {
			return err
		}
		for _, m := range l.Missing {
			a.note("volume list: not complete: %s", m)
		}
		return a.show(l.Volumes, func(w io.Writer) error {
			t := newTable("NAME", "SIZE", "USED", "STATE", "TARGET", "OPEN BY", "RESERVED", "REASON")
			for _, v := range l.Volumes {
				t.row(volumeText(v.Namespace, v.Name), api.FormatSize(v.Size), api.FormatSize(v.Used), v.State, v.Target, strings.Join(v.Open, ","), v.Reserved, v.Reason)
			}
			return t.write(w)
		})
	})
	a.targetFlag(c, &target, "only this target's")
	return c
}

func (a *app) volumeShow() *cobra.Command {
	var target string
	c := &cobra.Command{Use: "show [NS/]VOL", Short: "Show a volume", Args: args("VOL"), ValidArgsFunction: a.completeArgs(1, false, volumeNames)}
	c.RunE = a.run(func(ctx context.Context, c *admin.Client, args []string) error {
		ns, name := volumeArg(args[0])
		v, err := c.VolumeShow(ctx, target, ns, name)
		if err != nil {
			return err
		}
		return a.show(v, func(w io.Writer) error {
			t := newTable("NAME", volumeText(v.Namespace, v.Name))
			t.row("UUID", v.UUID)
			t.row("SIZE", api.FormatSize(v.Size))
			t.row("USED", api.FormatSize(v.Used))
			t.row("KIND", v.Kind)
			t.row("DIRECT", yes(v.Direct))
			t.row("LAYERS", strings.Join(v.Layers, " "))
			t.row("STATE", strings.TrimSpace(v.State+" "+v.Reason))
			t.row("TARGET", v.Target)
			t.row("OPEN BY", strings.Join(v.Open, " "))
			t.row("WRITERS", strings.Join(v.Writers, " "))
			t.row("RESERVED", v.Reserved)
			return t.write(w)
		})
	})
	a.targetFlag(c, &target, targetHelp)
	return c
}

func (a *app) volumeResize() *cobra.Command {
	var size, target string
	var sure, force bool
	c := &cobra.Command{
		Use: "resize [NS/]VOL --size SIZE|+SIZE", Short: "Change the size of a volume", Args: args("VOL"),
		Example:           "  rsioctl volume resize v1 --size +10G",
		ValidArgsFunction: a.completeArgs(1, false, volumeNames),
	}
	c.RunE = a.run(func(ctx context.Context, c *admin.Client, args []string) error {
		const op = "volume resize"
		ns, name := volumeArg(args[0])
		text, grow := strings.CutPrefix(size, "+")
		n, err := parseSize(op, args[0], text)
		if err != nil {
			return err
		}
		old, err := c.VolumeShow(ctx, target, ns, name)
		if err != nil {
			return err
		}
		if grow {
			if n += old.Size; n < old.Size {
				return api.Errorf(api.Usage, op, args[0], "the size is too large", "")
			}
		}
		if n < old.Size && !sure {
			return api.Errorf(api.Usage, op, args[0], "from "+api.FormatSize(old.Size)+" to "+api.FormatSize(n)+" destroys what is behind the new end",
				"repeat it with --yes if you are sure")
		}
		v, err := c.VolumeResize(ctx, target, ns, name, api.ResizeSpec{Size: n, Shrink: sure, Force: force})
		if err != nil {
			return err
		}
		return a.show(v, say("volume %s has %s now, %s before", args[0], api.FormatSize(v.Size), api.FormatSize(old.Size)))
	})
	c.Flags().StringVar(&size, "size", "", "new size, or +SIZE to add")
	c.Flags().BoolVar(&sure, "yes", false, "allow a smaller size: what is behind the new end is destroyed")
	c.Flags().BoolVar(&force, "force", false, "also if others have reserved it")
	a.targetFlag(c, &target, targetHelp)
	return c
}

func (a *app) volumeDelete() *cobra.Command {
	var target string
	var sure, force bool
	c := &cobra.Command{Use: "delete [NS/]VOL --yes", Short: "Destroy a volume", Args: args("VOL"), ValidArgsFunction: a.completeArgs(1, false, volumeNames)}
	c.PreRunE = func(_ *cobra.Command, args []string) error {
		if !sure {
			return api.Errorf(api.Usage, "volume delete", args[0], "this destroys the volume and all its data", "repeat it with --yes if you are sure")
		}
		return nil
	}
	c.RunE = a.run(func(ctx context.Context, c *admin.Client, args []string) error {
		ns, name := volumeArg(args[0])
		if err := c.VolumeDelete(ctx, target, ns, name, force); err != nil {
			return err
		}
		return a.show(struct{}{}, say("volume %s deleted", args[0]))
	})
	c.Flags().BoolVar(&sure, "yes", false, "yes, destroy it")
	c.Flags().BoolVar(&force, "force", false, "also if it is open, or reserved by others")
	a.targetFlag(c, &target, targetHelp)
	return c
}
