// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"rsio/rsio/wire"
)

// Limits of TestP11_Hostile.
const (
	idleNBD    = 8_000
	idlePortal = 2_000
	hostiles   = 200
	maxRSS     = 512 << 20 // bytes, each daemon
)

// TestP11_Hostile leaves 10,000 connections idle and has 200 hostile ones
// attack both protocols while a good client works: no error for it, and memory
// stays within its bound.
func TestP11_Hostile(t *testing.T) {
	l := NewLab(t, binDir)
	p := l.NewPair(PairOptions{Portals: []string{"unix:" + l.Path("p1"), "unix:" + l.Path("p2")}, InMemory: true})
	sock := p.Volume("v", "64M")
	load := &Load{Network: "unix", Addr: sock, Export: "v", Workers: 8, Blocks: 16, Pause: time.Millisecond}
	load.Start()
	time.Sleep(300 * time.Millisecond)
	before := load.Worst()

	var idle []net.Conn
	defer func() {
		for _, c := range idle {
			_ = c.Close() // may have been closed by the server
		}
	}()
	for range idleNBD {
		c := &Client{}
		var err error
		if c.conn, err = net.Dial("unix", sock); err == nil {
			err = c.handshake("v")
		}
		if err != nil {
			t.Fatalf("idle connection %d: %v", len(idle), err)
		}
		idle = append(idle, c.conn)
	}
	for range idlePortal {
		c, err := net.Dial("unix", l.Path("p1"))
		if err != nil {
			t.Fatalf("idle connection %d: %v", len(idle), err)
		}
		idle = append(idle, c)
	}
	t.Logf("with %d idle connections: initiator %d MiB, target %d MiB", len(idle), rss(t, p.Initiator)>>20, rss(t, p.Target)>>20)

	var wg sync.WaitGroup
	end := time.Now().Add(6 * time.Second)
	for n := range hostiles {
		addr := []string{sock, l.Path("p1")}[n%2]
		wg.Go(func() { attack(addr, n/2, end) })
	}
	worst := [2]uint64{}
	for time.Now().Before(end) {
		worst[0], worst[1] = max(worst[0], rss(t, p.Initiator)), max(worst[1], rss(t, p.Target))
		time.Sleep(100 * time.Millisecond)
	}
	wg.Wait()
	t.Logf("under attack: initiator %d MiB, target %d MiB at most; longest request %v, before %v",
		worst[0]>>20, worst[1]>>20, load.Worst().Round(time.Millisecond), before.Round(time.Millisecond))
	if worst[0] > maxRSS || worst[1] > maxRSS {
		t.Errorf("P11: memory above %d MiB", maxRSS>>20)
	}
	p.WaitPaths(2)
	if err := load.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := load.Verify(); err != nil {
		t.Fatal(err)
	}
}

// rss is the resident memory of a daemon in bytes.
func rss(t *testing.T, d *Daemon) uint64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.Pid()))
	if err != nil {
		t.Fatalf("%s is gone: %v", d.name, err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmRSS:" {
			kb, err := strconv.ParseUint(f[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kb << 10
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

// attack connects again and again and misbehaves in one of several ways.
func attack(addr string, n int, end time.Time) {
	rng := rand.New(rand.NewPCG(uint64(n), 99))
	good := goodHandshake(strings.HasSuffix(addr, "nbd.sock"))
	for cut := n; time.Now().Before(end); cut++ {
		c, err := net.Dial("unix", addr)
		if err != nil {
			continue
		}
		_ = c.SetDeadline(end) // an error shows in the writes
		switch n % 4 {
		case 0: // garbage
			b := make([]byte, 1+rng.IntN(5000))
			for i := range b {
				b[i] = byte(rng.Uint32())
			}
			_, _ = c.Write(b)
		case 1: // one byte a second
			for _, x := range good {
				if _, err := c.Write([]byte{x}); err != nil || time.Now().After(end) {
					break
				}
				time.Sleep(time.Second)
			}
		case 2: // huge lengths behind a good start
			b := append([]byte(nil), good...)
			for i := range 8 {
				b[len(b)-1-i] = 0xff
			}
			_, _ = c.Write(b)
		case 3: // a good handshake, cut after every byte in turn
			_, _ = c.Write(good[:cut%len(good)])
		}
		_ = c.Close() // the point of it
		time.Sleep(2 * time.Millisecond)
	}
}

// goodHandshake is what a well-behaved client begins with.
func goodHandshake(nbd bool) []byte {
	if nbd {
		b := []byte{0, 0, 0, 3}
		b = append(b, "IHAVEOPT\x00\x00\x00\x07\x00\x00\x00\x0b"...) // NBD_OPT_GO
		return append(b, 0, 0, 0, 1, 'v', 0, 2, 0, 1, 0, 3)
	}
	l := wire.Login{VersionMin: 1, VersionMax: 1, Features: wire.Features, Mode: wire.LoginNew, Nexus: []byte("evil")}
	payload := l.Append(nil)
	h := wire.Header{Kind: wire.KindLogin, PayloadLen: uint32(len(payload)), PayloadCRC: wire.Digest(payload)}
	b := make([]byte, wire.HeaderLen)
	h.Put(b, true)
	return append(b, payload...)
}
