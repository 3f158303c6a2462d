// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"
)

// report prints the distribution of what was measured.
func report(t *testing.T, what string, d []time.Duration) {
	slices.Sort(d)
	if len(d) == 0 {
		return
	}
	ms := func(x time.Duration) float64 { return float64(x.Microseconds()) / 1000 }
	t.Logf("%s: %d rounds: median %.1f ms, p95 %.1f ms, worst %.1f ms", what, len(d), ms(d[len(d)/2]), ms(d[(len(d)*95+99)/100-1]), ms(d[len(d)-1]))
}

// TestP2_P8_KillTarget kills the target again and again under verified load
// with flushes: no error reaches the client and nothing acknowledged is lost.
func TestP2_P8_KillTarget(t *testing.T) {
	l := NewLab(t, binDir)
	p := l.NewPair(PairOptions{Portals: []string{"unix:" + l.Path("p1"), "unix:" + l.Path("p2")}})
	load := &Load{Network: "unix", Addr: p.Volume("v", "64M"), Export: "v", Workers: 16, Blocks: 16}
	load.Start()
	var stalls []time.Duration
	for n := range rounds(12) {
		time.Sleep(time.Duration(20+rand.IntN(150)) * time.Millisecond)
		load.ResetWorst()
		p.Target.Kill()
		time.Sleep(time.Duration(rand.IntN(100)) * time.Millisecond)
		p.Target.Start()
		before := load.Ops()
		l.Eventually("I/O goes on after restart "+strconv.Itoa(n), func() bool { return load.Ops() > before+64 || load.Failed() != nil })
		stalls = append(stalls, load.Worst())
		if err := load.Failed(); err != nil {
			break
		}
	}
	if err := load.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := load.Verify(); err != nil {
		t.Fatal(err)
	}
	report(t, "stall over kill -9 and restart of the target, its absence of 0-100 ms included", stalls)
}

// TestP2_KillInitiator kills the initiator again and again: its clients lose
// their connections, and nothing acknowledged is lost.
func TestP2_KillInitiator(t *testing.T) {
	l := NewLab(t, binDir)
	p := l.NewPair(PairOptions{Portals: []string{"unix:" + l.Path("p1"), "unix:" + l.Path("p2")}})
	load := &Load{Network: "unix", Addr: p.Volume("v", "64M"), Export: "v", Workers: 16, Blocks: 16, Reconnect: true}
	load.Start()
	var stalls []time.Duration
	for n := range rounds(12) {
		time.Sleep(time.Duration(20+rand.IntN(150)) * time.Millisecond)
		start := time.Now()
		p.Initiator.Kill()
		p.Initiator.Start()
		before := load.Ops()
		l.Eventually("I/O goes on after restart "+strconv.Itoa(n), func() bool { return load.Ops() > before+64 || load.Failed() != nil })
		stalls = append(stalls, time.Since(start))
		if load.Failed() != nil {
			break
		}
	}
	if err := load.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := load.Verify(); err != nil {
		t.Fatal(err)
	}
	report(t, "from kill -9 of the initiator until 64 requests were served by its successor", stalls)
}

// TestP3_HungWrite hangs a write in a worker of the target, kills the
// initiator, and writes the same block through its successor: the old write
// must not land on top of the new one.
func TestP3_HungWrite(t *testing.T) {
	l := NewLab(t, binDir)
	p := l.NewPair(PairOptions{Portals: []string{"unix:" + l.Path("p1")}})
	release := l.Path("release")
	sock := p.Volume("v", "16M", "--layer", "fault:op=write,nth=1,do=hang,until="+release)
	c, err := Dial("unix", sock, "v")
	if err != nil {
		t.Fatal(err)
	}
	old, fresh := make([]byte, stampLen), make([]byte, stampLen)
	stamp(old, 0, 1, 0)
	stamp(fresh, 0, 2, 0)
	c.Start(cmdWrite, 0, 0, old) // hangs at the target
	time.Sleep(100 * time.Millisecond)
	p.Initiator.Kill()
	p.Initiator.Start()
	result := make(chan error, 1)
	go func() { result <- writeOnce(l, sock, "v", fresh) }()
	select {
	case err := <-result:
		t.Fatalf("a successor wrote (%v) while the predecessor's write was still executing", err)
	case <-time.After(1500 * time.Millisecond):
	}
	if err := os.WriteFile(release, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	if seq := readSeq(t, sock, "v", 0); seq != 2 {
		t.Fatalf("block 0 holds write %d, want 2: the hung write landed late", seq)
	}
}

// writeOnce writes block 0, connecting until the server is there.
func writeOnce(l *Lab, sock, export string, b []byte) error {
	for {
		c, err := Dial("unix", sock, export)
		if err != nil {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		err = c.Start(cmdWrite, 0, 0, b).Wait()
		c.Close()
		return err
	}
}

func readSeq(t *testing.T, sock, export string, blk uint64) uint64 {
	t.Helper()
	c, err := Dial("unix", sock, export)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := make([]byte, stampLen)
	if err := c.Start(cmdRead, 0, blk*stampLen, b).Wait(); err != nil {
		t.Fatal(err)
	}
	seq, err := checkStamp(b, blk)
	if err != nil {
		t.Fatal(err)
	}
	return seq
}

// TestP2_PowerLoss loses what was acknowledged and not flushed: a volume in
// memory forgets everything with its process. The next flush must fail, the
// one after it, which promises nothing about the past, not.
func TestP2_PowerLoss(t *testing.T) {
	for _, tc := range []struct {
		desc          string
		killInitiator bool
	}{
		{"the same initiator", false},
		{"the initiator is killed too, its successor must know", true},
	} {
		t.Run(tc.desc, func(t *testing.T) {
			l := NewLab(t, binDir)
			p := l.NewPair(PairOptions{Portals: []string{"unix:" + l.Path("p1")}})
			sock := p.Volume("v", "16M", "--kind", "mem")
			b := make([]byte, stampLen)
			stamp(b, 0, 1, 0)
			if err := writeOnce(l, sock, "v", b); err != nil {
				t.Fatal(err)
			}
			if tc.killInitiator {
				p.Initiator.Kill()
			}
			p.Target.Kill()
			p.Target.Start()
			if tc.killInitiator {
				p.Initiator.Start()
			}
			p.WaitPaths(1)
			var c *Client
			l.Eventually("the export is there", func() bool {
				var err error
				c, err = Dial("unix", sock, "v")
				return err == nil
			})
			defer c.Close()
			if err := c.Start(cmdFlush, 0, 0, nil).Wait(); err == nil {
				t.Error("P2: the first flush after the loss succeeded")
			}
			if err := c.Start(cmdFlush, 0, 0, nil).Wait(); err != nil {
				t.Errorf("the second flush failed: %v", err)
			}
		})
	}
}
