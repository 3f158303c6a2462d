// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"testing"
	"time"
)

// TestP3_TwoWriters restarts the target while one of two writers is cut off
// with a write in flight. The other one goes on after the grace and writes the
// same block. The late one gets an error, and its write never lands.
func TestP3_TwoWriters(t *testing.T) {
	away := 3 * time.Second
	if rounds(0) > 0 {
		away = 60 * time.Second
	}
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
	p := l.NewPair(PairOptions{Portals: []string{"unix:" + l.Path("p1")}, Addresses: []string{"unix:" + l.Path("proxy")}})
	sock1 := p.Volume("v", "16M")
	h2 := l.Daemon("h2", "", "rsio-initiator", "--run", l.Path("run2"), "--name", "h2", "--target", "st1=unix:"+l.Path("p1"))
	h2.Start()
	l.Eventually("h2 has attached the volume", func() bool {
		_, err := l.CtlTry(l.Path("run2/admin.sock"), "attach", "v")
		return err == nil
	})

	c1, err := Dial("unix", sock1, "v")
	if err != nil {
		t.Fatal(err)
	}
	defer c1.Close()
	b := make([]byte, stampLen)
	stamp(b, 0, 1, 1)
	if err := c1.Start(cmdWrite, 0, 0, b).Wait(); err != nil {
		t.Fatal(err)
	}
	proxy.Hold()
	stamp(b, 0, 2, 1)
	late := c1.Start(cmdWrite, 0, 0, b)
	time.Sleep(100 * time.Millisecond)
	p.Target.Kill()
	p.Target.Start()

	c2, err := Dial("unix", l.Path("run2/nbd.sock"), "v")
	if err != nil {
		t.Fatal(err)
	}
	defer c2.Close()
	fresh := make([]byte, stampLen)
	stamp(fresh, 0, 3, 2)
	start := time.Now()
	if err := c2.Start(cmdWrite, 0, 0, fresh).Wait(); err != nil {
		t.Fatalf("the writer that came back in time: %v", err)
	}
	t.Logf("the writer that came back in time waited %v for the grace", time.Since(start).Round(time.Millisecond))
	time.Sleep(away)
	proxy.Release()
	if err := late.Wait(); !errors.As(err, new(ErrNBD)) {
		t.Errorf("the late write ended in %v, want an error", err)
	}
	for _, s := range []string{sock1, l.Path("run2/nbd.sock")} {
		if seq := readSeq(t, s, "v", 0); seq != 3 {
			t.Errorf("P3: block 0 holds write %d, want 3", seq)
		}
	}
	// The late one is a writer like any other from now on.
	stamp(b, 0, 4, 1)
	if err := c1.Start(cmdWrite, 0, 0, b).Wait(); err != nil {
		t.Errorf("a new write of the late one: %v", err)
	}
	if seq := readSeq(t, l.Path("run2/nbd.sock"), "v", 0); seq != 4 {
		t.Errorf("P1: block 0 holds write %d, want 4", seq)
	}
}
