// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"encoding/binary"
	"net"
	"testing"
	"time"

	"rsio/rsio/block"
	"rsio/rsio/buf"
)

// FuzzOption feeds the parsers of option data. What they accept must fit the
// limits.
func FuzzOption(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x03vol\x00\x01\x00\x03"))
	f.Add([]byte("\x00\x00\x00\x03vol\x00\x00\x00\x01\x00\x00\x00\x0fbase:allocation"))
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > maxOptionBuf {
			return
		}
		if r, err := parseInfo(b); err == nil && len(r.name)+6 > len(b) {
			t.Fatalf("name of %d bytes in %d", len(r.name), len(b))
		}
		if r, err := parseMeta(b); err == nil && uint64(len(r.name))+8+4*uint64(r.queries) > uint64(len(b)) {
			t.Fatalf("%d queries in %d bytes", r.queries, len(b))
		}
	})
}

// FuzzRequest feeds the decoder of requests and the check behind it: what
// passes lies inside of the device and within the limits.
func FuzzRequest(f *testing.F) {
	p := &peer{}
	f.Add(p.request(cmdRead, 0, 1, 0, 512, nil), false, uint64(1<<20), uint32(0))
	p.extended = true
	f.Add(p.request(cmdWrite, 0, 1, 1<<63, 512, nil), true, uint64(1<<63), uint32(9))
	srv := NewServer(Options{Pool: buf.New(1 << 27)})
	f.Fuzz(func(t *testing.T, b []byte, ext bool, size uint64, shift uint32) {
		if len(b) < extRequestLen {
			return
		}
		h, err := parseRequest(b, ext)
		if n := h.payload(ext); err == nil && n > maxPayload {
			t.Fatalf("payload of %d bytes", n)
		}
		i := block.Info{Size: size, BlockSize: 1 << (shift % 13), MaxLen: block.MaxLen, MaxZero: block.MaxZero, Features: allFeatures}
		c := &conn{srv: srv, ext: ext, chunks: ext, meta: true}
		if e, _ := c.check(i, &h); e != errnoOK || h.cmd == cmdFlush {
			return
		}
		end := h.off + h.length
		if end < h.off || end > size || h.length == 0 || (h.cmd == cmdRead || h.cmd == cmdWrite) && h.length > maxPayload {
			t.Fatalf("%+v passed for %d bytes", h, size)
		}
	})
}

// FuzzConnection feeds a whole connection. The server must survive, answer
// with nothing but whole messages and give everything back.
func FuzzConnection(f *testing.F) {
	f.Add(good())
	f.Add([]byte{})
	d := newMemory(1<<16, 0)
	ex := one(d)
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > 1<<16 {
			return
		}
		b := serve(t, ex, Options{HandshakeTimeout: time.Second})
		p := b.dial()
		p.deadline(5 * time.Second)
		go func() {
			_, _ = p.Write(in)
			_ = p.Conn.(*net.UnixConn).CloseWrite()
		}()
		hello := make([]byte, 8)
		if _, err := p.Read(hello); err != nil || binary.BigEndian.Uint64(hello) != 0x4e42444d41474943 {
			t.Fatalf("greeting %x, %v", hello, err)
		}
		p.ended()
	})
}
