// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"encoding/binary"
	"io"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pojntfx/go-nbd/pkg/protocol"
	"github.com/pojntfx/go-nbd/pkg/server"
)

// slowBackend is a backend of go-nbd that counts.
type slowBackend struct {
	delay         time.Duration
	running, most atomic.Int32
	syncs         atomic.Int32
}

func (s *slowBackend) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > 1<<20 {
		return 0, io.ErrUnexpectedEOF
	}
	s.most.Store(max(s.most.Load(), s.running.Add(1)))
	time.Sleep(s.delay)
	s.running.Add(-1)
	return len(p), nil
}
func (s *slowBackend) WriteAt(p []byte, off int64) (int, error) { return s.ReadAt(p, off) }
func (s *slowBackend) Size() (int64, error)                     { return 1 << 20, nil }
func (s *slowBackend) Sync() error                              { s.syncs.Add(1); return nil }

// goNBD serves one connection with go-nbd's server.
func goNBD(t *testing.T, be *slowBackend) *peer {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		_ = server.Handle(nc, []*server.Export{{Name: "vol", Backend: be}}, nil)
	})
	nc, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close(); l.Close(); wg.Wait() })
	p := &peer{t: t, Conn: nc}
	p.deadline(120 * time.Second)
	if b := p.get(18); string(b[:16]) != "NBDMAGICIHAVEOPT" {
		t.Fatalf("greeting %x", b)
	}
	p.put(be32(1))
	return p
}

// TestGoNBDPeer re-checks what docs/decisions/0002 says of go-nbd's server. If
// one of these fails, a newer go-nbd deserves another look.
func TestGoNBDPeer(t *testing.T) {
	t.Run("no flush, no FUA, no trim", func(t *testing.T) {
		p := goNBD(t, &slowBackend{})
		p.goTo("vol")
		if p.flags&(exportFlush|exportFUA|exportTrim|exportZeroes) != 0 {
			t.Errorf("flags %b", p.flags)
		}
	})
	t.Run("no EXPORT_NAME, no structured replies", func(t *testing.T) {
		p := goNBD(t, &slowBackend{})
		p.want(optStructured, unsup)
		p.want(optExtended, unsup)
		p.want(optSetMeta, unsup, str("vol"), be32(0))
		p.want(optExportName, unsup, []byte("vol"))
	})
	t.Run("one request at a time", func(t *testing.T) {
		be := &slowBackend{delay: 2 * time.Millisecond}
		p := goNBD(t, be)
		p.goTo("vol")
		var out []byte
		reads := map[uint64][2]uint64{}
		for k := range uint64(16) {
			out = append(out, p.request(cmdRead, 0, k, 0, 512, nil)...)
			reads[k] = [2]uint64{0, 512}
		}
		p.put(out)
		for range 16 {
			p.reply(reads)
		}
		if n := be.most.Load(); n != 1 {
			t.Errorf("%d requests at a time", n)
		}
	})
	t.Run("success before the read", func(t *testing.T) {
		p := goNBD(t, &slowBackend{})
		p.goTo("vol")
		p.put(p.request(cmdRead, 0, 1, 1<<30, 512, nil))
		if e := binary.BigEndian.Uint32(p.get(16)[4:]); e != 0 {
			t.Errorf("error %d", e)
		}
		p.ended() // instead of data
	})
	t.Run("a trim takes the next requests for its payload", func(t *testing.T) {
		p := goNBD(t, &slowBackend{})
		p.goTo("vol")
		p.put(p.request(cmdTrim, 0, 1, 0, 4096, nil), p.request(cmdRead, 0, 2, 0, 512, nil))
		_ = p.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if n, err := p.Read(make([]byte, 1)); err == nil {
			t.Errorf("answered with %d bytes", n)
		}
	})
}

// TestGoNBDStructures reads our handshake with go-nbd's structures, the way its
// client lists exports. (The client itself needs a module that this one does
// not have.)
func TestGoNBDStructures(t *testing.T) {
	d := newMemory(1<<20, 0)
	defer closeDevice(t, d)
	b := serve(t, &list{all: []*Export{{Name: "only", Device: d}}}, Options{})
	p := b.dial()
	read := func(v any) {
		t.Helper()
		if err := binary.Read(p, binary.BigEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	var hello protocol.NegotiationNewstyleHeader
	read(&hello)
	p.put(be32(0))
	send := func(id uint32, data []byte) {
		h := protocol.NegotiationOptionHeader{OptionMagic: protocol.NEGOTIATION_MAGIC_OPTION, ID: id, Length: uint32(len(data))}
		if err := binary.Write(p, binary.BigEndian, h); err != nil {
			t.Fatal(err)
		}
		p.put(data)
	}
	send(protocol.NEGOTIATION_ID_OPTION_LIST, nil)
	var reply protocol.NegotiationReplyHeader
	read(&reply)
	if got := string(p.get(int(reply.Length))); reply.Type != protocol.NEGOTIATION_TYPE_REPLY_SERVER || got != "\x00\x00\x00\x04only" {
		t.Errorf("%+v %q", reply, got)
	}
	read(&reply)
	send(protocol.NEGOTIATION_ID_OPTION_GO, append(str("only"), 0, 0))
	var export protocol.NegotiationReplyInfo
	read(&reply)
	read(&export)
	if export.Size != 1<<20 || export.TransmissionFlags&protocol.NEGOTIATION_REPLY_FLAGS_CAN_MULTI_CONN == 0 {
		t.Errorf("%+v", export)
	}
	var sizes protocol.NegotiationReplyBlockSize
	read(&reply)
	read(&sizes)
	if sizes.MinimumBlockSize != 1 || sizes.MaximumBlockSize != 32<<20 {
		t.Errorf("%+v", sizes)
	}
	read(&reply)
	if reply.Type != protocol.NEGOTIATION_TYPE_REPLY_ACK {
		t.Errorf("%+v", reply)
	}
	req := protocol.TransmissionRequestHeader{RequestMagic: protocol.TRANSMISSION_MAGIC_REQUEST, Handle: 7, Length: 512}
	if err := binary.Write(p, binary.BigEndian, req); err != nil {
		t.Fatal(err)
	}
	var answer protocol.TransmissionReplyHeader
	read(&answer)
	p.get(512)
	if answer.Error != 0 || answer.Handle != 7 {
		t.Errorf("%+v", answer)
	}
}
