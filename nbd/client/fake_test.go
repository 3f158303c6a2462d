// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"rsio/rsio/block"
)

// patience is how long anything in a test may take that should take no time.
const patience = 20 * time.Second

// fake is a server that does what a test says: serve is called for connection
// n, from 0, which is closed when it returns.
type fake struct {
	socket string
	serve  func(n int, p *peer)

	l  net.Listener
	wg sync.WaitGroup

	mu    sync.Mutex
	peers []*peer
}

func newFake(t testing.TB, serve func(n int, p *peer)) *fake {
	t.Helper()
	dir, err := os.MkdirTemp("", "fake") // t.TempDir can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{socket: filepath.Join(dir, "s"), serve: serve}
	if f.l, err = net.Listen("unix", f.socket); err != nil {
		t.Fatal(err)
	}
	f.wg.Go(f.accept)
	t.Cleanup(func() {
		_ = f.l.Close()
		f.mu.Lock()
		for _, p := range f.peers {
			_ = p.Close()
		}
		f.mu.Unlock()
		f.wg.Wait()
		_ = os.RemoveAll(dir)
	})
	return f
}

func (f *fake) accept() {
	for n := 0; ; n++ {
		c, err := f.l.Accept()
		if err != nil {
			return
		}
		p := &peer{Conn: c, in: bufio.NewReader(c)}
		_ = c.SetDeadline(time.Now().Add(patience)) // nothing here hangs
		f.mu.Lock()
		f.peers = append(f.peers, p)
		f.mu.Unlock()
		f.wg.Go(func() {
			f.serve(n, p)
			_ = p.Close()
		})
	}
}

// connections returns how many there were.
func (f *fake) connections() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.peers)
}

// open returns a device of this server.
func (f *fake) open(t testing.TB, opt Options) *Device {
	t.Helper()
	opt.Socket, opt.Export = f.socket, "v"
	d, err := Open(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// peer is a connection at the server's end.
type peer struct {
	net.Conn
	in *bufio.Reader
}

// fakeFlags are the transmission flags of a fake export.
const fakeFlags = 1 | FlagFlush | FlagFUA | FlagTrim | FlagZeroes | FlagFastZero

// hello does the handshake of an export of 1 TiB.
func (p *peer) hello() bool {
	p.put(greeting)
	head := make([]byte, 4+16)
	if _, err := io.ReadFull(p.in, head); err != nil {
		return false
	}
	if _, err := io.CopyN(io.Discard, p.in, int64(binary.BigEndian.Uint32(head[16:]))); err != nil {
		return false
	}
	return p.put(reply(repInfo, export(1<<40, fakeFlags)), reply(repAck, nil))
}

func (p *peer) put(parts ...[]byte) bool {
	for _, b := range parts {
		if _, err := p.Write(b); err != nil {
			return false
		}
	}
	return true
}

// ended reports whether the client has closed the connection; what it sent
// before is thrown away.
func (p *peer) ended() bool {
	_, err := io.Copy(io.Discard, p.in)
	return !errors.Is(err, os.ErrDeadlineExceeded)
}

// request is one as the server reads it.
type request struct {
	flags, cmd uint16
	cookie     uint64
	off        uint64
	n          uint32
}

// request reads one with its payload; false when the connection has ended.
func (p *peer) request() (request, bool) {
	r, ok := p.header()
	return r, ok && p.payload(r)
}

func (p *peer) header() (request, bool) {
	b := make([]byte, requestLen)
	if _, err := io.ReadFull(p.in, b); err != nil || binary.BigEndian.Uint32(b) != magicRequest {
		return request{}, false
	}
	return request{flags: binary.BigEndian.Uint16(b[4:]), cmd: binary.BigEndian.Uint16(b[6:]),
		cookie: binary.BigEndian.Uint64(b[8:]), off: binary.BigEndian.Uint64(b[16:]), n: binary.BigEndian.Uint32(b[24:])}, true
}

// payload throws that of a write away.
func (p *peer) payload(r request) bool {
	if r.cmd != cmdWrite {
		return true
	}
	_, err := io.CopyN(io.Discard, p.in, int64(r.n))
	return err == nil
}

// answer answers a request; a read that succeeds brings 0x5a.
func (p *peer) answer(r request, code uint32) bool {
	b := simple(code, r.cookie)
	if r.cmd == cmdRead && code == 0 {
		b = append(b, data(int(r.n))...)
	}
	return p.put(b)
}

// honest answers everything until the connection ends.
func (p *peer) honest() {
	for {
		r, ok := p.request()
		if !ok || !p.answer(r, 0) {
			return
		}
	}
}

var greeting = []byte("NBDMAGICIHAVEOPT\x00\x03")

func be(parts ...any) []byte {
	var b []byte
	for _, p := range parts {
		b, _ = binary.Append(b, binary.BigEndian, p) // numbers only
	}
	return b
}

// reply is a reply to GO.
func reply(typ uint32, payload []byte) []byte {
	return append(be(uint64(magicReply), uint32(optGo), typ, uint32(len(payload))), payload...)
}

func export(size uint64, flags uint16) []byte { return be(uint16(infoExport), size, flags) }

func sizes(least, preferred, most uint32) []byte {
	return be(uint16(infoBlockSize), least, preferred, most)
}

// simple is the header of an answer.
func simple(code uint32, cookie uint64) []byte { return be(uint32(magicSimple), code, cookie) }

func data(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = 0x5a
	}
	return b
}

// call is a request whose completions are counted.
type call struct {
	block.Request
	ends chan block.Status // has room for two: a second completion is seen, not waited for
}

func newCall(op block.Op, off uint64, n int) *call {
	c := &call{ends: make(chan block.Status, 2)}
	c.Request = block.Request{Op: op, Off: off, Len: uint32(n), Done: c}
	if op == block.OpRead || op == block.OpWrite {
		c.Buf = make([]byte, n)
	}
	return c
}

// Complete implements block.Completer.
func (c *call) Complete(r *block.Request) { c.ends <- r.Status }

// wait returns how the request ended.
func (c *call) wait(t testing.TB) block.Status {
	t.Helper()
	select {
	case st := <-c.ends:
		return st
	case <-time.After(patience):
		t.Fatalf("%v at %d does not end", c.Op, c.Off)
		return 0
	}
}

// open reports whether it has not ended.
func (c *call) open() bool { return len(c.ends) == 0 }

// closeDevice closes with a limit.
func closeDevice(t testing.TB, d *Device) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- d.Close(t.Context()) }()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("close: %v", err)
		}
	case <-time.After(patience):
		t.Fatal("Close does not return")
	}
}

// eventually waits for something.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not seen: %s", what)
		}
	}
}
