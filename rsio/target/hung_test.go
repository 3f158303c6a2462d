// SPDX-License-Identifier: Apache-2.0

package target

import (
	"bytes"
	"testing"
	"time"

	"rsio/rsio/block"
	"rsio/rsio/wire"
)

// TestP8_HungWindowLostPath fills the window with writes that hang in the disk,
// loses their path and sends them again on another one: that path must stay
// alive, and answer them when the disk comes back.
func TestP8_HungWindowLostPath(t *testing.T) {
	const n = 16 // times 4 KiB is the idle window
	r := newRig(t, Options{})
	r.volume("v", "fault:op=write,do=hang")
	a, h := r.ready("unix", "h", "v")
	data := bytes.Repeat([]byte{7}, 4096)
	var sent []wire.Header
	for i := range n {
		sent = append(sent, a.send(wire.Header{Op: block.OpWrite, Slot: uint32(20 + i), Volume: h, Off: uint64(i) * 4096, Len: 4096}, data))
	}
	f := r.faults("v")
	until(t, "all writes hang", func() bool { return f.Held() == n })
	b := r.join(a, "h")
	if err := a.nc.Close(); err != nil {
		t.Fatal(err)
	}
	for _, w := range sent {
		if err := b.write(frame(w, data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.nc.SetReadDeadline(time.Now().Add(3 * time.Second)); err != nil {
		t.Fatal(err)
	}
	b.ping() // fails the test if no pong comes
	f.Release()
	for answers := 0; answers < n; {
		hd, _, err := b.recv()
		if err != nil {
			t.Fatalf("%d of %d answers: %v", answers, n, err)
		}
		if hd.Kind == wire.KindResponse {
			if hd.Status != block.StatusOK {
				t.Errorf("slot %d: %v", hd.Slot, hd.Status)
			}
			answers++
		}
	}
	if hits := f.Hits(); hits != n {
		t.Errorf("%d writes were executed, want %d", hits, n)
	}
}
