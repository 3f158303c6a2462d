// SPDX-License-Identifier: Apache-2.0

package target

import (
	"bytes"
	"context"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"rsio/rsio/block"
	"rsio/rsio/wire"
)

// TestP3_CopiesOnTwoPaths: a copy attaches to the running request, both paths
// are answered, and an older copy is refused and changes nothing.
func TestP3_CopiesOnTwoPaths(t *testing.T) {
	r := newRig(t, Options{})
	r.volume("v", "fault:op=write,nth=1,do=hang")
	a, h := r.ready("unix", "h", "v")
	b := r.join(a, "h")
	data := bytes.Repeat([]byte{1}, 4096)
	w1 := a.send(wire.Header{Op: block.OpWrite, Slot: 20, Volume: h, Len: 4096}, data)
	f := r.faults("v")
	until(t, "the write hangs", func() bool { return f.Held() == 1 })
	if err := b.write(frame(w1, data)); err != nil {
		t.Fatal(err)
	}
	b.ping()
	f.Release()
	for _, c := range []*client{a, b} {
		if ans, _ := c.answer(w1); ans.Status != block.StatusOK {
			t.Errorf("%v", ans.Status)
		}
	}
	if hits := f.Hits(); hits != 1 {
		t.Errorf("executed %d times", hits)
	}
	w2 := a.send(wire.Header{Op: block.OpWrite, Slot: 20, Volume: h, Len: 4096}, bytes.Repeat([]byte{2}, 4096))
	a.answer(w2)
	if err := b.write(frame(w1, data)); err != nil {
		t.Fatal(err)
	}
	if ans, _ := b.answer(w1); ans.Status != block.StatusStale {
		t.Errorf("the old copy: %v", ans.Status)
	}
	if err := b.write(frame(w2, bytes.Repeat([]byte{2}, 4096))); err != nil {
		t.Fatal(err)
	}
	if ans, _ := b.answer(w2); ans.Status != block.StatusOK {
		t.Errorf("repeated: %v", ans.Status)
	}
	if _, p := a.call(wire.Header{Op: block.OpRead, Slot: 21, Volume: h, Len: 4096}, nil); p[0] != 2 {
		t.Errorf("the old copy was executed: %d", p[0])
	}
	r.idle()
}

// TestP8_PathNumberUsedAgain: a path dies with a request running, its
// successor gets the same path number and asks for the same request: it must
// get the answer.
func TestP8_PathNumberUsedAgain(t *testing.T) {
	for _, op := range []block.Op{block.OpWrite, block.OpRead} {
		r := newRig(t, Options{})
		r.volume("v", "fault:op="+op.String()+",nth=1,do=hang")
		a, h := r.ready("unix", "h", "v")
		data := []byte(nil)
		if op == block.OpWrite {
			data = make([]byte, 4096)
		}
		w := a.send(wire.Header{Op: op, Slot: 20, Volume: h, Len: 4096}, data)
		f := r.faults("v")
		until(t, "the request hangs", func() bool { return f.Held() == 1 })
		a.nc.Close()
		until(t, "the path is gone", func() bool { return r.conns() == 0 })
		b := r.join(a, "h")
		if err := b.write(frame(w, data)); err != nil {
			t.Fatal(err)
		}
		b.ping() // the copy is in when the pong comes
		f.Release()
		b.nc.SetReadDeadline(time.Now().Add(3 * time.Second))
		if ans, _ := b.answer(w); ans.Status != block.StatusOK {
			t.Errorf("%v", ans.Status)
		}
		r.idle()
	}
}

// TestTakeover: a successor with the secret is let in when the requests of the
// old session have ended, not before.
func TestTakeover(t *testing.T) {
	r := newRig(t, Options{})
	r.volume("v", "fault:op=write,nth=1,do=hang")
	a, h := r.ready("unix", "h", "v")
	a.send(wire.Header{Op: block.OpWrite, Slot: 20, Volume: h, Len: 4096}, make([]byte, 4096))
	f := r.faults("v")
	until(t, "the write hangs", func() bool { return f.Held() == 1 })
	again := wire.Login{Nexus: []byte("h"), Secret: wire.Secret{1}, Serial: 2}
	if st := r.dial("unix").login(again); st != block.StatusDraining {
		t.Fatalf("while a write runs: %v", st)
	}
	a.ended("replaced")
	f.Release()
	until(t, "drained", func() bool {
		again.Serial++
		return r.dial("unix").login(again) == block.StatusOK
	})
	if n := len(r.tg.Sessions()); n != 1 {
		until(t, "one session", func() bool { return len(r.tg.Sessions()) == 1 })
	}
	r.idle()
}

// TestLogout frees the nexus for anybody, at once.
func TestLogout(t *testing.T) {
	r := newRig(t, Options{})
	r.volume("v")
	a, _ := r.ready("unix", "h", "v")
	if st, _ := a.call(wire.Header{Op: wire.OpLogout}, nil); st != block.StatusOK {
		t.Fatal(st)
	}
	a.ended("logged out")
	until(t, "free", func() bool {
		return r.dial("unix").login(wire.Login{Nexus: []byte("h"), Secret: wire.Secret{9}}) == block.StatusOK
	})
}

// TestP14_CloseDrains: Close waits for what runs, and the answer is sent.
func TestP14_CloseDrains(t *testing.T) {
	r := newRig(t, Options{})
	r.volume("v", "fault:op=write,nth=1,do=delay,ms=300")
	a, h := r.ready("unix", "h", "v")
	w := a.send(wire.Header{Op: block.OpWrite, Slot: 20, Volume: h, Len: 4096}, make([]byte, 4096))
	f := r.faults("v")
	until(t, "the write waits", func() bool { return f.Held() == 1 })
	done := make(chan error, 1)
	go func() { done <- r.tg.Close(context.Background()) }()
	if ans, _ := a.answer(w); ans.Status != block.StatusOK {
		t.Errorf("%v", ans.Status)
	}
	a.ended("closed")
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestCloseLeavesNothing: connections in every state, then Close.
func TestCloseLeavesNothing(t *testing.T) {
	before := runtime.NumGoroutine()
	for range 5 {
		var wg sync.WaitGroup
		r := newRig(t, Options{})
		r.volume("v")
		a, h := r.ready("tcp", "h", "v")
		a.check(h, 1)
		half, hh := r.ready("tcp", "half", "v")
		b := frame(wire.Header{Kind: wire.KindRequest, Op: block.OpWrite, Slot: 16, Seq: 1, Volume: hh, Len: 4096}, make([]byte, 4096))
		half.write(b[:1000])
		r.dial("unix")
		r.dial("tcp").write([]byte("R"))
		for range 20 {
			wg.Go(func() {
				if nc, err := net.Dial("unix", r.unix); err == nil {
					nc.Write(loginFrame(wire.Login{Nexus: []byte("x")}))
					time.Sleep(10 * time.Millisecond)
					nc.Close()
				}
			})
		}
		start := time.Now()
		r.close()
		wg.Wait()
		if d := time.Since(start); d > 3*time.Second {
			t.Errorf("Close took %v", d)
		}
		if n := r.conns(); n != 0 {
			t.Errorf("%d connections are left", n)
		}
		if s := r.tg.pool.Stats(); s.Out != 0 {
			t.Errorf("%d bytes are out", s.Out)
		}
	}
	until(t, "goroutines gone", func() bool { return runtime.NumGoroutine() <= before })
}

// bench runs one kind of request over one connection, depth 16.
func bench(b *testing.B, op block.Op) {
	r := newRig(b, Options{})
	r.volume("v")
	c, h := r.ready("unix", "h", "v")
	c.nc.SetDeadline(time.Now().Add(time.Hour))
	c.want = 1 << 20
	c.call(wire.Header{Op: block.OpRead, Slot: 40, Volume: h, Len: 4096}, nil)
	b.ReportAllocs()
	run(b, c, h, op, b.N)
}

// run keeps 16 requests in flight until n are done, without allocating.
func run(t testing.TB, c *client, h uint32, op block.Op, n int) {
	const depth = 16
	data := []byte(nil)
	if op == block.OpWrite {
		data = make([]byte, 4096)
	}
	var frames [depth][]byte
	for i := range frames {
		frames[i] = frame(wire.Header{Kind: wire.KindRequest}, data)
	}
	in := make([]byte, wire.HeaderLen+4096)
	send := func(slot uint32) {
		f := frames[slot-16]
		c.seq[slot]++
		hd := wire.Header{Kind: wire.KindRequest, Op: op, Slot: slot, Seq: c.seq[slot], Volume: h, Len: 4096, Off: uint64(slot) * 4096,
			Window: c.want, Grant: c.ack, PayloadLen: uint32(len(data))}
		if len(data) > 0 {
			hd.PayloadCRC = wire.Digest(data)
		}
		hd.Put(f, true)
		if err := c.write(f); err != nil {
			t.Fatal(err)
		}
	}
	started := 0
	for slot := uint32(16); slot < 16+depth && started < n; slot++ {
		send(slot)
		started++
	}
	for done := 0; done < n; done++ {
		if err := readAll(c, in[:wire.HeaderLen]); err != nil {
			t.Fatal(err)
		}
		var a wire.Header
		if err := a.Parse(in, true); err != nil || a.Status != block.StatusOK {
			t.Fatalf("%v, %v", err, a.Status)
		}
		c.ack = a.Grant
		if err := readAll(c, in[:a.PayloadLen]); err != nil {
			t.Fatal(err)
		}
		if started < n {
			send(a.Slot)
			started++
		}
	}
}

func readAll(c *client, p []byte) error {
	for len(p) > 0 {
		n, err := c.nc.Read(p)
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

func BenchmarkRead4K(b *testing.B)  { bench(b, block.OpRead) }
func BenchmarkWrite4K(b *testing.B) { bench(b, block.OpWrite) }

// TestNoAllocations: a request costs the target no garbage.
func TestNoAllocations(t *testing.T) {
	r := newRig(t, Options{})
	r.volume("v")
	c, h := r.ready("unix", "h", "v")
	c.want = 1 << 20
	for _, op := range []block.Op{block.OpRead, block.OpWrite} {
		run(t, c, h, op, 2000) // buffers and tasks
		const n = 5000
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		run(t, c, h, op, n)
		runtime.ReadMemStats(&after)
		// The housekeeper and the test itself cost something, but not per request.
		if got := after.Mallocs - before.Mallocs; got > n/10 {
			t.Errorf("%s: %d allocations for %d requests", op, got, n)
		}
	}
}
