// SPDX-License-Identifier: Apache-2.0

// Command rsio-initiator attaches volumes of targets and serves them to NBD
// clients.
package main

import (
	"os"

	"github.com/spf13/cobra"

	"rsio/cmd/internal/daemon"
)

func main() { os.Exit(daemon.Main("rsio-initiator", command(), os.Args[1:], os.Stderr)) }

func command() *cobra.Command {
	var c config
	var file string
	cmd := &cobra.Command{
		Use:   "rsio-initiator [--target NAME=ADDR[%LOCAL][,ADDR...]]...",
		Short: "Attach volumes of RSIO targets over several paths and serve them as NBD",
		Long: `rsio-initiator holds sessions to targets, over as many paths as it is given,
and serves the volumes that rsioctl attaches on one NBD unix socket.

ADDR is HOST:PORT or unix:PATH, each a path of its own; %LOCAL binds a path to
a local address. Without a target it looks at 127.0.0.1:8861.`,
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
	cmd.AddCommand(filesCommand(), barrierCommand())
	cmd.CompletionOptions.HiddenDefaultCmd = true
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &daemon.UsageError{Err: err} })
	f := cmd.Flags()
	f.StringArrayVar(&c.Target, "target", nil, "a target and its portals, repeatable")
	f.StringArrayVar(&c.NBD, "nbd", nil, "also serve NBD here (HOST:PORT or unix:PATH), repeatable")
	f.StringVar(&c.Admin, "admin", "", "control socket, unix:PATH (default RUN/admin.sock)")
	f.StringVar(&c.Run, "run", "", "directory for sockets and session secrets")
	f.StringVar(&c.Data, "data", "", "directory for targets and attachments (default: RUN if --run is given)")
	f.StringVar(&c.Name, "name", "", "name of this host, the HOST of every nexus (default: its host name)")
	f.BoolVar(&c.Insecure, "insecure", false, "allow --nbd on addresses that others can reach")
	f.DurationVar(&c.ParkTimeout, "park-timeout", 0, "how long I/O waits without a path before it fails (0: for ever)")
	f.StringVar(&c.Mount, "mount", "", "make every attachment a file below this directory (default: RUN/files, and only where --fuse or --loop asks)")
	f.StringVar(&file, "config", "", "YAML file with the same names as these flags; flags win")
	return cmd
}
