// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strconv"

	"github.com/spf13/cobra"

	"rsio/cmd/internal/daemon"
	"rsio/nbd/kernel"
)

// barrierCommand is what the initiator runs to wait for the requests of a kernel
// device, in a process that may be stuck in the kernel meanwhile.
func barrierCommand() *cobra.Command {
	return &cobra.Command{
		Use: "barrier N", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			n, err := strconv.Atoi(args[0])
			if err != nil {
				return &daemon.UsageError{Err: err}
			}
			return kernel.Barrier(n)
		},
	}
}
