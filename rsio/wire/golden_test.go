// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"rsio/rsio/block"
)

var update = flag.Bool("update", false, "write testdata/wire anew")

// goldenDir holds one file per frame: hex with comments. Implementations in
// other languages may be tested with it too.
const goldenDir = "../../testdata/wire"

// body is a payload that can be appended and parsed.
type body interface {
	Append([]byte) []byte
	Parse([]byte) error
}

// raw is a payload without structure.
type raw []byte

func (r raw) Append(b []byte) []byte { return append(b, r...) }
func (r raw) Parse(p []byte) error {
	if !bytes.Equal(r, p) {
		return fmt.Errorf("payload %x, want %x", p, []byte(r))
	}
	return nil
}

type golden struct {
	desc   string
	file   string
	digest bool
	h      Header
	body   body
}

func id(b byte) (v ID) {
	for i := range v {
		v[i] = b + byte(i)
	}
	return v
}

func secret(b byte) (v Secret) {
	for i := range v {
		v[i] = b + byte(i)
	}
	return v
}

var testInfo = block.Info{Size: 20 << 30, BlockSize: 512, MaxLen: block.MaxLen, MaxZero: block.MaxZero,
	Features: block.CanFlush | block.CanFUA | block.CanDiscard | block.CanZero | block.CanBlockStatus}

// goldens are all frames of version 1.
func goldens() []golden {
	req := func(op block.Op, slot uint32, h Header) Header {
		h.Kind, h.Op, h.Slot, h.Seq, h.Window, h.Grant = KindRequest, op, slot, 0x0102030405060708, 0x20000, 3
		return h
	}
	resp := func(op block.Op, slot uint32, h Header) Header {
		h.Kind, h.Op, h.Slot, h.Seq, h.Window, h.Grant = KindResponse, op, slot, 0x0102030405060708, 0x100000, 4
		return h
	}
	ping := Header{Kind: KindPing, Seq: 7, Window: 0x30000, Grant: 3}
	event := func(op block.Op, h Header) Header {
		h.Kind, h.Op, h.Window, h.Grant = KindEvent, op, 0x10000, 9
		return h
	}
	data := raw(bytes.Repeat([]byte("RSIO"), 128))
	extents := raw(bytes.Repeat([]byte{0, 0, 0, 1}, 2*block.ExtentLen/4))
	return []golden{
		{"a login that makes a session", "login-new", true, Header{Kind: KindLogin}, &Login{VersionMin: 1, VersionMax: 1, Features: FeatureDigest, Mode: LoginNew, Serial: 1<<32 | 5, Secret: secret(0x40), Nexus: []byte("storage-host-01.rack-2.example/application-vm.2")}},
		{"a login that joins a session", "login-join", true, Header{Kind: KindLogin}, &Login{VersionMin: 1, VersionMax: 1, Features: FeatureDigest, Mode: LoginJoin, Session: id(0x10), Secret: secret(0x40), Nexus: []byte("host-1")}},
		{"a login that was accepted", "login-response-ok", true, Header{Kind: KindLoginResponse}, &LoginResponse{Version: 1, Features: FeatureDigest, Target: id(0x20), Instance: id(0x30), Session: id(0x10), Slots: 272, Window: 64 << 10, Grant: 1, MaxPayload: MaxPayload, Text: []byte{}}},
		{"a login that was refused", "login-response-in-use", true, Header{Kind: KindLoginResponse, Status: block.StatusInUse}, &LoginResponse{Version: 1, Target: id(0x20), Instance: id(0x30), MaxPayload: MaxPayload, Text: []byte("another initiator holds nexus host-1 and was heard of a moment ago")}},

		{"a login without I/O", "login-control", true, Header{Kind: KindLogin}, &Login{VersionMin: 1, VersionMax: 1, Features: Features, Mode: LoginControl, Nexus: []byte("host-1/vm-2")}},

		{"compare and write with FUA", "request-compare-and-write", true, req(block.OpCompareAndWrite, 23, Header{Flags: uint16(block.FlagFUA), Off: 4096, Len: 256, Volume: 2, Right: 5}), data},
		{"compare and write answered", "response-compare-and-write", true, resp(block.OpCompareAndWrite, 23, Header{Len: 256}), nil},
		{"a miscompare", "response-miscompare", true, resp(block.OpCompareAndWrite, 23, Header{Len: 256, Status: block.StatusMiscompare, Off: 17}), nil},
		{"write with a right", "request-write-right", true, req(block.OpWrite, 17, Header{Off: 4096, Len: 512, Volume: 2, Right: 0x1122}), data},
		{"write that is fenced", "response-write-conflict", true, resp(block.OpWrite, 17, Header{Len: 512, Status: block.StatusConflict, Right: 0x1123}), nil},
		{"preempt", "request-reserve-out", true, req(OpReserveOut, 4, Header{}), &ReserveOut{Action: block.ReservePreemptAbort, Type: block.ReserveWERO, Key: 0xa1, NewKey: 0xb2, Request: [16]byte(id(0x50)), Namespace: []byte("default"), Volume: []byte("vol-1"), As: []byte("host-1/vm-2"), To: []byte{}}},
		{"move", "request-reserve-move", true, req(OpReserveOut, 4, Header{}), &ReserveOut{Action: block.ReserveMove, Unregister: true, Key: 0xa1, NewKey: 0xb2, Namespace: []byte("default"), Volume: []byte("vol-1"), As: []byte{}, To: []byte("host-2")}},
		{"preempt answered", "response-reserve-out", true, resp(OpReserveOut, 4, Header{}), &ReserveOutResponse{Generation: 7, Attentions: []block.Attention{block.AttentionReservationsReleased}, Reason: []byte{}}},
		{"preempt refused", "response-reserve-out-conflict", true, resp(OpReserveOut, 4, Header{Status: block.StatusConflict}), &ReserveOutResponse{Generation: 7, Sense: block.SenseFieldInList, Reason: []byte("host-1 is not registered")}},
		{"read full status", "request-reserve-in", true, req(OpReserveIn, 5, Header{}), &ReserveIn{What: ReadFullStatus, Report: true, Limit: 10, Namespace: []byte("default"), Volume: []byte("vol-1"), As: []byte{}}},
		{"full status", "response-reserve-in", true, resp(OpReserveIn, 5, Header{}), &ReserveInResponse{Generation: 7, Capabilities: block.ReserveCapabilities, Type: block.ReserveWERO, Key: 0xa1, Right: 5, Access: block.AccessAll, Conflicts: 3, Total: 2,
			Registrants: []block.Registrant{{Nexus: "host-1", Key: 0xa1, Holder: true}, {Nexus: "host-2/vm-1", Key: 0xb2}}, Attentions: []block.Attention{block.AttentionRegistrationsPreempted}, Reason: []byte{}}},
		{"open answered, with a right", "response-open-right", true, resp(OpOpen, 0, Header{}), &OpenResponse{Handle: 2, Info: testInfo, Incarnation: 0x1122334455667788, Right: 5, Access: block.AccessRead}},
		{"the nexus has another right", "event-right", true, event(EventRight, Header{Volume: 2, Off: 6, Len: uint32(block.AccessRead)}), nil},
		{"a unit attention", "event-attention", true, event(EventAttention, Header{Volume: 2, Off: uint64(block.AttentionRegistrationsPreempted)}), nil},

		{"read", "request-read", true, req(block.OpRead, 16, Header{Off: 1 << 33, Len: 4096, Volume: 2}), nil},
		{"write with FUA", "request-write", true, req(block.OpWrite, 17, Header{Flags: uint16(block.FlagFUA), Off: 4096, Len: 512, Volume: 2}), data},
		{"write without digests", "request-write-plain", false, req(block.OpWrite, 17, Header{Off: 4096, Len: 512, Volume: 2}), data},
		{"write that is sent again after a restart", "request-write-replay", true, req(block.OpWrite, 18, Header{Flags: FlagReplay, Off: 8192, Len: 512, Volume: 2}), data},
		{"flush", "request-flush", true, req(block.OpFlush, 19, Header{Volume: 2}), nil},
		{"discard", "request-discard", true, req(block.OpDiscard, 20, Header{Off: 1 << 20, Len: 1 << 30, Volume: 2}), nil},
		{"write zeroes, no hole", "request-write-zeroes", true, req(block.OpWriteZeroes, 21, Header{Flags: uint16(block.FlagNoHole), Off: 1 << 20, Len: 1 << 20, Volume: 2}), nil},
		{"block status", "request-block-status", true, req(block.OpBlockStatus, 22, Header{Len: 1 << 30, Volume: 2}), nil},
		{"open a volume", "request-open", true, req(OpOpen, 0, Header{}), &Open{Flags: OpenReadOnly | OpenRecover, Namespace: []byte("default"), Volume: []byte("vol-1")}},
		{"close a volume", "request-close", true, req(OpClose, 1, Header{Volume: 2}), nil},
		{"all was sent again", "request-reclaim", true, req(OpReclaim, 2, Header{Volume: 2}), nil},
		{"a call of the control API", "request-admin", true, req(OpAdmin, 3, Header{}), raw(`{"path":"/v1/status"}`)},
		{"log out", "request-logout", true, req(OpLogout, 15, Header{}), nil},

		{"read answered", "response-read", true, resp(block.OpRead, 16, Header{Len: 512}), data},
		{"read failed", "response-read-error", true, resp(block.OpRead, 16, Header{Len: 512, Status: block.StatusIO}), nil},
		{"write answered", "response-write", true, resp(block.OpWrite, 17, Header{Len: 512}), nil},
		{"flush answered", "response-flush", true, resp(block.OpFlush, 19, Header{Status: block.StatusLost}), nil},
		{"discard answered", "response-discard", true, resp(block.OpDiscard, 20, Header{Len: 1 << 30}), nil},
		{"write zeroes answered", "response-write-zeroes", true, resp(block.OpWriteZeroes, 21, Header{Len: 1 << 20}), nil},
		{"block status answered", "response-block-status", true, resp(block.OpBlockStatus, 22, Header{Len: 1 << 30}), extents},
		{"open answered", "response-open", true, resp(OpOpen, 0, Header{}), &OpenResponse{Handle: 2, Info: testInfo, Replay: ReplayAllowed, Incarnation: 0x1122334455667788}},
		{"close answered", "response-close", true, resp(OpClose, 1, Header{Status: block.StatusNotFound}), nil},
		{"reclaim answered", "response-reclaim", true, resp(OpReclaim, 2, Header{}), nil},
		{"a call answered", "response-admin", true, resp(OpAdmin, 3, Header{}), raw(`{"status":200}`)},
		{"log out answered", "response-logout", true, resp(OpLogout, 15, Header{}), nil},

		{"ping", "ping", true, ping, nil},
		{"ping without digest", "ping-plain", false, ping, nil},
		{"pong", "pong", true, Header{Kind: KindPong, Seq: 7, Window: 0x40000, Grant: 4}, nil},
		{"a volume has another size", "event-resize", true, event(EventResize, Header{Volume: 2, Off: 40 << 30}), nil},
		{"a volume was deleted", "event-gone", true, event(EventGone, Header{Volume: 2}), nil},
		{"this path will be closed", "event-leave", true, event(EventLeave, Header{}), nil},
		{"a new window", "event-window", true, event(EventWindow, Header{}), nil},
	}
}

// encode returns the whole frame.
func (g *golden) encode() []byte {
	var p []byte
	if g.body != nil {
		p = g.body.Append(nil)
	}
	h := g.h
	h.PayloadLen = uint32(len(p))
	if g.digest && len(p) > 0 {
		h.PayloadCRC = Digest(p)
	}
	b := make([]byte, HeaderLen)
	h.Put(b, g.digest)
	return append(b, p...)
}

// fields are the names of the header's fields and their bytes.
var fields = []struct {
	name string
	n    int
}{{"magic", 2}, {"kind", 1}, {"op", 1}, {"flags", 2}, {"status", 2}, {"slot", 4}, {"payload length", 4}, {"sequence", 8},
	{"offset", 8}, {"length", 4}, {"volume", 4}, {"right", 8}, {"window", 4}, {"grant", 4}, {"payload digest", 4}, {"header digest", 4}}

// write makes the file.
func (g *golden) write(path string, b []byte) error {
	var out strings.Builder
	fmt.Fprintf(&out, "# %s\n", g.desc)
	for _, f := range fields {
		fmt.Fprintf(&out, "%-24s# %s\n", hex.EncodeToString(b[:f.n]), f.name)
		b = b[f.n:]
	}
	if len(b) > 0 {
		fmt.Fprintf(&out, "# payload, %d bytes\n", len(b))
	}
	for ; len(b) > 0; b = b[min(16, len(b)):] {
		fmt.Fprintf(&out, "%s\n", hex.EncodeToString(b[:min(16, len(b))]))
	}
	return os.WriteFile(path, []byte(out.String()), 0o644)
}

// readGolden returns the bytes of a file.
func readGolden(t testing.TB, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for line := range strings.Lines(string(text)) {
		code, _, _ := strings.Cut(line, "#")
		b, err := hex.DecodeString(strings.TrimSpace(code))
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		out = append(out, b...)
	}
	return out
}

// TestGolden encodes every frame to the bytes on record and decodes them back.
func TestGolden(t *testing.T) {
	seen := make(map[string]bool)
	for _, g := range goldens() {
		path := filepath.Join(goldenDir, g.file+".hex")
		seen[g.file+".hex"] = true
		t.Run(g.desc, func(t *testing.T) {
			got := g.encode()
			if *update {
				if err := g.write(path, got); err != nil {
					t.Fatal(err)
				}
			}
			want := readGolden(t, path)
			if !bytes.Equal(got, want) {
				t.Fatalf("encoded\n%x\non record\n%x", got, want)
			}
			var h Header
			if err := h.Parse(want, g.digest); err != nil {
				t.Fatal(err)
			}
			payload := want[HeaderLen:]
			expect := g.h
			expect.PayloadLen = uint32(len(payload))
			if g.digest && len(payload) > 0 {
				expect.PayloadCRC = Digest(payload)
			}
			if h != expect {
				t.Errorf("decoded\n%+v\nwant\n%+v", h, expect)
			}
			if g.body == nil {
				if len(payload) != 0 {
					t.Errorf("%d bytes of payload", len(payload))
				}
				return
			}
			decoded := g.body
			if _, ok := g.body.(raw); !ok {
				decoded = reflect.New(reflect.TypeOf(g.body).Elem()).Interface().(body)
			}
			if err := decoded.Parse(payload); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(decoded, g.body) {
				t.Errorf("decoded\n%+v\nwant\n%+v", decoded, g.body)
			}
		})
	}
	list, err := os.ReadDir(goldenDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if !seen[e.Name()] {
			t.Errorf("%s belongs to no frame", e.Name())
		}
	}
}

// TestGoldenIsComplete fails if an operation or event has no file.
func TestGoldenIsComplete(t *testing.T) {
	have := make(map[[2]int]bool)
	for _, g := range goldens() {
		have[[2]int{int(g.h.Kind), int(g.h.Op)}] = true
	}
	need := func(k Kind, op block.Op) {
		if !have[[2]int{int(k), int(op)}] {
			t.Errorf("no golden frame of kind %d, op %d", k, op)
		}
	}
	for op := block.Op(0); op < 255; op++ {
		if op.Known() || IsControl(op) {
			need(KindRequest, op)
			need(KindResponse, op)
		}
	}
	for op := EventResize; op <= EventAttention; op++ {
		need(KindEvent, op)
	}
	for _, k := range []Kind{KindLogin, KindLoginResponse, KindPing, KindPong} {
		need(k, 0)
	}
}

// TestFlippedBits: with digests no flipped bit passes, in header or payload.
func TestFlippedBits(t *testing.T) {
	for _, g := range goldens() {
		if !g.digest {
			continue
		}
		b := g.encode()
		for bit := range len(b) * 8 {
			b[bit/8] ^= 1 << (bit % 8)
			var h Header
			err := h.Parse(b, true)
			if err == nil && Digest(b[HeaderLen:]) == h.PayloadCRC {
				t.Errorf("%s: bit %d flipped passes", g.desc, bit)
			}
			b[bit/8] ^= 1 << (bit % 8)
		}
	}
}
