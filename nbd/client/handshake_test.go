// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"rsio/rsio/block"
)

// handshake is what a server says and what comes of it.
type handshake struct {
	desc string
	say  []byte
	want string // in the error; "": none
}

func handshakes() []handshake {
	const flags = fakeFlags
	good := bytes.Join([][]byte{greeting, reply(repInfo, export(1<<20, flags))}, nil)
	ack := reply(repAck, nil)
	after := func(b ...[]byte) []byte { return bytes.Join(append([][]byte{good}, b...), nil) }
	limits := func(least, most uint32) []byte { return after(reply(repInfo, sizes(least, 4096, most)), ack) }
	sized := func(n uint64) []byte {
		return bytes.Join([][]byte{greeting, reply(repInfo, export(n, flags)), ack}, nil)
	}
	wrong := func(b []byte, at int) []byte {
		b = bytes.Clone(b)
		b[at] ^= 1
		return b
	}
	return []handshake{
		{"all well", after(ack), ""},
		{"all well, with sizes", limits(512, 1<<20), ""},
		{"the largest size", sized(1 << 62), ""},
		{"no size at all", sized(0), ""},
		{"information of a kind nobody knows", after(reply(repInfo, be(uint16(77))), ack), ""},
		{"nothing", nil, "EOF"},
		{"half a greeting", greeting[:9], "EOF"},
		{"a wrong first magic", wrong(greeting, 0), "no NBD server"},
		{"a wrong second magic", wrong(greeting, 15), "no NBD server"},
		{"the old handshake", append([]byte("NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53"), make([]byte, 200)...), "no NBD server"},
		{"flags without fixed newstyle", []byte("NBDMAGICIHAVEOPT\x00\x02"), "no NBD server"},
		{"HTTP", []byte("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"), "no NBD server"},
		{"no reply", greeting, "EOF"},
		{"a reply with a wrong magic", append(bytes.Clone(greeting), wrong(reply(repAck, nil), 7)...), "damaged reply"},
		{"a reply to another option", append(bytes.Clone(greeting), wrong(reply(repAck, nil), 11)...), "damaged reply"},
		{"a reply of 4 GiB", after(be(uint64(magicReply), uint32(optGo), uint32(repInfo), uint32(1<<32-1))), "damaged reply"},
		{"a reply that is just too long", after(be(uint64(magicReply), uint32(optGo), uint32(repInfo), uint32(maxReply+1))), "damaged reply"},
		{"half a reply", after(reply(repInfo, make([]byte, 100))[:50]), "EOF"},
		{"acknowledged without an export", append(bytes.Clone(greeting), ack...), "type 1"},
		{"information that is too short", append(append(bytes.Clone(greeting), reply(repInfo, export(1, 0)[:11])...), ack...), "type 1"},
		{"empty information", append(append(bytes.Clone(greeting), reply(repInfo, nil)...), ack...), "type 1"},
		{"a list instead", after(reply(2, be(uint32(1), uint8('v')))), "type 2"},
		{"refused by policy", after(reply(repErr|2, bytes.Repeat([]byte{'x'}, maxReply))), "error 2"},
		{"an error nobody knows", after(reply(1<<32-1, []byte("\x00\xff\n"))), "refused"},
		{"no such export", after(reply(repErrUnknown, []byte("who?"))), "not found"},
		{"endless replies", after(bytes.Repeat(reply(repInfo, be(uint16(3))), 100)), "endless"},
		{"a smallest block of 0", limits(0, 1<<20), "smallest block of 0"},
		{"a smallest block of 3", limits(3, 1<<20), "smallest block of 3"},
		{"a smallest block of 8 KiB", limits(8192, 1<<20), "smallest block of 8192"},
		{"a smallest block of 2 GiB", limits(1<<31, 1<<20), "smallest block of 2147483648"},
		{"no largest request", limits(1, 0), "largest request of 0"},
		{"a largest request below a block", limits(1, 4095), "largest request of 4095"},
		{"a size above 2^62", sized(1<<62 + 1), "size of 4611686018427387905"},
		{"the size -1", sized(1<<64 - 1), "size of 18446744073709551615"},
	}
}

// TestHostileHandshake: whatever a server says, Dial ends, with a clear error,
// and the connection is closed.
func TestHostileHandshake(t *testing.T) {
	for _, row := range handshakes() {
		t.Run(row.desc, func(t *testing.T) {
			closed := make(chan bool, 1)
			f := newFake(t, func(_ int, p *peer) {
				p.put(row.say)
				if c, ok := p.Conn.(interface{ CloseWrite() error }); ok && row.want == "EOF" {
					_ = c.CloseWrite() // that is all
				}
				closed <- p.ended()
			})
			c, info, err := Dial(t.Context(), f.socket, "v")
			if row.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				sane(t, info)
				_ = c.Close()
			} else if err == nil || !strings.Contains(err.Error(), row.want) || !strings.Contains(err.Error(), f.socket) || len(err.Error()) > 2000 {
				t.Errorf("error %.300v, want one of the socket with %q", err, row.want)
			}
			if errors.Is(err, block.StatusNotFound) != (row.want == "not found") {
				t.Errorf("%v: is it NotFound?", err)
			}
			if !<-closed {
				t.Error("the connection was not closed")
			}
		})
	}
}

// sane fails if a device could not be made of what a server said.
func sane(t testing.TB, i Info) {
	t.Helper()
	d := i.device()
	switch bs := d.BlockSize; {
	case bs == 0 || bs&(bs-1) != 0 || bs > block.MaxBlockSize,
		d.Size%uint64(max(bs, 1)) != 0 || d.Size > 1<<62,
		d.MaxLen < bs || d.MaxLen > block.MaxLen || d.MaxLen%bs != 0,
		d.MaxZero > block.MaxZero,
		d.Features&^(block.CanFlush|block.CanFUA|block.CanDiscard|block.CanZero|block.CanFastZero) != 0,
		d.Has(block.CanFastZero) && !d.Has(block.CanZero):
		t.Errorf("of %+v a device is made that cannot be: %+v", i, d)
	}
}

// TestSilence: a server that says nothing, or a byte now and then, costs no
// more than the deadline, and nothing once the caller gives up.
func TestSilence(t *testing.T) {
	steps := map[string][]byte{"no greeting": nil, "no reply": greeting, "no end": append(bytes.Clone(greeting), reply(repInfo, export(1<<20, 0))...)}
	for name, say := range steps {
		for _, row := range []struct {
			desc string
			ctx  func() (context.Context, context.CancelFunc)
			want error
		}{
			{"deadline", func() (context.Context, context.CancelFunc) {
				return context.WithTimeout(t.Context(), 50*time.Millisecond)
			}, os.ErrDeadlineExceeded},
			{"cancelled", func() (context.Context, context.CancelFunc) {
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(50*time.Millisecond, cancel)
				return ctx, cancel
			}, context.Canceled},
		} {
			t.Run(name+", "+row.desc, func(t *testing.T) {
				closed := make(chan bool, 1)
				f := newFake(t, func(_ int, p *peer) {
					p.put(say)
					closed <- p.ended()
				})
				ctx, cancel := row.ctx()
				defer cancel()
				_, _, err := Dial(ctx, f.socket, "v")
				if !errors.Is(err, row.want) && !(row.want == os.ErrDeadlineExceeded && errors.Is(err, context.DeadlineExceeded)) {
					t.Errorf("%v, want %v", err, row.want)
				}
				if !<-closed {
					t.Error("the connection was not closed")
				}
			})
		}
	}
	t.Run("one byte now and then", func(t *testing.T) {
		f := newFake(t, func(_ int, p *peer) {
			for _, b := range greeting {
				time.Sleep(20 * time.Millisecond)
				if !p.put([]byte{b}) {
					return
				}
			}
		})
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, _, err := Dial(ctx, f.socket, "v"); err == nil {
			t.Error("it connected")
		}
	})
}

// TestNames: a name that is too long is refused before it is sent, one of the
// largest length goes through.
func TestNames(t *testing.T) {
	f := newFake(t, func(_ int, p *peer) { p.hello() })
	if c, _, err := Dial(t.Context(), f.socket, strings.Repeat("n", maxName)); err != nil {
		t.Error(err)
	} else {
		_ = c.Close()
	}
	if _, _, err := Dial(t.Context(), f.socket, strings.Repeat("n", maxName+1)); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("%v", err)
	}
	for _, n := range []int{-1, 4097} {
		if _, err := Open(t.Context(), Options{Socket: f.socket, Export: "v", MaxInflight: n}); err == nil {
			t.Errorf("%d in flight are accepted", n)
		}
	}
	if _, err := Open(t.Context(), Options{Socket: f.socket + "-", Export: "v"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no socket: %v", err)
	}
}

// TestInfoFollows: what a device is follows what the server says at each
// connection.
func TestInfoFollows(t *testing.T) {
	says := [][]byte{sizes(512, 4096, 1<<16), sizes(4096, 4096, 1<<32-1), sizes(1, 4096, 5000)}
	next := make(chan struct{})
	f := newFake(t, func(n int, p *peer) {
		p.put(greeting, reply(repInfo, export(1<<20+700+uint64(n), fakeFlags|FlagReadOnly*uint16(n&1))), reply(repInfo, says[min(n, 2)]), reply(repAck, nil))
		if n < 2 {
			<-next
		} else {
			p.ended()
		}
	})
	d := f.open(t, Options{})
	for n, want := range []string{"1049088 512 65536 false", "1048576 4096 1048576 true", "1049278 1 4096 false"} {
		say := func() string {
			i := d.Info()
			return fmt.Sprint(i.Size, i.BlockSize, i.MaxLen, i.ReadOnly)
		}
		eventually(t, fmt.Sprintf("connection %d: %s (it is %s)", n, want, say()), func() bool { return say() == want })
		if n < 2 {
			next <- struct{}{}
		}
	}
	closeDevice(t, d)
}
