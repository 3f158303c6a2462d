// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"rsio/rsio/admin/api"
)

func (a *app) man() *cobra.Command {
	c := &cobra.Command{Use: "man DIR", Short: "Write the man pages to a directory", Args: args("DIR"), Hidden: true}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := os.MkdirAll(args[0], 0o755); err != nil {
			return api.Wrap(err, api.Failed, "man", args[0], "")
		}
		root := cmd.Root()
		root.DisableAutoGenTag = true
		date := time.Unix(0, 0).UTC() // the same pages from the same source
		err := doc.GenManTree(root, &doc.GenManHeader{Title: "RSIOCTL", Section: "1", Source: "RSIO", Manual: "RSIO", Date: &date}, args[0])
		return api.Wrap(err, api.Failed, "man", args[0], "")
	}
	return c
}

func (a *app) version() *cobra.Command {
	c := &cobra.Command{Use: "version", Short: "Print the version of rsioctl", Args: noArgs}
	c.RunE = func(*cobra.Command, []string) error {
		v := struct {
			Version string `json:"version"`
		}{a.Version}
		return api.Wrap(a.show(v, say("rsioctl %s", a.Version)), api.Failed, "version", "", "")
	}
	return c
}
