// SPDX-License-Identifier: Apache-2.0

package compare

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	startTimeout = 10 * time.Second
	stopTimeout  = 5 * time.Second
)

// lab is a run: its directory and all that was started in it.
type lab struct {
	ctx   context.Context
	opt   Options
	dir   string
	fio   string
	image string            // disk of the servers that serve any file; "" until made
	paths map[string]string // programs in use
	procs []*process        // oldest first
}

// process is a server.
type process struct {
	name string
	os   *os.Process
	log  string        // file with what it says
	done chan struct{} // closed when it has ended
}

// find returns the program's path, looking in dir first if one is given.
func find(dir, name string) (string, error) {
	if dir != "" {
		return exec.LookPath(filepath.Join(dir, name))
	}
	return exec.LookPath(name)
}

// program returns a program's path and notes it.
func (l *lab) program(name string) (string, error) {
	dir := ""
	if strings.HasPrefix(name, "rsio") {
		dir = l.opt.Bin
	}
	path, err := find(dir, name)
	if err != nil {
		return "", err
	}
	if l.paths == nil {
		l.paths = make(map[string]string)
	}
	l.paths[name] = path
	return path, nil
}

// start runs a server until the lab closes. What it says goes to a file.
func (l *lab) start(name string, args ...string) (*process, error) {
	path, err := l.program(name)
	if err != nil {
		return nil, err
	}
	log, err := os.CreateTemp(l.dir, name+".*.log")
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(path, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = l.dir, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := errors.Join(cmd.Start(), log.Close()); err != nil {
		return nil, err
	}
	p := &process{name: name, os: cmd.Process, log: log.Name(), done: make(chan struct{})}
	l.procs = append(l.procs, p)
	go func() { // ends with the process
		_ = cmd.Wait() // said with the log, if it matters
		close(p.done)
	}()
	return p, nil
}

// daemon runs a server that puts itself into the background and writes its ID
// to a file. If this program is killed nobody ends it.
func (l *lab) daemon(pidFile, name string, args ...string) (*process, error) {
	parent, err := l.start(name, args...)
	if err != nil {
		return nil, err
	}
	pid := 0
	for end := time.Now().Add(startTimeout); pid == 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) || l.ctx.Err() != nil {
			return nil, fmt.Errorf("%s has written no process ID: %s", name, parent.said())
		}
		pid, _ = strconv.Atoi(firstLine(pidFile)) // 0 until it is there
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("%s has ended: %w: %s", name, err, parent.said())
	}
	child, err := os.FindProcess(pid)
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	p := &process{name: name, os: child, log: parent.log, done: make(chan struct{})}
	l.procs = append(l.procs, p)
	go func() { // ends with the process
		for err := error(unix.EINTR); err == unix.EINTR; {
			_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
		}
		_ = unix.Close(fd) // nothing was written
		close(p.done)
	}()
	return p, nil
}

// listening waits until somebody answers on an address.
func (l *lab) listening(p *process, network, addr string) error {
	for end := time.Now().Add(startTimeout); ; {
		c, err := net.Dial(network, addr)
		if err == nil {
			return c.Close()
		}
		select {
		case <-l.ctx.Done():
			return l.ctx.Err()
		case <-p.done:
			return fmt.Errorf("%s ended: %s", p.name, p.said())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s does not answer on %s: %s", p.name, addr, p.said())
		}
	}
}

// said returns the end of what the process has said.
func (p *process) said() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return tail(b)
}

func tail(b []byte) string {
	const most = 500
	b = bytes.TrimSpace(b)
	return string(b[max(0, len(b)-most):])
}

// stop ends a process politely, then by force, and what it has forked with it.
func (p *process) stop() {
	group, err := unix.Getpgid(p.os.Pid)
	_ = p.os.Signal(syscall.SIGTERM) // it may have ended already
	select {
	case <-p.done:
	case <-time.After(stopTimeout):
		_ = p.os.Kill() // it may have ended just now
		<-p.done
	}
	if err == nil && group == p.os.Pid {
		_ = syscall.Kill(-group, syscall.SIGKILL) // nobody is left in most cases
	}
}

// close ends what was started, newest first, and removes the directory.
func (l *lab) close() error {
	for i := len(l.procs) - 1; i >= 0; i-- {
		l.procs[i].stop()
	}
	return os.RemoveAll(l.dir)
}

// run runs a command that ends by itself.
func (l *lab) run(name string, args ...string) (string, error) {
	path, err := l.program(name)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(l.ctx, startTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = l.dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, args[0], err, tail(stderr.Bytes()))
	}
	return strings.TrimSpace(string(out)), nil
}

// freePort returns a TCP port of the loopback interface that nobody uses now.
func freePort() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	port := ln.Addr().(*net.TCPAddr).Port
	return strconv.Itoa(port), ln.Close()
}
