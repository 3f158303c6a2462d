// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"rsio/dam/lock"
	"rsio/rsio/admin"
	"rsio/rsio/admin/api"
	"rsio/rsio/block"
)

// lockFlags are those of lock.
type lockFlags struct {
	as, at, target string
	ttl, wait      time.Duration
	force, show    bool
}

func (a *app) lock() *cobra.Command {
	var f lockFlags
	c := &cobra.Command{
		Use: "lock [NS/]VOL -- CMD ARGS...", Short: "Run a command while holding a lock on a block of a volume",
		Long: "The lock is one block of 4 KiB of the volume, which is to have nothing else there. CMD runs\n" +
			"in a process group of its own with RSIO_LOCK_TOKEN, a number that grows with each holder,\n" +
			"and RSIO_LOCK_VOLUME; its exit code is passed on. SIGINT, SIGTERM and SIGHUP go to CMD.\n" +
			"When the lock is lost, CMD gets SIGTERM, then SIGKILL before somebody else can have it,\n" +
			"and the exit code is 24.",
		Example:           "  rsioctl lock locks --wait 1m -- rsync -a /a/ /b/\n  rsioctl lock locks --at 8192 --show",
		ValidArgsFunction: a.completeArgs(1, true, volumeNames),
	}
	c.Args = func(c *cobra.Command, got []string) error {
		if f.show {
			return args("VOL")(c, got)
		}
		return args("VOL", "CMD", "...")(c, got)
	}
	c.RunE = a.runLong(func(ctx context.Context, c *admin.Client, args []string) error {
		b, err := newLockBlock(c, args[0], f)
		if err != nil {
			return err
		}
		if f.show {
			return a.lockShow(ctx, b)
		}
		return a.lockRun(ctx, b, f, args[1:])
	})
	flags := c.Flags()
	flags.SetInterspersed(true)
	flags.StringVar(&f.as, "as", "", asHelp)
	flags.StringVar(&f.at, "at", "0", "where the block is, a multiple of 4096")
	flags.DurationVar(&f.ttl, "ttl", lock.DefaultTTL, "after this time without a sign of life others take the lock, 1s to 10m")
	flags.DurationVar(&f.wait, "wait", 30*time.Second, "how long to wait for the lock, 0 for ever")
	flags.BoolVar(&f.force, "force", false, "take it from a holder that may be alive")
	flags.BoolVar(&f.show, "show", false, "say who has the lock")
	a.targetFlag(c, &f.target, targetHelp)
	return c
}

// lockBlock is a lock.Block behind the control API.
type lockBlock struct {
	c                       *admin.Client
	target, namespace, name string
	volume                  string // as given
	call                    api.BlockCall
}

func newLockBlock(c *admin.Client, volume string, f lockFlags) (*lockBlock, error) {
	off, err := api.ParseSize(f.at)
	if err == nil && off%lock.BlockLen != 0 {
		err = fmt.Errorf("%s is not a multiple of %d", f.at, lock.BlockLen)
	}
	switch {
	case err != nil:
		return nil, api.Errorf(api.Usage, "lock", volume, "--at: "+err.Error(), "give one like --at 8192")
	case f.ttl < lock.MinTTL || f.ttl > lock.MaxTTL:
		return nil, api.Errorf(api.Usage, "lock", volume, fmt.Sprintf("--ttl %v is outside %v..%v", f.ttl, lock.MinTTL, lock.MaxTTL), "give one like --ttl 10s")
	case f.wait < 0:
		return nil, api.Errorf(api.Usage, "lock", volume, "--wait is negative", "give one like --wait 30s, or 0 for ever")
	}
	b := &lockBlock{c: c, target: f.target, volume: volume, call: api.BlockCall{As: f.as, Off: off, Len: lock.BlockLen}}
	b.namespace, b.name = volumeArg(volume)
	return b, nil
}

// Read implements lock.Block.
func (b *lockBlock) Read(ctx context.Context, p []byte) error {
	r, err := b.c.Block(ctx, b.target, b.namespace, b.name, b.call)
	if err != nil {
		return lockError(err)
	}
	if len(r.Data) != len(p) {
		return fmt.Errorf("the answer has %d bytes", len(r.Data))
	}
	copy(p, r.Data)
	return nil
}

// CompareAndWrite implements lock.Block.
func (b *lockBlock) CompareAndWrite(ctx context.Context, old, fresh []byte) (bool, error) {
	call := b.call
	call.Compare, call.Write = old, fresh
	r, err := b.c.Block(ctx, b.target, b.namespace, b.name, call)
	if err != nil {
		return false, lockError(err)
	}
	return r.Written, nil
}

// refusal is an error of the control API with the status that tells package
// lock that it is no use to try again.
type refusal struct {
	error
	st block.Status
}

// Unwrap returns the error and its status.
func (r refusal) Unwrap() []error { return []error{r.error, r.st} }

func lockError(err error) error {
	var e *api.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Kind {
	case api.Conflict:
		return refusal{err, block.StatusConflict}
	case api.Denied:
		return refusal{err, block.StatusDenied}
	case api.NotFound:
		return refusal{err, block.StatusNotFound}
	case api.Usage:
		return refusal{err, block.StatusInvalid}
	}
	return err
}

// lockFailed is what rsioctl says of an error of package lock.
func lockFailed(ctx context.Context, volume string, err error) error {
	var e *api.Error
	text := strings.TrimPrefix(err.Error(), "lock: ")
	switch {
	case errors.Is(err, lock.ErrForeign):
		return api.Errorf(api.Usage, "lock", volume, text, "")
	case errors.Is(err, lock.ErrNewer):
		return api.Errorf(api.Failed, "lock", volume, text, "")
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return api.Errorf(api.Timeout, "lock", volume, text, "wait longer with --wait, or look with --show; --force takes it from its holder")
	case errors.As(err, &e):
		return api.Errorf(e.Kind, "lock", volume, e.Reason, e.Remedy)
	}
	return api.Errorf(api.Failed, "lock", volume, text, "")
}

// LockState is what lock --show prints.
type LockState struct {
	Volume   string  `json:"volume"`
	Offset   uint64  `json:"offset"`
	Held     bool    `json:"held"` // whether the holder lives, only time tells
	Owner    string  `json:"owner,omitempty"`
	Token    uint64  `json:"token"`
	TTL      float64 `json:"ttl"` // seconds
	Renewals uint64  `json:"renewals"`
}

func (a *app) lockShow(ctx context.Context, b *lockBlock) error {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	i, err := lock.Show(ctx, b)
	if err != nil {
		return lockFailed(ctx, b.volume, err)
	}
	s := LockState{Volume: volumeText(b.namespace, b.name), Offset: b.call.Off, Held: i.Held, Owner: i.Owner, Token: i.Token, TTL: i.TTL.Seconds(), Renewals: i.Renewals}
	return a.show(s, func(w io.Writer) error {
		t := newTable("VOLUME", s.Volume)
		t.row("OFFSET", fmt.Sprint(s.Offset))
		t.row("HELD", yes(s.Held))
		owner := "OWNER"
		if !s.Held {
			owner = "LAST OWNER"
		}
		t.row(owner, s.Owner)
		t.row("TOKEN", fmt.Sprint(s.Token))
		t.row("TTL", i.TTL.String())
		t.row("RENEWALS", fmt.Sprint(s.Renewals))
		return t.write(w)
	})
}

// lockRun takes the lock, runs the command, and gives the lock back.
func (a *app) lockRun(ctx context.Context, b *lockBlock, f lockFlags, line []string) error {
	path, err := exec.LookPath(line[0])
	if err != nil {
		return api.Errorf(api.NotFound, "lock", b.volume, fmt.Sprintf("command %.80q cannot be run: %v", line[0], err), "the lock was not taken")
	}
	owner, err := actingNexus(ctx, b.c, "lock", b.volume, f.as)
	if err != nil {
		return err
	}
	wait := ctx
	if f.wait > 0 {
		var cancel context.CancelFunc
		wait, cancel = context.WithTimeout(ctx, f.wait)
		defer cancel()
	}
	held, err := lock.Acquire(wait, b, lock.Options{Owner: owner, TTL: f.ttl, Force: f.force, Now: bootTime})
	if err != nil {
		return lockFailed(wait, b.volume, err)
	}
	g := &guarded{held: held, volume: volumeText(b.namespace, b.name), release: min(a.timeout, f.ttl), note: a.note}
	cmd := exec.Command(path, line[1:]...) // not of ctx: its end is a signal like others
	cmd.Args[0] = line[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.Stdin, a.Stdout, a.Stderr
	return g.run(ctx, cmd)
}

// bootTime goes on while the host is suspended, so that a holder that wakes
// knows how long it was away.
func bootTime() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // cannot fail on any Linux that runs Go
	return time.Duration(ts.Nano())
}
