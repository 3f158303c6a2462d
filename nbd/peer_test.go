// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"rsio/rsio/buf"
)

// bench is a server under test with everything around it.
type bench struct {
	t    testing.TB
	srv  *Server
	pool *buf.Pool
	ex   *list
	addr net.Addr
	done chan error
}

// serve starts a server on a unix socket. The cleanup proves that nothing is
// left over.
func serve(t testing.TB, ex *list, o Options) *bench {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	if o.Pool == nil {
		o.Pool = buf.New(128 << 20)
	}
	o.Exports = ex
	b := &bench{t: t, srv: NewServer(o), pool: o.Pool, ex: ex, addr: l.Addr(), done: make(chan error, 1)}
	go func() { b.done <- b.srv.Serve(l) }()
	t.Cleanup(b.end)
	return b
}

func (b *bench) end() {
	ctx, cancel := context.WithTimeout(context.Background(), 120*time.Second)
	defer cancel()
	if err := b.srv.Close(ctx); err != nil {
		b.t.Errorf("close of the server: %v", err)
	}
	if err := <-b.done; !errors.Is(err, ErrServerClosed) {
		b.t.Errorf("Serve returned %v", err)
	}
	if n := b.pool.Stats().Out; n != 0 {
		b.t.Errorf("%d bytes are missing in the pool", n)
	}
	if n := b.ex.outstanding(); n != 0 {
		b.t.Errorf("%d exports were not released", n)
	}
	if st := b.srv.Stats(); st.Conns != 0 || st.Handshakes != 0 || st.Panics != 0 {
		b.t.Errorf("left over: %+v", st)
	}
	if len(b.srv.volumes) != 0 {
		b.t.Errorf("%d volumes are left over", len(b.srv.volumes))
	}
}

// peer speaks the protocol by hand.
type peer struct {
	t testing.TB
	net.Conn
	structured, extended bool
	size                 uint64
	flags                uint16
	cookie               uint64
}

// dial connects and reads the greeting.
func (b *bench) dial() *peer {
	b.t.Helper()
	nc, err := net.Dial(b.addr.Network(), b.addr.String())
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { nc.Close() })
	p := &peer{t: b.t, Conn: nc}
	p.deadline(120 * time.Second)
	return p
}

func (p *peer) deadline(d time.Duration) { _ = p.SetDeadline(time.Now().Add(d)) }

func (p *peer) get(n int) []byte {
	p.t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(p, b); err != nil {
		p.t.Fatalf("reading %d bytes: %v", n, err)
	}
	return b
}

func (p *peer) put(parts ...[]byte) {
	p.t.Helper()
	if _, err := p.Write(bytes.Join(parts, nil)); err != nil {
		p.t.Fatalf("sending: %v", err)
	}
}

func be16(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }
func be32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }
func be64(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

func str(s string) []byte { return append(be32(uint32(len(s))), s...) }

// greet answers the greeting with client flags.
func (p *peer) greet(flags uint32) {
	p.t.Helper()
	if b := p.get(18); string(b[:16]) != "NBDMAGICIHAVEOPT" || b[17] != 3 {
		p.t.Fatalf("greeting %x", b)
	}
	p.put(be32(flags))
}

type optReply struct {
	typ  uint32
	data []byte
}

// option sends an option and returns the replies up to the final one.
func (p *peer) option(id uint32, data ...[]byte) []optReply {
	p.t.Helper()
	body := bytes.Join(data, nil)
	p.put([]byte("IHAVEOPT"), be32(id), be32(uint32(len(body))), body)
	return p.replies(id)
}

func (p *peer) replies(id uint32) []optReply {
	p.t.Helper()
	var all []optReply
	for {
		h := p.get(20)
		if binary.BigEndian.Uint64(h) != 0x3e889045565a9 || binary.BigEndian.Uint32(h[8:]) != id {
			p.t.Fatalf("reply %x to option %d", h, id)
		}
		r := optReply{typ: binary.BigEndian.Uint32(h[12:])}
		r.data = p.get(int(binary.BigEndian.Uint32(h[16:])))
		all = append(all, r)
		if r.typ == 1 || r.typ >= repErr {
			return all
		}
	}
}

// last returns the type of the final reply.
func last(r []optReply) uint32 { return r[len(r)-1].typ }

type mode int

const (
	simple mode = iota
	structured
	extended
)

func (m mode) String() string { return [...]string{"simple", "structured", "extended"}[m] }

// login gets to the transmission phase of export "vol".
func (b *bench) login(m mode) *peer {
	b.t.Helper()
	p := b.dial()
	p.greet(3)
	switch m {
	case structured:
		p.structured = true
		p.want(optStructured, 1)
	case extended:
		p.extended = true
		p.want(optExtended, 1)
	}
	if m != simple {
		p.want(optSetMeta, 1, str("vol"), be32(1), str(contextName))
	}
	p.goTo("vol")
	return p
}

func (p *peer) goTo(name string) {
	p.t.Helper()
	all := p.option(7, str(name), be16(0))
	if last(all) != 1 {
		p.t.Fatalf("GO: %+v", all)
	}
	for _, r := range all {
		if r.typ == 3 && binary.BigEndian.Uint16(r.data) == 0 {
			p.size = binary.BigEndian.Uint64(r.data[2:])
			p.flags = binary.BigEndian.Uint16(r.data[10:])
		}
	}
}

// want sends an option whose final reply is of type typ.
func (p *peer) want(id, typ uint32, data ...[]byte) []optReply {
	p.t.Helper()
	all := p.option(id, data...)
	if last(all) != typ {
		p.t.Fatalf("option %d: final reply %#x, want %#x", id, last(all), typ)
	}
	return all
}

// request encodes a request; payload may be nil.
func (p *peer) request(cmd, flags uint16, cookie, off, length uint64, payload []byte) []byte {
	if p.extended {
		if cmd == cmdWrite || payload != nil {
			flags |= flagPayload
		}
		return bytes.Join([][]byte{be32(magicExtRequest), be16(flags), be16(cmd), be64(cookie), be64(off), be64(length), payload}, nil)
	}
	return bytes.Join([][]byte{be32(magicRequest), be16(flags), be16(cmd), be64(cookie), be64(off), be32(uint32(length)), payload}, nil)
}

// answer is a complete reply.
type answer struct {
	cookie uint64
	err    uint32
	text   string
	data   []byte // of a read, put together
	chunks int    // of data
	status []byte // of a block status, behind the context
}

// reply reads messages until one reply is complete. reads maps cookies to the
// requests that are answered with data.
func (p *peer) reply(reads map[uint64][2]uint64) answer {
	p.t.Helper()
	parts := map[uint64]*answer{}
	for {
		magic := binary.BigEndian.Uint32(p.get(4))
		switch {
		case magic == magicReply && !p.extended:
			b := p.get(12)
			a := answer{err: binary.BigEndian.Uint32(b), cookie: binary.BigEndian.Uint64(b[4:])}
			if r, ok := reads[a.cookie]; ok && p.structured {
				p.t.Fatalf("simple reply to a read")
			} else if ok && a.err == 0 {
				a.data, a.chunks = p.get(int(r[1])), 1
			}
			return a
		case magic == magicChunk && p.structured, magic == magicExtReply && p.extended:
		default:
			p.t.Fatalf("reply with magic %#x", magic)
		}
		if a := p.chunk(parts, reads); a != nil {
			return *a
		}
	}
}

func (p *peer) chunk(parts map[uint64]*answer, reads map[uint64][2]uint64) *answer {
	p.t.Helper()
	b := p.get(12)
	flags, typ, cookie := binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]), binary.BigEndian.Uint64(b[4:])
	var n uint64
	if p.extended {
		b = p.get(16)
		if r, ok := reads[cookie]; ok && binary.BigEndian.Uint64(b) != r[0] {
			p.t.Fatalf("chunk with offset %d", binary.BigEndian.Uint64(b))
		}
		n = binary.BigEndian.Uint64(b[8:])
	} else {
		n = uint64(binary.BigEndian.Uint32(p.get(4)))
	}
	body := p.get(int(n))
	a := parts[cookie]
	if a == nil {
		a = &answer{cookie: cookie}
		parts[cookie] = a
	}
	switch typ {
	case chunkNone:
	case chunkData:
		r := reads[cookie]
		if a.data == nil {
			a.data = make([]byte, r[1])
		}
		off := binary.BigEndian.Uint64(body) - r[0]
		copy(a.data[off:], body[8:])
		a.chunks++
	case chunkStatus:
		a.status = body[4:]
	case chunkStatusExt:
		a.status = body[8:]
	case chunkError:
		a.err = binary.BigEndian.Uint32(body)
		a.text = string(body[6:])
	default:
		p.t.Fatalf("chunk of type %#x", typ)
	}
	if flags&chunkDone == 0 {
		return nil
	}
	return a
}

// do sends one request and reads its answer.
func (p *peer) do(cmd, flags uint16, off, length uint64, payload []byte) answer {
	p.t.Helper()
	p.cookie++
	p.put(p.request(cmd, flags, p.cookie, off, length, payload))
	reads := map[uint64][2]uint64{}
	if cmd == cmdRead {
		reads[p.cookie] = [2]uint64{off, length}
	}
	a := p.reply(reads)
	if a.cookie != p.cookie {
		p.t.Fatalf("answer to %d, want %d", a.cookie, p.cookie)
	}
	return a
}

// ok is do that must succeed.
func (p *peer) ok(cmd, flags uint16, off, length uint64, payload []byte) answer {
	p.t.Helper()
	a := p.do(cmd, flags, off, length, payload)
	if a.err != 0 {
		p.t.Fatalf("command %d at %d, %d bytes: error %d %q", cmd, off, length, a.err, a.text)
	}
	return a
}

// ended waits until the server has closed the connection.
func (p *peer) ended() {
	p.t.Helper()
	for b := make([]byte, 4096); ; {
		if _, err := p.Read(b); err != nil {
			var ne net.Error
			if errors.As(err, &ne) && ne.Timeout() {
				p.t.Fatal("the server did not close the connection")
			}
			return
		}
	}
}

// eventually waits for something that happens on another goroutine.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it did not happen: %s", what)
		}
	}
}
