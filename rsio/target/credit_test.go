// SPDX-License-Identifier: Apache-2.0

package target

import (
	"testing"
	"time"

	"rsio/rsio/block"
	"rsio/rsio/session"
	"rsio/rsio/wire"
)

// TestP11_DeadSessionsGiveCreditBack: hosts that had large windows and died
// must not lock out others for ever. Nothing that was sent under the old
// window can arrive once the connections are gone.
func TestP11_DeadSessionsGiveCreditBack(t *testing.T) {
	r := newRig(t, Options{Budget: 2 * session.MaxWindow})
	r.volume("v")
	var dead *client
	for _, nexus := range []string{"a", "b"} {
		c, h := r.ready("unix", nexus, "v")
		c.want = 1<<32 - 1
		c.check(h, 1)
		dead = c
	}
	if n := r.tg.budget.Reserved(); n != 2*session.MaxWindow {
		t.Fatalf("%d reserved: the test shows nothing", n)
	}
	late := wire.Login{Nexus: []byte("late")}
	if st := r.dial("unix").login(late); st != block.StatusBusy {
		t.Fatalf("with no credit left: %v", st)
	}
	dead.nc.Close()
	start := time.Now()
	until(t, "a third session is let in", func() bool {
		late.Serial++
		return r.dial("unix").login(late) == block.StatusOK
	})
	t.Logf("after %v", time.Since(start))
	// The one that was away learns of its window when it is back.
	again := r.dial("unix")
	if st := again.login(wire.Login{Mode: wire.LoginJoin, Session: dead.resp.Session, Nexus: []byte("b"), Secret: wire.Secret{1}}); st != block.StatusOK {
		t.Fatal(st)
	}
	if again.resp.Window != session.IdleWindow || again.resp.Grant <= dead.ack {
		t.Errorf("window %d, grant %d", again.resp.Window, again.resp.Grant)
	}
}
