// SPDX-License-Identifier: Apache-2.0

// Command rsio-target owns a pool of volumes and serves them to initiators.
package main

import (
	"os"

	"github.com/spf13/cobra"

	"rsio/cmd/internal/daemon"
)

func main() { os.Exit(daemon.Main("rsio-target", command(), os.Args[1:], os.Stderr)) }

func command() *cobra.Command {
	var c config
	var file string
	cmd := &cobra.Command{
		Use:   "rsio-target [--data DIR] [--listen ADDR]... [--nbd ADDR]...",
		Short: "Serve the volumes of a pool directory to RSIO initiators",
		Long: `rsio-target owns a pool directory, keeps its volumes there and serves them over
RSIO, and if asked directly over NBD. Volumes are made with rsioctl.

ADDR is HOST:PORT or unix:PATH. Without --listen it is 127.0.0.1:8861. Until
identities can be proven, a claimed one is accepted over loopback and unix
sockets only, unless --insecure is given.`,
		Args:    cobra.NoArgs,
		Version: daemon.Version(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file != "" {
				if err := daemon.Merge(cmd, file, &c, (*config).fields); err != nil {
					return err
				}
			}
			return c.run(cmd.Context())
		},
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &daemon.UsageError{Err: err} })
	f := cmd.Flags()
	f.StringVar(&c.Data, "data", "", "pool directory (made if missing)")
	f.StringArrayVar(&c.Listen, "listen", nil, "portal for initiators, repeatable")
	f.StringArrayVar(&c.NBD, "nbd", nil, "also serve the volumes to NBD clients here, repeatable")
	f.StringVar(&c.Admin, "admin", "", "control socket, unix:PATH")
	f.StringVar(&c.Name, "name", "", "name of this host (default: its host name)")
	f.BoolVar(&c.Insecure, "insecure", false, "accept claimed identities over any network, in plain text")
	f.StringVar(&c.Budget, "budget", "", "payload in flight, at most (default 256M)")
	f.StringVar(&file, "config", "", "YAML file with the same names as these flags; flags win")
	return cmd
}
