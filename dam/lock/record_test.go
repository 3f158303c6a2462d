// SPDX-License-Identifier: Apache-2.0

package lock

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"
)

func example() record {
	return record{held: true, token: 0x0102030405060708, renewals: 9, ttl: 10 * time.Second,
		nonce: [16]byte{0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf},
		owner: "host1/vm2"}
}

// golden is example up to the end of the owner, and its last four bytes.
const golden = "5253494f4c4f434b" + "00000001" + "02" + "09" + "0000" +
	"0102030405060708" + "0000000000000009" + "00002710" + "00000000" +
	"a0a1a2a3a4a5a6a7a8a9aaabacadaeaf" + "686f7374312f766d32"
const goldenCRC = "84389059"

func TestGolden(t *testing.T) {
	r := example()
	p := r.encode()
	if got := hex.EncodeToString(p[:len(golden)/2]); got != golden {
		t.Errorf("%s, want %s", got, golden)
	}
	if got := hex.EncodeToString(p[crcAt:]); got != goldenCRC {
		t.Errorf("checksum %s, want %s", got, goldenCRC)
	}
	if !zero(p[len(golden)/2 : crcAt]) {
		t.Error("the rest is not zero")
	}
}

func TestCodec(t *testing.T) {
	rows := []struct {
		desc string
		edit func(r *record)
	}{
		{"example", func(*record) {}},
		{"free", func(r *record) { r.held = false }},
		{"first token", func(r *record) { r.token = 1 }},
		{"last token", func(r *record) { r.token = ^uint64(0) }},
		{"shortest TTL", func(r *record) { r.ttl = MinTTL }},
		{"longest TTL", func(r *record) { r.ttl = MaxTTL }},
		{"longest owner", func(r *record) { r.owner = strings.Repeat("x", MaxOwner) }},
		{"no nonce", func(r *record) { r.nonce = [16]byte{} }},
	}
	for _, row := range rows {
		r := example()
		row.edit(&r)
		if got, err := decode(r.encode()); err != nil || got != r {
			t.Errorf("%s: %+v, %v, want %+v", row.desc, got, err, r)
		}
	}
	if got, err := decode(make([]byte, BlockLen)); err != nil || got != (record{}) {
		t.Errorf("zeroes: %+v, %v", got, err)
	}
}

// odd are blocks that are no lock that this program may touch.
func odd() map[string]struct {
	block []byte
	want  error
} {
	all := make(map[string]struct {
		block []byte
		want  error
	})
	add := func(desc string, want error, mended bool, edit func(p []byte)) {
		r := example()
		p := r.encode()
		edit(p)
		if mended {
			mend(p)
		}
		all[desc] = struct {
			block []byte
			want  error
		}{p, want}
	}
	at := func(i int, b byte) func([]byte) { return func(p []byte) { p[i] = b } }
	add("text", ErrForeign, false, func(p []byte) { copy(p, "hello, world") })
	add("one bit", ErrForeign, false, func(p []byte) { p[2000] = 1 })
	add("last bit", ErrForeign, false, func(p []byte) { p[BlockLen-1] ^= 1 })
	add("all but the magic is zero", ErrForeign, false, func(p []byte) { clear(p[8:]) })
	add("zeroes with a checksum", ErrForeign, true, func(p []byte) { clear(p) })
	add("format 0", ErrForeign, true, at(11, 0))
	add("format 2", ErrNewer, true, at(11, 2))
	add("format 2 with a checksum elsewhere", ErrNewer, false, at(11, 2))
	add("state 0", ErrForeign, true, at(12, 0))
	add("state 3", ErrForeign, true, at(12, 3))
	add("no owner", ErrForeign, true, func(p []byte) { p[13] = 0; clear(p[ownerAt:]) })
	add("long owner", ErrForeign, true, func(p []byte) { p[13] = 128; copy(p[ownerAt:], strings.Repeat("x", 128)) })
	add("very long owner", ErrForeign, true, at(13, 255))
	add("owner that steers a terminal", ErrForeign, true, at(ownerAt, 27))
	add("more behind the owner", ErrForeign, true, at(ownerAt+9, 'x'))
	add("something in the first gap", ErrForeign, true, at(15, 1))
	add("something in the second gap", ErrForeign, true, at(39, 1))
	add("something at the end", ErrForeign, true, at(crcAt-1, 1))
	add("token 0", ErrForeign, true, func(p []byte) { clear(p[16:24]) })
	add("TTL 0", ErrForeign, true, func(p []byte) { clear(p[32:36]) })
	add("long TTL", ErrForeign, true, at(32, 255))
	return all
}

// mend makes the checksum right.
func mend(p []byte) { binary.BigEndian.PutUint32(p[crcAt:], checksum(p)) }

func TestDecodeRefuses(t *testing.T) {
	for desc, row := range odd() {
		if got, err := decode(row.block); !errors.Is(err, row.want) || got != (record{}) {
			t.Errorf("%s: %+v, %v, want %v", desc, got, err, row.want)
		}
	}
}

// FuzzRecord: whatever is accepted is exactly what encode makes.
func FuzzRecord(f *testing.F) {
	r := example()
	f.Add(r.encode()[:ownerAt+MaxOwner])
	f.Add([]byte{})
	for _, row := range odd() {
		f.Add(row.block)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p := make([]byte, BlockLen)
		copy(p, b)
		for range 2 {
			r, err := decode(p)
			switch {
			case err != nil && (err != ErrForeign && err != ErrNewer || r != record{}):
				t.Errorf("%+v, %v", r, err)
			case err == nil && r == record{}:
				if !zero(p) {
					t.Error("something was taken for zeroes")
				}
			case err == nil && !bytes.Equal(r.encode(), p):
				t.Errorf("%+v is encoded in another way", r)
			}
			mend(p) // and once more past the checksum
		}
	})
}
