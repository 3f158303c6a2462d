// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"rsio/rsio/block"
	"rsio/rsio/buf"
)

// modes runs a test in every form of reply, against a device that completes
// inline and one that does not.
func modes(t *testing.T, size int, f func(t *testing.T, m mode, d *memory, b *bench)) {
	for _, m := range []mode{simple, structured, extended} {
		for _, workers := range []int{0, 4} {
			t.Run(fmt.Sprintf("%v/workers=%d", m, workers), func(t *testing.T) {
				d := newMemory(size, workers)
				t.Cleanup(func() { closeDevice(t, d) })
				f(t, m, d, serve(t, one(d), Options{}))
			})
		}
	}
}

func pattern(n int, seed uint64) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 1))
	for k := 0; k+8 <= n; k += 8 {
		binary.LittleEndian.PutUint64(b[k:], r.Uint64())
	}
	return b
}

// TestCommands does everything once and looks at the device behind it.
func TestCommands(t *testing.T) {
	modes(t, 8<<20, func(t *testing.T, m mode, d *memory, b *bench) {
		p := b.login(m)
		if p.size != 8<<20 {
			t.Fatalf("size %d", p.size)
		}
		w := pattern(10000, 1)
		p.ok(cmdWrite, flagFUA, 4096, 10000, w)
		if got := p.ok(cmdRead, flagFUA, 4096, 10000, nil).data; !bytes.Equal(got, w) {
			t.Fatal("read differs from what was written")
		}
		p.ok(cmdFlush, 0, 0, 0, nil)
		if d.flushes.Load() != 1 {
			t.Fatalf("%d flushes", d.flushes.Load())
		}
		p.ok(cmdWriteZeroes, flagNoHole, 4096, 4096, nil)
		p.ok(cmdWriteZeroes, flagFastZero|flagFUA, 8192, 100, nil)
		clear(w[:4196])
		p.ok(cmdTrim, 0, 12288, 1808, nil)
		clear(w[8192:])
		if got := p.ok(cmdRead, 0, 4096, 10000, nil).data; !bytes.Equal(got, w) {
			t.Fatal("zeroes or trim did something else")
		}
		reads := d.reads.Load()
		p.ok(cmdCache, 0, 0, 3<<20, nil)
		if got := d.reads.Load() - reads; got != 3 {
			t.Fatalf("cache made %d reads", got)
		}
		if n := d.nexus.Load(); n != "host/vm" {
			t.Fatalf("nexus %v", n)
		}
	})
}

// TestLargePayloads covers splitting: chunks, gathering and DF, odd lengths,
// the protocol's maximum, and small MaxLen.
func TestLargePayloads(t *testing.T) {
	modes(t, 80<<20, func(t *testing.T, m mode, d *memory, b *bench) {
		p := b.login(m)
		for k, n := range []int{1 << 20, 1<<20 + 1, 2<<20 - 1, 5<<20 + 777, 32 << 20} {
			w := pattern(n, uint64(k))
			off := uint64(k * 4321)
			p.ok(cmdWrite, 0, off, uint64(n), w)
			a := p.ok(cmdRead, 0, off, uint64(n), nil)
			if !bytes.Equal(a.data, w) {
				t.Fatalf("%d bytes: read differs", n)
			}
			if m == simple {
				continue
			}
			if want := (n + 1<<20 - 1) >> 20; a.chunks != want {
				t.Fatalf("%d bytes came in %d chunks, want %d", n, a.chunks, want)
			}
			a = p.ok(cmdRead, flagDF, off, uint64(n), nil)
			if !bytes.Equal(a.data, w) || a.chunks != 1 {
				t.Fatalf("%d bytes unfragmented: differs, or %d chunks", n, a.chunks)
			}
		}
		if d.largest.Load() > block.MaxLen {
			t.Fatalf("the device saw %d bytes", d.largest.Load())
		}
	})
}

// TestLongRanges covers steps of discard, zeroes and cache, and block status
// beyond what a device takes.
func TestLongRanges(t *testing.T) {
	modes(t, 4<<20, func(t *testing.T, m mode, d *memory, b *bench) {
		d.change(func(i *block.Info) { i.MaxZero = 96 << 10 })
		p := b.login(m)
		p.ok(cmdWrite, 0, 0, 4<<20, pattern(4<<20, 3))
		p.ok(cmdWriteZeroes, 0, 100, 2<<20, nil)
		p.ok(cmdTrim, 0, 3<<20, 1<<20, nil)
		want := pattern(4<<20, 3)
		clear(want[100 : 100+2<<20])
		clear(want[3<<20:])
		if got := p.ok(cmdRead, 0, 0, 4<<20, nil).data; !bytes.Equal(got, want) {
			t.Fatal("differs")
		}
		fail := func(r *block.Request) block.Status {
			if r.Op == block.OpWriteZeroes && r.Off >= 96<<10 {
				return block.StatusNoSpace
			}
			return block.StatusOK
		}
		d.fail.Store(&fail)
		if a := p.do(cmdWriteZeroes, 0, 0, 1<<20, nil); a.err != uint32(errnoNoSpace) {
			t.Fatalf("error %d", a.err)
		}
	})
}

func TestBlockStatus(t *testing.T) {
	for _, m := range []mode{structured, extended} {
		t.Run(m.String(), func(t *testing.T) {
			d := newMemory(4<<20, 0)
			defer closeDevice(t, d)
			b := serve(t, one(d), Options{})
			p := b.login(m)
			p.ok(cmdWrite, 0, 8192, 4096, pattern(4096, 1))
			decode := func(a answer) (e [][2]uint64) {
				for s := a.status; len(s) > 0; {
					if m == extended {
						e = append(e, [2]uint64{binary.BigEndian.Uint64(s), binary.BigEndian.Uint64(s[8:])})
						s = s[16:]
					} else {
						e = append(e, [2]uint64{uint64(binary.BigEndian.Uint32(s)), uint64(binary.BigEndian.Uint32(s[4:]))})
						s = s[8:]
					}
				}
				return e
			}
			got := fmt.Sprint(decode(p.ok(cmdBlockStatus, 0, 0, 4<<20, nil)))
			if want := "[[8192 3] [4096 0] [4182016 3]]"; got != want {
				t.Fatalf("got %s, want %s", got, want)
			}
			got = fmt.Sprint(decode(p.ok(cmdBlockStatus, flagReqOne, 4096, 1<<20, nil)))
			if want := "[[4096 3]]"; got != want {
				t.Fatalf("one: got %s, want %s", got, want)
			}
			d.change(func(i *block.Info) { i.MaxZero = 64 << 10 })
			if e := decode(p.ok(cmdBlockStatus, 0, 1<<20, 3<<20, nil)); e[0][0] != 64<<10 {
				t.Fatalf("above MaxZero: %v", e)
			}
			d.change(func(i *block.Info) { i.Features &^= block.CanBlockStatus })
			if e := decode(p.ok(cmdBlockStatus, 0, 1<<20, 12345, nil)); fmt.Sprint(e) != "[[12345 0]]" {
				t.Fatalf("without block status: %v", e)
			}
		})
	}
}

// TestErrors sends what must be refused and checks that the stream stays in
// sync.
func TestErrors(t *testing.T) {
	const size = 1 << 20
	modes(t, size, func(t *testing.T, m mode, d *memory, b *bench) {
		p := b.login(m)
		w := pattern(4096, 1)
		big := uint32(errnoOverflow)
		if m == simple {
			big = uint32(errnoInval)
		}
		for _, c := range []struct {
			name        string
			cmd, flags  uint16
			off, length uint64
			payload     []byte
			want        uint32
		}{
			{"unknown command", 99, 0, 0, 4096, nil, 22},
			{"resize", 8, 0, 0, 4096, nil, 22},
			{"read behind the end", cmdRead, 0, size - 1, 2, nil, 22},
			{"read far behind the end", cmdRead, 0, 1<<64 - 1, 2, nil, 22},
			{"read overflowing", cmdRead, 0, 1<<64 - 4096, 4096, nil, 22},
			{"write behind the end", cmdWrite, 0, size - 4095, 4096, w, 28},
			{"zeroes behind the end", cmdWriteZeroes, 0, size, 1, nil, 28},
			{"trim behind the end", cmdTrim, 0, 0, size + 1, nil, 22},
			{"cache behind the end", cmdCache, 0, 0, size + 1, nil, 22},
			{"empty read", cmdRead, 0, 0, 0, nil, 22},
			{"empty trim", cmdTrim, 0, 0, 0, nil, 22},
			{"unknown flag", cmdRead, 1 << 9, 0, 4096, nil, 22},
			{"unknown flag of a write", cmdWrite, 1 << 9, 0, 4096, w, 22},
			{"no-hole trim", cmdTrim, flagNoHole, 0, 4096, nil, 22},
			{"req-one read", cmdRead, flagReqOne, 0, 4096, nil, 22},
			{"flush with a range", cmdFlush, 0, 0, 1, nil, 22},
		} {
			if a := p.do(c.cmd, c.flags, c.off, c.length, c.payload); a.err != c.want || (m != simple) != (a.text != "") {
				t.Errorf("%s: error %d %q, want %d", c.name, a.err, a.text, c.want)
			}
			p.ok(cmdRead, 0, 0, 512, nil)
		}
		d.change(func(i *block.Info) { i.Size = 1 << 40 }) // the data is not reached
		if a := p.do(cmdRead, 0, 0, 32<<20+1, nil); a.err != big {
			t.Errorf("too long a read: error %d, want %d", a.err, big)
		}
		d.change(func(i *block.Info) { i.BlockSize = 512 })
		if a := p.do(cmdWrite, 0, 256, 512, w[:512]); a.err != 22 {
			t.Errorf("unaligned: error %d", a.err)
		}
		d.change(func(i *block.Info) { i.Features = 0 })
		for _, cmd := range []uint16{cmdFlush, cmdTrim, cmdWriteZeroes} {
			if a := p.do(cmd, 0, 0, 0, nil); a.err != 22 {
				t.Errorf("command %d without the ability: error %d", cmd, a.err)
			}
		}
		d.change(func(i *block.Info) { i.ReadOnly = true })
		for _, cmd := range []uint16{cmdTrim, cmdWriteZeroes, cmdWrite} {
			var pay []byte
			if cmd == cmdWrite {
				pay = w
			}
			if a := p.do(cmd, 0, 0, 4096, pay); a.err != 1 {
				t.Errorf("command %d on a read-only device: error %d", cmd, a.err)
			}
		}
		p.ok(cmdRead, 0, 0, 512, nil)
	})
}

// TestPayloadFlag covers what only extended headers have.
func TestPayloadFlag(t *testing.T) {
	d := newMemory(1<<20, 0)
	defer closeDevice(t, d)
	b := serve(t, one(d), Options{})
	p := b.login(extended)
	for cmd, payload := range map[uint16][]byte{cmdRead: make([]byte, 100), cmdTrim: make([]byte, 70000), 77: make([]byte, 5)} {
		if a := p.do(cmd, 0, 0, uint64(len(payload)), payload); a.err != 22 {
			t.Errorf("command %d with a payload: error %d", cmd, a.err)
		}
	}
	// A write without the flag has no payload.
	p.put(be32(magicExtRequest), be16(0), be16(cmdWrite), be64(5), be64(0), be64(512))
	if a := p.reply(nil); a.err != 22 || a.cookie != 5 {
		t.Errorf("write without payload: %+v", a)
	}
	p.ok(cmdRead, 0, 0, 512, nil)
	d.change(func(i *block.Info) { i.Size = 1 << 50 })
	if a := p.do(cmdCache, 0, 1<<50, 1<<63, nil); a.err != 22 {
		t.Errorf("64-bit range: error %d", a.err)
	}
}

// TestStatusTranslation checks every outcome of a device, for whole requests
// and for pieces.
func TestStatusTranslation(t *testing.T) {
	want := map[block.Status]uint32{
		block.StatusIO: 5, block.StatusNoSpace: 28, block.StatusInvalid: 22, block.StatusUnsupported: 22,
		block.StatusReadOnly: 1, block.StatusConflict: 1, block.StatusDenied: 1, block.StatusClosed: 108,
		block.StatusDraining: 108, block.StatusNoSession: 108, block.StatusLost: 5, block.StatusUnknown: 5,
		block.StatusBusy: 5, block.StatusTimeout: 5, block.Status(999): 5,
	}
	modes(t, 8<<20, func(t *testing.T, m mode, d *memory, b *bench) {
		p := b.login(m)
		for st, e := range want {
			fail := func(r *block.Request) block.Status {
				if r.Off == 2<<20 || r.Off == 0 {
					return st
				}
				return block.StatusOK
			}
			d.fail.Store(&fail)
			for _, n := range []uint64{4096, 3 << 20} {
				if a := p.do(cmdRead, 0, 0, n, nil); a.err != e || m != simple && a.text != st.Error() {
					t.Errorf("read %d, %v: error %d %q, want %d", n, st, a.err, a.text, e)
				}
				if a := p.do(cmdWrite, 0, 0, n, make([]byte, n)); a.err != e {
					t.Errorf("write %d, %v: error %d, want %d", n, st, a.err, e)
				}
			}
			if a := p.do(cmdFlush, 0, 0, 0, nil); a.err != e {
				t.Errorf("flush, %v: error %d, want %d", st, a.err, e)
			}
		}
		fail := func(*block.Request) block.Status { return block.StatusUnsupported }
		d.fail.Store(&fail)
		if a := p.do(cmdWriteZeroes, flagFastZero, 0, 4096, nil); a.err != 95 {
			t.Errorf("fast zero: error %d", a.err)
		}
	})
}

// TestManyAtOnce keeps many requests of all sizes in flight and checks every
// byte.
func TestManyAtOnce(t *testing.T) {
	modes(t, 64<<20, func(t *testing.T, m mode, d *memory, b *bench) {
		p := b.login(m)
		r := rand.New(rand.NewPCG(1, uint64(m)))
		type req struct {
			off, n uint64
			data   []byte
		}
		const count = 300
		reqs := map[uint64]req{}
		for k := range uint64(count) {
			n := uint64(1 + r.IntN(8192))
			if k%20 == 0 {
				n = uint64(1 + r.IntN(200<<10))
			}
			reqs[k] = req{k * (200 << 10), n, pattern(int(n), k)}
		}
		batch := func(cmd uint16) {
			go func() {
				var out []byte
				for k, q := range reqs {
					var pay []byte
					if cmd == cmdWrite {
						pay = q.data
					}
					out = append(out, p.request(cmd, 0, k, q.off, q.n, pay)...)
				}
				_, _ = p.Write(out)
			}()
			reads := map[uint64][2]uint64{}
			if cmd == cmdRead {
				for k, q := range reqs {
					reads[k] = [2]uint64{q.off, q.n}
				}
			}
			seen := map[uint64]bool{}
			for range count {
				a := p.reply(reads)
				if a.err != 0 || seen[a.cookie] {
					t.Fatalf("answer %+v", a)
				}
				seen[a.cookie] = true
				if cmd == cmdRead && !bytes.Equal(a.data, reqs[a.cookie].data) {
					t.Fatalf("read %d differs", a.cookie)
				}
			}
		}
		batch(cmdWrite)
		batch(cmdRead)
	})
}

// TestSmallPool runs several connections with large requests on a pool that
// holds hardly more than one of them: all go on, none waits for ever.
func TestSmallPool(t *testing.T) {
	for _, m := range []mode{simple, structured} {
		t.Run(m.String(), func(t *testing.T) {
			d := newMemory(16<<20, 2)
			defer closeDevice(t, d)
			b := serve(t, one(d), Options{Pool: buf.New(8 << 20)})
			done := make(chan error, 4)
			for k := range 4 {
				p := b.login(m)
				go func() {
					var out []byte
					for c := range uint64(20) {
						out = append(out, p.request(cmdRead, 0, c, uint64(k)<<20, 4<<20, nil)...)
					}
					if _, err := p.Write(out); err != nil {
						done <- err
						return
					}
					reads := map[uint64][2]uint64{}
					for c := range uint64(20) {
						reads[c] = [2]uint64{uint64(k) << 20, 4 << 20}
					}
					for range 20 {
						if a := p.reply(reads); a.err != 0 {
							done <- fmt.Errorf("error %d", a.err)
							return
						}
					}
					done <- nil
				}()
			}
			for range 4 {
				if err := <-done; err != nil {
					t.Fatal(err)
				}
			}
			if high := b.pool.Stats().High; high > 8<<20 {
				t.Fatalf("%d bytes were out", high)
			}
		})
	}
}
