// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"strings"
	"testing"

	"rsio/rsio/block"
)

// TestHeaderLimits changes one thing in a good frame.
func TestHeaderLimits(t *testing.T) {
	read := Header{Kind: KindRequest, Op: block.OpRead, Slot: ControlSlots, Seq: 1, Len: 4096}
	write := Header{Kind: KindRequest, Op: block.OpWrite, Slot: ControlSlots, Seq: 1, Len: 4096, PayloadLen: 4096}
	control := Header{Kind: KindRequest, Op: OpOpen, Seq: 1}
	answer := Header{Kind: KindResponse, Op: block.OpRead, Slot: ControlSlots, Seq: 1, Len: 4096, PayloadLen: 4096}
	rows := []struct {
		desc string
		base Header
		with func(h *Header)
		want error
	}{
		{"a good read", read, func(*Header) {}, nil},
		{"a good write", write, func(*Header) {}, nil},
		{"a good control operation", control, func(*Header) {}, nil},
		{"a good answer", answer, func(*Header) {}, nil},
		{"kind 0", read, func(h *Header) { h.Kind = 0 }, ErrKind},
		{"first unknown kind", read, func(h *Header) { h.Kind = kindEnd }, ErrKind},
		{"kind 255", read, func(h *Header) { h.Kind = 255 }, ErrKind},
		{"a flag nobody knows", read, func(h *Header) { h.Flags = 1 << 3 }, ErrFlags},
		{"the highest flag", read, func(h *Header) { h.Flags = 1 << 15 }, ErrFlags},
		{"a status nobody knows", answer, func(h *Header) { h.Status = 21 }, ErrStatus},
		{"the highest status", answer, func(h *Header) { h.Status = 0xffff }, ErrStatus},
		{"the last slot", read, func(h *Header) { h.Slot = MaxSlots - 1 }, nil},
		{"one slot too many", read, func(h *Header) { h.Slot = MaxSlots }, ErrSlot},
		{"the largest slot number", read, func(h *Header) { h.Slot = 1<<32 - 1 }, ErrSlot},
		{"data in a control slot", read, func(h *Header) { h.Slot = ControlSlots - 1 }, ErrSlot},
		{"control in a data slot", control, func(h *Header) { h.Slot = ControlSlots }, ErrSlot},
		{"the largest read", read, func(h *Header) { h.Len = block.MaxLen }, nil},
		{"a read too large", read, func(h *Header) { h.Len = block.MaxLen + 1 }, ErrLength},
		{"the largest length", read, func(h *Header) { h.Len = 1<<32 - 1 }, ErrLength},
		{"a read with payload", read, func(h *Header) { h.PayloadLen = 1 }, ErrLength},
		{"the largest write", write, func(h *Header) { h.Len, h.PayloadLen = MaxPayload, MaxPayload }, nil},
		{"a write too large", write, func(h *Header) { h.Len, h.PayloadLen = MaxPayload+1, MaxPayload+1 }, ErrLength},
		{"a write with less payload", write, func(h *Header) { h.PayloadLen-- }, ErrLength},
		{"a write with more payload", write, func(h *Header) { h.PayloadLen++ }, ErrLength},
		{"the largest payload length", write, func(h *Header) { h.PayloadLen = 1<<32 - 1 }, ErrLength},
		{"a flush with payload", read, func(h *Header) { h.Op, h.Len, h.PayloadLen = block.OpFlush, 0, 1 }, ErrLength},
		{"the largest discard", read, func(h *Header) { h.Op, h.Len = block.OpDiscard, block.MaxZero }, nil},
		{"a discard too large", read, func(h *Header) { h.Op, h.Len = block.OpDiscard, block.MaxZero+1 }, ErrLength},
		{"op 0", read, func(h *Header) { h.Op = 0 }, ErrOp},
		{"the op behind reserve-out", read, func(h *Header) { h.Op = 10 }, ErrOp},
		{"reserve-out in a data slot", control, func(h *Header) { h.Op, h.Slot = OpReserveOut, ControlSlots }, ErrSlot},
		{"the largest compare-and-write", read, func(h *Header) { h.Op, h.Len, h.PayloadLen = block.OpCompareAndWrite, 4096, 8192 }, nil},
		{"a compare-and-write too large", read, func(h *Header) { h.Op, h.Len, h.PayloadLen = block.OpCompareAndWrite, 4097, 8194 }, ErrLength},
		{"a compare-and-write with half of its payload", read, func(h *Header) { h.Op, h.Len, h.PayloadLen = block.OpCompareAndWrite, 4096, 4096 }, ErrLength},
		{"the op behind the control operations", read, func(h *Header) { h.Op = OpLogout + 1 }, ErrOp},
		{"op 255", read, func(h *Header) { h.Op = 255 }, ErrOp},
		{"a request with a status", read, func(h *Header) { h.Status = block.StatusIO }, ErrReserved},
		{"a request with a right", read, func(h *Header) { h.Right = 1 }, nil},
		{"a control operation with a right", control, func(h *Header) { h.Right = 1 }, ErrReserved},
		{"the largest control payload", control, func(h *Header) { h.PayloadLen = MaxControl }, nil},
		{"a control payload too large", control, func(h *Header) { h.PayloadLen = MaxControl + 1 }, ErrLength},
		{"a login payload too large", Header{Kind: KindLogin}, func(h *Header) { h.PayloadLen = MaxLoginPayload + 1 }, ErrLength},
		{"a login response too large", Header{Kind: KindLoginResponse}, func(h *Header) { h.PayloadLen = MaxLoginPayload + 1 }, ErrLength},
		{"a ping with payload", Header{Kind: KindPing}, func(h *Header) { h.PayloadLen = 1 }, ErrLength},
		{"a pong with payload", Header{Kind: KindPong}, func(h *Header) { h.PayloadLen = 1 }, ErrLength},
		{"an event with payload", Header{Kind: KindEvent}, func(h *Header) { h.PayloadLen = 1 }, ErrLength},
		{"an answer with less payload", answer, func(h *Header) { h.PayloadLen-- }, ErrLength},
		{"an answer with more payload", answer, func(h *Header) { h.PayloadLen++ }, ErrLength},
		{"a failed read with payload", answer, func(h *Header) { h.Status = block.StatusIO }, ErrLength},
		{"a written answer with payload", answer, func(h *Header) { h.Op = block.OpWrite }, ErrLength},
		{"an answer to no op", answer, func(h *Header) { h.Op = 0 }, ErrOp},
		{"extents cut in the middle", answer, func(h *Header) { h.Op, h.PayloadLen = block.OpBlockStatus, block.ExtentLen+1 }, ErrLength},
		{"the most extents", answer, func(h *Header) { h.Op, h.PayloadLen = block.OpBlockStatus, MaxStatusPayload }, nil},
		{"too many extents", answer, func(h *Header) { h.Op, h.PayloadLen = block.OpBlockStatus, MaxStatusPayload+block.ExtentLen }, ErrLength},
		{"a control answer too large", answer, func(h *Header) { h.Op, h.PayloadLen = OpAdmin, MaxControl+1 }, ErrLength},
	}
	for _, row := range rows {
		t.Run(row.desc, func(t *testing.T) {
			h := row.base
			row.with(&h)
			var b [HeaderLen]byte
			for _, digest := range []bool{true, false} {
				h.Put(b[:], digest)
				var got Header
				if err := got.Parse(b[:], digest); err != row.want {
					t.Errorf("digest %v: %v, want %v", digest, err, row.want)
				}
			}
		})
	}
}

func TestHeaderDamage(t *testing.T) {
	h := Header{Kind: KindPing, Seq: 1}
	rows := []struct {
		desc   string
		put    bool
		digest bool
		with   func(b []byte) []byte
		want   error
	}{
		{"empty", true, true, func(b []byte) []byte { return b[:0] }, ErrShort},
		{"one byte short", true, true, func(b []byte) []byte { return b[:HeaderLen-1] }, ErrShort},
		{"longer", true, true, func(b []byte) []byte { return append(b, 1) }, nil},
		{"wrong magic", true, true, func(b []byte) []byte { b[0]++; return b }, ErrMagic},
		{"HTTP", true, true, func(b []byte) []byte { copy(b, "GET / HTTP/1.1\r\n"); return b }, ErrMagic},
		{"wrong digest", true, true, func(b []byte) []byte { b[63]++; return b }, ErrDigest},
		{"digest is missing", false, true, func(b []byte) []byte { return b }, ErrDigest},
		{"digest is not expected", true, false, func(b []byte) []byte { return b }, ErrDigest},
		{"no digest", false, false, func(b []byte) []byte { return b }, nil},
	}
	for _, row := range rows {
		t.Run(row.desc, func(t *testing.T) {
			b := make([]byte, HeaderLen)
			h.Put(b, row.put)
			var got Header
			if err := got.Parse(row.with(b), row.digest); err != row.want {
				t.Errorf("%v, want %v", err, row.want)
			}
		})
	}
}

// TestCutPayloads cuts every payload after every byte, and adds one.
func TestCutPayloads(t *testing.T) {
	for _, g := range goldens() {
		if _, ok := g.body.(raw); ok || g.body == nil {
			continue
		}
		p := g.body.Append(nil)
		for n := range p {
			_, open := g.body.(*OpenResponse)
			if err := g.body.Parse(p[:n]); err == nil && (!open || n != 38) { // 38 bytes are the answer to those without FeatureReserve
				t.Errorf("%s: %d of %d bytes pass", g.desc, n, len(p))
			}
		}
		if err := g.body.Parse(append(p, 0)); err == nil {
			t.Errorf("%s: one byte more passes", g.desc)
		}
	}
}

func TestLogin(t *testing.T) {
	good := Login{VersionMin: 1, VersionMax: 1, Mode: LoginNew, Nexus: []byte("h")}
	rows := []struct {
		desc string
		with func(l *Login)
		tail string
		want error
	}{
		{"good", func(*Login) {}, "", nil},
		{"mode 0", func(l *Login) { l.Mode = 0 }, "", ErrReserved},
		{"mode 4", func(l *Login) { l.Mode = 4 }, "", ErrReserved},
		{"versions the wrong way round", func(l *Login) { l.VersionMin = 2 }, "", ErrReserved},
		{"no nexus", func(l *Login) { l.Nexus = nil }, "", ErrText},
		{"the longest nexus", func(l *Login) { l.Nexus = bytes.Repeat([]byte("n"), MaxNexus) }, "", nil},
		{"a nexus too long", func(l *Login) { l.Nexus = bytes.Repeat([]byte("n"), MaxNexus+1) }, "", ErrText},
		{"a tail in our version", func(*Login) {}, "tail", ErrLength},
		{"a tail of a later version", func(l *Login) { l.VersionMax = 2 }, "tail", nil},
		{"unknown features", func(l *Login) { l.Features = 1<<64 - 1 }, "", nil},
	}
	for _, row := range rows {
		t.Run(row.desc, func(t *testing.T) {
			l := good
			row.with(&l)
			var got Login
			if err := got.Parse(append(l.Append(nil), row.tail...)); err != row.want {
				t.Errorf("%v, want %v", err, row.want)
			}
		})
	}
	// A later version is cut short like any other.
	l := good
	l.VersionMax = 9
	var got Login
	if err := got.Parse(l.Append(nil)[:20]); err != ErrShort {
		t.Errorf("a later version cut short: %v", err)
	}
}

func TestLoginResponse(t *testing.T) {
	rows := []struct {
		desc string
		r    LoginResponse
		want error
	}{
		{"refused", LoginResponse{Text: []byte("why")}, nil},
		{"all slots", LoginResponse{Slots: MaxSlots, MaxPayload: MaxPayload}, nil},
		{"too many slots", LoginResponse{Slots: MaxSlots + 1}, ErrLength},
		{"the largest number of slots", LoginResponse{Slots: 1<<32 - 1}, ErrLength},
		{"too large a payload", LoginResponse{MaxPayload: MaxPayload + 1}, ErrLength},
	}
	for _, row := range rows {
		t.Run(row.desc, func(t *testing.T) {
			var got LoginResponse
			if err := got.Parse(row.r.Append(nil)); err != row.want {
				t.Errorf("%v, want %v", err, row.want)
			}
		})
	}
	long := LoginResponse{Text: []byte(strings.Repeat("x", 1000))}
	b := long.Append(nil)
	var got LoginResponse
	if err := got.Parse(b); err != nil || len(got.Text) != MaxText || len(b) > MaxLoginPayload {
		t.Errorf("a long reason: %v, %d bytes of text in %d", err, len(got.Text), len(b))
	}
}

func TestOpen(t *testing.T) {
	name := func(n int) []byte { return bytes.Repeat([]byte("n"), n) }
	rows := []struct {
		desc string
		o    Open
		want error
	}{
		{"empty names", Open{}, nil},
		{"longest names", Open{Namespace: name(block.MaxName), Volume: name(block.MaxName)}, nil},
		{"namespace too long", Open{Namespace: name(block.MaxName + 1)}, ErrText},
		{"volume too long", Open{Volume: name(255)}, ErrText},
		{"all flags", Open{Flags: OpenReadOnly | OpenRecover}, nil},
		{"unknown flag", Open{Flags: 4}, ErrFlags},
	}
	for _, row := range rows {
		t.Run(row.desc, func(t *testing.T) {
			var got Open
			if err := got.Parse(row.o.Append(nil)); err != row.want {
				t.Errorf("%v, want %v", err, row.want)
			}
		})
	}
}

func TestOpenResponse(t *testing.T) {
	rows := []struct {
		desc string
		with func(o *OpenResponse)
		want error
	}{
		{"good", func(*OpenResponse) {}, nil},
		{"read-only", func(o *OpenResponse) { o.Info.ReadOnly = true }, nil},
		{"block size 0", func(o *OpenResponse) { o.Info.BlockSize = 0 }, ErrLength},
		{"block size 1", func(o *OpenResponse) { o.Info.BlockSize = 1 }, nil},
		{"block size 513", func(o *OpenResponse) { o.Info.BlockSize = 513 }, ErrLength},
		{"block size 8192", func(o *OpenResponse) { o.Info.BlockSize = 8192 }, ErrLength},
		{"size is no multiple", func(o *OpenResponse) { o.Info.Size++ }, ErrLength},
		{"size 0", func(o *OpenResponse) { o.Info.Size = 0 }, nil},
		{"the largest size", func(o *OpenResponse) { o.Info.Size = 1 << 62 }, nil},
		{"a size that would overflow", func(o *OpenResponse) { o.Info.Size = -512 & (1<<64 - 1) }, ErrLength},
		{"requests of nothing", func(o *OpenResponse) { o.Info.MaxLen = 0 }, ErrLength},
		{"requests below a block", func(o *OpenResponse) { o.Info.MaxLen = 511 }, ErrLength},
		{"requests too large", func(o *OpenResponse) { o.Info.MaxLen = MaxPayload + 1 }, ErrLength},
		{"zeroes too large", func(o *OpenResponse) { o.Info.MaxZero = block.MaxZero + 1 }, ErrLength},
		{"unknown replay", func(o *OpenResponse) { o.Replay = 3 }, ErrLength},
	}
	for _, row := range rows {
		t.Run(row.desc, func(t *testing.T) {
			o := OpenResponse{Handle: 1, Info: testInfo, Incarnation: 1}
			row.with(&o)
			var got OpenResponse
			if err := got.Parse(o.Append(nil)); err != row.want {
				t.Errorf("%v, want %v", err, row.want)
			}
		})
	}
	o := OpenResponse{Info: testInfo}
	b := o.Append(nil)
	b[28] = 2 // neither read-only nor not
	if err := o.Parse(b); err != ErrLength {
		t.Errorf("read-only 2: %v", err)
	}
}

func TestCost(t *testing.T) {
	rows := []struct {
		desc string
		op   block.Op
		n    uint32
		want uint32
	}{
		{"flush", block.OpFlush, 0, 4096},
		{"a large discard", block.OpDiscard, block.MaxZero, 4096},
		{"block status", block.OpBlockStatus, block.MaxZero, 4096},
		{"an empty read", block.OpRead, 0, 4096},
		{"one block", block.OpRead, 512, 4096},
		{"4 KiB", block.OpWrite, 4096, 4096},
		{"4 KiB and a bit", block.OpWrite, 4097, 8192},
		{"8 KiB", block.OpRead, 8192, 8192},
		{"the largest", block.OpWrite, block.MaxLen, block.MaxLen},
		{"nearly the largest", block.OpWrite, block.MaxLen - 1, block.MaxLen},
		{"control", OpAdmin, 1 << 20, 4096},
	}
	for _, row := range rows {
		t.Run(row.desc, func(t *testing.T) {
			if got := Cost(row.op, row.n); got != row.want {
				t.Errorf("%d, want %d", got, row.want)
			}
		})
	}
}

// TestNoAllocations: the codec works on the caller's memory.
func TestNoAllocations(t *testing.T) {
	buf := make([]byte, 0, 4096)
	var h Header
	for _, g := range goldens() {
		b := g.encode()
		if n := testing.AllocsPerRun(100, func() {
			if h.Parse(b, g.digest) != nil {
				t.Fatal("does not parse")
			}
			h.Put(b, g.digest)
		}); n != 0 {
			t.Errorf("%s: header allocates %v times", g.desc, n)
		}
		switch g.body.(type) {
		case nil, raw, *ReserveOutResponse, *ReserveInResponse: // these make lists, off the data path
			continue
		}
		if n := testing.AllocsPerRun(100, func() {
			if g.body.Parse(b[HeaderLen:]) != nil {
				t.Fatal("does not parse")
			}
			g.body.Append(buf[:0])
		}); n != 0 {
			t.Errorf("%s: payload allocates %v times", g.desc, n)
		}
	}
}
