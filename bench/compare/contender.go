// SPDX-License-Identifier: Apache-2.0

package compare

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// Names of those that the others are compared with.
const (
	referenceOne = "nbdkit file"
	referenceTwo = "nbdkit chain"
)

// contender is a way to serve a disk over NBD.
type contender struct {
	name string
	hops int
	// begin starts its servers and returns them with the URI of the disk.
	begin func(*lab) ([]*process, string, error)
	// own says that the disk is its own and has to be filled through it.
	own bool
}

// reference is the contender with as many hops that ratios refer to.
func (c contender) reference() string {
	if c.hops == 2 {
		return referenceTwo
	}
	return referenceOne
}

// contenders lists all, in the order of the tables.
func contenders() []contender {
	return []contender{
		{"rsio 1 hop", 1, rsioOneHop, true},
		{referenceOne, 1, nbdkitFile, false},
		{"qemu-nbd", 1, qemuNBD, false},
		{"nbd-server", 1, nbdServer, false},
		{"rsio 2 hops", 2, rsioTwoHops, true},
		{referenceTwo, 2, nbdkitChain, false},
	}
}

// entrant is a contender whose servers run.
type entrant struct {
	contender
	servers []*process
	uri     string
}

func (e *entrant) pids() []int {
	var out []int
	for _, p := range e.servers {
		out = append(out, p.os.Pid)
	}
	return out
}

// enter starts a contender.
func (l *lab) enter(c contender) (*entrant, error) {
	if !c.own {
		if err := l.makeImage(); err != nil {
			return nil, err
		}
	}
	servers, uri, err := c.begin(l)
	if err != nil {
		return nil, err
	}
	if c.own {
		if err := l.fill(uri); err != nil {
			return nil, err
		}
	}
	return &entrant{contender: c, servers: servers, uri: uri}, nil
}

// makeImage writes the disk that the foreign servers share, once.
func (l *lab) makeImage() (err error) {
	if l.image != "" {
		return nil
	}
	f, err := os.Create(filepath.Join(l.dir, "disk.img"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := bufio.NewWriterSize(f, 1<<20)
	block := make([]byte, 1<<16)
	r := rand.NewChaCha8([32]byte{1})
	for n := int64(0); n < l.opt.Size; n += int64(len(block)) {
		_, _ = r.Read(block) // never fails
		if _, err := w.Write(block); err != nil {
			return err
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	l.image = f.Name()
	return nil
}

func (l *lab) path(name string) string { return filepath.Join(l.dir, name) }

// unixURI is where a client finds an export on a unix socket.
func unixURI(socket, export string) string { return "nbd+unix:///" + export + "?socket=" + socket }

// serve starts one server and waits until it listens on a unix socket.
func (l *lab) serve(socket, export, name string, args ...string) ([]*process, string, error) {
	p, err := l.start(name, args...)
	if err != nil {
		return nil, "", err
	}
	return []*process{p}, unixURI(socket, export), l.listening(p, "unix", socket)
}

func nbdkitFile(l *lab) ([]*process, string, error) {
	socket := l.path("nbdkit.sock")
	return l.serve(socket, "", "nbdkit", "-f", "-U", socket, "file", l.image)
}

// nbdkitChain has loopback TCP between its two, as rsio has.
func nbdkitChain(l *lab) ([]*process, string, error) {
	port, err := freePort()
	if err != nil {
		return nil, "", err
	}
	back, err := l.start("nbdkit", "-f", "-i", "127.0.0.1", "-p", port, "file", l.image)
	if err != nil {
		return nil, "", err
	}
	if err := l.listening(back, "tcp", "127.0.0.1:"+port); err != nil {
		return nil, "", err
	}
	socket := l.path("chain.sock")
	front, uri, err := l.serve(socket, "", "nbdkit", "-f", "-U", socket, "nbd", "hostname=127.0.0.1", "port="+port)
	return append(front, back), uri, err
}

func qemuNBD(l *lab) ([]*process, string, error) {
	socket := l.path("qemu.sock")
	return l.serve(socket, "", "qemu-nbd", "-t", "-k", socket, "-f", "raw", "--cache=writeback", "--aio=threads", "-e", "16", l.image)
}

func nbdServer(l *lab) ([]*process, string, error) {
	port, err := freePort() // it listens on TCP in any case
	if err != nil {
		return nil, "", err
	}
	socket, conf, pid := l.path("nbd-server.sock"), l.path("nbd-server.conf"), l.path("nbd-server.pid")
	text := fmt.Sprintf("[generic]\nunixsock = %s\nlistenaddr = 127.0.0.1\nport = %s\n[disk]\nexportname = %s\n", socket, port, l.image)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, "", err
	}
	p, err := l.daemon(pid, "nbd-server", "-C", conf, "-p", pid)
	if err != nil {
		return nil, "", err
	}
	return []*process{p}, unixURI(socket, "disk"), l.listening(p, "unix", socket)
}
