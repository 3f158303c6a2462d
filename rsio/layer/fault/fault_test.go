// SPDX-License-Identifier: Apache-2.0

package fault

import (
	"bytes"
	"math/bits"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rsio/rsio/block"
	"rsio/rsio/blocktest"
	"rsio/rsio/layer/check"
	"rsio/rsio/store/mem"
)

const size = 4 << 20

func newMem(t testing.TB) *mem.Device {
	t.Helper()
	d, err := mem.New(mem.Options{Size: size, BlockSize: 512})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func rules(t testing.TB, text string) []Rule {
	t.Helper()
	if text == "" {
		return nil
	}
	all, err := ParseAll(text)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestDevice runs the suite with faults that keep the contract.
func TestDevice(t *testing.T) {
	rows := []struct {
		desc, text string
		ops, chain int
	}{
		{"no rule", "", 0, 20_000},
		{"rules that select nothing", "op=write,range=0-1,nth=1000000000,do=eio", 1000, 5000},
		{"delays of no time", "do=delay,ms=0-1,p=0.05", 300, 100},
		{"delays after", "do=delay,ms=0-1,p=0.02,at=after", 300, 100},
		{"FUA ignored", "do=ignoreflush", 1000, 5000},
	}
	for _, row := range rows {
		t.Run(row.desc, func(t *testing.T) {
			t.Parallel()
			blocktest.Run(t, blocktest.Config{
				Make: func(t *testing.T) block.Device {
					below := check.New(newMem(t), check.Options{CRC: true})
					return check.New(New(below, rules(t, row.text)...), check.Options{CRC: true})
				},
				Ops: row.ops, Chain: row.chain, Shared: true,
			})
		})
	}
	t.Run("alone", func(t *testing.T) {
		blocktest.Run(t, blocktest.Config{
			Make:      func(t *testing.T) block.Device { return New(newMem(t)) },
			ZeroAlloc: true, Ops: 100, Chain: 1000, Shared: true,
		})
	})
}

// bench is a device with faults over one whose content is all 'o', and a way
// to look at the store.
type rig struct {
	t     *testing.T
	store *mem.Device
	*Device
}

func newRig(t *testing.T, text string) *rig {
	t.Helper()
	r := &rig{t: t, store: newMem(t)}
	for off := uint64(0); off < size; off += 1 << 20 {
		do(t, r.store, block.Request{Op: block.OpWrite, Off: off, Len: 1 << 20, Buf: bytes.Repeat([]byte{'o'}, 1<<20)}, block.StatusOK)
	}
	r.Device = New(check.New(r.store, check.Options{CRC: true}), rules(t, text)...)
	t.Cleanup(func() { r.Device.Close(t.Context()) })
	return r
}

func do(t *testing.T, d block.Device, r block.Request, want block.Status) {
	t.Helper()
	if st := block.Do(d, &r); st != want {
		t.Errorf("%v at %d length %d: %v, want %v", r.Op, r.Off, r.Len, st, want)
	}
}

func (r *rig) at(off uint64, n int) []byte {
	p := make([]byte, n)
	do(r.t, r.store, block.Request{Op: block.OpRead, Off: off, Len: uint32(n), Buf: p}, block.StatusOK)
	return p
}

func fillWith(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n) }

// TestVerbs writes 4 KiB of 'n' at 8192 and looks at what the store holds.
func TestVerbs(t *testing.T) {
	half := append(fillWith('n', 2048), fillWith('o', 2048)...)
	rows := []struct {
		desc, text string
		st         block.Status
		want       []byte // at 8192; nil: one bit differs from 'n'
	}{
		{"eio", "op=write,do=eio", block.StatusIO, fillWith('o', 4096)},
		{"nospace", "op=write,do=nospace", block.StatusNoSpace, fillWith('o', 4096)},
		{"short", "op=write,do=short", block.StatusIO, half},
		{"torn", "op=write,do=torn", block.StatusOK, half},
		{"lost", "op=write,do=lost", block.StatusOK, fillWith('o', 4096)},
		{"misdirect", "op=write,do=misdirect,shift=65536", block.StatusOK, fillWith('o', 4096)},
		{"bitflip", "op=write,do=bitflip,seed=3", block.StatusOK, nil},
		{"delay", "op=write,do=delay,ms=1", block.StatusOK, fillWith('n', 4096)},
		{"other operation", "op=read,do=eio", block.StatusOK, fillWith('n', 4096)},
		{"range that ends before", "range=0-8192,do=eio", block.StatusOK, fillWith('n', 4096)},
		{"range that begins behind", "range=12288-20000,do=eio", block.StatusOK, fillWith('n', 4096)},
		{"range that touches one byte", "range=12287-12288,do=eio", block.StatusIO, fillWith('o', 4096)},
		{"first of two rules", "op=write,do=lost;do=eio", block.StatusOK, fillWith('o', 4096)},
	}
	for _, row := range rows {
		t.Run(row.desc, func(t *testing.T) {
			r := newRig(t, row.text)
			p := fillWith('n', 4096)
			do(t, r, block.Request{Op: block.OpWrite, Off: 8192, Len: 4096, Buf: p}, row.st)
			if !bytes.Equal(p, fillWith('n', 4096)) {
				t.Error("rule 4: the payload was changed")
			}
			got := r.at(8192, 4096)
			if row.want == nil {
				if n := flips(got, p); n != 1 {
					t.Errorf("%d bits differ, want 1", n)
				}
			} else if !bytes.Equal(got, row.want) {
				t.Errorf("the store holds %q... %q", got[:4], got[4092:])
			}
			if row.desc == "misdirect" && !bytes.Equal(r.at(8192+65536, 4096), p) {
				t.Error("the write went nowhere")
			}
		})
	}
}

func flips(a, b []byte) int {
	n := 0
	for i := range a {
		n += bits.OnesCount8(a[i] ^ b[i])
	}
	return n
}

func TestReads(t *testing.T) {
	rows := []struct {
		desc, text string
		st         block.Status
		bits       int // that differ from 'o'
	}{
		{"bitflip", "op=read,do=bitflip", block.StatusOK, 1},
		{"short", "op=read,do=short", block.StatusIO, -1},
		{"misdirect", "op=read,do=misdirect,shift=4096", block.StatusOK, 4096 * bits.OnesCount8('o'^'x')},
	}
	for _, row := range rows {
		r := newRig(t, row.text)
		do(t, r.store, block.Request{Op: block.OpWrite, Off: 4096, Len: 4096, Buf: fillWith('x', 4096)}, block.StatusOK)
		p := make([]byte, 4096)
		do(t, r, block.Request{Op: block.OpRead, Len: 4096, Buf: p}, row.st)
		if n := flips(p, fillWith('o', 4096)); row.bits >= 0 && n != row.bits {
			t.Errorf("%s: %d bits differ, want %d", row.desc, n, row.bits)
		}
	}
}

// TestIgnoreFlush: what was flushed or written with FUA is gone after a crash.
func TestIgnoreFlush(t *testing.T) {
	var flushes, fuas int
	below := &spy{Device: newMem(t), see: func(r *block.Request) {
		if r.Op == block.OpFlush {
			flushes++
		}
		if r.Flags&block.FlagFUA != 0 {
			fuas++
		}
	}}
	d := New(below, rules(t, "do=ignoreflush")...)
	defer d.Close(t.Context())
	do(t, d, block.Request{Op: block.OpFlush}, block.StatusOK)
	do(t, d, block.Request{Op: block.OpWrite, Flags: block.FlagFUA, Len: 512, Buf: make([]byte, 512)}, block.StatusOK)
	if flushes+fuas != 0 {
		t.Errorf("%d flushes and %d FUA came through", flushes, fuas)
	}
}

type spy struct {
	block.Device
	see func(*block.Request)
}

func (s *spy) Submit(r *block.Request) {
	s.see(r)
	s.Device.Submit(r)
}

// TestSelection submits ten writes and notes which fail.
func TestSelection(t *testing.T) {
	rows := []struct{ text, want string }{
		{"do=eio", "xxxxxxxxxx"},
		{"nth=3,do=eio", "..x......."},
		{"from=8,do=eio", ".......xxx"},
		{"every=3,do=eio", "..x..x..x."},
		{"from=2,every=4,do=eio", "....x...x."},
		{"p=1,do=eio", "xxxxxxxxxx"},
		{"p=0.5,seed=1,do=eio", ""},
	}
	run := func(text string) string {
		r := newRig(t, text)
		var s strings.Builder
		for range 10 {
			st := block.Do(r, &block.Request{Op: block.OpWrite, Len: 512, Buf: make([]byte, 512)})
			s.WriteByte(map[bool]byte{true: '.', false: 'x'}[st == block.StatusOK])
		}
		return s.String()
	}
	for _, row := range rows {
		got := run(row.text)
		if row.want == "" {
			if n := strings.Count(got, "x"); n == 0 || n == 10 || got != run(row.text) {
				t.Errorf("%s: %s, want a mixture that repeats", row.text, got)
			}
		} else if got != row.want {
			t.Errorf("%s: %s, want %s", row.text, got, row.want)
		}
	}
}

type done chan *block.Request

func (d done) Complete(r *block.Request) { d <- r }

// hang submits a write of 'n' at 0 that hangs and returns its end.
func (r *rig) hang() done {
	r.t.Helper()
	end := make(done, 1)
	r.Submit(&block.Request{Op: block.OpWrite, Len: 4096, Buf: fillWith('n', 4096), Done: end})
	for limit := time.Now().Add(5 * time.Second); r.Held() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			r.t.Fatal("the write does not hang")
		}
	}
	return end
}

func (r *rig) ends(end done) {
	r.t.Helper()
	select {
	case req := <-end:
		if req.Status != block.StatusOK {
			r.t.Errorf("released: %v", req.Status)
		}
	case <-time.After(5 * time.Second):
		r.t.Fatal("the write still hangs")
	}
}

func TestHang(t *testing.T) {
	file := filepath.Join(t.TempDir(), "go")
	rows := []struct {
		desc, text string
		lift       func(r *rig)
		early      byte // in the store while it hangs
	}{
		{"release", "op=write,nth=1,do=hang", func(r *rig) { r.Release() }, 'o'},
		{"release after execution", "op=write,nth=1,do=hang,at=after", func(r *rig) { r.Release() }, 'n'},
		{"file", "op=write,nth=1,do=hang,until=" + file, func(r *rig) {
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				r.t.Fatal(err)
			}
		}, 'o'},
		{"close", "op=write,nth=1,do=hang", func(r *rig) {
			if err := r.Close(r.t.Context()); err != nil {
				r.t.Error(err)
			}
		}, 'o'},
		{"close of a delay", "op=write,nth=1,do=delay,ms=3600000", func(r *rig) { r.Close(r.t.Context()) }, 'o'},
	}
	for _, row := range rows {
		t.Run(row.desc, func(t *testing.T) {
			r := newRig(t, row.text)
			end := r.hang()
			do(t, r, block.Request{Op: block.OpWrite, Off: 8192, Len: 512, Buf: make([]byte, 512)}, block.StatusOK) // others go on
			if got := r.at(0, 1)[0]; got != row.early {
				t.Errorf("while it hangs the store holds %q, want %q", got, row.early)
			}
			if len(end) != 0 {
				t.Error("it did not hang")
			}
			row.lift(r)
			r.ends(end)
			if r.Held() != 0 {
				t.Error("something still waits")
			}
		})
	}
}

// TestDelayOrder: delays end in order of time, not of arrival, and are as long
// as the rule says.
func TestDelayOrder(t *testing.T) {
	r := newRig(t, "op=write,range=0-512,do=delay,ms=60;op=write,range=512-1024,do=delay,ms=20")
	end := make(done, 2)
	start := time.Now()
	for i := range uint64(2) {
		r.Submit(&block.Request{Op: block.OpWrite, Off: i * 512, Len: 512, Buf: make([]byte, 512), Tag: i, Done: end})
	}
	first := (<-end).Tag
	if took := time.Since(start); first != 1 || took < 20*time.Millisecond {
		t.Errorf("request %d ended first after %v", first, took)
	}
	<-end
	if took := time.Since(start); took < 60*time.Millisecond {
		t.Errorf("both ended after %v", took)
	}
}
