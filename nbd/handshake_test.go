// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"rsio/rsio/block"
)

const unsup = repErr | 1

func start(t *testing.T, o Options) *bench {
	d := newMemory(1<<20, 0)
	t.Cleanup(func() { closeDevice(t, d) })
	return serve(t, one(d), o)
}

// TestOptions sends every option in every state.
func TestOptions(t *testing.T) {
	b := start(t, Options{})
	p := b.dial()
	p.greet(3)
	long, longer := strings.Repeat("n", 4096), strings.Repeat("n", 4097)
	p.want(99, unsup, make([]byte, 60000))
	p.want(optStartTLS, unsup)
	p.want(5000, unsup)
	p.want(3, repErrInvalid, []byte("x"))
	if all := p.want(3, 1); len(all) != 2 || string(all[0].data) != "\x00\x00\x00\x03vola volume" {
		t.Errorf("list: %v", all)
	}
	for _, id := range []uint32{6, 7} {
		p.want(id, repErr|6, str("nobody"), be16(0))
		p.want(id, repErr|6, str(long), be16(0))
		p.want(id, repErrTooBig, str(longer), be16(0))
		p.want(id, repErrInvalid)
		p.want(id, repErrInvalid, []byte{0, 0})
		p.want(id, repErrInvalid, be32(0xffffffff), []byte("vol"), be16(0))
		p.want(id, repErrInvalid, str("vol"))
		p.want(id, repErrInvalid, str("vol"), be16(2), be16(1))
		p.want(id, repErrInvalid, str("vol"), be16(1), be16(1), []byte{1})
		p.want(id, repErrTooBig, make([]byte, 65536))
	}
	for _, id := range []uint32{optListMeta, optSetMeta} {
		p.want(id, repErrInvalid, str("vol"), be32(0)) // no structured replies yet
	}
	p.want(optStructured, repErrInvalid, []byte{1})
	p.want(optStructured, 1)
	for _, id := range []uint32{optListMeta, optSetMeta} {
		p.want(id, repErr|6, str("nobody"), be32(0))
		p.want(id, repErrInvalid, str("vol"), be32(0xffffffff))
		p.want(id, repErrInvalid, str("vol"), be32(1), be32(100), []byte("base:"))
		p.want(id, repErrInvalid, str("vol"), be32(0), []byte("x"))
		p.want(id, repErrTooBig, str("vol"), be32(1), str(longer))
	}
	count := func(id uint32, q ...string) int {
		data := [][]byte{str("vol"), be32(uint32(len(q)))}
		for _, s := range q {
			data = append(data, str(s))
		}
		return len(p.want(id, 1, data...)) - 1
	}
	got := fmt.Sprint(count(optListMeta), count(optListMeta, "base:"), count(optListMeta, "x-y:z", "base:allocation"),
		count(optListMeta, "base:other"), count(optSetMeta), count(optSetMeta, "base:"), count(optSetMeta, "a", "base:allocation"))
	if got != "1 1 1 0 0 0 1" {
		t.Errorf("contexts: %s", got)
	}
	infos := p.want(6, 1, str(""), be16(4), be16(3), be16(1), be16(2), be16(77))
	if len(infos) != 5 || string(infos[2].data) != "\x00\x01vol" || string(infos[3].data) != "\x00\x02a volume" {
		t.Errorf("infos: %v", infos)
	}
	if !bytes.Equal(infos[1].data, bytes.Join([][]byte{be16(3), be32(1), be32(4096), be32(32 << 20)}, nil)) {
		t.Errorf("block sizes: %x", infos[1].data)
	}
	p.want(optExtended, 1)
	p.want(optStructured, repErrExtended)
	p.want(2, 1)
	p.ended()
}

// TestExportName covers the option without replies.
func TestExportName(t *testing.T) {
	b := start(t, Options{})
	for _, flags := range []uint32{1, 3, 0} { // go-nbd's client sends 0
		p := b.dial()
		p.greet(flags)
		p.put([]byte("IHAVEOPT"), be32(1), be32(0), p.request(cmdRead, 0, 1, 0, 512, nil))
		n := 134
		if flags&2 != 0 {
			n = 10
		}
		got := p.get(n)
		if binary.BigEndian.Uint64(got) != 1<<20 || binary.BigEndian.Uint16(got[8:])&exportDF != 0 || !bytes.Equal(got[10:], make([]byte, n-10)) {
			t.Errorf("flags %d: %x", flags, got)
		}
		if a := p.reply(map[uint64][2]uint64{1: {0, 512}}); a.err != 0 {
			t.Errorf("%+v", a)
		}
		p.put(p.request(cmdDisc, 0, 0, 0, 0, nil))
		p.ended()
	}
	for _, name := range []string{"nobody", strings.Repeat("n", 5000), strings.Repeat("n", 10000)} {
		p := b.dial()
		p.greet(3)
		p.put([]byte("IHAVEOPT"), be32(1), be32(uint32(len(name))), []byte(name))
		p.ended()
	}
}

// TestTransmissionFlags compares what is offered with what the device can do.
func TestTransmissionFlags(t *testing.T) {
	d := newMemory(1<<20, 0)
	defer closeDevice(t, d)
	ex := one(d)
	b := serve(t, ex, Options{})
	if p := b.login(simple); p.flags != 0b1101_0110_1101&^exportDF {
		t.Errorf("simple: %b", p.flags)
	}
	if p := b.login(structured); p.flags != 0b1101_1110_1101 {
		t.Errorf("structured: %b", p.flags)
	}
	ex.mu.Lock()
	ex.all[0].ReadOnly = true
	ex.mu.Unlock()
	p := b.login(simple)
	if p.flags&exportReadOnly == 0 || p.flags&(exportTrim|exportZeroes|exportFastZero) != 0 {
		t.Errorf("read-only: %b", p.flags)
	}
	if a := p.do(cmdWrite, 0, 0, 512, make([]byte, 512)); a.err != 1 {
		t.Errorf("write: error %d", a.err)
	}
	d.change(func(i *block.Info) { i.Features = 0 })
	if p := b.login(simple); p.flags != exportHasFlags|exportMultiConn|exportCache|exportReadOnly {
		t.Errorf("nothing: %b", p.flags)
	}
}

// good is a handshake with a bit of everything, and a request.
func good() []byte {
	opt := func(id uint32, data ...[]byte) []byte {
		d := bytes.Join(data, nil)
		return bytes.Join([][]byte{[]byte("IHAVEOPT"), be32(id), be32(uint32(len(d))), d}, nil)
	}
	p := &peer{}
	return bytes.Join([][]byte{
		be32(3), opt(3), opt(optStructured), opt(optSetMeta, str("vol"), be32(1), str(contextName)),
		opt(6, str("vol"), be16(1), be16(3)), opt(7, str("vol"), be16(0)),
		p.request(cmdWrite, 0, 1, 0, 512, make([]byte, 512)), p.request(cmdRead, 0, 2, 0, 512, nil),
	}, nil)
}

// TestCutAfterEveryByte ends a good handshake at each byte, politely and not.
func TestCutAfterEveryByte(t *testing.T) {
	b := start(t, Options{})
	all := good()
	for n := range len(all) + 1 {
		p := b.dial()
		p.put(all[:n])
		if n%2 == 0 {
			_ = p.Conn.(*net.UnixConn).CloseWrite()
			p.ended()
		}
		p.Close()
	}
	eventually(t, "all connections end", func() bool { return b.srv.Stats().Conns == 0 })
	b.login(simple).ok(cmdRead, 0, 0, 512, nil)
}

// TestGarbage sends noise before, in and after the handshake.
func TestGarbage(t *testing.T) {
	b := start(t, Options{HandshakeTimeout: 200 * time.Millisecond})
	r := rand.New(rand.NewPCG(7, 7))
	all := good()
	for k := range 400 {
		p := b.dial()
		in := bytes.Clone(all)
		for range 1 + r.IntN(3) {
			in[r.IntN(len(in))] = byte(r.Uint32())
		}
		if k%4 == 0 {
			in = pattern(r.IntN(4096), uint64(k))
		}
		_, _ = p.Write(in) // the server may have closed
		_ = p.Conn.(*net.UnixConn).CloseWrite()
		p.ended()
		p.Close()
	}
	p := b.login(structured)
	p.ok(cmdRead, 0, 0, 512, nil)
	p.put(be32(magicExtRequest), make([]byte, 24)) // the other form's magic
	p.ended()
	p = b.login(simple)
	p.put(p.request(cmdWrite, 0, 1, 0, 32<<20+1, nil))
	p.ended()
	if st := b.srv.Stats(); st.Panics != 0 || st.Broken == 0 {
		t.Errorf("%+v", st)
	}
}

// TestHostileLengths sends lengths of 4 GiB and sees that nothing is allocated
// for them.
func TestHostileLengths(t *testing.T) {
	b := start(t, Options{})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 50 {
		p := b.dial()
		p.greet(3)
		p.put([]byte("IHAVEOPT"), be32(7), be32(0xffffffff))
		p.ended()
		p = b.dial()
		p.greet(3)
		p.want(7, repErrInvalid, be32(0xfffffff0), be16(0))
		p.Close()
		p = b.dial()
		p.greet(0xffffffff)
		p.ended()
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 8<<20 {
		t.Errorf("%d bytes were allocated", n)
	}
}

// TestSlowLoris sends a handshake one byte at a time: the deadline is for all
// of it.
func TestSlowLoris(t *testing.T) {
	b := start(t, Options{HandshakeTimeout: 60 * time.Millisecond})
	p := b.dial()
	begin := time.Now()
	for _, c := range good() {
		if _, err := p.Write([]byte{c}); err != nil {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	p.ended()
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("it took %v", d)
	}
	// Logged in, silence is allowed.
	q := b.login(simple)
	time.Sleep(150 * time.Millisecond)
	q.ok(cmdRead, 0, 0, 512, nil)
}

// TestCaps covers the limits of connections, and that places are given back.
func TestCaps(t *testing.T) {
	b := start(t, Options{MaxConns: 3, MaxHandshakes: 2})
	refused := func() {
		p := b.dial()
		if _, err := p.Read(make([]byte, 1)); err == nil {
			t.Error("accepted above the cap")
		}
	}
	x, y := b.dial(), b.dial()
	x.get(1)
	y.get(1)
	refused()
	x.Close()
	eventually(t, "a place is free", func() bool { return b.srv.Stats().Handshakes == 1 })
	b.login(simple)
	eventually(t, "it is counted", func() bool { return b.srv.Stats().Handshakes == 1 })
	b.login(simple)
	eventually(t, "it is counted", func() bool { return b.srv.Stats().Handshakes == 1 })
	refused()
	if st := b.srv.Stats(); st.Exports["vol"] != 2 || st.Refused != 2 || st.Conns != 3 {
		t.Errorf("%+v", st)
	}
}

// TestIdleConnectionsAreCheap measures the memory of connections that wait.
func TestIdleConnectionsAreCheap(t *testing.T) {
	b := start(t, Options{})
	memory := func() int64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapInuse + m.StackInuse)
	}
	const n = 200
	b.login(structured).ok(cmdRead, 0, 0, 4096, nil)
	before := memory()
	for range n {
		b.login(structured).ok(cmdRead, 0, 0, 4096, nil)
	}
	each := (memory() - before) / n
	t.Logf("%d bytes for each, with the client's side", each)
	if each > 32<<10 {
		t.Errorf("an idle connection takes %d bytes", each)
	}
}

// panicking is a device with a defect.
type panicking struct{ *memory }

func (p panicking) Submit(r *block.Request) {
	if r.Off == 4096 {
		panic("a defect")
	}
	p.memory.Submit(r)
}

// TestPanicCostsOneConnection shows what becomes of a defect.
func TestPanicCostsOneConnection(t *testing.T) {
	d := newMemory(1<<20, 0)
	defer closeDevice(t, d)
	ex := one(panicking{d})
	b := serve(t, ex, Options{})
	p, q := b.login(simple), b.login(simple)
	p.put(p.request(cmdFlush, 0, 1, 0, 0, nil), p.request(cmdTrim, 0, 1, 4096, 4096, nil))
	p.ended()
	q.ok(cmdRead, 0, 0, 512, nil)
	if n := b.srv.panics.Swap(0); n != 1 {
		t.Errorf("%d panics", n)
	}
}
