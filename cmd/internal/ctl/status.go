// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rsio/rsio/admin"
	"rsio/rsio/admin/api"
)

func (a *app) status() *cobra.Command {
	var target string
	c := &cobra.Command{Use: "status", Short: "Say what is wrong, or that nothing is", Args: noArgs}
	c.RunE = a.run(func(ctx context.Context, c *admin.Client, _ []string) error {
		s, err := c.Status(ctx, target)
		if err != nil {
			return err
		}
		return a.show(s, func(w io.Writer) error { return statusText(w, s) })
	})
	a.targetFlag(c, &target, "of this target")
	return c
}

func statusText(w io.Writer, s api.Status) error {
	if err := say("%s", s.Summary)(w); err != nil {
		return err
	}
	for _, x := range s.Warnings {
		if err := say("warning: %s", x)(w); err != nil {
			return err
		}
	}
	t := newTable(strings.ToUpper(s.Role), s.Name)
	t.row("VERSION", s.Version)
	t.row("STARTED", s.Started.Format(time.RFC3339))
	if len(s.Portals) > 0 {
		t.row("PORTALS", strings.Join(s.Portals, " "))
	}
	if len(s.NBD) > 0 {
		t.row("NBD", strings.Join(s.NBD, " "))
	}
	t.row("VOLUMES", fmt.Sprint(s.Volumes))
	t.row("MEMORY", fmt.Sprintf("%s of %s, at most %s", bytesText(s.Memory.Out), bytesText(s.Memory.Limit), bytesText(s.Memory.High)))
	parts := []func(io.Writer) error{t.write}
	if len(s.Targets) > 0 {
		parts = append(parts, targetTable(s.Targets))
	}
	if len(s.Attachments) > 0 {
		parts = append(parts, attachmentTable(s.Attachments))
	}
	if len(s.Sessions) > 0 {
		parts = append(parts, sessionTable(s.Sessions))
	}
	for _, part := range parts {
		if _, err := fmt.Fprintln(w); err != nil {
			return err
		}
		if err := part(w); err != nil {
			return err
		}
	}
	return nil
}

func bytesText(n int64) string { return api.FormatSize(uint64(max(n, 0))) }

func sessionTable(l []api.Session) func(io.Writer) error {
	return func(w io.Writer) error {
		t := newTable("SESSION", "NEXUS", "STATE", "PATHS", "RUNNING", "WINDOW", "HEARD", "IDENTITY", "VOLUMES")
		for _, s := range l {
			identity := "proven"
			if s.Plaintext {
				identity = "claimed"
			}
			t.row(s.ID, s.Nexus, s.State, strings.Join(s.Paths, " "), fmt.Sprint(s.Running), api.FormatSize(s.Window),
				s.Heard.Round(time.Millisecond).String()+" ago", identity, strings.Join(s.Volumes, " "))
		}
		return t.write(w)
	}
}

func (a *app) inflight() *cobra.Command {
	var target string
	c := &cobra.Command{Use: "inflight", Short: "List the requests in flight, oldest first", Args: noArgs}
	c.RunE = a.run(func(ctx context.Context, c *admin.Client, _ []string) error {
		l, err := c.Inflight(ctx, target)
		if err != nil {
			return err
		}
		slices.SortStableFunc(l, func(x, y api.Inflight) int { return cmp.Compare(y.Age, x.Age) })
		return a.show(l, func(w io.Writer) error {
			t := newTable("AGE", "VOLUME", "NEXUS", "OP", "OFFSET", "LENGTH", "WHERE")
			for _, x := range l {
				t.row(x.Age.Round(time.Microsecond).String(), x.Volume, x.Nexus, x.Op, fmt.Sprint(x.Off), api.FormatSize(uint64(x.Len)), x.Where)
			}
			return t.write(w)
		})
	})
	a.targetFlag(c, &target, "of this target")
	return c
}
