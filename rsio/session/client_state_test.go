// SPDX-License-Identifier: Apache-2.0

package session

import (
	"errors"
	"testing"
	"time"

	"rsio/rsio/block"
	"rsio/rsio/netio"
	"rsio/rsio/wire"
)

// TestCredit: requests wait for credit, ask for it, and go on when it comes.
func TestCredit(t *testing.T) {
	r := newRig(t)
	r.window = IdleWindow
	v, ports := r.up(64, "a")
	f := ports[0]
	ops := r.many(v, block.OpWrite, 16<<10, 10)
	list := f.ops(block.OpWrite)
	if len(list) != 4 {
		t.Fatalf("%d requests of 16 KiB in 64 KiB", len(list))
	}
	if _, inflight := r.credit(); inflight != IdleWindow {
		t.Fatalf("%d bytes in flight", inflight)
	}
	f.reply(list[0], block.StatusOK, nil)
	next := f.one(block.OpWrite)
	if want := uint64(next.h.Window); want != 10*16<<10-16<<10 {
		t.Errorf("asks for %d bytes", want)
	}
	f.grants(1<<20, 2)
	more := f.ops(block.OpWrite)
	if len(more) != 5 {
		t.Fatalf("%d requests after the window grew, want the rest", len(more))
	}
	for _, s := range append(append(list[1:], next), more...) {
		if s.h.Grant != 1 && s.h.Grant != 2 {
			t.Errorf("grant %d", s.h.Grant)
		}
		f.reply(s, block.StatusOK, nil)
	}
	for _, o := range ops {
		r.ended("write", o, block.StatusOK)
	}
	r.clean()
}

// TestCreditForOneLarge: a request larger than the window asks by ping, as
// nothing else is under way.
func TestCreditForOneLarge(t *testing.T) {
	r := newRig(t)
	r.window = IdleWindow
	v, ports := r.up(64, "a")
	w := r.submit(v, block.OpWrite, 1<<20)
	if n := len(ports[0].ops(block.OpWrite)); n != 0 || ports[0].pings != 1 {
		t.Fatalf("%d requests, %d pings", n, ports[0].pings)
	}
	ports[0].grants(1<<20, 2)
	ports[0].reply(ports[0].one(block.OpWrite), block.StatusOK, nil)
	r.ended("write", w, block.StatusOK)
	r.clean()
}

// TestGrants: which window counts, and what is acknowledged when.
func TestGrants(t *testing.T) {
	r := newRig(t)
	r.window, r.grant = 1<<20, 10
	v, ports := r.up(64, "a")
	f := ports[0]
	acked := func() uint32 {
		f.sent = nil
		o := r.submit(v, block.OpFlush, 0)
		s := f.one(block.OpFlush)
		h := answer(s, block.StatusOK, nil)
		if err := r.c.Reply(f.p, &h, nil); err != nil {
			t.Fatal(err)
		}
		r.ended("flush", o, block.StatusOK)
		return s.h.Grant
	}
	rows := []struct {
		desc   string
		bytes  uint32
		grant  uint32
		window uint64
		acked  uint32
	}{
		{"an older grant", 4 << 20, 9, 1 << 20, 10},
		{"the same again", 4 << 20, 10, 1 << 20, 10},
		{"no window", 0, 99, 1 << 20, 10},
		{"larger", 2 << 20, 11, 2 << 20, 11},
		{"smaller, nothing in flight", IdleWindow, 12, IdleWindow, 12},
		{"one that was overtaken", 2 << 20, 11, IdleWindow, 12},
		{"larger again", 4 << 20, 14, 4 << 20, 14},
	}
	for _, row := range rows {
		f.grants(row.bytes, row.grant)
		if w, _ := r.credit(); w != row.window || acked() != row.acked {
			t.Errorf("%s: %d bytes, grant %d", row.desc, w, acked())
		}
	}
	// A smaller window counts for new requests at once, and is acknowledged
	// when no more than that is in flight.
	ops := r.many(v, block.OpWrite, 64<<10, 4)
	list := f.ops(block.OpWrite)
	f.grants(128<<10, 15)
	late := r.submit(v, block.OpWrite, 64<<10)
	if n := len(f.ops(block.OpWrite)); n != 0 {
		t.Error("a request goes out under the old window")
	}
	for i, s := range list {
		if w, _ := r.credit(); (w == 128<<10) != (i >= 2) {
			t.Errorf("after %d answers the window is %d", i, w)
		}
		f.reply(s, block.StatusOK, nil)
	}
	f.reply(f.one(block.OpWrite), block.StatusOK, nil)
	for _, o := range append(ops, late) {
		r.ended("write", o, block.StatusOK)
	}
	r.clean()
}

// TestGiveUp: everything ends, but not before connections have let go.
func TestGiveUp(t *testing.T) {
	r := newRig(t)
	v, ports := r.up(8, "a", "b")
	a, b := ports[0], ports[1]
	a.auto, b.auto = false, false
	ops := r.many(v, block.OpWrite, 4096, 4)
	waiting := r.many(v, block.OpWrite, 4096, 3)
	ctl := &Control{Op: wire.OpAdmin}
	ends := 0
	ctl.Done = func(*Control) { ends++ }
	r.c.Control(ctl)
	r.c.GiveUp(block.StatusTimeout, "test")
	if a.closed == nil || b.closed == nil {
		t.Error("paths stay open")
	}
	for _, o := range append(ops, waiting...) {
		r.open("connections hold buffers", o)
	}
	if _, ok := r.c.LoginFor(); ok {
		t.Error("a new session may begin while connections are in use")
	}
	if p := r.c.PathUp("c", &instant{}, wire.ID{r.gen}); p != nil {
		t.Error("a path of the failed session is taken")
	}
	late := r.submit(v, block.OpWrite, 4096)
	a.down()
	r.open("one path still holds buffers", ops[0])
	b.down()
	for _, o := range ops {
		r.ended("in flight", o, block.StatusUnknown)
	}
	for _, o := range append(waiting, late) {
		r.ended("waiting", o, block.StatusTimeout)
	}
	if ends != 1 || ctl.Status != block.StatusUnknown || r.c.Failed() != block.StatusTimeout {
		t.Errorf("control ended %d times with %v; failed %v", ends, ctl.Status, r.c.Failed())
	}
	r.ended("later", r.submit(v, block.OpRead, 4096), block.StatusTimeout)
	r.c.GiveUp(block.StatusIO, "again")
	if r.c.Failed() != block.StatusTimeout {
		t.Error("given up twice")
	}
	// A new session drains the old one, and the volume comes back.
	r.login(8)
	r.path("d")
	r.serve()
	r.do(v, block.OpWrite, 0)
	r.clean()
}

// TestGiveUpWithoutPaths ends everything at once.
func TestGiveUpWithoutPaths(t *testing.T) {
	r := newRig(t)
	v, ports := r.up(8, "a")
	w := r.submit(v, block.OpWrite, 4096)
	ports[0].down()
	r.c.GiveUp(block.StatusTimeout, "test")
	r.ended("parked", w, block.StatusUnknown)
	v2 := r.c.OpenVolume("ns", "second", false, 0, nil)
	r.ended("opened later", r.submit(v2, block.OpRead, 4096), block.StatusTimeout)
}

func TestControl(t *testing.T) {
	r := newRig(t)
	_, ports := r.up(8, "a")
	f := ports[0]
	ends := make([]int, 20)
	cts := make([]*Control, 20)
	for i := range cts {
		cts[i] = &Control{Op: wire.OpAdmin, Payload: []byte{byte(i)}, Done: func(*Control) { r.c.Failed(); ends[i]++ }}
		r.c.Control(cts[i])
	}
	list := f.ops(wire.OpAdmin)
	if len(list) != wire.ControlSlots {
		t.Fatalf("%d in flight", len(list))
	}
	for n := 0; len(list) > 0; list = f.ops(wire.OpAdmin) {
		for _, s := range list {
			if s.h.Slot >= wire.ControlSlots || s.body != string([]byte{byte(n)}) {
				t.Fatalf("%v with %q", s, s.body)
			}
			f.reply(s, block.StatusBusy, []byte("re"+s.body))
			if ends[n] != 1 || cts[n].Status != block.StatusBusy || string(cts[n].Reply) != "re"+s.body {
				t.Fatalf("control %d: %d ends, %v, %q", n, ends[n], cts[n].Status, cts[n].Reply)
			}
			n++
		}
	}
	// A path that dies: sent again in the same session, under the same number.
	again := &Control{Op: wire.OpAdmin, Done: func(ct *Control) {}}
	r.c.Control(again)
	s := f.one(wire.OpAdmin)
	f.down()
	f = r.path("b")
	if s2 := f.one(wire.OpAdmin); s2.h.Seq != s.h.Seq || s2.h.Slot != s.h.Slot {
		t.Errorf("sent again as %v, before %v", s2, s)
	}
	// A restart: its outcome is unknown, and it is not sent again.
	r.restart()
	r.login(8)
	f = r.path("c")
	r.serve()
	if again.Status != block.StatusUnknown || len(f.ops(wire.OpAdmin)) != 0 {
		t.Errorf("after a restart: %v", again.Status)
	}
	r.clean()
}

func TestOpenFails(t *testing.T) {
	for _, row := range []struct {
		desc string
		st   block.Status
		body []byte
		want block.Status
	}{
		{"not found", block.StatusNotFound, nil, block.StatusNotFound},
		{"an answer that does not parse", block.StatusOK, []byte("x"), block.StatusProtocol},
	} {
		t.Run(row.desc, func(t *testing.T) {
			r := newRig(t)
			r.login(8)
			f := r.path("a")
			v := r.c.OpenVolume("ns", "vol", false, 0, "owner")
			w := r.submit(v, block.OpWrite, 4096)
			f.reply(f.one(wire.OpOpen), row.st, row.body)
			r.ended("waiting", w, row.want)
			if state, _, st := v.State(); state != "failed" || st != row.want || v.Owner() != "owner" || v.Name() != "ns/vol" {
				t.Errorf("%s, %v", state, st)
			}
			got := block.StatusIO
			r.c.CloseVolume(v, false, func(st block.Status) { got = st })
			if got != block.StatusOK {
				t.Errorf("close: %v", got)
			}
			r.clean()
		})
	}
}

func TestCloseVolume(t *testing.T) {
	r := newRig(t)
	v, ports := r.up(8, "a")
	f := ports[0]
	got := block.Status(99)
	done := func(st block.Status) { r.c.Failed(); got = st }
	w := r.submit(v, block.OpWrite, 4096)
	r.c.CloseVolume(v, false, done)
	if got != block.StatusInUse {
		t.Fatalf("in use: %v", got)
	}
	f.reply(f.one(block.OpWrite), block.StatusOK, nil)
	r.ended("write", w, block.StatusOK)
	got = 99
	r.c.CloseVolume(v, false, done)
	s := f.one(wire.OpClose)
	if got != 99 || s.h.Volume != 0 {
		t.Fatalf("%v before the target's answer, handle %d", got, s.h.Volume)
	}
	r.ended("after it was closed", r.submit(v, block.OpRead, 4096), block.StatusClosed)
	f.reply(s, block.StatusIO, nil)
	if got != block.StatusIO {
		t.Errorf("done with %v", got)
	}
	got = 99
	r.c.CloseVolume(v, false, done)
	if got != block.StatusOK || len(f.sent) != 0 {
		t.Errorf("closed twice: %v, %v", got, f.sent)
	}
	r.restart()
	r.login(8)
	if f = r.path("b"); len(f.ops(wire.OpOpen)) != 0 {
		t.Error("opened again after it was closed")
	}
	r.clean()
}

func TestEvents(t *testing.T) {
	r := newRig(t)
	v, ports := r.up(8, "a")
	r.c.Resized(5, 4096)
	if _, i, _ := v.State(); i.Size != 1<<30 {
		t.Error("somebody else's size")
	}
	r.c.Resized(0, 2<<30)
	if _, i, _ := v.State(); i.Size != 2<<30 {
		t.Errorf("%d bytes", i.Size)
	}
	w := r.submit(v, block.OpWrite, 4096)
	wait := r.many(v, block.OpWrite, 4096, 5)[4]
	r.c.Gone(5)
	r.c.Gone(0)
	r.ended("waiting", wait, block.StatusNotFound)
	r.ended("later", r.submit(v, block.OpRead, 4096), block.StatusNotFound)
	r.open("in flight", w)
	for _, s := range ports[0].ops(block.OpWrite) {
		ports[0].reply(s, block.StatusNotFound, nil)
	}
	r.ended("in flight", w, block.StatusNotFound)
	r.clean()
}

// TestJoinTellsTheWindow: it may have shrunk while there was no path. What was
// in flight under the old one asks for credit anew.
func TestJoinTellsTheWindow(t *testing.T) {
	r := newRig(t)
	r.window = 4 << 20
	v, ports := r.up(8, "a")
	w := r.submit(v, block.OpWrite, 1<<20)
	ports[0].down()
	l, _ := r.c.LoginFor()
	r.window, r.grant = IdleWindow, 2
	if next := r.c.LoginDone(&l, block.StatusOK, &wire.LoginResponse{Instance: wire.ID{r.gen}, Window: r.window, Grant: r.grant}); next != NextUse {
		t.Fatal(next)
	}
	f := r.path("b")
	if n := len(f.ops(block.OpWrite)); n != 0 || f.pings != 1 {
		t.Fatalf("%d writes beyond the window, %d pings", n, f.pings)
	}
	f.grants(1<<20, 3)
	f.reply(f.one(block.OpWrite), block.StatusOK, nil)
	r.ended("write", w, block.StatusOK)
	r.clean()
}

func TestLogins(t *testing.T) {
	r := newRig(t)
	l, ok := r.c.LoginFor()
	if !ok || l.Mode != wire.LoginNew || l.Serial != 1 || string(l.Nexus) != "h" || l.Secret != (wire.Secret{1}) {
		t.Fatalf("%+v, %v", l, ok)
	}
	if _, ok := r.c.LoginFor(); ok {
		t.Error("two sessions at once")
	}
	rows := []struct {
		desc string
		st   block.Status
		next Next
	}{{"draining", block.StatusDraining, NextSoon}, {"in use", block.StatusInUse, NextLater}, {"busy", block.StatusBusy, NextLater},
		{"stale", block.StatusStale, NextLater}, {"denied", block.StatusDenied, NextLater}}
	for i, row := range rows {
		if next := r.c.LoginDone(&l, row.st, &wire.LoginResponse{}); next != row.next {
			t.Errorf("%s: %d", row.desc, next)
		}
		if l, ok = r.c.LoginFor(); !ok || l.Serial != uint64(i+2) {
			t.Fatalf("%s: next login %+v, %v", row.desc, l, ok)
		}
	}
	r.c.LoginAborted(&l)
	v, _ := r.up(8, "a")
	w := r.submit(v, block.OpWrite, 4096)
	if p := r.c.PathUp("x", &instant{}, wire.ID{99}); p != nil {
		t.Error("a path of another session is taken")
	}
	l, _ = r.c.LoginFor()
	if next := r.c.LoginDone(&l, block.StatusBusy, &wire.LoginResponse{Instance: wire.ID{r.gen}}); next != NextLater {
		t.Errorf("join, busy: %d", next)
	}
	if next := r.c.LoginDone(&l, block.StatusOK, &wire.LoginResponse{Instance: wire.ID{r.gen}}); next != NextUse {
		t.Errorf("join: %d", next)
	}
	// The target runs on, but has no such session: another initiator took over.
	if next := r.c.LoginDone(&l, block.StatusNoSession, &wire.LoginResponse{Instance: wire.ID{r.gen}}); next != NextNever {
		t.Errorf("usurped: %d", next)
	}
	for len(r.ports) > 0 {
		r.ports[0].down()
	}
	r.ended("usurped", w, block.StatusUnknown)
	r.tick(time.Minute)
	if _, ok := r.c.LoginFor(); ok {
		t.Error("the nexus is taken back")
	}
}

// TestSendFails: a connection that has ended takes nothing, and what was meant
// for it goes elsewhere.
func TestSendFails(t *testing.T) {
	r := newRig(t)
	v, ports := r.up(8, "a", "b")
	ports[0].Close(errors.New("cut"))
	ops := r.many(v, block.OpWrite, 4096, 4)
	list := ports[1].ops(block.OpWrite)
	if len(list) != 4 {
		t.Fatalf("%d of 4 on the path that is left", len(list))
	}
	for _, s := range list {
		ports[1].reply(s, block.StatusOK, nil)
	}
	for _, o := range ops {
		r.ended("write", o, block.StatusOK)
	}
	ports[0].down()
	r.clean()
}

// TestInFlightList names what hangs where.
func TestInFlightList(t *testing.T) {
	r := newRig(t)
	v, ports := r.up(8, "a")
	r.submit(v, block.OpWrite, 4096)
	r.now += time.Second
	if l := r.c.InFlight(); len(l) != 1 || l[0].Paths != "a" || l[0].Age != time.Second || l[0].Volume != "ns/vol" || l[0].Op != block.OpWrite {
		t.Errorf("%+v", l)
	}
	ports[0].down()
	if l := r.c.InFlight(); len(l) != 1 || l[0].Paths != "parked" {
		t.Errorf("%+v", l)
	}
	if p := r.c.Paths(); len(p) != 0 || !r.c.Quiet() {
		t.Errorf("%+v", p)
	}
	var _ netio.Sender = (*Copy)(nil)
}
