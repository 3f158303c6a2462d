// SPDX-License-Identifier: Apache-2.0

package netio

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// pair returns a Conn and its peer, a plain connection.
func pair(t testing.TB, network string) (*Conn, net.Conn) {
	t.Helper()
	addr := "127.0.0.1:0"
	if network == "unix" {
		addr = t.TempDir() + "/s"
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	peer, err := net.Dial(network, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	nc, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(nc.(StreamConn), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		peer.Close()
		c.Close(nil)
		wait(t, c)
	})
	return c, peer
}

// wait is Wait with a limit.
func wait(t testing.TB, c *Conn) {
	t.Helper()
	done := make(chan struct{})
	go func() { c.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("Wait does not return")
	}
}

// ledger counts what Sent says.
type ledger struct {
	mu   sync.Mutex
	sent map[*Out]int
	errs int
	n    atomic.Int64
}

func (l *ledger) Sent(o *Out, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sent == nil {
		l.sent = make(map[*Out]int)
	}
	l.sent[o]++
	if err != nil {
		l.errs++
	}
	l.n.Add(1)
}

// until waits for n calls of Sent.
func (l *ledger) until(t testing.TB, n int) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); l.n.Load() < int64(n); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("Sent was called %d times, want %d", l.n.Load(), n)
		}
	}
}

// once fails unless each of outs was let go exactly once.
func (l *ledger) once(t testing.TB, outs []*Out) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, o := range outs {
		if l.sent[o] != 1 {
			t.Errorf("Out %d was let go %d times", i, l.sent[o])
		}
	}
}

// frame is an Out with an 8-byte header, its length and number, and a body
// that depends on the number.
func frame(l *ledger, seq, n int) *Out {
	o := &Out{Owner: l, HeadLen: 8, Body: bytes.Repeat([]byte{byte(seq)}, n)}
	binary.BigEndian.PutUint32(o.Head[:], uint32(n))
	binary.BigEndian.PutUint32(o.Head[4:], uint32(seq))
	return o
}

// readFrame reads what frame made and returns its number.
func readFrame(r io.Reader) (int, error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, err
	}
	body := make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, err
	}
	seq := int(binary.BigEndian.Uint32(head[4:]))
	for _, b := range body {
		if b != byte(seq) {
			return 0, errors.New("body of another frame")
		}
	}
	return seq, nil
}

// TestOrder sends frames of many sizes, more than one writev takes, in every
// way, and reads them in order.
func TestOrder(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		for _, row := range []struct {
			desc string
			send func(c *Conn)
		}{{"flush", (*Conn).Flush}, {"kick", (*Conn).Kick}} {
			t.Run(network+" "+row.desc, func(t *testing.T) {
				c, peer := pair(t, network)
				l := &ledger{}
				var outs []*Out
				for i := range 500 {
					outs = append(outs, frame(l, i, []int{0, 1, 100, 4096, 200_000}[i%5]))
					c.Queue(outs[i])
				}
				go row.send(c)
				for i := range outs {
					if seq, err := readFrame(peer); err != nil || seq != i {
						t.Fatalf("frame %d: got %d, %v", i, seq, err)
					}
				}
				l.until(t, len(outs))
				l.once(t, outs)
				if l.errs != 0 || c.Queued() != 0 {
					t.Errorf("%d errors, %d queued", l.errs, c.Queued())
				}
			})
		}
	}
}

// TestFlushDoesNotBlock: with a peer that does not read, Flush returns, the
// writer goroutine takes over, and later frames follow.
func TestFlushDoesNotBlock(t *testing.T) {
	c, peer := pair(t, "unix")
	l := &ledger{}
	const n = 64
	returned := make(chan struct{})
	go func() {
		for i := range n {
			c.Queue(frame(l, i, 1<<20))
			c.Flush()
		}
		close(returned)
	}()
	select {
	case <-returned:
	case <-time.After(10 * time.Second):
		t.Fatal("Flush blocks on a full socket")
	}
	if c.Queued() == 0 {
		t.Fatal("64 MiB fit into the socket: the test shows nothing")
	}
	for i := range n {
		if seq, err := readFrame(peer); err != nil || seq != i {
			t.Fatalf("frame %d: got %d, %v", i, seq, err)
		}
	}
	l.until(t, n)
}

func TestUnlink(t *testing.T) {
	c, peer := pair(t, "unix")
	l := &ledger{}
	first, second, third := frame(l, 0, 8<<20), frame(l, 1, 100), frame(l, 2, 100)
	if got := c.Unlink(first); got != NotQueued {
		t.Errorf("before Queue: %v", got)
	}
	c.Queue(second)
	if got := c.Unlink(second); got != Unlinked || c.Queued() != 0 {
		t.Errorf("queued and not sent: %v, %d queued", got, c.Queued())
	}
	c.Queue(first)
	c.Flush() // the socket takes a part
	c.Queue(second)
	c.Queue(third)
	if got := c.Unlink(first); got != HalfSent {
		t.Errorf("partly sent: %v", got)
	}
	if got := c.Unlink(second); got != Unlinked {
		t.Errorf("behind one that is partly sent: %v", got)
	}
	if got := c.Unlink(second); got != NotQueued {
		t.Errorf("a second time: %v", got)
	}
	c.Flush()
	for _, want := range []int{0, 2} {
		if seq, err := readFrame(peer); err != nil || seq != want {
			t.Fatalf("frame %d: got %d, %v", want, seq, err)
		}
	}
	l.until(t, 2)
	if got := c.Unlink(first); got != NotQueued {
		t.Errorf("after Sent: %v", got)
	}
	l.once(t, []*Out{first, third})
	if l.sent[second] != 0 {
		t.Error("Sent was called for a frame that was taken back")
	}
	// It can be used again.
	c.Queue(second)
	c.Flush()
	if seq, err := readFrame(peer); err != nil || seq != 1 {
		t.Fatalf("used again: got %d, %v", seq, err)
	}
}

// TestClose lets go of everything exactly once, whoever ends the connection
// and however much of it was sent.
func TestClose(t *testing.T) {
	mine := errors.New("mine")
	rows := []struct {
		desc string
		big  int // bytes of the first frame
		send func(c *Conn)
		end  func(c *Conn, peer net.Conn)
		want error
	}{
		{"nothing sent", 10, func(*Conn) {}, func(c *Conn, _ net.Conn) { c.Close(mine) }, mine},
		{"default reason", 10, func(*Conn) {}, func(c *Conn, _ net.Conn) { c.Close(nil) }, ErrClosed},
		{"writer blocked", 8 << 20, (*Conn).Flush, func(c *Conn, _ net.Conn) { c.Close(mine) }, mine},
		{"kicked", 8 << 20, (*Conn).Kick, func(c *Conn, _ net.Conn) { c.Close(mine) }, mine},
		{"twice", 10, func(*Conn) {}, func(c *Conn, _ net.Conn) { c.Close(mine); c.Close(ErrClosed) }, mine},
		{"peer gone while the writer is blocked", 8 << 20, (*Conn).Flush, func(_ *Conn, peer net.Conn) { peer.Close() }, nil},
	}
	for _, row := range rows {
		t.Run(row.desc, func(t *testing.T) {
			c, peer := pair(t, "unix")
			l := &ledger{}
			outs := []*Out{frame(l, 0, row.big)}
			for i := range 200 {
				outs = append(outs, frame(l, i+1, 4096))
			}
			for _, o := range outs {
				c.Queue(o)
			}
			row.send(c)
			row.end(c, peer)
			l.until(t, len(outs))
			l.once(t, outs)
			if err := c.Err(); row.want != nil && err != row.want || err == nil {
				t.Errorf("reason %v, want %v", err, row.want)
			}
			late := frame(l, 9, 1)
			c.Queue(late)
			c.Flush()
			l.once(t, []*Out{late})
			if got := c.Unlink(late); got != NotQueued {
				t.Errorf("Unlink after Close: %v", got)
			}
			c.Close(nil)
			wait(t, c)
			if err := c.Fill(1); err == nil {
				t.Error("Fill after Close succeeded")
			}
		})
	}
}

// TestHammer has goroutines queue, flush, kick and unlink while the peer reads
// and the connection ends at some time.
func TestHammer(t *testing.T) {
	for round := range 20 {
		c, peer := pair(t, []string{"unix", "tcp"}[round%2])
		l := &ledger{}
		var mu sync.Mutex
		var outs []*Out
		taken := make(map[*Out]bool)
		var wg sync.WaitGroup
		for w := range 4 {
			wg.Go(func() {
				for i := range 200 {
					o := frame(l, i, (i*977)%9000)
					c.Queue(o)
					got := NotQueued
					switch {
					case i%7 == w:
						got = c.Unlink(o)
					case i%3 == 0:
						c.Kick()
					default:
						c.Flush()
					}
					mu.Lock()
					outs = append(outs, o)
					taken[o] = got == Unlinked
					mu.Unlock()
				}
			})
		}
		wg.Go(func() { // ends with the connection
			for n := 0; ; n++ {
				if _, err := readFrame(peer); err != nil {
					if err.Error() == "body of another frame" {
						t.Error(err)
					}
					return
				}
				if n == 300 && round%4 < 2 {
					c.Close(nil)
				}
			}
		})
		wg.Go(func() {
			time.Sleep(time.Duration(round) * time.Millisecond)
			c.Kick()
			time.Sleep(20 * time.Millisecond)
			c.Close(nil)
			peer.Close()
		})
		wg.Wait()
		wait(t, c)
		l.mu.Lock()
		for i, o := range outs {
			want := 1
			if taken[o] {
				want = 0
			}
			if l.sent[o] != want {
				t.Fatalf("round %d: Out %d was let go %d times, want %d", round, i, l.sent[o], want)
			}
		}
		l.mu.Unlock()
	}
}

// closer is an owner that closes, queues and unlinks from inside Sent.
type closer struct {
	c    *Conn
	more *Out
	n    atomic.Int64
}

func (x *closer) Sent(o *Out, err error) {
	x.n.Add(1)
	if o != x.more {
		x.c.Unlink(o)
		x.c.Close(err)
		x.c.Queue(x.more)
	}
}

func TestCloseFromSent(t *testing.T) {
	c, _ := pair(t, "unix")
	x := &closer{c: c}
	x.more = &Out{Owner: x, HeadLen: 1}
	for range 3 {
		c.Queue(&Out{Owner: x, HeadLen: 8})
	}
	c.Flush()
	wait(t, c)
	if n := x.n.Load(); n != 6 {
		t.Errorf("Sent was called %d times, want 6", n)
	}
}

func TestRead(t *testing.T) {
	c, peer := pair(t, "tcp")
	data := make([]byte, 3*ReadBufMax)
	for i := range data {
		data[i] = byte(i * 7 / 3)
	}
	go func() {
		for p := data; len(p) > 0; { // odd pieces
			n := min(len(p), 10007)
			peer.Write(p[:n])
			p = p[n:]
		}
		peer.Write([]byte{1, 2, 3})
		peer.Close()
	}()
	at := 0
	take := func(n int) {
		t.Helper()
		if err := c.Fill(n); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(c.Buffered()[:n], data[at:at+n]) {
			t.Fatalf("wrong bytes at %d", at)
		}
		c.Advance(n)
		at += n
	}
	if err := c.Fill(ReadBufMax + 1); err != ErrTooLong {
		t.Errorf("too much for the buffer: %v", err)
	}
	take(1)
	take(100)
	take(ReadBufMax) // grows
	big := make([]byte, 300_000)
	if err := c.ReadFull(big); err != nil || !bytes.Equal(big, data[at:at+len(big)]) {
		t.Fatalf("ReadFull: %v", err)
	}
	at += len(big)
	take(77)
	rest := len(data) - at
	if err := c.Skip(rest); err != nil {
		t.Fatal(err)
	}
	if c.LastRead() == 0 || c.LastRead() > Now() {
		t.Error("the time of the last read is wrong")
	}
	if err := c.Fill(4); err != io.ErrUnexpectedEOF {
		t.Errorf("stream that ends inside a frame: %v", err)
	}
	if err := c.ReadFull(make([]byte, 4)); err != io.ErrUnexpectedEOF {
		t.Errorf("ReadFull at the end: %v", err)
	}
	if err := c.Fill(1); err != io.EOF {
		t.Errorf("stream that ends between frames: %v", err)
	}
}

// TestUnread: zero only while the reader waits and nothing has come.
func TestUnread(t *testing.T) {
	c, peer := pair(t, "tcp")
	if c.Unread() == 0 {
		t.Error("nobody reads, and it counts as silence")
	}
	end := make(chan error)
	go func() { end <- c.Fill(1) }()
	for limit := time.Now().Add(5 * time.Second); c.Unread() != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatal("a waiting reader does not count as silence")
		}
	}
	peer.Write([]byte{1})
	if err := <-end; err != nil {
		t.Fatal(err)
	}
	if c.Unread() == 0 {
		t.Error("a byte was not looked at, and it counts as silence")
	}
}

func TestSteadyStateAllocatesNothing(t *testing.T) {
	c, peer := pair(t, "unix")
	go io.Copy(io.Discard, peer)
	s := make(sender, 1)
	o := &Out{Owner: s, HeadLen: 32, Body: make([]byte, 4096)}
	if n := testing.AllocsPerRun(500, func() {
		c.Queue(o)
		c.Flush()
		<-s
	}); n != 0 {
		t.Errorf("%v allocations per frame", n)
	}
}

type sender chan error

func (s sender) Sent(_ *Out, err error) { s <- err }
