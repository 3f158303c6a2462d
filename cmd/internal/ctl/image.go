// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"rsio/rsio/admin"
	"rsio/rsio/admin/api"
)

// undoTime bounds the removal of a volume whose import failed.
const undoTime = 10 * time.Second

func (a *app) volumeImport() *cobra.Command {
	var size, target string
	var sure bool
	c := &cobra.Command{
		Use: "import [NS/]VOL FILE|-", Short: "Fill a volume with an image", Args: args("NAME", "FILE"),
		Long: "The volume becomes exactly the image: what it had before is gone, also behind the end of\n" +
			"the image. A missing volume is made, of the size of the file or of --size. FILE - is\n" +
			"standard input. Holes and zeroes take no space.",
		ValidArgsFunction: a.completeArgs(1, true, volumeNames),
	}
	c.RunE = a.runLong(func(ctx context.Context, c *admin.Client, args []string) error {
		p := a.progress("import " + args[0])
		src, err := admin.OpenSource(args[1], a.Stdin, p.step)
		if err != nil {
			return err
		}
		defer func() { _ = src.Close() }() // only read
		ns, name := volumeArg(args[0])
		made, err := a.provide(ctx, c, provision{src: src, size: size, target: target, namespace: ns, name: name, sure: sure})
		if err != nil {
			return err
		}
		t, err := c.Import(ctx, ns, name, src)
		p.end(t.Size, err == nil)
		if err != nil {
			if made {
				err = a.undo(ctx, c, err, target, ns, name)
			}
			return err
		}
		return a.show(t, say("volume %s: %s imported, %s of them data", args[0], api.FormatSize(t.Size), api.FormatSize(t.Data)))
	})
	c.Flags().StringVar(&size, "size", "", "size of the volume if it has to be made")
	c.Flags().BoolVar(&sure, "yes", false, "overwrite a volume that has data")
	a.targetFlag(c, &target, "the target, if there are several and the volume has to be made")
	return c
}

// provision is what an import needs to know of its volume.
type provision struct {
	src             *admin.Source
	size            string
	target          string
	namespace, name string
	sure            bool
}

// provide makes the volume of an import if it is missing.
func (a *app) provide(ctx context.Context, c *admin.Client, p provision) (made bool, err error) {
	const op = "volume import"
	full := volumeText(p.namespace, p.name)
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	length, known := p.src.Size()
	if known && length == 0 {
		return false, api.Errorf(api.Usage, op, full, "the file is empty", "")
	}
	v, err := c.VolumeShow(ctx, p.target, p.namespace, p.name)
	if err == nil {
		switch {
		case v.Used > 0 && !p.sure:
			return false, api.Errorf(api.Usage, op, full, "the volume has data, "+api.FormatSize(v.Used)+", which this destroys", "repeat it with --yes if you are sure")
		case known && length > v.Size:
			return false, api.Errorf(api.Usage, op, full, "the image is larger than the volume, "+api.FormatSize(v.Size), "resize the volume first")
		}
		return false, nil
	}
	var e *api.Error
	if !errors.As(err, &e) || e.Kind != api.NotFound {
		return false, err
	}
	n := (length + 4095) &^ 4095
	if p.size != "" {
		if n, err = parseSize(op, full, p.size); err != nil {
			return false, err
		}
		if known && n < length {
			return false, api.Errorf(api.Usage, op, full, "the image is larger than --size", "give at least its "+api.FormatSize((length+4095)&^4095))
		}
	} else if !known {
		return false, api.Errorf(api.Usage, op, full, "the volume does not exist, and the size of the image is not known", "give --size")
	}
	_, err = c.VolumeCreate(ctx, p.target, api.VolumeSpec{Namespace: p.namespace, Name: p.name, Size: n})
	return err == nil, err
}

// undo removes the volume that a failed import has made: half an image under
// the name of a whole one is a trap.
func (a *app) undo(ctx context.Context, c *admin.Client, cause error, target, namespace, name string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	var e *api.Error
	if !errors.As(cause, &e) {
		return cause
	}
	told := *e
	if err := c.VolumeDelete(ctx, target, namespace, name, false); err != nil {
		told.Remedy = "delete the volume, it holds an incomplete image; it could not be removed: " + err.Error()
	} else {
		told.Remedy = "import again; the new volume was removed"
	}
	return &told
}

func (a *app) volumeExport() *cobra.Command {
	c := &cobra.Command{
		Use: "export [NS/]VOL FILE|-", Short: "Write a volume to a file", Args: args("VOL", "FILE"),
		Long: "FILE appears, or is replaced, when all of it is written and durable; zeroes become holes.\n" +
			"FILE - is standard output. A device is written in place.",
		ValidArgsFunction: a.completeArgs(1, true, volumeNames),
	}
	c.RunE = a.runLong(func(ctx context.Context, c *admin.Client, args []string) error {
		toStdout := args[1] == "-"
		if toStdout && isTerminal(a.Stdout) {
			return api.Errorf(api.Usage, "volume export", args[0], "standard output is a terminal", "name a file, or redirect the output")
		}
		sink, err := admin.OpenSink(args[1], a.Stdout)
		if err != nil {
			return err
		}
		defer sink.Abort()
		p := a.progress("export " + args[0])
		ns, name := volumeArg(args[0])
		t, err := c.Export(ctx, ns, name, sink, p.step)
		p.end(t.Size, err == nil)
		if err != nil || toStdout {
			return err
		}
		return a.show(t, say("volume %s: %s exported, %s of them data", args[0], api.FormatSize(t.Size), api.FormatSize(t.Data)))
	})
	return c
}
