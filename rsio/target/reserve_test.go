// SPDX-License-Identifier: Apache-2.0

package target

import (
	"bytes"
	"context"
	"testing"

	"rsio/rsio/admin/api"
	"rsio/rsio/block"
	"rsio/rsio/wire"
)

// TestSpeaksFor: a host speaks for itself and its VMs, a VM for itself.
func TestSpeaksFor(t *testing.T) {
	rows := []struct {
		session, nexus string
		want           bool
	}{
		{"h1", "h1", true},
		{"h1", "h1/vm", true},
		{"h1", "h2", false},
		{"h1", "h10/vm", false},
		{"h1/vm", "h1/vm", true},
		{"h1/vm", "h1", false},
		{"h1/vm", "h1/vm2", false},
	}
	for _, row := range rows {
		if got := speaksFor(row.session, row.nexus); got != row.want {
			t.Errorf("%s for %s: %v", row.session, row.nexus, got)
		}
	}
}

// TestCompareAndWrite end to end over the wire: it writes, tells where the
// difference is, and a repeated copy gets the stored answer.
func TestCompareAndWrite(t *testing.T) {
	r := newRig(t, Options{})
	r.volume("v")
	c := r.dial("unix")
	l := wire.Login{Nexus: []byte("h"), Secret: wire.Secret{1}}
	if st := c.loginWith(l, wire.Features); st != block.StatusOK {
		t.Fatal(st)
	}
	h := c.open("v", 0)
	old, fresh := make([]byte, 512), bytes.Repeat([]byte{7}, 512)
	caw := wire.Header{Op: block.OpCompareAndWrite, Slot: 20, Volume: h, Off: 4096, Len: 512, Right: openRight}
	if st, _ := c.call(caw, append(append([]byte(nil), old...), fresh...)); st != block.StatusOK {
		t.Fatalf("compare-and-write: %v", st)
	}
	near := append([]byte(nil), fresh...)
	near[100] ^= 1
	sent := c.send(caw, append(near, old...))
	if a, _ := c.answer(sent); a.Status != block.StatusMiscompare || a.Off != 100 {
		t.Errorf("miscompare: %v at %d, want 100", a.Status, a.Off)
	}
	if err := c.write(frame(sent, append(near, old...))); err != nil {
		t.Fatal(err)
	}
	if a, _ := c.answer(sent); a.Status != block.StatusMiscompare || a.Off != 100 {
		t.Errorf("repeated: %v at %d", a.Status, a.Off)
	}
	if _, p := c.call(wire.Header{Op: block.OpRead, Slot: 21, Volume: h, Off: 4096, Len: 512}, nil); !bytes.Equal(p, fresh) {
		t.Error("the miscompare has written")
	}
	r.idle()
}

// TestRights: a request with another right than the present one is a conflict,
// and the answer says which is the present one; a peer without the feature is
// bound to the right it opened the volume with.
func TestRights(t *testing.T) {
	r := newRig(t, Options{})
	r.volume("v")
	c := r.dial("unix")
	if st := c.loginWith(wire.Login{Nexus: []byte("h"), Secret: wire.Secret{1}}, wire.Features); st != block.StatusOK {
		t.Fatal(st)
	}
	h := c.open("v", 0)
	a, _ := c.answer(c.send(wire.Header{Op: block.OpWrite, Slot: 20, Volume: h, Len: 512, Right: openRight + 1}, make([]byte, 512)))
	if a.Status != block.StatusConflict || a.Right != openRight {
		t.Errorf("a foreign right: %v, present right %d", a.Status, a.Right)
	}
	if st, _ := c.call(wire.Header{Op: block.OpWrite, Slot: 20, Volume: h, Len: 512, Right: openRight}, make([]byte, 512)); st != block.StatusOK {
		t.Errorf("the present right: %v", st)
	}
	plain, ph := r.ready("unix", "old", "v")
	plain.check(ph, 1)
	v := r.tg.find(api.DefaultNamespace, "v")
	seat := r.tg.gate.Seat(v.uuid, "old")
	defer r.tg.gate.Unseat(v.uuid, "old")
	seat.Set(openRight+1, block.AccessAll)
	if st, _ := plain.call(wire.Header{Op: block.OpWrite, Slot: 20, Volume: ph, Len: 512}, make([]byte, 512)); st != block.StatusConflict {
		t.Errorf("without the feature, after a fence: %v", st)
	}
	if err := plain.write(frame(wire.Header{Kind: wire.KindRequest, Op: block.OpWrite, Slot: 22, Seq: 1, Volume: ph, Len: 512, Right: 1}, make([]byte, 512))); err != nil {
		t.Fatal(err)
	}
	plain.ended("a right without the feature")
}

// TestControlSession: any number beside the session with I/O, and no I/O.
func TestControlSession(t *testing.T) {
	r := newRig(t, Options{})
	r.tg.SetAdmin(func(_ context.Context, c api.Caller, _ []byte) []byte {
		if !c.Control {
			t.Error("the caller is not known as a control session")
		}
		return []byte(c.Nexus)
	})
	r.volume("v")
	_, h := r.ready("unix", "h/vm", "v")
	for range 3 {
		c := r.dial("unix")
		if st := c.loginWith(wire.Login{Mode: wire.LoginControl, Nexus: []byte("vm")}, wire.Features); st != block.StatusOK {
			t.Fatal(st)
		}
		if st, p := c.call(wire.Header{Op: wire.OpAdmin}, []byte("{}")); st != block.StatusOK || string(p) != "vm" {
			t.Errorf("admin: %v %q", st, p)
		}
		o := wire.Open{Namespace: []byte("default"), Volume: []byte("v")}
		if st, _ := c.call(wire.Header{Op: wire.OpOpen}, o.Append(nil)); st != block.StatusDenied {
			t.Errorf("open: %v", st)
		}
		in := wire.ReserveIn{What: wire.ReadFullStatus, Namespace: []byte("default"), Volume: []byte("v")}
		if st, _ := c.call(wire.Header{Op: wire.OpReserveIn}, in.Append(nil)); st != block.StatusOK {
			t.Errorf("reserve-in for the VM whose disk is attached: %v", st)
		}
		if err := c.write(frame(wire.Header{Kind: wire.KindRequest, Op: block.OpRead, Slot: 16, Seq: 1, Volume: h, Len: 512}, nil)); err != nil {
			t.Fatal(err)
		}
		c.ended("I/O on a control session")
	}
	c := r.dial("unix")
	if st := c.loginWith(wire.Login{Mode: wire.LoginControl, Nexus: []byte("vm")}, wire.FeatureDigest); st != block.StatusUnsupported {
		t.Errorf("without the feature: %v", st)
	}
	until(t, "control sessions end with their connections", func() bool {
		r.tg.mu.Lock()
		defer r.tg.mu.Unlock()
		return r.tg.controls == 0
	})
}
