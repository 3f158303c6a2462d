// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"rsio/cmd/internal/daemon"
	"rsio/cmd/internal/files"
	"rsio/rsio/admin"
	"rsio/rsio/audit"
	"rsio/rsio/transport"
)

// filesConfig is what the files command is told.
type filesConfig struct {
	run, mount, nbd string
	ready           int // descriptor to say "ok" on, or why not
}

// filesCommand is the process that serves files: see package files.
func filesCommand() *cobra.Command {
	var c filesConfig
	cmd := &cobra.Command{
		Use:   "files --run DIR --mount DIR --nbd SOCKET",
		Short: "Serve attachments as files of a FUSE mount, also while the initiator restarts",
		Long: `The initiator starts this process when the first file is asked for, unless it
runs already, as a unit of its own does. It stays when the initiator ends, and
goes on with its successor. SIGTERM unmounts and ends it: who has a file open
then gets errors.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := c.serve(cmd.Context())
			if err != nil {
				c.tell(err.Error())
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.run, "run", "", "directory of the initiator's sockets")
	f.StringVar(&c.mount, "mount", "", "directory of the mount, made if missing")
	f.StringVar(&c.nbd, "nbd", "", "NBD socket of the initiator")
	f.IntVar(&c.ready, "ready-fd", 0, "")
	_ = f.MarkHidden("ready-fd") // it is there
	for _, n := range []string{"run", "mount", "nbd"} {
		_ = cmd.MarkFlagRequired(n) // it is there
	}
	return cmd
}

// tell says once to the initiator that started us how it went.
func (c *filesConfig) tell(word string) {
	if c.ready <= 2 {
		return
	}
	f := os.NewFile(uintptr(c.ready), "ready")
	_, _ = f.WriteString(word) // it may have given up
	_ = f.Close()
	c.ready = 0
}

func (c *filesConfig) serve(ctx context.Context) error {
	if err := admin.MakeDir(c.run); err != nil {
		return err
	}
	log := daemon.Logger(os.Stderr)
	events := audit.New(log)
	if s := daemon.Refused(daemon.ServeReclaim()); s != "" {
		events.Add(audit.Warning, "files", s)
	}
	l, err := transport.Listen(transport.Addr{Network: "unix", Address: filepath.Join(c.run, files.Socket)}) // refuses a second process
	if err != nil {
		return err
	}
	pid := filepath.Join(c.run, files.PIDFile)
	if err := os.WriteFile(pid, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600); err != nil {
		return errors.Join(err, l.Close())
	}
	defer func() { _ = os.Remove(pid) }() // a stale one is overwritten
	s := files.New(files.Options{Mount: c.mount, NBD: c.nbd, Log: log})
	g := daemon.NewGroup()
	notify, stop := context.WithCancel(ctx)
	err = s.Run(ctx, l, func() {
		events.Add(audit.Info, "files", fmt.Sprintf("serves %s", c.mount))
		c.tell("ok")
		g.Go(func() error { return daemon.Notify(notify, events, func() {}) })
	})
	stop()
	g.Join()
	_ = l.Close() // Run mostly has
	return err
}
