// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rsio/rsio/admin/api"
	"rsio/rsio/block"
	"rsio/rsio/layer/trace"
)

// mono is the clock of the trace layer.
func mono(t *testing.T) time.Duration {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

// fenceRig is a shared volume with a log at its backend, attached by two hosts:
// h1, the victim, and h2.
type fenceRig struct {
	*Pair
	h2    *Daemon
	sock2 string
	log   string
	seq   uint64
}

func newFenceRig(t *testing.T) *fenceRig {
	l := NewLab(t, binDir)
	r := &fenceRig{log: l.Path("trace"), sock2: l.Path("run2/admin.sock")}
	r.Pair = l.NewPair(PairOptions{Portals: []string{"unix:" + l.Path("p1"), "unix:" + l.Path("p2")}})
	r.h2 = l.Daemon("h2", "", "rsio-initiator", "--run", l.Path("run2"), "--name", "h2", "--target", "st1=unix:"+l.Path("p1"))
	r.h2.Start()
	l.Eventually("h2 is there", func() bool { _, err := l.CtlTry(r.sock2, "path", "list"); return err == nil })
	l.Ctl(r.Sock, "volume", "create", "v", "--size", "64M", "--layer", "trace:"+r.log, "--layer", "fault:op=write,do=delay,ms=0-200")
	l.Ctl(r.Sock, "attach", "v")
	l.Ctl(r.sock2, "attach", "v")
	return r
}

// flood sends n writes with rising stamps over a connection and returns them;
// nobody waits for them yet.
func (r *fenceRig) flood(c *Client, n int) []*Call {
	var calls []*Call
	for range n {
		r.seq++
		b := make([]byte, stampLen)
		blk := r.seq % 64
		stamp(b, blk, r.seq, 1)
		calls = append(calls, c.Start(cmdWrite, 0, blk*stampLen, b))
	}
	return calls
}

// outcome waits for writes and counts those that were fenced.
func outcome(t *testing.T, calls []*Call) (ok, fenced int) {
	t.Helper()
	for _, c := range calls {
		err := c.Wait()
		var code ErrNBD
		switch {
		case err == nil:
			ok++
		case errors.As(err, &code) && code == 1: // EPERM
			fenced++
		default:
			t.Errorf("a write ended with %v, want success or EPERM", err)
		}
	}
	return ok, fenced
}

// late returns an error for each write of h1 up to stamp last that changed the
// volume after a point in time.
func (r *fenceRig) late(after time.Duration, last uint64) error {
	entries, err := trace.ReadFile(r.log)
	if err != nil {
		return err
	}
	seen := 0
	for _, e := range entries {
		if e.Op != block.OpWrite || e.Nexus != "h1" {
			continue
		}
		seen++
		if seq := binary.BigEndian.Uint64(e.Head[16:]); seq <= last && e.Mono > after {
			return fmt.Errorf("P4: write %d of the victim changed the volume %v after the answer: %v", seq, e.Mono-after, e)
		}
	}
	if seen == 0 {
		return errors.New("the log has no write of the victim: nothing was tested")
	}
	return nil
}

// frozenNow reports whether a process is stopped: a signal needs its time.
func frozenNow(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, ok := strings.Cut(string(b), ") ")
	return err == nil && ok && strings.HasPrefix(rest, "T")
}

// TestP4_Frozen freezes the victim's initiator or takes its paths away in the
// middle of a flood, fences it, gives the reservation back and lets the victim
// go on: nothing it was told before the fence may land, wherever it waited: in
// the client's socket, in the initiator, on the way, in the target.
func TestP4_Frozen(t *testing.T) {
	r := newFenceRig(t)
	var took []time.Duration
	stopped := 0
	for n := range rounds(8) {
		r.Ctl(r.Sock, "pr", "register", "v")
		r.Ctl(r.Sock, "pr", "reserve", "v", "--type", "wero")
		r.Ctl(r.sock2, "pr", "register", "v")
		c, err := Dial("unix", r.Path("run/nbd.sock"), "v")
		if err != nil {
			t.Fatal(err)
		}
		r.Eventually("the victim may write", func() bool { ok, _ := outcome(t, r.flood(c, 1)); return ok == 1 })
		calls := r.flood(c, 32)
		time.Sleep(time.Duration(rand.IntN(100)) * time.Millisecond)
		frozen := n%2 == 0
		if frozen {
			r.Initiator.Signal(syscall.SIGSTOP)
			r.Eventually("the initiator is frozen", func() bool { return frozenNow(r.Initiator.Pid()) })
			calls = append(calls, r.flood(c, 16)...) // these wait in the socket
		} else {
			r.Ctl(r.Sock, "path", "disable", "st1/0")
			r.Ctl(r.Sock, "path", "disable", "st1/1")
			calls = append(calls, r.flood(c, 16)...) // these are parked
		}
		start := time.Now()
		r.Ctl(r.sock2, "pr", "preempt-abort", "v", "--victim", "h1")
		answered := mono(t)
		took = append(took, time.Since(start))
		last := r.seq
		if n%4 < 2 { // everybody may write again before the victim is back
			r.Ctl(r.sock2, "pr", "clear", "v")
		}
		time.Sleep(100 * time.Millisecond)
		if frozen {
			r.Initiator.Signal(syscall.SIGCONT)
		} else {
			r.Ctl(r.Sock, "path", "enable", "st1/0")
			r.Ctl(r.Sock, "path", "enable", "st1/1")
		}
		_, fenced := outcome(t, calls)
		stopped += fenced
		if err := r.late(answered, last); err != nil {
			t.Fatalf("round %d (frozen %v): %v", n, frozen, err)
		}
		if fenced == 0 {
			t.Errorf("round %d (frozen %v): no write was fenced", n, frozen)
		}
		if n%4 >= 2 {
			r.Ctl(r.sock2, "pr", "clear", "v")
		}
		r.Eventually("after the reservation is gone the victim writes again", func() bool { ok, _ := outcome(t, r.flood(c, 1)); return ok == 1 })
		c.Close()
	}
	report(t, fmt.Sprintf("answer of preempt-abort, rsioctl included, %d writes fenced", stopped), took)
	var x api.Reservation
	if r.CtlJSON(&x, r.Sock, "pr", "status", "v"); x.Conflicts == 0 {
		t.Error("the count of conflicts is zero")
	}
}
