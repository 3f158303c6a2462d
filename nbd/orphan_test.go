// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"rsio/rsio/block"
)

// ghost plays the client that gives up: it writes old data on one connection
// to a device that hangs, closes it, writes new data over another one and,
// when the device goes on, looks at what is there. It reports whether the new
// write was held back and whether the new data survived.
func ghost(t *testing.T, o Options, before bool, quit func(p *peer)) (heldBack, survived bool) {
	t.Helper()
	d := newMemory(1<<20, 0)
	defer closeDevice(t, d)
	b := serve(t, one(d), o)
	oldData, newData := bytes.Repeat([]byte{1}, 8192), bytes.Repeat([]byte{2}, 8192)
	var second *peer
	if before {
		second = b.login(simple)
	}
	d.setHold(func(r *block.Request) bool { return r.Op.Changes() && r.Off == 4096 })
	first := b.login(simple)
	first.put(first.request(cmdWrite, 0, 1, 4096, 8192, oldData))
	eventually(t, "the old write is in the device", func() bool { return d.held() == 1 })
	quit(first)
	if !before {
		second = b.login(simple)
	}
	// What does not overlap goes on.
	second.ok(cmdWrite, 0, 0, 4096, oldData[:4096])
	second.ok(cmdRead, 0, 0, 65536, nil)
	second.put(second.request(cmdWrite, 0, 2, 8192, 8192, newData))
	_ = second.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	_, err := second.Read(make([]byte, 16))
	heldBack = err != nil
	d.letGo()
	second.deadline(10 * time.Second)
	if heldBack {
		if a := second.reply(nil); a.err != 0 || a.cookie != 2 {
			t.Fatalf("%+v", a)
		}
	}
	got := second.ok(cmdRead, 0, 8192, 8192, nil).data
	return heldBack, bytes.Equal(got, newData)
}

// TestOrphanWriteNeverOverwrites is the rule of orphan.go, and shows that the
// test fails without it.
func TestOrphanWriteNeverOverwrites(t *testing.T) {
	gone := func(p *peer) { p.Close() }
	disc := func(p *peer) {
		p.put(p.request(cmdDisc, 0, 9, 0, 0, nil))
		p.Close()
	}
	broken := func(p *peer) {
		p.put(make([]byte, 28)) // no magic: the server closes
		p.ended()
	}
	for name, quit := range map[string]func(*peer){"close": gone, "disc": disc, "protocol error": broken} {
		for _, before := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/second=%v", name, before), func(t *testing.T) {
				held, survived := ghost(t, Options{}, before, quit)
				if !held || !survived {
					t.Errorf("held back: %v, new data survived: %v", held, survived)
				}
			})
		}
	}
	t.Run("rule switched off", func(t *testing.T) {
		held, survived := ghost(t, Options{ignoreOrphans: true}, false, gone)
		if held || survived {
			t.Errorf("held back: %v, new data survived: %v: the test proves nothing", held, survived)
		}
	})
}

// TestOrphanUnreadRequests has old writes that the server has received but,
// with all slots taken by a hanging device, not looked at when their client
// leaves. They must never run.
func TestOrphanUnreadRequests(t *testing.T) {
	for _, off := range []bool{false, true} {
		t.Run(fmt.Sprintf("rule off=%v", off), func(t *testing.T) {
			d := newMemory(1<<20, 0)
			defer closeDevice(t, d)
			b := serve(t, one(d), Options{MaxInflight: 2, ignoreOrphans: off})
			d.setHold(func(r *block.Request) bool { return r.Op.Changes() && r.Off >= 512<<10 })
			first := b.login(simple)
			var out []byte
			for k := range uint64(2) {
				out = append(out, first.request(cmdWrite, 0, k, 512<<10, 4096, make([]byte, 4096))...)
			}
			out = append(out, first.request(cmdWrite, 0, 3, 0, 4096, bytes.Repeat([]byte{1}, 4096))...)
			first.put(out)
			eventually(t, "two writes hang", func() bool { return d.held() == 2 })
			first.Close()
			second := b.login(simple)
			second.ok(cmdWrite, 0, 0, 4096, bytes.Repeat([]byte{2}, 4096))
			d.letGo()
			eventually(t, "the first connection is gone", func() bool { return b.srv.Stats().Conns == 1 })
			got := second.ok(cmdRead, 0, 0, 4096, nil).data[0]
			if want := byte(2); !off && got != want || off && got == want {
				t.Fatalf("block is %d", got)
			}
		})
	}
}

// TestOrphanChain closes a connection whose write waits for an orphan: it must
// never run, and the third connection's must.
func TestOrphanChain(t *testing.T) {
	d := newMemory(1<<20, 0)
	defer closeDevice(t, d)
	b := serve(t, one(d), Options{})
	d.setHold(func(r *block.Request) bool { return r.Op.Changes() })
	first := b.login(simple)
	first.put(first.request(cmdWrite, 0, 1, 0, 4096, bytes.Repeat([]byte{1}, 4096)))
	eventually(t, "the first write hangs", func() bool { return d.held() == 1 })
	first.Close()
	second := b.login(simple)
	second.put(second.request(cmdWrite, 0, 1, 0, 4096, bytes.Repeat([]byte{2}, 4096)))
	eventually(t, "the second write waits", func() bool { return b.srv.Stats().HeldBack == 1 })
	second.Close()
	third := b.login(simple)
	third.put(third.request(cmdWriteZeroes, 0, 1, 0, 4096, nil))
	eventually(t, "the third write waits", func() bool { return b.srv.Stats().HeldBack == 2 })
	if n := d.held(); n != 1 {
		t.Fatalf("%d requests are in the device", n)
	}
	d.letGo()
	if a := third.reply(nil); a.err != 0 {
		t.Fatalf("%+v", a)
	}
	if got := third.ok(cmdRead, 0, 0, 4096, nil).data[0]; got != 0 {
		t.Fatalf("block is %d", got)
	}
	if st := b.srv.Stats(); st.Orphans != 1 || st.Refusals != 1 {
		t.Fatalf("%+v", st)
	}
}

// TestOrphanRandom lets clients give up at random and write again. Each block
// must end up with the last value that was acknowledged, or a later one.
func TestOrphanRandom(t *testing.T) {
	const blocks, rounds = 8, 60
	d := newMemory(blocks*4096, 3)
	defer closeDevice(t, d)
	slow := func(r *block.Request) block.Status {
		if r.Op.Changes() && rand.IntN(4) == 0 {
			time.Sleep(time.Duration(rand.IntN(2000)) * time.Microsecond)
		}
		return block.StatusOK
	}
	d.fail.Store(&slow)
	b := serve(t, one(d), Options{MaxInflight: 8})
	for round := range byte(rounds) {
		p := b.login(mode(round % 3))
		var out []byte
		for k := range uint64(40) {
			out = append(out, p.request(cmdWrite, 0, k, k%blocks*4096, 4096, bytes.Repeat([]byte{255 - round}, 4096))...)
		}
		_ = p.SetWriteDeadline(time.Now().Add(time.Millisecond))
		_, _ = p.Write(out) // part of it may be left
		p.Close()
		q := b.login(simple)
		for k := range uint64(blocks) {
			q.put(q.request(cmdWrite, 0, k, k*4096, 4096, bytes.Repeat([]byte{round}, 4096)))
		}
		for range blocks {
			if a := q.reply(nil); a.err != 0 {
				t.Fatalf("%+v", a)
			}
		}
		time.Sleep(time.Millisecond)
		for k, v := range q.ok(cmdRead, 0, 0, blocks*4096, nil).data {
			if v != round {
				t.Fatalf("round %d: byte %d is %d", round, k, v)
			}
		}
		q.Close()
	}
}

// TestCloseWaitsForDevice shows both ways a server ends while a device hangs.
func TestCloseWaitsForDevice(t *testing.T) {
	d := newMemory(1<<20, 0)
	defer closeDevice(t, d)
	b := serve(t, one(d), Options{})
	d.setHold(func(r *block.Request) bool { return true })
	p := b.login(structured)
	p.put(p.request(cmdWrite, 0, 7, 0, 4096, make([]byte, 4096)))
	eventually(t, "the write hangs", func() bool { return d.held() == 1 })
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	done := make(chan error)
	go func() { done <- b.srv.CloseExport(context.Background(), "vol") }()
	time.Sleep(5 * time.Millisecond)
	d.letGo()
	if a := p.reply(nil); a.err != 0 || a.cookie != 7 { // drained, so answered
		t.Fatalf("%+v", a)
	}
	p.ended()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if b.ex.outstanding() != 0 {
		t.Fatal("CloseExport returned before the export was released")
	}

	d.setHold(func(r *block.Request) bool { return true })
	q := b.login(structured)
	q.put(q.request(cmdWrite, 0, 7, 0, 4096, make([]byte, 4096)))
	eventually(t, "the write hangs", func() bool { return d.held() == 1 })
	if err := b.srv.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("close: %v", err)
	}
	q.ended()
	if b.ex.outstanding() != 1 {
		t.Fatal("the export was released under a request")
	}
	d.letGo()
}

// gated is an Exports whose Open waits.
type gated struct {
	*list
	gate chan struct{}
}

func (g gated) Open(name string) (*Export, error) {
	if name == "vol" {
		<-g.gate
	}
	return g.list.Open("")
}

// TestOrphanBeforeLogin has a client that leaves before the server has logged
// it in, with a write behind its handshake. The write must not run after that
// of the client's next connection.
func TestOrphanBeforeLogin(t *testing.T) {
	d := newMemory(1<<20, 0)
	defer closeDevice(t, d)
	ex := one(d)
	b := serve(t, ex, Options{})
	g := gated{ex, make(chan struct{})}
	b.srv.opt.Exports = g
	p := b.dial()
	opt := bytes.Join([][]byte{be32(3), []byte("IHAVEOPT"), be32(7), be32(9), str("vol"), be16(0)}, nil)
	p.put(opt, p.request(cmdWrite, 0, 1, 0, 4096, bytes.Repeat([]byte{1}, 4096)))
	p.Close()
	q := b.dial()
	q.greet(3)
	q.goTo("")
	q.ok(cmdWrite, 0, 0, 4096, bytes.Repeat([]byte{2}, 4096))
	close(g.gate)
	eventually(t, "the first connection is gone", func() bool { return b.srv.Stats().Conns == 1 })
	if got := q.ok(cmdRead, 0, 0, 4096, nil).data[0]; got != 2 {
		t.Fatalf("block is %d", got)
	}
}
