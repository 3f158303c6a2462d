// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// terminal is the terminal that rsioctl was started at, lent to the command
// that it runs: the zero value if there is none.
type terminal struct {
	fd      int
	own     int // process group of rsioctl
	changed chan os.Signal
}

// lend makes cmd the foreground of the terminal at its stdin, if rsioctl is
// that now.
func lend(cmd *exec.Cmd) *terminal {
	f, ok := cmd.Stdin.(*os.File)
	if !ok || !isTerminal(f) {
		return &terminal{}
	}
	t := &terminal{fd: int(f.Fd()), own: unix.Getpgrp(), changed: make(chan os.Signal, 1)}
	if now, err := unix.IoctlGetInt(t.fd, unix.TIOCGPGRP); err != nil || now != t.own {
		return &terminal{}
	}
	cmd.SysProcAttr.Foreground, cmd.SysProcAttr.Ctty = true, t.fd
	signal.Notify(t.changed, syscall.SIGCHLD)
	return t
}

// goOn continues a command that was stopped at the terminal, where nobody
// could wake it: the shell does not know it.
func (t *terminal) goOn(pid int) {
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_PID, pid, &info, unix.WSTOPPED|unix.WNOHANG, nil); err == nil && info.Signo != 0 {
		_ = unix.Kill(-pid, syscall.SIGCONT) // it may have ended since
	}
}

// takeBack makes rsioctl the foreground again.
func (t *terminal) takeBack() {
	if t.changed == nil {
		return
	}
	signal.Stop(t.changed)
	signal.Ignore(syscall.SIGTTOU) // or this would stop rsioctl, which is in the background
	defer signal.Reset(syscall.SIGTTOU)
	_ = unix.IoctlSetPointerInt(t.fd, unix.TIOCSPGRP, t.own) // the terminal may be gone
}
