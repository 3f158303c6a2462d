// SPDX-License-Identifier: Apache-2.0

package target

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"rsio/rsio/admin/api"
	"rsio/rsio/audit"
	"rsio/rsio/block"
	"rsio/rsio/layer/fault"
	"rsio/rsio/stack"
	"rsio/rsio/transport"
	"rsio/rsio/wire"
)

// rig is a target with a unix socket and a portal on loopback.
type rig struct {
	t    testing.TB
	tg   *Target
	unix string
	tcp  string
}

func newRig(t testing.TB, opt Options) *rig {
	t.Helper()
	if opt.Dir == "" {
		opt.Dir = t.TempDir()
	}
	opt.Name, opt.Events = "t", audit.New(nil)
	tg, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, tg: tg, unix: filepath.Join(t.TempDir(), "s")}
	for _, a := range []transport.Addr{{Network: "unix", Address: r.unix}, {Network: "tcp", Address: "127.0.0.1:0"}} {
		l, err := transport.Listen(a)
		if err != nil {
			t.Fatal(err)
		}
		if a.Network == "tcp" {
			r.tcp = l.Addr().String()
		}
		go func() {
			if err := tg.Serve(l, a); err != nil {
				t.Errorf("Serve: %v", err)
			}
		}()
	}
	t.Cleanup(r.close)
	return r
}

// close ends the target; it must not take long, whatever clients do.
func (r *rig) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- r.tg.Close(ctx) }()
	select {
	case err := <-done:
		if err != nil {
			r.t.Errorf("Close: %v", err)
		}
	case <-time.After(20 * time.Second):
		buf := make([]byte, 1<<20)
		r.t.Fatalf("Close does not return:\n%s", buf[:runtime.Stack(buf, true)])
	}
}

// volume makes a volume of 8 MiB.
func (r *rig) volume(name string, layers ...string) {
	r.t.Helper()
	if _, err := r.tg.VolumeCreate(api.VolumeSpec{Name: name, Size: 8 << 20, Kind: "mem", Layers: layers}); err != nil {
		r.t.Fatal(err)
	}
}

// faults is the fault layer of a volume that is open.
func (r *rig) faults(name string) *fault.Device {
	v := r.tg.find(api.DefaultNamespace, name)
	v.mu.Lock()
	defer v.mu.Unlock()
	var g *stack.Graph = v.graph
	return g.Faults()[0]
}

// client is a connection that speaks raw frames.
type client struct {
	t    testing.TB
	nc   net.Conn
	resp wire.LoginResponse
	seq  [wire.ControlSlots + 256]uint64
	want uint32
	ack  uint32
}

func (r *rig) dial(network string) *client {
	r.t.Helper()
	addr := r.unix
	if network == "tcp" {
		addr = r.tcp
	}
	nc, err := net.Dial(network, addr)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		r.t.Fatal(err)
	}
	return &client{t: r.t, nc: nc}
}

// frame encodes a frame with digests.
func frame(h wire.Header, payload []byte) []byte {
	h.PayloadLen = uint32(len(payload))
	if len(payload) > 0 {
		h.PayloadCRC = wire.Digest(payload)
	}
	b := make([]byte, wire.HeaderLen, wire.HeaderLen+len(payload))
	h.Put(b, true)
	return append(b, payload...)
}

func loginFrame(l wire.Login) []byte {
	if l.VersionMax == 0 {
		l.VersionMin, l.VersionMax = wire.VersionMin, wire.VersionMax
	}
	if l.Mode == 0 {
		l.Mode, l.Serial = wire.LoginNew, max(l.Serial, 1)
	}
	if l.Features == 0 {
		l.Features = wire.FeatureDigest
	}
	return frame(wire.Header{Kind: wire.KindLogin}, l.Append(nil))
}

func (c *client) write(b []byte) error { _, err := c.nc.Write(b); return err }

// recv reads one frame.
func (c *client) recv() (wire.Header, []byte, error) {
	var h wire.Header
	b := make([]byte, wire.HeaderLen)
	if _, err := io.ReadFull(c.nc, b); err != nil {
		return h, nil, err
	}
	if err := h.Parse(b, true); err != nil {
		return h, nil, err
	}
	p := make([]byte, h.PayloadLen)
	if _, err := io.ReadFull(c.nc, p); err != nil {
		return h, nil, err
	}
	if len(p) > 0 && wire.Digest(p) != h.PayloadCRC {
		return h, p, errors.New("wrong digest of a payload")
	}
	return h, p, nil
}

func (c *client) loginWith(l wire.Login, features uint64) block.Status {
	c.t.Helper()
	l.Features = features
	return c.login(l)
}

func (c *client) login(l wire.Login) block.Status {
	c.t.Helper()
	if err := c.write(loginFrame(l)); err != nil {
		c.t.Fatal(err)
	}
	h, p, err := c.recv()
	if err != nil || h.Kind != wire.KindLoginResponse {
		c.t.Fatalf("login: kind %d, %v", h.Kind, err)
	}
	if err := c.resp.Parse(p); err != nil {
		c.t.Fatal(err)
	}
	return h.Status
}

// send sends a request; a slot is given by the caller, the number follows.
func (c *client) send(h wire.Header, payload []byte) wire.Header {
	c.t.Helper()
	c.seq[h.Slot]++
	h.Kind, h.Seq, h.Window, h.Grant = wire.KindRequest, c.seq[h.Slot], c.want, c.ack
	if err := c.write(frame(h, payload)); err != nil {
		c.t.Fatal(err)
	}
	return h
}

// answer reads the answer to h, past pongs and events.
func (c *client) answer(h wire.Header) (wire.Header, []byte) {
	c.t.Helper()
	for {
		a, p, err := c.recv()
		if err != nil {
			c.t.Fatalf("no answer to op %d: %v", h.Op, err)
		}
		c.ack = a.Grant
		if a.Kind == wire.KindResponse {
			if a.Slot != h.Slot || a.Seq != h.Seq || a.Op != h.Op {
				c.t.Fatalf("answer %+v to %+v", a, h)
			}
			return a, p
		}
	}
}

func (c *client) call(h wire.Header, payload []byte) (block.Status, []byte) {
	c.t.Helper()
	a, p := c.answer(c.send(h, payload))
	return a.Status, p
}

// open opens a volume and waits until it may be written.
func (c *client) open(name string, flags uint8) uint32 {
	c.t.Helper()
	o := wire.Open{Flags: flags, Namespace: []byte(api.DefaultNamespace), Volume: []byte(name)}
	st, p := c.call(wire.Header{Op: wire.OpOpen}, o.Append(nil))
	var r wire.OpenResponse
	if st != block.StatusOK || r.Parse(p) != nil {
		c.t.Fatalf("open %s: %v", name, st)
	}
	if st, _ := c.call(wire.Header{Op: wire.OpReclaim, Volume: r.Handle}, nil); st != block.StatusOK {
		c.t.Fatalf("reclaim %s: %v", name, st)
	}
	return r.Handle
}

// ready returns a client with an open volume.
func (r *rig) ready(network, nexus, volume string) (*client, uint32) {
	r.t.Helper()
	c := r.dial(network)
	if st := c.login(wire.Login{Nexus: []byte(nexus), Secret: wire.Secret{1}}); st != block.StatusOK {
		r.t.Fatalf("login: %v", st)
	}
	return c, c.open(volume, 0)
}

// join returns another path of c's session.
func (r *rig) join(c *client, nexus string) *client {
	r.t.Helper()
	d := r.dial("tcp")
	if st := d.login(wire.Login{Mode: wire.LoginJoin, Session: c.resp.Session, Nexus: []byte(nexus), Secret: wire.Secret{1}}); st != block.StatusOK {
		r.t.Fatalf("join: %v", st)
	}
	d.seq = c.seq
	return d
}

// ping waits until the target has taken all that was sent before.
func (c *client) ping() {
	c.t.Helper()
	if err := c.write(frame(wire.Header{Kind: wire.KindPing, Seq: 1}, nil)); err != nil {
		c.t.Fatal(err)
	}
	for {
		h, _, err := c.recv()
		if err != nil {
			c.t.Fatalf("no pong: %v", err)
		}
		if h.Kind == wire.KindPong {
			return
		}
	}
}

// ended waits until the target closes the connection, reading what comes.
func (c *client) ended(what string) {
	c.t.Helper()
	_, err := io.Copy(io.Discard, c.nc)
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		c.t.Fatalf("%s: the target keeps the connection", what)
	}
}

// check writes and reads on a good connection.
func (c *client) check(handle uint32, mark byte) {
	c.t.Helper()
	data := bytes.Repeat([]byte{mark}, 4096)
	if st, _ := c.call(wire.Header{Op: block.OpWrite, Slot: 20, Volume: handle, Len: 4096, Off: 4096}, data); st != block.StatusOK {
		c.t.Fatalf("write: %v", st)
	}
	if st, p := c.call(wire.Header{Op: block.OpRead, Slot: 21, Volume: handle, Len: 4096, Off: 4096}, nil); st != block.StatusOK || !bytes.Equal(p, data) {
		c.t.Fatalf("read: %v, %d bytes", st, len(p))
	}
}

// until waits for something to become true.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func (r *rig) conns() int {
	r.tg.mu.Lock()
	defer r.tg.mu.Unlock()
	return len(r.tg.conns)
}

// idle waits until nothing of the pool is out.
func (r *rig) idle() {
	r.t.Helper()
	until(r.t, "buffers given back", func() bool { return r.tg.pool.Stats().Out == 0 })
}
