// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"rsio/dam/lock"
	"rsio/rsio/admin/api"
)

// guarded runs a command under a lock that is held.
//
// Goroutines: one keeps the lock, one waits for the command; run joins both.
type guarded struct {
	held    *lock.Held
	volume  string
	release time.Duration // at most, for giving the lock back
	note    func(format string, args ...any)
}

// run runs cmd and gives the lock back. The error is an exitCode if the command
// ran while the lock was held, whatever came of the command.
func (g *guarded) run(ctx context.Context, cmd *exec.Cmd) error {
	// The command dies with rsioctl, which is what keeps the lock; the kernel
	// takes the end of the thread that started it for the end of the parent.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.Env = append(os.Environ(), fmt.Sprintf("RSIO_LOCK_TOKEN=%d", g.held.Token()), "RSIO_LOCK_VOLUME="+g.volume)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second // for output that a child of the command holds open
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	term := lend(cmd)
	if err := cmd.Start(); err != nil {
		term.takeBack()
		g.giveBack(ctx)
		return api.Errorf(api.Failed, "lock", g.volume, "the command cannot be run: "+err.Error(), "")
	}
	lost := g.watch(ctx, cmd, signals, term)
	term.takeBack()
	if late := g.giveBack(ctx); lost == nil && errors.Is(late, lock.ErrLost) {
		lost = late
	}
	if lost != nil {
		return api.Errorf(api.Conflict, "lock", g.volume, fmt.Sprintf("the lock was lost while the command ran: %v", lost),
			"the command was ended; look at what it has done, somebody else may have the lock")
	}
	return commandCode(cmd)
}

// watch returns when the command has ended, with the error of a lock that was
// lost before.
func (g *guarded) watch(ctx context.Context, cmd *exec.Cmd, signals <-chan os.Signal, term *terminal) (lost error) {
	keep, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	kept, ended := make(chan error, 1), make(chan struct{})
	go func() { kept <- g.held.Keep(keep) }()
	go func() {
		_ = cmd.Wait() // ProcessState says it all
		close(ended)
	}()
	group := func(sig syscall.Signal) { _ = unix.Kill(-cmd.Process.Pid, sig) } // it may have ended: what was wanted
	var kill <-chan time.Time
	lostYet, done := (<-chan error)(kept), ctx.Done()
	for {
		select {
		case sig := <-signals:
			if s, ok := sig.(syscall.Signal); ok {
				group(s)
			}
			done = nil // the same signal has ended ctx, or will
		case <-done:
			done = nil
			group(passedOn(signals))
		case lost = <-lostYet:
			lostYet = nil
			group(syscall.SIGTERM)
			kill = time.After(g.held.Left() - g.held.Left()/8)
		case <-term.changed:
			term.goOn(cmd.Process.Pid)
		case <-kill:
			group(syscall.SIGKILL)
		case <-ended:
			if lost != nil {
				group(syscall.SIGKILL) // what the command has left behind
			}
			stop()
			if lostYet == nil {
				return lost
			}
			return <-kept
		}
	}
}

// passedOn is the signal that has ended the context of rsioctl.
func passedOn(signals <-chan os.Signal) syscall.Signal {
	select {
	case sig := <-signals:
		if s, ok := sig.(syscall.Signal); ok {
			return s
		}
	case <-time.After(50 * time.Millisecond): // none: it was a test, or a program around
	}
	return syscall.SIGTERM
}

// giveBack releases the lock. If that fails it ends with its TTL.
func (g *guarded) giveBack(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.release)
	defer cancel()
	err := g.held.Release(ctx)
	if err != nil && !errors.Is(err, lock.ErrLost) {
		g.note("lock %s: not given back, it ends with its TTL: %v", g.volume, err)
	}
	return err
}

// commandCode is how a shell tells the end of a command.
func commandCode(cmd *exec.Cmd) error {
	code := cmd.ProcessState.ExitCode()
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		code = 128 + int(ws.Signal())
	}
	if code == 0 {
		return nil
	}
	return exitCode(code)
}
