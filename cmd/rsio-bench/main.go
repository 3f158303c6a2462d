// SPDX-License-Identifier: Apache-2.0

// Command rsio-bench measures RSIO against other block servers.
package main

import (
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"rsio/bench/compare"
	"rsio/cmd/internal/daemon"
)

func main() {
	root := &cobra.Command{Use: "rsio-bench", Short: "Measure RSIO", Version: daemon.Version()}
	root.AddCommand(compareCommand(), soakCommand())
	os.Exit(daemon.Main("rsio-bench", root, os.Args[1:], os.Stderr))
}

func compareCommand() *cobra.Command {
	var opt compare.Options
	var seconds float64
	var output string
	var tmpfs, quick bool
	cmd := &cobra.Command{
		Use:   "compare",
		Short: "Compare with nbdkit, qemu-nbd and nbd-server under fio",
		Long: `compare runs the daemons of RSIO, nbdkit, qemu-nbd and nbd-server on this
machine, one after the other in rounds, under the same load of fio, and prints
throughput and the CPU time of the servers for one request. Without a contender
it says so and exits with 1. See docs/benchmarking.md.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "table" && output != "json" {
				return &daemon.UsageError{Err: errors.New("--output: table or json")}
			}
			if tmpfs {
				opt.Dir = "/dev/shm"
			}
			if quick {
				opt.Rounds, seconds, opt.Size, opt.Workloads = 1, 1, 128<<20, compare.QuickWorkloads()
			}
			opt.Runtime, opt.Log = time.Duration(seconds*float64(time.Second)), os.Stderr
			rep, err := compare.Run(cmd.Context(), opt)
			if rep == nil {
				return err
			}
			write := rep.WriteTable
			if output == "json" {
				write = rep.WriteJSON
			}
			if err = errors.Join(err, write(os.Stdout)); err == nil && !rep.Complete() {
				err = errors.New("not everything was measured, see above")
			}
			return err
		},
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &daemon.UsageError{Err: err} })
	f := cmd.Flags()
	f.IntVar(&opt.Rounds, "rounds", 3, "measurements of each contender under each workload")
	f.Float64Var(&seconds, "seconds", 2, "length of one measurement")
	f.StringVar(&opt.Dir, "dir", "", "where the disks are kept meanwhile (default: the system's temporary directory)")
	f.BoolVar(&tmpfs, "tmpfs", false, "keep the disks in /dev/shm")
	f.StringVar(&opt.Bin, "bin", ownDir(), "directory of rsio-target, rsio-initiator and rsioctl")
	f.StringVarP(&output, "output", "o", "table", "table or json")
	f.BoolVar(&quick, "quick", false, "one short round of a few workloads on small disks")
	cmd.MarkFlagsMutuallyExclusive("dir", "tmpfs")
	return cmd
}

// ownDir is where this program is: make puts the daemons beside it.
func ownDir() string {
	exe, err := os.Executable()
	if err != nil {
		return ""
	}
	return filepath.Dir(exe)
}
