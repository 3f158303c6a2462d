// SPDX-License-Identifier: Apache-2.0

package client

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"

	"rsio/rsio/block"
	"rsio/rsio/blocktest"
)

// foreign is a server that others wrote, as a process.
type foreign struct {
	t      testing.TB
	socket string
	args   []string
	cmd    *exec.Cmd
}

// newForeign starts a program; in its arguments SOCKET and FILE are replaced,
// FILE by the name of a file of 16 MiB.
func newForeign(t testing.TB, args ...string) *foreign {
	t.Helper()
	if testing.Short() {
		blocktest.NotChecked(t, "servers of others are too slow for -short")
	}
	if _, err := exec.LookPath(args[0]); err != nil {
		blocktest.Missing(t, "program "+args[0]+" (make deps installs it)")
	}
	dir, err := os.MkdirTemp("", "foreign")
	if err != nil {
		t.Fatal(err)
	}
	f := &foreign{t: t, socket: filepath.Join(dir, "s")}
	file := filepath.Join(dir, "f")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, 16<<20); err != nil {
		t.Fatal(err)
	}
	for _, a := range args {
		f.args = append(f.args, map[string]string{"SOCKET": f.socket, "FILE": file}[a])
		if last := len(f.args) - 1; f.args[last] == "" {
			f.args[last] = a
		}
	}
	f.start()
	t.Cleanup(func() {
		f.kill()
		_ = os.RemoveAll(dir)
	})
	return f
}

func (f *foreign) start() {
	f.t.Helper()
	f.cmd = exec.Command(f.args[0], f.args[1:]...)
	f.cmd.Stderr = os.Stderr
	f.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := f.cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	eventually(f.t, f.args[0]+" listens", func() bool {
		_, err := os.Stat(f.socket)
		return err == nil
	})
}

func (f *foreign) kill() {
	_ = f.cmd.Process.Kill()
	_ = f.cmd.Wait() // killed
	_ = os.Remove(f.socket)
}

func (f *foreign) open(opt Options) *Device {
	f.t.Helper()
	opt.Socket, opt.Export = f.socket, "v"
	var d *Device
	eventually(f.t, f.args[0]+" answers", func() bool { // its socket is there before it listens
		var err error
		if d, err = Open(f.t.Context(), opt); err != nil {
			f.t.Log(err)
		}
		return err == nil
	})
	return d
}

// foreigners are the programs with their arguments.
var foreigners = map[string][]string{
	"nbdkit memory": {"nbdkit", "-f", "-U", "SOCKET", "memory", "16M"},
	"nbdkit file":   {"nbdkit", "-f", "-U", "SOCKET", "file", "FILE"},
	"qemu-nbd":      {"qemu-nbd", "-f", "raw", "-x", "v", "-k", "SOCKET", "-t", "-e", "8", "--discard=unmap", "FILE"},
}

// TestForeign runs the suite of block devices on servers of others.
func TestForeign(t *testing.T) {
	for name, args := range foreigners {
		t.Run(name, func(t *testing.T) {
			f := newForeign(t, args...)
			blocktest.Run(t, blocktest.Config{
				Make:   func(t *testing.T) block.Device { return f.open(Options{}) },
				Shared: true, Ops: 300, Chain: 300,
			})
		})
	}
}

// TestForeignKilled: a server of others that keeps its data in a file is killed
// under load and started again; nobody sees it.
func TestForeignKilled(t *testing.T) {
	for _, name := range []string{"nbdkit file", "qemu-nbd"} {
		t.Run(name, func(t *testing.T) {
			f := newForeign(t, foreigners[name]...)
			var ups atomic.Int64
			d := f.open(Options{State: func(up bool, _ error) {
				if up {
					ups.Add(1)
				}
			}})
			stop := make(chan struct{})
			ops, wait := load(t, d, stop)
			for n := range int64(4) {
				was := ops.Load()
				eventually(t, "operations", func() bool { return ops.Load() > was+100 })
				f.kill()
				f.start()
				eventually(t, fmt.Sprintf("connection %d", n+2), func() bool { return ups.Load() > n+1 })
			}
			close(stop)
			wait()
			closeDevice(t, d)
		})
	}
}

// TestForeignUnknown: an export that a server of others does not have.
func TestForeignUnknown(t *testing.T) {
	f := newForeign(t, foreigners["qemu-nbd"]...)
	closeDevice(t, f.open(Options{}))
	if _, err := Open(t.Context(), Options{Socket: f.socket, Export: "other"}); !errors.Is(err, block.StatusNotFound) {
		t.Errorf("%v, want NotFound", err)
	}
}
