// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"rsio/rsio/block"
)

// memDevice is the least device: reads, writes and flushes memory.
type memDevice struct {
	mu   sync.Mutex
	data []byte
}

func (d *memDevice) Info() block.Info {
	return block.Info{Size: uint64(len(d.data)), BlockSize: 4096, MaxLen: block.MaxLen, Features: block.CanFlush}
}

func (d *memDevice) Submit(r *block.Request) {
	d.mu.Lock()
	switch r.Op {
	case block.OpRead:
		copy(r.Buf, d.data[r.Off:r.End()])
	case block.OpWrite:
		copy(d.data[r.Off:r.End()], r.Buf)
	}
	d.mu.Unlock()
	block.Finish(r, block.StatusOK)
}

func (d *memDevice) Close(context.Context) error { return nil }

// testStream returns a stream with data, holes, and an odd end.
func testStream(t *testing.T, size uint64) []byte {
	t.Helper()
	var b bytes.Buffer
	s, err := newStreamWriter(&b, size)
	if err != nil {
		t.Fatal(err)
	}
	s.zero(8192)
	img := bytes.Repeat([]byte("data"), 1024*3)
	if err := s.image(img); err != nil {
		t.Fatal(err)
	}
	s.zero(3 * maxZero)
	if err := s.image([]byte("end")); err != nil {
		t.Fatal(err)
	}
	if err := s.end(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

const testSize = 8192 + 4*1024*3 + 3*maxZero + 3

func readAll(r io.Reader, buf []byte) error {
	s, err := newStreamReader(r)
	for err == nil {
		var rec record
		if rec, err = s.next(buf); err == nil && rec.kind == kindEnd {
			return nil
		}
	}
	return err
}

func TestStreamCutAnywhere(t *testing.T) {
	buf := make([]byte, maxData)
	for _, size := range []uint64{testSize, unknownSize} {
		whole := testStream(t, size)
		if err := readAll(bytes.NewReader(whole), buf); err != nil {
			t.Fatal(err)
		}
		for n := range whole {
			if err := readAll(bytes.NewReader(whole[:n]), buf); err == nil {
				t.Fatalf("cut at %d of %d: no error", n, len(whole))
			}
		}
	}
}

func TestStreamDamaged(t *testing.T) {
	buf, whole := make([]byte, maxData), testStream(t, testSize)
	rnd := rand.New(rand.NewPCG(1, 1))
	for i := range whole {
		bad := bytes.Clone(whole)
		bad[i] ^= 1 << rnd.IntN(8)
		if err := readAll(bytes.NewReader(bad), buf); err == nil {
			t.Fatalf("a bit of byte %d flipped: no error", i)
		}
	}
	for range 2000 {
		bad := bytes.Clone(whole)
		for range 1 + rnd.IntN(8) {
			bad[rnd.IntN(len(bad))] = byte(rnd.Uint32())
		}
		if err := readAll(bytes.NewReader(bad), buf); err == nil && !bytes.Equal(bad, whole) {
			t.Fatal("noise: no error")
		}
	}
}

func TestStreamRefused(t *testing.T) {
	buf := make([]byte, maxData)
	rec := func(off uint64, n, kind uint32) []byte {
		b := binary.BigEndian.AppendUint64(nil, off)
		return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, n), kind)
	}
	head := func(size uint64) []byte { return binary.BigEndian.AppendUint64([]byte(streamMagic), size) }
	for _, row := range []struct {
		desc, text string
		parts      [][]byte
	}{
		{"nothing", "cut", nil},
		{"no stream", "not an image stream", [][]byte{[]byte("GET / HTTP/1.1\r\n\r\n")}},
		{"a gap", "goes on at byte 4096 where 0", [][]byte{head(8192), rec(4096, 4096, kindZero)}},
		{"an overlap", "goes on at byte 0 where 4096", [][]byte{head(8192), rec(0, 4096, kindZero), rec(0, 4096, kindZero)}},
		{"too much", "more than the 4096 bytes", [][]byte{head(4096), rec(0, 8192, kindZero)}},
		{"too little", "ends at byte 4096 of 8192", [][]byte{head(8192), rec(0, 4096, kindZero), rec(4096, 0, kindEnd), {0, 0, 0, 0}}},
		{"empty record", "0 bytes", [][]byte{head(4096), rec(0, 0, kindZero)}},
		{"large data", "not allowed", [][]byte{head(unknownSize), rec(0, maxData+1, kindData)}},
		{"large hole", "not allowed", [][]byte{head(unknownSize), rec(0, maxZero+1, kindZero)}},
		{"odd in the middle", "off a multiple", [][]byte{head(unknownSize), rec(0, 100, kindZero), rec(100, 100, kindZero)}},
		{"unknown kind", "unknown kind 9", [][]byte{head(unknownSize), rec(0, 100, 9)}},
		{"beyond 64 bits", "not allowed", [][]byte{head(unknownSize), rec(0, 1<<32-1, kindZero)}},
		{"failure without text", "cut", [][]byte{head(unknownSize), rec(0, 2, kindFailed), []byte("{}")}},
		{"long failure", "cut", [][]byte{head(unknownSize), rec(0, 1<<31, kindFailed)}},
		{"failure", "it burns", [][]byte{head(unknownSize), rec(0, 21, kindFailed), []byte(`{"reason":"it burns"}`)}},
	} {
		err := readAll(bytes.NewReader(bytes.Join(row.parts, nil)), buf)
		if err == nil || !strings.Contains(err.Error(), row.text) {
			t.Errorf("%s: %v", row.desc, err)
		}
	}
	whole := append(testStream(t, testSize), 0)
	if err := readAll(bytes.NewReader(whole), buf); err == nil || !strings.Contains(err.Error(), "behind the end") {
		t.Errorf("more behind the end: %v", err)
	}
}

// TestImportCut: a stream that is cut is never a success, wherever.
func TestImportCut(t *testing.T) {
	var b bytes.Buffer
	s, err := newStreamWriter(&b, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.image(bytes.Repeat([]byte{1}, 300<<10)); err != nil {
		t.Fatal(err)
	}
	s.zero(1<<20 - 300<<10)
	if err := s.end(); err != nil {
		t.Fatal(err)
	}
	whole := b.Bytes()
	dev := &memDevice{data: bytes.Repeat([]byte{9}, 2<<20)}
	for n := 0; n <= len(whole); n += max(1, min(4099, len(whole)-n-40)) {
		_, err := importStream(t.Context(), dev, bytes.NewReader(whole[:n]))
		if (err == nil) != (n == len(whole)) {
			t.Fatalf("cut at %d of %d: %v", n, len(whole), err)
		}
	}
	want := append(bytes.Repeat([]byte{1}, 300<<10), make([]byte, 2<<20-300<<10)...)
	if !bytes.Equal(dev.data, want) {
		t.Fatal("the volume is not the image")
	}
}

func FuzzStreamReader(f *testing.F) {
	f.Add([]byte(streamMagic))
	buf := make([]byte, maxData)
	f.Fuzz(func(_ *testing.T, b []byte) { _ = readAll(bytes.NewReader(b), buf) })
}
