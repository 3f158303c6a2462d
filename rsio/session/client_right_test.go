// SPDX-License-Identifier: Apache-2.0

package session

import (
	"testing"
	"time"

	"rsio/rsio/block"
	"rsio/rsio/wire"
)

// newRightRig is a rig whose target has rights; the nexus has number 5.
func newRightRig(t testing.TB) *rig {
	r := newRig(t)
	r.right, r.access = 5, block.AccessAll
	return r
}

func (r *rig) righted(handle uint32, right uint64, a block.Access) {
	r.c.Righted(&wire.Header{Kind: wire.KindEvent, Op: wire.EventRight, Volume: handle, Off: right, Len: uint32(a)})
}

// TestP4_Parked: what is parked when the right is lost fails when that is
// known, is not sent when a path comes back, and a new request carries the new
// right; a read is parked on.
func TestP4_Parked(t *testing.T) {
	r := newRightRig(t)
	v, ports := r.up(32, "a")
	if n, a := v.Right(); n != 5 || a != block.AccessAll {
		t.Fatalf("right %d, access %v", n, a)
	}
	sent := r.submit(v, block.OpWrite, 4096)
	if s := ports[0].one(block.OpWrite); s.h.Right != 5 {
		t.Fatalf("a write carries right %d, want 5", s.h.Right)
	}
	ports[0].down()
	parked := r.many(v, block.OpWrite, 4096, 3)
	caw := newOp(block.OpCompareAndWrite, 512)
	caw.Buf = make([]byte, 1024)
	v.Submit(&caw.Request)
	read := r.submit(v, block.OpRead, 4096)
	r.righted(0, 6, block.AccessAll) // lost, and everybody may write again
	for _, o := range append(parked, caw) {
		r.ended("parked", o, block.StatusConflict)
	}
	r.open("a read that waits", read)
	r.open("a write that was sent: only the target knows", sent)
	old := newOp(block.OpWrite, 4096)
	old.Right = 5 // its frontend had not heard of it
	v.Submit(&old.Request)
	r.ended("under the old right", old, block.StatusConflict)
	fresh := r.submit(v, block.OpWrite, 8192)
	r.open("under the new right", fresh)
	f := r.path("b")
	for _, s := range f.ops(block.OpWrite) {
		switch {
		case s.h.Len == 4096 && s.h.Right == 5: // the one that had been sent
			f.reply(s, block.StatusConflict, nil)
		case s.h.Len == 8192 && s.h.Right == 6:
			f.reply(s, block.StatusOK, nil)
		default:
			t.Errorf("P4: sent after the fence: %v under right %d", s, s.h.Right)
		}
	}
	r.ended("sent before", sent, block.StatusConflict)
	r.ended("under the new right", fresh, block.StatusOK)
	f.reply(f.one(block.OpRead), block.StatusOK, make([]byte, 4096))
	r.ended("read", read, block.StatusOK)
	if st := v.Stats(); st.Conflicts != 6 {
		t.Errorf("%d conflicts are counted, want 6", st.Conflicts)
	}
	r.clean()
}

// TestEarlyReject: a nexus that is known to have no right is refused here, but
// once a second the target is asked all the same.
func TestEarlyReject(t *testing.T) {
	r := newRightRig(t)
	v, ports := r.up(32, "a")
	f := ports[0]
	r.righted(0, 5, block.AccessRead)
	asked := r.submit(v, block.OpWrite, 4096)
	f.reply(f.one(block.OpWrite), block.StatusConflict, nil)
	r.ended("the one that asks", asked, block.StatusConflict)
	r.ended("early", r.submit(v, block.OpWrite, 4096), block.StatusConflict)
	r.ended("a flush, early", r.submit(v, block.OpFlush, 0), block.StatusConflict)
	if n := len(f.sent); n != 0 {
		t.Fatalf("%d frames were sent", n)
	}
	read := r.submit(v, block.OpRead, 4096)
	f.reply(f.one(block.OpRead), block.StatusOK, make([]byte, 4096))
	r.ended("read", read, block.StatusOK)
	r.now += 2 * time.Second
	again := r.submit(v, block.OpWrite, 4096)
	f.reply(f.one(block.OpWrite), block.StatusOK, nil) // the event was lost
	r.ended("asked again", again, block.StatusOK)
	o := r.submit(v, block.OpWrite, 4096)
	f.reply(f.one(block.OpWrite), block.StatusOK, nil)
	r.ended("and it counts", o, block.StatusOK)
	r.clean()
}

// TestConflictTeaches: the answer to a request that was fenced says which right
// there is now; it does not say that the nexus may not write.
func TestConflictTeaches(t *testing.T) {
	r := newRightRig(t)
	v, ports := r.up(32, "a")
	f := ports[0]
	fenced := r.submit(v, block.OpWrite, 4096)
	s := f.one(block.OpWrite)
	h := answer(s, block.StatusConflict, nil)
	h.Right = 9
	if err := r.c.Reply(f.p, &h, nil); err != nil {
		t.Fatal(err)
	}
	r.ended("fenced", fenced, block.StatusConflict)
	if _, info, _ := v.State(); info.Right != 9 {
		t.Fatalf("right %d, want 9", info.Right)
	}
	next := r.submit(v, block.OpWrite, 4096)
	if s := f.one(block.OpWrite); s.h.Right != 9 {
		t.Errorf("the next write carries %d", s.h.Right)
	} else {
		f.reply(s, block.StatusOK, nil)
	}
	r.ended("next", next, block.StatusOK)
	r.clean()
}

// TestCompareAndWriteIsNotReplayed: it ends Unknown, others are sent again.
func TestCompareAndWriteIsNotReplayed(t *testing.T) {
	r := newRightRig(t)
	v, ports := r.up(32, "a")
	caw := newOp(block.OpCompareAndWrite, 512)
	caw.Buf = make([]byte, 1024)
	v.Submit(&caw.Request)
	w := r.submit(v, block.OpWrite, 4096)
	if s := ports[0].one(block.OpCompareAndWrite); len(s.body) != 1024 {
		t.Fatalf("%d bytes of payload", len(s.body))
	}
	ports[0].ops(block.OpWrite)
	r.restart()
	r.replay, r.handle = wire.ReplayAllowed, 7
	r.login(32)
	f := r.path("b")
	r.serve()
	r.ended("compare-and-write over a restart", caw, block.StatusUnknown)
	if n := len(f.ops(block.OpCompareAndWrite)); n != 0 {
		t.Errorf("it was sent again")
	}
	f.reply(f.one(block.OpWrite), block.StatusOK, nil)
	r.ended("write", w, block.StatusOK)
	r.serve()

	o := newOp(block.OpCompareAndWrite, 512)
	o.Buf = make([]byte, 1024)
	v.Submit(&o.Request)
	s := f.one(block.OpCompareAndWrite)
	h := answer(s, block.StatusMiscompare, nil)
	h.Off = 17
	if err := r.c.Reply(f.p, &h, nil); err != nil {
		t.Fatal(err)
	}
	r.ended("miscompare", o, block.StatusMiscompare)
	if o.N != 17 {
		t.Errorf("first difference at %d, want 17", o.N)
	}
	r.clean()
}
