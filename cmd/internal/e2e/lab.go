// SPDX-License-Identifier: Apache-2.0

// Package e2e tests the built programs from outside: daemons as processes,
// stock NBD clients, hosts as network namespaces, faults on the wire and
// kill -9. Its tests are the package; the other files are their tools.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"rsio/rsio/admin/api"
)

// Lab is a directory with daemons that end with the test.
type Lab struct {
	T   *testing.T
	Dir string
	bin string
}

// NewLab builds nothing: bin holds the programs.
func NewLab(t *testing.T, bin string) *Lab {
	dir, err := os.MkdirTemp("", "rsio-e2e-") // short: unix sockets allow 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the lab is kept in %s", dir)
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return &Lab{T: t, Dir: dir, bin: bin}
}

// Path returns a path below the lab.
func (l *Lab) Path(name string) string { return filepath.Join(l.Dir, name) }

// Daemon is a process that can be killed and started again.
type Daemon struct {
	l    *Lab
	name string
	argv []string
	log  string
	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// Daemon prepares a process; netns is the name of a network namespace or "".
func (l *Lab) Daemon(name, netns, program string, args ...string) *Daemon {
	argv := append([]string{filepath.Join(l.bin, program)}, args...)
	if netns != "" {
		argv = append([]string{"nsenter", "--net=/run/netns/" + netns}, argv...)
	}
	d := &Daemon{l: l, name: name, argv: argv, log: l.Path(name + ".log")}
	l.T.Cleanup(d.end)
	return d
}

// Start starts the process.
func (d *Daemon) Start() {
	d.l.T.Helper()
	f, err := os.OpenFile(d.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		d.l.T.Fatal(err)
	}
	cmd := exec.Command(d.argv[0], d.argv[1:]...)
	cmd.Stdout, cmd.Stderr = f, f
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		d.l.T.Fatalf("start %s: %v", d.name, err)
	}
	done := make(chan struct{})
	d.mu.Lock()
	d.cmd, d.done = cmd, done
	d.mu.Unlock()
	go func() { // joined by end through done
		err := cmd.Wait()
		d.mu.Lock()
		d.err = errors.Join(err, f.Close())
		d.mu.Unlock()
		close(done)
	}()
}

// Pid returns the process's number.
func (d *Daemon) Pid() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cmd.Process.Pid
}

// Signal sends a signal.
func (d *Daemon) Signal(s syscall.Signal) {
	if err := syscall.Kill(d.Pid(), s); err != nil {
		d.l.T.Errorf("signal %v to %s: %v", s, d.name, err)
	}
}

// Kill is kill -9; it returns when the process is gone.
func (d *Daemon) Kill() {
	d.Signal(syscall.SIGKILL)
	<-d.done
}

// Stop ends the process in an orderly way and returns its error.
func (d *Daemon) Stop() error {
	d.Signal(syscall.SIGTERM)
	select {
	case <-d.done:
	case <-time.After(30 * time.Second):
		d.l.T.Errorf("%s does not end within 30 s of SIGTERM", d.name)
		d.Kill()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

func (d *Daemon) end() {
	d.mu.Lock()
	cmd, done := d.cmd, d.done
	d.mu.Unlock()
	if cmd == nil {
		return
	}
	select {
	case <-done:
	default:
		_ = cmd.Process.Kill() // it may be ending by itself
		<-done
	}
	if d.l.T.Failed() {
		b, _ := os.ReadFile(d.log) // what there is
		d.l.T.Logf("--- log of %s ---\n%s", d.name, tail(b, 6000))
	}
	if b, err := os.ReadFile(d.log); err == nil && (bytes.Contains(b, []byte("\npanic:")) || bytes.Contains(b, []byte("fatal error:")) || bytes.Contains(b, []byte("DATA RACE"))) {
		d.l.T.Errorf("%s panicked:\n%s", d.name, tail(b, 6000))
	}
}

func tail(b []byte, n int) []byte {
	if len(b) > n {
		return b[len(b)-n:]
	}
	return b
}

// Run runs a command and returns its output; the test fails if it does.
func (l *Lab) Run(argv ...string) string {
	l.T.Helper()
	out, err := l.Try(argv...)
	if err != nil {
		l.T.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return out
}

// commandTimeout is when a command hangs.
const commandTimeout = 60 * time.Second

// Try runs a command and returns its standard output, or all of it on error.
func (l *Lab) Try(argv ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return out.String() + errOut.String(), err
	}
	return out.String(), nil
}

// Ctl runs rsioctl against a control socket.
func (l *Lab) Ctl(sock string, args ...string) string {
	l.T.Helper()
	return l.Run(append([]string{filepath.Join(l.bin, "rsioctl"), "--admin", "unix:" + sock}, args...)...)
}

// CtlTry is Ctl that returns the error.
func (l *Lab) CtlTry(sock string, args ...string) (string, error) {
	return l.Try(append([]string{filepath.Join(l.bin, "rsioctl"), "--admin", "unix:" + sock}, args...)...)
}

// CtlJSON is Ctl that decodes the answer.
func (l *Lab) CtlJSON(v any, sock string, args ...string) {
	l.T.Helper()
	out := l.Ctl(sock, append(args, "-o", "json")...)
	if err := json.Unmarshal([]byte(out), v); err != nil {
		l.T.Fatalf("rsioctl %v: %v\n%s", args, err, out)
	}
}

// Eventually waits until ok, 20 s at most.
func (l *Lab) Eventually(what string, ok func() bool) {
	l.T.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	l.T.Fatalf("not within 20 s: %s", what)
}

// Pair is a target and an initiator that know each other.
type Pair struct {
	*Lab
	Target, Initiator *Daemon
	TargetSock, Sock  string
}

// PairOptions select addresses and places.
type PairOptions struct {
	Portals        []string // what the target listens on
	Addresses      []string // what the initiator connects to; empty: Portals
	TargetNetns    string
	InitiatorNetns string
	TargetArgs     []string
	InitiatorArgs  []string
	InMemory       bool // the pool is on tmpfs: what is measured is not the disk
}

// NewPair starts both daemons and waits until all paths are up.
func (l *Lab) NewPair(o PairOptions) *Pair {
	l.T.Helper()
	p := &Pair{Lab: l, TargetSock: l.Path("t.sock"), Sock: l.Path("run/admin.sock")}
	l.T.Cleanup(func() { l.endFiles(l.Path("run")) })
	pool := l.Path("pool")
	if o.InMemory {
		pool = l.memory()
	}
	args := []string{"--data", pool, "--admin", "unix:" + p.TargetSock, "--name", "st1", "--nbd", "unix:" + l.Path("tnbd.sock")}
	for _, a := range o.Portals {
		args = append(args, "--listen", a)
	}
	if len(o.Addresses) == 0 {
		o.Addresses = o.Portals
	}
	p.Target = l.Daemon("target", o.TargetNetns, "rsio-target", append(args, o.TargetArgs...)...)
	p.Target.Start()
	p.Initiator = l.Daemon("initiator", o.InitiatorNetns, "rsio-initiator", append([]string{"--run", l.Path("run"), "--name", "h1",
		"--target", "st1=" + strings.Join(o.Addresses, ",")}, o.InitiatorArgs...)...)
	p.Initiator.Start()
	p.WaitPaths(len(o.Addresses))
	return p
}

// memory makes a directory on tmpfs; without one it is on disk.
func (l *Lab) memory() string {
	dir, err := os.MkdirTemp("/dev/shm", "rsio-e2e-")
	if err != nil {
		l.T.Logf("no tmpfs, the pool is on disk: %v", err)
		return l.Path("pool")
	}
	l.T.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			l.T.Error(err)
		}
	})
	return dir
}

// WaitPaths waits until n paths of the host's own session are up.
func (p *Pair) WaitPaths(n int) {
	p.T.Helper()
	p.Eventually(fmt.Sprintf("%d paths are up", n), func() bool { return p.PathsUp() == n })
}

// PathsUp returns how many paths of the host's own session are up.
func (p *Pair) PathsUp() int {
	out, err := p.CtlTry(p.Sock, "path", "list", "-o", "json")
	if err != nil {
		return -1
	}
	var paths []api.Path
	if json.Unmarshal([]byte(out), &paths) != nil {
		return -1
	}
	n := 0
	for _, x := range paths {
		if x.State == "up" && x.Nexus == "h1" {
			n++
		}
	}
	return n
}

// Volume makes and attaches a volume and returns its NBD socket.
func (p *Pair) Volume(name, size string, more ...string) string {
	p.T.Helper()
	p.Ctl(p.Sock, append([]string{"volume", "create", name, "--size", size}, more...)...)
	p.Ctl(p.Sock, "attach", name)
	return p.Path("run/nbd.sock")
}

// URI returns the NBD URI of an attachment.
func (p *Pair) URI(name string) string {
	return "nbd+unix:///" + name + "?socket=" + p.Path("run/nbd.sock")
}
