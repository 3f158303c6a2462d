// SPDX-License-Identifier: Apache-2.0

package admin_test

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"rsio/rsio/admin"
	"rsio/rsio/admin/admintest"
	"rsio/rsio/admin/api"
)

func TestReservations(t *testing.T) {
	t1, t2 := admintest.NewTarget("t1"), admintest.NewTarget("t2")
	in := admintest.NewInitiator(t1, t2)
	c, ctx := serve(t, admin.NewInitiatorHandler(in)), t.Context()
	for _, v := range [][2]string{{"t2", "v1"}, {"t1", "both"}, {"t2", "both"}} {
		must[api.Volume](t)(c.VolumeCreate(ctx, v[0], api.VolumeSpec{Name: v[1], Size: 8192}))
	}
	out := must[api.ReserveResult](t)(c.Reserve(ctx, "", "default", "v1", api.ReserveSpec{Action: "register", NewKey: 1 << 63}))
	if out.Nexus != "h1" || out.Generation != 1 {
		t.Fatalf("registered %+v", out)
	}
	must[api.ReserveResult](t)(c.Reserve(ctx, "t2", "default", "v1", api.ReserveSpec{Action: "reserve", Type: "ea", Key: 1 << 63}))
	r := must[api.Reservation](t)(c.Reservation(ctx, "", "default", "v1", "vm1"))
	if r.Type != "ea" || r.Nexus != "h1/vm1" || r.Access != "-" || len(r.Registrants) != 1 || r.Registrants[0] != (api.Registrant{Nexus: "h1", Key: 1 << 63, Holder: true}) {
		t.Fatalf("reservation %+v", r)
	}
	if r := must[api.Reservation](t)(c.Reservation(ctx, "t1", "default", "both", "")); r.Registrants == nil || r.Type != "none" {
		t.Fatalf("of nobody %+v", r)
	}
	_, refused := c.Reserve(ctx, "", "default", "v1", api.ReserveSpec{As: "vm1", Action: "reserve", Type: "we"})
	_, twoErr := c.Reserve(ctx, "", "default", "both", api.ReserveSpec{Action: "clear"})
	_, noneErr := c.Reservation(ctx, "", "default", "none", "")
	_, wrongErr := c.Reservation(ctx, "t1", "default", "v1", "")
	_, nameErr := c.Block(ctx, "", "default", "..", api.BlockCall{Len: 1})
	_, fencedErr := c.Block(ctx, "", "default", "v1", api.BlockCall{As: "vm1", Len: 1})
	for _, row := range []struct {
		desc string
		err  error
		kind api.Kind
		text string
	}{
		{"refused", refused, api.Conflict, "reservation reserve v1: reservation conflict"},
		{"two of one name", twoErr, api.Usage, "t1 and t2"},
		{"no such volume", noneErr, api.NotFound, "reservation show none"},
		{"at another target", wrongErr, api.NotFound, "v1"},
		{"bad name", nameErr, api.Usage, "block"},
		{"block of a fenced VM", fencedErr, api.Conflict, "block v1"},
	} {
		if kindOf(row.err) != row.kind || !strings.Contains(row.err.Error(), row.text) {
			t.Errorf("%s: %v", row.desc, row.err)
		}
	}
}

func TestBlock(t *testing.T) {
	c, ctx := serve(t, admin.NewTargetHandler(admintest.NewTarget("t1"))), t.Context()
	must[api.Volume](t)(c.VolumeCreate(ctx, "", api.VolumeSpec{Name: "v1", Size: 8192}))
	call := api.BlockCall{As: "h1", Off: 4096, Len: 512, Compare: make([]byte, 512), Write: bytes.Repeat([]byte("abcd"), 128)}
	if r := must[api.BlockReply](t)(c.Block(ctx, "", "default", "v1", call)); !r.Written || r.Data != nil {
		t.Errorf("written %+v", r)
	}
	call.Compare = bytes.Repeat([]byte("abXd"), 128)
	if r := must[api.BlockReply](t)(c.Block(ctx, "", "default", "v1", call)); r.Written || r.Differs != 2 {
		t.Errorf("differs %+v", r)
	}
	if r := must[api.BlockReply](t)(c.Block(ctx, "", "default", "v1", api.BlockCall{As: "h1", Off: 4096, Len: 512})); r.Written || !bytes.Equal(r.Data, call.Write) {
		t.Errorf("read %+v", r)
	}
	if _, err := c.Block(ctx, "", "default", "v1", api.BlockCall{Len: 512}); kindOf(err) != api.Usage {
		t.Errorf("by nobody: %v", err)
	}
}

// ended tells when the context of a Reserve has ended.
type ended struct {
	*admintest.Target
	ch chan error
}

func (e ended) Reserve(ctx context.Context, _, _, _ string, _ api.ReserveSpec) (api.ReserveResult, error) {
	<-ctx.Done()
	e.ch <- ctx.Err()
	return api.ReserveResult{}, ctx.Err()
}

func TestReserveEndsWithItsCaller(t *testing.T) {
	e := ended{admintest.NewTarget("t1"), make(chan error, 1)}
	c := serve(t, admin.NewTargetHandler(e))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Reserve(ctx, "", "default", "v1", api.ReserveSpec{Action: "clear"}); kindOf(err) != api.Timeout {
		t.Errorf("caller: %v", err)
	}
	select {
	case <-e.ch:
	case <-time.After(10 * time.Second):
		t.Error("the service still waits")
	}
}

func TestControlSession(t *testing.T) {
	tg := admintest.NewTarget("t1")
	h := admin.NewTargetHandler(tg)
	must[api.Volume](t)(tg.VolumeCreate(api.VolumeSpec{Namespace: "default", Name: "v", Size: 8192}))
	control, session := api.Caller{Nexus: "h1/vm1", Control: true}, api.Caller{Nexus: "h2"}
	register := []byte(`{"action":"register","key":"0","new_key":"7"}`)
	reserve := []byte(`{"action":"reserve","type":"we","key":"7","new_key":"0"}`)
	const vol = "/v1/volumes/default/v"
	for _, row := range []struct {
		desc   string
		caller api.Caller
		call   api.Call
		code   int
		text   string
	}{
		{"status", control, api.Call{Method: "GET", Path: "/v1/status"}, 200, `"t1"`},
		{"register", control, api.Call{Method: "POST", Path: vol + "/reservation", Body: register}, 200, `"h1/vm1"`},
		{"reserve", control, api.Call{Method: "POST", Path: vol + "/reservation", Body: reserve}, 200, `"generation":1`},
		{"reservation", control, api.Call{Method: "GET", Path: vol + "/reservation?as=h1/vm1"}, 200, `"access":"rw"`},
		{"block", control, api.Call{Method: "POST", Path: vol + "/block", Body: []byte(`{"off":0,"len":512}`)}, 200, `"AAAA`},
		{"list", control, api.Call{Method: "GET", Path: "/v1/volumes"}, 403, "a control session may not do this"},
		{"show", control, api.Call{Method: "GET", Path: vol}, 403, "may not"},
		{"delete", control, api.Call{Method: "DELETE", Path: vol + "?force=true"}, 403, "may not"},
		{"delete by a wrong name", control, api.Call{Method: "DELETE", Path: vol + "/reservation"}, 403, "may not"},
		{"resize", control, api.Call{Method: "POST", Path: vol + "/resize", Body: []byte(`{"size":4096}`)}, 403, "may not"},
		{"create", control, api.Call{Method: "POST", Path: "/v1/volumes", Body: []byte(`{"name":"w","size":1}`)}, 403, "may not"},
		{"a trick", control, api.Call{Method: "POST", Path: "/v1/volumes/default/v%2Fresize/../block"}, 403, "may not"},
		{"events", control, api.Call{Method: "GET", Path: "/v1/events"}, 403, "may not"},
		{"bad method", control, api.Call{Method: "PUT", Path: vol + "/block"}, 403, "may not"},
		{"resize by another", session, api.Call{Method: "POST", Path: vol + "/resize", Body: []byte(`{"size":16384}`)}, 423, "it is reserved: we h1/vm1"},
		{"delete by another", session, api.Call{Method: "DELETE", Path: vol}, 423, "it is reserved"},
		{"resize by the holder", api.Caller{Nexus: "h1/vm1"}, api.Call{Method: "POST", Path: vol + "/resize", Body: []byte(`{"size":12288}`)}, 200, "12288"},
		{"resize by force", session, api.Call{Method: "POST", Path: vol + "/resize", Body: []byte(`{"size":16384,"force":true}`)}, 200, "16384"},
		{"delete by force", session, api.Call{Method: "DELETE", Path: vol + "?force=true"}, 200, "{}"},
	} {
		r := admin.Call(t.Context(), h, row.caller, row.call)
		if r.Code != row.code || !bytes.Contains(r.Body, []byte(row.text)) {
			t.Errorf("%s: %d %s", row.desc, r.Code, r.Body)
		}
	}
}

// through is a round tripper straight into a handler, or an error.
type through struct {
	h   http.Handler
	err error
}

func (t through) RoundTrip(r *http.Request) (*http.Response, error) {
	if t.err != nil {
		return nil, t.err
	}
	w := httptest.NewRecorder()
	t.h.ServeHTTP(w, r)
	return w.Result(), nil
}

func TestClientOver(t *testing.T) {
	tg := admintest.NewTarget("t1")
	must[api.Volume](t)(tg.VolumeCreate(api.VolumeSpec{Namespace: "default", Name: "v", Size: 8192}))
	c := admin.NewClientOver(through{h: admin.NewTargetHandler(tg)})
	if s := must[api.Status](t)(c.Status(t.Context(), "")); s.Name != "t1" {
		t.Errorf("status %+v", s)
	}
	out := must[api.ReserveResult](t)(c.Reserve(t.Context(), "", "default", "v", api.ReserveSpec{As: "h1", Action: "register", NewKey: 1}))
	if out.Nexus != "h1" {
		t.Errorf("registered %+v", out)
	}
	if _, err := c.VolumeShow(t.Context(), "", "default", "none"); kindOf(err) != api.NotFound {
		t.Errorf("none: %v", err)
	}
	c = admin.NewClientOver(through{err: net.ErrClosed})
	if _, err := c.Status(t.Context(), ""); kindOf(err) != api.Unreachable || !strings.Contains(err.Error(), "the other end of the session") {
		t.Errorf("no session: %v", err)
	}
}
