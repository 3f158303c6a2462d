// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"rsio/bench/soak"
	"rsio/cmd/internal/daemon"
	"rsio/rsio/admin/api"
)

func soakCommand() *cobra.Command {
	opt := soak.Options{Report: func(s string) { fmt.Fprintln(os.Stderr, "soak:", s) }}
	var seconds float64
	var offset, size string
	var cached, asJSON bool
	cmd := &cobra.Command{
		Use:   "soak --file PATH",
		Short: "Load a device or file with stamped blocks and verify them",
		Long: `soak writes stamped blocks, reads them back and flushes, with many requests in
flight, until the time is over or it gets SIGTERM; then it reads everything
back. Every stall is reported. It ends with 1 if a request failed or a block
holds what it must not. It destroys what is in the range.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			opt.Direct = !cached
			if err := errors.Join(sizeArg("--offset", offset, &opt.Offset), sizeArg("--size", size, &opt.Size)); err != nil {
				return &daemon.UsageError{Err: err}
			}
			l, err := soak.New(opt)
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			if seconds > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, time.Duration(seconds*float64(time.Second)))
				defer cancel()
			}
			r, err := l.Run(ctx)
			if err != nil {
				return err
			}
			if asJSON {
				err = json.NewEncoder(os.Stdout).Encode(r)
			} else {
				fmt.Printf("%d operations, %d errors, longest %.1f ms, %d stalls; %d blocks verified, %d lost\n", r.Ops, r.Errors, r.WorstMS, r.Stalls, r.Verified, r.Lost)
			}
			if err == nil && (r.Errors > 0 || r.Lost > 0) {
				err = fmt.Errorf("%d errors, the first: %s", r.Errors, r.First)
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&opt.Path, "file", "", "block device or file")
	f.StringVar(&offset, "offset", "0", "where the range begins")
	f.StringVar(&size, "size", "0", "of the range (default: to the end); a new file is made so long")
	f.IntVar(&opt.Workers, "workers", 16, "requests in flight")
	f.IntVar(&opt.Blocks, "blocks", 64, "blocks of each worker")
	f.BoolVar(&cached, "cached", false, "through the page cache instead of O_DIRECT")
	f.BoolVar(&opt.StopOnError, "stop-on-error", false, "end at the first error")
	f.DurationVar(&opt.Stall, "report-stall", 500*time.Millisecond, "report requests that take longer")
	f.StringVar(&opt.State, "state", "", "file that keeps what was acknowledged, for --verify-only")
	f.BoolVar(&opt.VerifyOnly, "verify-only", false, "only verify what --state says was flushed")
	f.Float64Var(&seconds, "seconds", 0, "how long (default: until SIGTERM)")
	f.BoolVar(&asJSON, "json", false, "the result as JSON")
	_ = cmd.MarkFlagRequired("file") // it is there
	return cmd
}

// sizeArg reads a size with K, M, G, T; zero is allowed.
func sizeArg(name, s string, to *int64) error {
	if s == "0" {
		*to = 0
		return nil
	}
	n, err := api.ParseSize(s)
	if err != nil || n > 1<<62 {
		return fmt.Errorf("%s: %q is not a size", name, s)
	}
	*to = int64(n)
	return nil
}
