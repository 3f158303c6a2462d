// SPDX-License-Identifier: Apache-2.0

package target

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"rsio/rsio/admin/api"
	"rsio/rsio/block"
	"rsio/rsio/session"
	"rsio/rsio/wire"
)

// TestP11_LoginCut: a login that ends after any byte costs its connection.
func TestP11_LoginCut(t *testing.T) {
	r := newRig(t, Options{})
	b := loginFrame(wire.Login{Nexus: []byte("h")})
	for n := range b {
		c := r.dial("unix")
		if err := c.write(b[:n]); err != nil {
			t.Fatal(err)
		}
		c.nc.(*net.UnixConn).CloseWrite()
		c.ended("cut")
	}
	until(t, "all connections gone", func() bool { return r.conns() == 0 })
	if s := r.tg.Sessions(); len(s) != 0 {
		t.Errorf("sessions %v", s)
	}
}

// TestP11_BadFirstFrame: what is no login gets no answer and no session.
func TestP11_BadFirstFrame(t *testing.T) {
	r := newRig(t, Options{})
	good := loginFrame(wire.Login{Nexus: []byte("h")})
	flip := func(i int) []byte { b := bytes.Clone(good); b[i] ^= 0x10; return b }
	huge := frame(wire.Header{Kind: wire.KindLogin}, nil)
	h := wire.Header{Kind: wire.KindLogin, PayloadLen: 1<<32 - 1}
	h.Put(huge, true)
	rows := []struct {
		desc string
		b    []byte
	}{
		{"HTTP", []byte("GET / HTTP/1.1\r\nHost: target\r\nUser-Agent: somebody\r\nAccept: */*\r\n\r\n")},
		{"TLS", append([]byte{0x16, 3, 1, 2, 0, 1, 0}, make([]byte, 512)...)},
		{"zeroes", make([]byte, 4096)},
		{"a huge length", huge},
		{"header damaged", flip(20)},
		{"payload damaged", flip(wire.HeaderLen + 3)},
		{"a request before the login", frame(wire.Header{Kind: wire.KindRequest, Op: block.OpRead, Slot: 16, Seq: 1, Len: 4096}, nil)},
		{"a ping before the login", frame(wire.Header{Kind: wire.KindPing}, nil)},
		{"a response", frame(wire.Header{Kind: wire.KindResponse, Op: block.OpFlush}, nil)},
		{"a login response", frame(wire.Header{Kind: wire.KindLoginResponse}, (&wire.LoginResponse{}).Append(nil))},
		{"an empty login", frame(wire.Header{Kind: wire.KindLogin}, nil)},
	}
	for _, row := range rows {
		t.Run(row.desc, func(t *testing.T) {
			c := r.dial("tcp")
			c.t = t
			_ = c.write(row.b)
			if _, _, err := c.recv(); err == nil {
				t.Error("it was answered")
			}
			c.ended(row.desc)
		})
	}
	if s := r.tg.Sessions(); len(s) != 0 {
		t.Errorf("sessions %v", s)
	}
}

// TestRefusedLogins are answered with the reason, and the connection ends.
func TestRefusedLogins(t *testing.T) {
	r := newRig(t, Options{})
	first := r.dial("unix")
	if st := first.login(wire.Login{Nexus: []byte("taken"), Secret: wire.Secret{1}}); st != block.StatusOK {
		t.Fatal(st)
	}
	rows := []struct {
		desc string
		l    wire.Login
		want block.Status
	}{
		{"a later version", wire.Login{VersionMin: 2, VersionMax: 3, Nexus: []byte("h")}, block.StatusUnsupported},
		{"a bad nexus", wire.Login{Nexus: []byte("../etc")}, block.StatusInvalid},
		{"a nexus with zeroes", wire.Login{Nexus: []byte("h\x00")}, block.StatusInvalid},
		{"taken", wire.Login{Nexus: []byte("taken"), Secret: wire.Secret{2}}, block.StatusInUse},
		{"join nothing", wire.Login{Mode: wire.LoginJoin, Nexus: []byte("h")}, block.StatusNoSession},
		{"join with a wrong secret", wire.Login{Mode: wire.LoginJoin, Session: first.resp.Session, Nexus: []byte("taken"), Secret: wire.Secret{2}}, block.StatusNoSession},
		{"an old login", wire.Login{Nexus: []byte("taken"), Secret: wire.Secret{1}, Serial: 1}, block.StatusStale},
	}
	for _, row := range rows {
		t.Run(row.desc, func(t *testing.T) {
			c := r.dial("tcp")
			c.t = t
			if st := c.login(row.l); st != row.want {
				t.Errorf("%v, want %v", st, row.want)
			}
			if !c.resp.Session.IsZero() || c.resp.Instance != r.tg.instance {
				t.Error("session or instance is wrong")
			}
			c.ended("refused")
		})
	}
}

// TestP11_SlowLogin: a login that trickles in is cut off in time.
func TestP11_SlowLogin(t *testing.T) {
	t.Parallel()
	r := newRig(t, Options{})
	c := r.dial("tcp")
	b := loginFrame(wire.Login{Nexus: []byte("h")})
	start := time.Now()
	for i := range b {
		if c.write(b[i:i+1]) != nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
		if time.Since(start) > HandshakeTimeout+2*time.Second {
			t.Fatal("a trickling login is never cut off")
		}
	}
	if d := time.Since(start); d < HandshakeTimeout-time.Second {
		t.Errorf("cut off after %v", d)
	}
}

// TestP11_BadRequests: each breaks the protocol and costs its connection; a
// good client beside it goes on.
func TestP11_BadRequests(t *testing.T) {
	r := newRig(t, Options{})
	r.volume("v")
	good, gh := r.ready("tcp", "good", "v")
	data := make([]byte, 4096)
	req := func(h wire.Header, p []byte) func(*client, uint32) []byte {
		return func(_ *client, handle uint32) []byte {
			h.Kind, h.Volume = wire.KindRequest, handle
			if h.Seq == 0 {
				h.Seq = 1
			}
			return frame(h, p)
		}
	}
	rows := []struct {
		desc string
		b    func(c *client, handle uint32) []byte
	}{
		{"an unknown operation", req(wire.Header{Op: 9, Slot: 16}, nil)},
		{"a skipped number", req(wire.Header{Op: block.OpRead, Slot: 16, Seq: 2, Len: 4096}, nil)},
		{"a skipped number, with payload", req(wire.Header{Op: block.OpWrite, Slot: 16, Seq: 7, Len: 4096}, data)},
		{"a skipped number of a control slot", req(wire.Header{Op: wire.OpAdmin, Slot: 9, Seq: 2}, data)},
		{"a slot that the session does not have", req(wire.Header{Op: block.OpRead, Slot: session.DefaultSlots, Len: 4096}, nil)},
		{"data in a control slot", req(wire.Header{Op: block.OpRead, Slot: 3, Len: 4096}, nil)},
		{"more than a payload may have", req(wire.Header{Op: block.OpRead, Slot: 16, Len: block.MaxLen + 1}, nil)},
		{"a second login", func(*client, uint32) []byte { return loginFrame(wire.Login{Nexus: []byte("bad"), Serial: 9}) }},
		{"a response", func(*client, uint32) []byte {
			return frame(wire.Header{Kind: wire.KindResponse, Op: block.OpFlush}, nil)
		}},
		{"an event", func(*client, uint32) []byte { return frame(wire.Header{Kind: wire.KindEvent}, nil) }},
		{"a payload that is damaged", func(_ *client, h uint32) []byte {
			b := frame(wire.Header{Kind: wire.KindRequest, Op: block.OpWrite, Slot: 16, Seq: 1, Volume: h, Len: 4096}, data)
			b[100] ^= 1
			return b
		}},
		{"a control payload that is damaged", func(*client, uint32) []byte {
			b := frame(wire.Header{Kind: wire.KindRequest, Op: wire.OpAdmin, Slot: 5, Seq: 1}, data)
			b[100] ^= 1
			return b
		}},
		{"a header that is damaged", func(*client, uint32) []byte {
			b := frame(wire.Header{Kind: wire.KindPing}, nil)
			b[30] ^= 1
			return b
		}},
	}
	for i, row := range rows {
		t.Run(row.desc, func(t *testing.T) {
			c, h := r.ready("unix", "bad"+string(rune('a'+i)), "v")
			c.t = t
			if err := c.write(row.b(c, h)); err != nil {
				t.Fatal(err)
			}
			c.ended(row.desc)
			good.check(gh, byte(i))
		})
	}
	r.idle()
}

// TestRequests: errors that cost the request only.
func TestRequests(t *testing.T) {
	r := newRig(t, Options{})
	r.volume("v")
	c, h := r.ready("unix", "h", "v")
	ro := r.dial("unix")
	ro.login(wire.Login{Nexus: []byte("reader")})
	rh := ro.open("v", wire.OpenReadOnly)
	data := bytes.Repeat([]byte{1}, 4096)
	const size = 8 << 20
	rows := []struct {
		desc string
		c    *client
		h    wire.Header
		p    []byte
		want block.Status
	}{
		{"the last block", c, wire.Header{Op: block.OpWrite, Volume: h, Off: size - 4096, Len: 4096}, data, block.StatusOK},
		{"behind the end", c, wire.Header{Op: block.OpWrite, Volume: h, Off: size, Len: 4096}, data, block.StatusInvalid},
		{"across the end", c, wire.Header{Op: block.OpRead, Volume: h, Off: size - 512, Len: 4096}, nil, block.StatusInvalid},
		{"an offset that overflows", c, wire.Header{Op: block.OpRead, Volume: h, Off: 1<<64 - 4096, Len: 4096}, nil, block.StatusInvalid},
		{"a zero-sized read", c, wire.Header{Op: block.OpRead, Volume: h}, nil, block.StatusInvalid},
		{"a zero-sized write", c, wire.Header{Op: block.OpWrite, Volume: h}, nil, block.StatusInvalid},
		{"discard across the end", c, wire.Header{Op: block.OpDiscard, Volume: h, Off: 4096, Len: 1 << 30}, nil, block.StatusInvalid},
		{"a flush with a range", c, wire.Header{Op: block.OpFlush, Volume: h, Off: 4096}, nil, block.StatusInvalid},
		{"a read with no-hole", c, wire.Header{Op: block.OpRead, Volume: h, Len: 4096, Flags: uint16(block.FlagNoHole)}, nil, block.StatusInvalid},
		{"a replay that is not due", c, wire.Header{Op: block.OpWrite, Volume: h, Len: 4096, Flags: wire.FlagReplay}, data, block.StatusUnknown},
		{"a handle behind the last", c, wire.Header{Op: block.OpRead, Volume: h + 1, Len: 4096}, nil, block.StatusNotFound},
		{"the largest handle", c, wire.Header{Op: block.OpWrite, Volume: 1<<32 - 1, Len: 4096}, data, block.StatusNotFound},
		{"a flush of nothing", c, wire.Header{Op: block.OpFlush, Volume: 77}, nil, block.StatusNotFound},
		{"block status", c, wire.Header{Op: block.OpBlockStatus, Volume: h, Len: size}, nil, block.StatusOK},
		{"a reader reads", ro, wire.Header{Op: block.OpRead, Volume: rh, Len: 4096}, nil, block.StatusOK},
		{"a reader writes", ro, wire.Header{Op: block.OpWrite, Volume: rh, Len: 4096}, data, block.StatusReadOnly},
		{"a reader discards", ro, wire.Header{Op: block.OpDiscard, Volume: rh, Len: 4096}, nil, block.StatusReadOnly},
		{"a reader zeroes", ro, wire.Header{Op: block.OpWriteZeroes, Volume: rh, Len: 4096}, nil, block.StatusReadOnly},
	}
	for _, row := range rows {
		t.Run(row.desc, func(t *testing.T) {
			row.c.t = t
			row.h.Slot = 30
			if st, _ := row.c.call(row.h, row.p); st != row.want {
				t.Errorf("%v, want %v", st, row.want)
			}
		})
	}
	r.idle()
	for _, row := range []struct {
		desc string
		h    wire.Header
		p    []byte
		want block.Status
	}{
		{"open nothing", wire.Header{Op: wire.OpOpen}, (&wire.Open{Namespace: []byte("default"), Volume: []byte("x")}).Append(nil), block.StatusNotFound},
		{"open with garbage", wire.Header{Op: wire.OpOpen}, []byte("garbage"), block.StatusProtocol},
		{"open with an empty payload", wire.Header{Op: wire.OpOpen}, nil, block.StatusProtocol},
		{"reclaim a handle that is none", wire.Header{Op: wire.OpReclaim, Volume: 99}, nil, block.StatusNotFound},
		{"close a handle that is none", wire.Header{Op: wire.OpClose, Volume: 1<<32 - 1}, nil, block.StatusNotFound},
		{"close", wire.Header{Op: wire.OpClose, Volume: h}, nil, block.StatusOK},
		{"close again", wire.Header{Op: wire.OpClose, Volume: h}, nil, block.StatusNotFound},
		{"no control API", wire.Header{Op: wire.OpAdmin}, []byte("{}"), block.StatusUnsupported},
	} {
		if st, _ := c.call(row.h, row.p); st != row.want {
			t.Errorf("%s: %v, want %v", row.desc, st, row.want)
		}
	}
	if st, _ := c.call(wire.Header{Op: block.OpWrite, Slot: 30, Volume: h, Len: 4096}, data); st != block.StatusNotFound {
		t.Errorf("a write after close: %v", st)
	}
}

// TestP11_Hostile200: garbage of all kinds on 200 connections, while a good
// client works; nothing is left behind.
func TestP11_Hostile200(t *testing.T) {
	before := runtime.NumGoroutine()
	r := newRig(t, Options{})
	r.volume("v")
	good, gh := r.ready("tcp", "good", "v")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for n := range 200 {
		c := r.dial([]string{"tcp", "unix"}[n%2])
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(n), 1))
			if n%4 != 0 { // most log in first
				_ = c.write(loginFrame(wire.Login{Nexus: []byte("bad-" + string(rune('a'+n%26))), Secret: wire.Secret{byte(n)}, Serial: uint64(n)}))
			}
			for {
				select {
				case <-stop:
					c.nc.Close()
					return
				default:
				}
				h := wire.Header{Kind: wire.Kind(rng.IntN(9)), Op: block.Op(rng.IntN(22)), Slot: rng.Uint32N(300), Seq: uint64(rng.IntN(3)),
					Len: rng.Uint32N(2 << 20), Off: rng.Uint64(), Window: rng.Uint32(), Volume: rng.Uint32N(3), Flags: uint16(rng.IntN(300))}
				p := make([]byte, rng.IntN(8192))
				if rng.IntN(2) == 0 {
					h.Kind, h.Op, h.Slot, h.Len = wire.KindRequest, block.OpWrite, 16+rng.Uint32N(200), uint32(len(p))
				}
				b := frame(h, p)
				if rng.IntN(4) == 0 {
					b = b[:rng.IntN(len(b))]
				}
				if c.write(b) != nil {
					return // cut off, as it should be
				}
			}
		})
	}
	for i := range 300 {
		good.check(gh, byte(i))
	}
	close(stop)
	wg.Wait()
	good.check(gh, 7)
	r.idle()
	if s := r.tg.pool.Stats(); s.High > s.Limit {
		t.Errorf("pool %+v", s)
	}
	good.nc.Close()
	r.close()
	until(t, "goroutines gone", func() bool { return runtime.NumGoroutine() <= before })
	if n := r.tg.budget.Reserved(); n > uint64(27)*session.MaxWindow {
		t.Errorf("%d reserved", n)
	}
}

// TestP11_PreAuth: of too many connections that do not log in, the oldest
// gives way.
func TestP11_PreAuth(t *testing.T) {
	r := newRig(t, Options{})
	r.volume("v")
	good, gh := r.ready("tcp", "good", "v")
	list := make([]*client, MaxPreAuth+8)
	for i := range list {
		list[i] = r.dial("unix")
	}
	for i := range 8 {
		list[i].ended("the oldest")
	}
	good.check(gh, 1)
	late := list[len(list)-1]
	if st := late.login(wire.Login{Nexus: []byte("late")}); st != block.StatusOK {
		t.Errorf("the newest: %v", st)
	}
	if st := list[9].login(wire.Login{Nexus: []byte("ninth")}); st != block.StatusOK {
		t.Errorf("one that is left: %v", st)
	}
	if st := r.tg.Status(); len(st.Warnings) < 2 {
		t.Errorf("status does not tell: %v", st.Warnings)
	}
}

// TestP11_CreditExceeded: an initiator that sends more than its window and
// does not read is held up and cut off; its memory stays within the window.
func TestP11_CreditExceeded(t *testing.T) {
	t.Parallel()
	r := newRig(t, Options{Budget: 2 << 20})
	r.volume("v")
	good, gh := r.ready("tcp", "good", "v")
	bad, bh := r.ready("unix", "bad", "v")
	cut := make(chan struct{})
	go func() {
		defer close(cut)
		for i := range uint32(200) {
			h := wire.Header{Kind: wire.KindRequest, Op: block.OpRead, Slot: 16 + i, Seq: 1, Volume: bh, Len: 1 << 20, Window: 1<<32 - 1}
			if bad.write(frame(h, nil)) != nil {
				return
			}
		}
		time.Sleep(HandshakeTimeout + time.Second) // reads nothing
	}()
	for done := false; !done; {
		select {
		case <-cut:
			done = true
		default:
			good.check(gh, 1)
			if s := r.tg.pool.Stats(); s.Out > 4<<20 {
				t.Fatalf("%d bytes out", s.Out)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	bad.ended("credit exceeded")
	good.check(gh, 2)
	r.idle()
}

// TestP11_UnreadAnswers: an initiator that repeats a control operation and
// never reads must not make the target keep answers without bound.
func TestP11_UnreadAnswers(t *testing.T) {
	r := newRig(t, Options{})
	r.volume("v")
	r.tg.SetAdmin(func(context.Context, api.Caller, []byte) []byte { return make([]byte, 64<<10) })
	good, gh := r.ready("tcp", "good", "v")
	bad, _ := r.ready("unix", "bad", "v")
	h := wire.Header{Kind: wire.KindRequest, Op: wire.OpAdmin, Slot: 9, Seq: 1}
	b := bytes.Repeat(frame(h, nil), 100)
	bad.nc.SetWriteDeadline(time.Now().Add(3 * time.Second))
	for range 1000 {
		if bad.write(b) != nil {
			break
		}
	}
	r.tg.mu.Lock()
	var most int
	for c := range r.tg.conns {
		most = max(most, c.nc.Queued())
	}
	r.tg.mu.Unlock()
	if most > 100 {
		t.Errorf("%d answers wait to be read", most)
	}
	good.check(gh, 1)
}
