// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"rsio/rsio/admin"
	"rsio/rsio/admin/api"
)

const (
	pollTime = 30 * time.Second // one long poll
	restTime = time.Second      // between polls of a daemon that does not wait
)

func (a *app) events() *cobra.Command {
	var target string
	var follow bool
	c := &cobra.Command{Use: "events", Short: "Show what happened", Args: noArgs}
	c.RunE = a.runLong(func(ctx context.Context, c *admin.Client, _ []string) error {
		if follow {
			return a.follow(ctx, c, target)
		}
		one, cancel := context.WithTimeout(ctx, a.timeout)
		defer cancel()
		l, err := c.Events(one, target, 0, 0)
		if err != nil {
			return err
		}
		return a.show(l, func(w io.Writer) error { return eventLines(w, l) })
	})
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on until interrupted; with -o json one event per line")
	a.targetFlag(c, &target, "of this target")
	return c
}

func (a *app) follow(ctx context.Context, c *admin.Client, target string) error {
	after := uint64(0)
	for {
		asked := time.Now()
		l, err := c.Events(ctx, target, after, pollTime)
		if ctx.Err() != nil {
			return nil // the way to end it
		}
		if err != nil {
			return err
		}
		if err := a.stream(l); err != nil {
			return err
		}
		if len(l) > 0 {
			after = l[len(l)-1].ID
			continue
		}
		if rest := restTime - time.Since(asked); rest > 0 { // calls through a session do not wait
			select {
			case <-time.After(rest):
			case <-ctx.Done():
			}
		}
	}
}

// stream prints events one by one.
func (a *app) stream(l []api.Event) error {
	if a.output == "table" {
		return eventLines(a.Stdout, l)
	}
	for _, e := range l {
		b, err := json.Marshal(e)
		if err == nil && a.output == "yaml" {
			if b, err = yaml.JSONToYAML(b); err == nil {
				b = append([]byte("---\n"), b...)
			}
		} else {
			b = append(b, '\n')
		}
		if err != nil {
			return err
		}
		if _, err := a.Stdout.Write(b); err != nil {
			return err
		}
	}
	return nil
}

func eventLines(w io.Writer, l []api.Event) error {
	for _, e := range l {
		if err := say("%s %-7s %s: %s", e.Time.Format(time.RFC3339), e.Level, e.Object, e.Text)(w); err != nil {
			return fmt.Errorf("write events: %w", err)
		}
	}
	return nil
}
