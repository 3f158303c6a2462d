// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"testing"
	"time"
)

// pathFault breaks link k and mends it.
type pathFault struct {
	desc     string
	signal   bool // the initiator is told, by the kernel or the network
	cut, fix func(n *Net, k int)
}

func pathFaults() []pathFault {
	port := func(k int, n *Net) (to, from string) {
		return "ip daddr " + n.Remote(k) + " tcp dport 8861", "ip saddr " + n.Remote(k) + " tcp sport 8861"
	}
	clear := func(n *Net, _ int) { n.Nft(n.I); n.Nft(n.T) }
	return []pathFault{
		{"own link down", true,
			func(n *Net, k int) { n.l.Run("ip", "-n", n.I, "link", "set", fmt.Sprintf("i%d", k), "down") },
			func(n *Net, k int) { n.l.Run("ip", "-n", n.I, "link", "set", fmt.Sprintf("i%d", k), "up") }},
		{"ss -K", true,
			func(n *Net, k int) { n.In(n.I, "ss", "-K", "dst", n.Remote(k), "dport", "=", "8861") },
			func(*Net, int) {}},
		{"nftables reject with tcp reset", true,
			func(n *Net, k int) {
				to, _ := port(k, n)
				n.Nft(n.T, "input:"+to+" reject with tcp reset") // the reset itself must get out
			}, clear},
		{"the far end's link down", false,
			func(n *Net, k int) { n.l.Run("ip", "-n", n.T, "link", "set", fmt.Sprintf("t%d", k), "down") },
			func(n *Net, k int) { n.l.Run("ip", "-n", n.T, "link", "set", fmt.Sprintf("t%d", k), "up") }},
		{"nftables drop both ways", false,
			func(n *Net, k int) { to, from := port(k, n); n.Nft(n.T, "input:"+to+" drop", "output:"+from+" drop") }, clear},
		{"nftables drop replies", false,
			func(n *Net, k int) { _, from := port(k, n); n.Nft(n.T, "output:"+from+" drop") }, clear},
		{"nftables drop requests", false,
			func(n *Net, k int) { to, _ := port(k, n); n.Nft(n.T, "input:"+to+" drop") }, clear},
	}
}

// TestP8_PathFaults breaks one of two paths in seven ways under verified load:
// the client sees no error, only a stall, whose length is reported.
func TestP8_PathFaults(t *testing.T) {
	needRoot(t)
	need(t, "ip", "nft", "ss", "nsenter")
	for _, busy := range []bool{false, true} {
		if busy && os.Getenv("RSIO_BUSY") == "" {
			continue // a soak: both cores are kept busy, which CI does by itself
		}
		t.Run(fmt.Sprintf("busy=%v", busy), func(t *testing.T) {
			l := NewLab(t, binDir)
			n := l.NewNet(2)
			p := n.NetPair()
			load := &Load{Network: "unix", Addr: p.Volume("v", "64M"), Export: "v", Workers: 16, Blocks: 16, Pause: time.Millisecond}
			load.Start()
			if busy {
				stop := keepBusy()
				defer stop()
			}
			for _, f := range pathFaults() {
				if only := os.Getenv("RSIO_FAULT"); only != "" && only != f.desc {
					continue
				}
				var stalls []time.Duration
				for r := range rounds(2) {
					p.WaitPaths(2)
					time.Sleep(time.Duration(300+rand.IntN(100)) * time.Millisecond)
					load.ResetWorst()
					f.cut(n, r%2)
					if f.signal {
						time.Sleep(500 * time.Millisecond)
					} else {
						time.Sleep(1600 * time.Millisecond)
					}
					stalls = append(stalls, load.Worst())
					f.fix(n, r%2)
					if err := load.Failed(); err != nil {
						t.Fatalf("%s, round %d: %v", f.desc, r, err)
					}
				}
				report(t, f.desc, stalls)
			}
			if err := load.Stop(); err != nil {
				t.Fatal(err)
			}
			if err := load.Verify(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// keepBusy runs a loop per core until stopped.
func keepBusy() (stop func()) {
	end := make(chan struct{})
	done := make(chan struct{})
	for range runtime.NumCPU() {
		go func() {
			defer func() { done <- struct{}{} }()
			for x := uint64(1); ; x = x*6364136223846793005 + 1 {
				if x&0xfffff == 0 {
					select {
					case <-end:
						return
					default:
					}
				}
				select {
				case <-end:
					return
				default:
				}
			}
		}()
	}
	return func() {
		close(end)
		for range runtime.NumCPU() {
			<-done
		}
	}
}

// TestP3_ProxyStall holds what goes to the target on one path in the middle of
// a frame, up to a minute in a soak, and releases it later: the late writes
// must change nothing.
func TestP3_ProxyStall(t *testing.T) {
	l := NewLab(t, binDir)
	proxy, err := NewProxy(l.Path("proxy"), l.Path("p1"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := proxy.Close(); err != nil {
			t.Error(err)
		}
	}()
	p := l.NewPair(PairOptions{Portals: []string{"unix:" + l.Path("p1"), "unix:" + l.Path("p2")},
		Addresses: []string{"unix:" + l.Path("proxy"), "unix:" + l.Path("p2")}, InMemory: true})
	load := &Load{Network: "unix", Addr: p.Volume("v", "64M"), Export: "v", Workers: 16, Blocks: 2, Pause: time.Millisecond}
	load.Start()
	var stalls []time.Duration
	for r := range rounds(4) {
		p.WaitPaths(2)
		time.Sleep(300 * time.Millisecond)
		load.ResetWorst()
		proxy.HoldAfter(int64(1 + rand.IntN(40_000)))
		l.Eventually("the proxy holds", func() bool { return proxy.Held() || load.Failed() != nil })
		hold := time.Duration(500+rand.IntN(6500)) * time.Millisecond
		if rounds(0) > 0 && r%10 == 9 {
			hold = 60 * time.Second
		}
		time.Sleep(hold)
		stalls = append(stalls, load.Worst())
		proxy.Release()
		if err := load.Failed(); err != nil {
			t.Fatalf("round %d: %v", r, err)
		}
	}
	if err := load.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := load.Verify(); err != nil {
		t.Fatal(err)
	}
	report(t, "a proxy holds in mid-frame", stalls)
}
