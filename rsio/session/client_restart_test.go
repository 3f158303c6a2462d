// SPDX-License-Identifier: Apache-2.0

package session

import (
	"testing"

	"rsio/rsio/block"
	"rsio/rsio/wire"
)

// restart ends all paths, and answers the join that follows as a target does
// that has been started anew.
func (r *rig) restart() {
	r.t.Helper()
	for len(r.ports) > 0 {
		r.ports[0].down()
	}
	l, ok := r.c.LoginFor()
	if !ok || l.Mode != wire.LoginJoin {
		r.t.Fatalf("LoginFor after a restart: mode %d, %v", l.Mode, ok)
	}
	if next := r.c.LoginDone(&l, block.StatusNoSession, &wire.LoginResponse{Instance: wire.ID{r.gen + 1}}); next != NextSoon {
		r.t.Fatalf("LoginDone: %d", next)
	}
}

// TestReplay: what was in flight when the target died is sent again if it may
// be; newer requests wait until everybody may go on.
func TestReplay(t *testing.T) {
	for _, row := range []struct {
		desc   string
		replay wire.Replay
	}{{"allowed", wire.ReplayAllowed}, {"late", wire.ReplayLate}, {"not known", wire.ReplayNone}} {
		t.Run(row.desc, func(t *testing.T) {
			r := newRig(t)
			v, ports := r.up(32, "a")
			w := r.submit(v, block.OpWrite, 4096)
			rd := r.submit(v, block.OpRead, 4096)
			fl := r.submit(v, block.OpFlush, 0)
			if n := len(ports[0].ops(block.OpWrite)); n != 1 {
				t.Fatal(n)
			}
			r.restart()
			r.replay, r.handle = row.replay, 7
			r.login(32)
			f := r.path("b")
			late := r.submit(v, block.OpWrite, 8192)
			o := f.one(wire.OpOpen)
			var open wire.Open
			if err := open.Parse([]byte(o.body)); err != nil || open.Flags != wire.OpenRecover {
				t.Fatalf("open %+v, %v", open, err)
			}
			if len(f.sent) != 0 {
				t.Fatalf("sent before the volume is open: %v", f.sent)
			}
			f.sent = append(f.sent, o)
			r.serveOpen()
			writes := f.ops(block.OpWrite)
			if row.replay == wire.ReplayAllowed {
				if len(writes) != 1 || writes[0].h.Flags&wire.FlagReplay == 0 || writes[0].h.Len != 4096 || writes[0].h.Volume != 7 || writes[0].h.Seq != 1 {
					t.Fatalf("replayed %v", writes)
				}
				r.open("replayed", w)
				if n := len(f.ops(wire.OpReclaim)); n != 0 {
					t.Fatal("reclaimed before all was sent again")
				}
				f.reply(writes[0], block.StatusOK, nil)
				r.ended("replayed", w, block.StatusOK)
			} else {
				if len(writes) != 0 {
					t.Fatalf("replayed %v", writes)
				}
				r.ended("not replayed", w, block.StatusUnknown)
			}
			s := f.one(block.OpRead)
			if s.h.Flags != 0 {
				t.Errorf("a read carries flags %x", s.h.Flags)
			}
			f.reply(s, block.StatusOK, make([]byte, 4096))
			f.reply(f.one(block.OpFlush), block.StatusOK, nil)
			r.ended("read", rd, block.StatusOK)
			r.ended("flush", fl, block.StatusOK)
			if v.Ready() || len(f.ops(block.OpWrite)) != 0 {
				t.Fatal("goes on before the target says so")
			}
			r.serve()
			s = f.one(block.OpWrite)
			if s.h.Flags&wire.FlagReplay != 0 || s.h.Len != 8192 {
				t.Fatalf("new write %+v", s.h)
			}
			f.reply(s, block.StatusOK, nil)
			r.ended("late", late, block.StatusOK)
			r.clean()
		})
	}
}

// serveOpen answers opens only.
func (r *rig) serveOpen() {
	for _, f := range r.ports {
		for _, s := range f.ops(wire.OpOpen) {
			p := (&wire.OpenResponse{Handle: r.handle, Replay: r.replay, Incarnation: r.inc,
				Info: block.Info{Size: 1 << 30, BlockSize: 512, MaxLen: block.MaxLen, MaxZero: block.MaxZero}}).Append(nil)
			r.handle++
			f.reply(s, block.StatusOK, p)
		}
	}
}

// TestP2_LostFlush: after a new incarnation the next flush fails, once, if
// acknowledged writes were not covered.
func TestP2_LostFlush(t *testing.T) {
	rows := []struct {
		desc   string
		before func(r *rig, v *Volume) // runs in the first session
		inc    uint64
		lost   bool
	}{
		{"write, new incarnation", func(r *rig, v *Volume) { r.do(v, block.OpWrite, 0) }, 101, true},
		{"write, same incarnation", func(r *rig, v *Volume) { r.do(v, block.OpWrite, 0) }, 100, false},
		{"write and flush", func(r *rig, v *Volume) { r.do(v, block.OpWrite, 0); r.do(v, block.OpFlush, 0) }, 101, false},
		{"flush and write", func(r *rig, v *Volume) { r.do(v, block.OpFlush, 0); r.do(v, block.OpWrite, 0) }, 101, true},
		{"FUA only", func(r *rig, v *Volume) { r.do(v, block.OpWrite, block.FlagFUA) }, 101, false},
		{"zeroes", func(r *rig, v *Volume) { r.do(v, block.OpWriteZeroes, 0) }, 101, true},
		{"reads only", func(r *rig, v *Volume) { r.do(v, block.OpRead, 0) }, 101, false},
		{"nothing", func(*rig, *Volume) {}, 101, false},
		{"a flush that began before the write ended", func(r *rig, v *Volume) {
			f := r.ports[0]
			r.submit(v, block.OpWrite, 4096)
			r.submit(v, block.OpFlush, 0)
			f.reply(f.one(block.OpWrite), block.StatusOK, nil)
			f.reply(f.one(block.OpFlush), block.StatusOK, nil)
		}, 101, true},
		{"a failed flush covers nothing", func(r *rig, v *Volume) {
			r.do(v, block.OpWrite, 0)
			r.submit(v, block.OpFlush, 0)
			r.ports[0].reply(r.ports[0].one(block.OpFlush), block.StatusIO, nil)
		}, 101, true},
	}
	for _, row := range rows {
		t.Run(row.desc, func(t *testing.T) {
			r := newRig(t)
			v, _ := r.up(32, "a")
			row.before(r, v)
			r.restart()
			r.inc = row.inc
			r.login(32)
			f := r.path("b")
			r.serve()
			if v.Incarnation() != row.inc && !row.lost || v.Incarnation() != 100 && row.lost {
				t.Errorf("vouched for incarnation %d", v.Incarnation())
			}
			fl := r.submit(v, block.OpFlush, 0)
			if row.lost {
				r.ended("the first flush", fl, block.StatusLost)
				if len(f.sent) != 0 || v.Incarnation() != row.inc || !r.told("the next flush fails") {
					t.Errorf("sent %v, incarnation %d", f.sent, v.Incarnation())
				}
				fl = r.submit(v, block.OpFlush, 0)
			}
			f.reply(f.one(block.OpFlush), block.StatusOK, nil)
			r.ended("a later flush", fl, block.StatusOK)
			r.clean()
		})
	}
}

// do runs one request to its good end.
func (r *rig) do(v *Volume, kind block.Op, flags block.Flags) {
	r.t.Helper()
	n := 4096
	if kind == block.OpFlush {
		n = 0
	}
	o := newOp(kind, n)
	o.Flags = flags
	v.Submit(&o.Request)
	for _, f := range r.ports {
		for _, s := range f.ops(kind) {
			f.reply(s, block.StatusOK, o.Buf[:min(len(o.Buf), 4096*int(2-kind)&4096)])
		}
	}
	r.ended("do", o, block.StatusOK)
}

// TestP2_SuccessorsFlush: a process that follows one that died does not know
// what that one had written.
func TestP2_SuccessorsFlush(t *testing.T) {
	for _, inc := range []uint64{100, 101} {
		r := newRig(t)
		r.inc = inc
		r.login(8)
		f := r.path("a")
		v := r.c.OpenVolume("ns", "vol", false, 100, nil)
		r.serve()
		fl := r.submit(v, block.OpFlush, 0)
		if inc == 101 {
			r.ended("flush", fl, block.StatusLost)
			continue
		}
		f.reply(f.one(block.OpFlush), block.StatusOK, nil)
		r.ended("flush", fl, block.StatusOK)
	}
}

// TestFlushInFlightIsLost: a flush that was in flight over a loss of memory
// fails instead of being replayed.
func TestFlushInFlightIsLost(t *testing.T) {
	r := newRig(t)
	v, _ := r.up(32, "a")
	r.do(v, block.OpWrite, 0)
	fl := r.submit(v, block.OpFlush, 0)
	r.restart()
	r.inc++
	r.login(32)
	f := r.path("b")
	r.serve()
	r.ended("flush", fl, block.StatusLost)
	r.do(v, block.OpFlush, 0)
	if n := len(f.ops(block.OpFlush)); n != 0 {
		t.Error("sent again")
	}
	r.clean()
}

// TestBeginForgetsTheOldGrant: a smaller window of the old session, not yet
// adopted when that one died, must not bind the new one.
func TestBeginForgetsTheOldGrant(t *testing.T) {
	r := newRig(t)
	v, ports := r.up(32, "a")
	ops := r.many(v, block.OpWrite, 64<<10, 4)
	ports[0].grants(IdleWindow, 7) // more than that is in flight: not adopted yet
	r.restart()
	r.replay, r.window, r.grant = wire.ReplayAllowed, 1<<20, 1
	r.login(32)
	f := r.path("b")
	r.serve()
	list := f.ops(block.OpWrite)
	if w, _ := r.credit(); w != 1<<20 || len(list) != 4 {
		t.Fatalf("the window is %d, %d of 4 were sent again", w, len(list))
	}
	for _, s := range list {
		f.reply(s, block.StatusOK, nil)
	}
	r.serve()
	for _, o := range ops {
		r.ended("write", o, block.StatusOK)
	}
	r.clean()
}

// TestP3_StaleControl: operations about handles of the old session, queued
// while no path was fit, must not reach the new one, whose handles are others.
// A stale reclaim would end the right to replay.
func TestP3_StaleControl(t *testing.T) {
	r := newRig(t)
	r.login(32)
	a := r.path("a")
	v := r.c.OpenVolume("ns", "vol", false, 0, nil)
	o := a.one(wire.OpOpen)
	r.c.Leave(a.p) // no path is fit: the reclaim that follows stays queued
	a.sent = append(a.sent, o)
	r.serve()
	if v.Ready() {
		t.Fatal("the test shows nothing")
	}
	r.restart()
	r.replay = wire.ReplayAllowed
	r.login(32)
	f := r.path("b")
	for _, s := range f.sent {
		if s.h.Op != wire.OpOpen {
			t.Fatalf("%v of the old session reaches the new one", s)
		}
	}
	if len(f.sent) != 1 {
		t.Fatalf("opened %d times", len(f.sent))
	}
	r.serve()
	if !v.Ready() {
		t.Error("not ready")
	}
	r.clean()
}

// TestStaleClose: a volume is closed while no session is up. The handle it had
// may be another volume's in the next one.
func TestStaleClose(t *testing.T) {
	for _, row := range []struct {
		desc   string
		before func(r *rig, end func())
	}{
		{"between the sessions", func(r *rig, end func()) { r.restart(); end(); r.login(8); r.path("b") }},
		{"while it is being opened again", func(r *rig, end func()) { r.restart(); r.login(8); r.path("b"); end() }},
		{"while its paths are down", func(r *rig, end func()) { r.ports[0].down(); end(); r.restart(); r.login(8); r.path("b") }},
	} {
		t.Run(row.desc, func(t *testing.T) {
			r := newRig(t)
			v, _ := r.up(8, "a")
			v2 := r.c.OpenVolume("ns", "second", false, 0, nil)
			r.serve()
			var ends []block.Status
			r.handle = 0
			row.before(r, func() {
				r.c.CloseVolume(v, false, func(st block.Status) { ends = append(ends, st) })
			})
			f := r.ports[0]
			for _, s := range f.ops(wire.OpOpen) { // the other way round
				var o wire.Open
				if err := o.Parse([]byte(s.body)); err != nil {
					t.Fatal(err)
				}
				p := wire.OpenResponse{Handle: 1, Incarnation: r.inc, Info: block.Info{Size: 4096, BlockSize: 512, MaxLen: 4096}}
				if string(o.Volume) == "second" {
					p.Handle = 0
				}
				f.reply(s, block.StatusOK, p.Append(nil))
			}
			for _, s := range f.ops(wire.OpClose) {
				if s.h.Volume == 0 {
					t.Error("another volume is closed")
				}
				f.reply(s, block.StatusOK, nil)
			}
			r.serve()
			if !v2.Ready() {
				t.Error("the other volume is not ready")
			}
			if len(ends) != 1 {
				t.Errorf("closed %d times", len(ends))
			}
			r.clean()
		})
	}
}

// TestStaleEvents: a handle of the old session names nothing while the volume
// is being opened in the new one.
func TestStaleEvents(t *testing.T) {
	r := newRig(t)
	v, _ := r.up(8, "a")
	r.restart()
	r.login(8)
	r.path("b")
	r.c.Resized(0, 4096)
	r.c.Gone(0)
	if state, i, _ := v.State(); state != "opening" || i.Size != 1<<30 {
		t.Errorf("%s, %d bytes", state, i.Size)
	}
}
