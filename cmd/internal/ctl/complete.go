// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"rsio/rsio/admin"
)

// completeTime bounds how long a shell waits for names.
const completeTime = time.Second

// names asks the daemon for names to complete.
type names func(ctx context.Context, c *admin.Client) ([]string, error)

// completeArgs completes the first n arguments with names; then files if
// files is set.
func (a *app) completeArgs(n int, files bool, list names) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= n {
			if files {
				return nil, cobra.ShellCompDirectiveDefault
			}
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return a.ask(cmd, list), cobra.ShellCompDirectiveNoFileComp
	}
}

func (a *app) ask(cmd *cobra.Command, list names) []string {
	ctx := cmd.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completeTime)
	defer cancel()
	c, err := a.client(ctx)
	if err != nil {
		return nil // a shell shows no errors
	}
	l, err := list(ctx, c)
	if err != nil {
		return nil // likewise
	}
	return l
}

// complete completes a flag with fixed words.
func (a *app) complete(cmd *cobra.Command, flag string, words []string) {
	fn := func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return words, cobra.ShellCompDirectiveNoFileComp
	}
	if err := cmd.RegisterFlagCompletionFunc(flag, fn); err != nil {
		panic(err) // there is no such flag: a mistake in this package
	}
}

// targetFlag adds --target with completion.
func (a *app) targetFlag(cmd *cobra.Command, p *string, help string) {
	cmd.Flags().StringVar(p, "target", "", help)
	fn := func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return a.ask(cmd, targetNames), cobra.ShellCompDirectiveNoFileComp
	}
	if err := cmd.RegisterFlagCompletionFunc("target", fn); err != nil {
		panic(err) // there is no such flag: a mistake in this package
	}
}

func volumeNames(ctx context.Context, c *admin.Client) (l []string, err error) {
	all, err := c.VolumeList(ctx, "")
	for _, v := range all.Volumes {
		l = append(l, volumeText(v.Namespace, v.Name))
	}
	return l, err
}

func targetNames(ctx context.Context, c *admin.Client) (l []string, err error) {
	all, err := c.TargetList(ctx)
	for _, t := range all {
		l = append(l, t.Name)
	}
	return l, err
}

func attachmentNames(ctx context.Context, c *admin.Client) (l []string, err error) {
	all, err := c.Attachments(ctx)
	for _, t := range all {
		l = append(l, t.Name)
	}
	return l, err
}

func pathNames(ctx context.Context, c *admin.Client) (l []string, err error) {
	all, err := c.Paths(ctx)
	for _, p := range all {
		l = append(l, p.ID)
	}
	return l, err
}
