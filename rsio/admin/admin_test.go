// SPDX-License-Identifier: Apache-2.0

package admin_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"rsio/rsio/admin"
	"rsio/rsio/admin/admintest"
	"rsio/rsio/admin/api"
)

// serve runs h on a socket until the test ends, and returns a client.
func serve(t *testing.T, h http.Handler) *admin.Client {
	t.Helper()
	dir, err := os.MkdirTemp("", "rsio") // t.TempDir can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "admin.sock")
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- admin.Serve(ctx, path, h) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("serve: %v", err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	waitSocket(t, path)
	return admin.NewClient("unix:" + path)
}

func waitSocket(t *testing.T, path string) {
	t.Helper()
	for range 500 {
		if c, err := net.Dial("unix", path); err == nil {
			_ = c.Close()
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("nobody listens at %s", path)
}

func kindOf(err error) api.Kind {
	var e *api.Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return ""
}

func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestTargetVerbs(t *testing.T) {
	tg := admintest.NewTarget("t1")
	c, ctx := serve(t, admin.NewTargetHandler(tg)), t.Context()
	v := must[api.Volume](t)(c.VolumeCreate(ctx, "", api.VolumeSpec{Name: "v1", Size: 5000, Layers: []string{"fault:op=write"}}))
	if v.Size != 8192 || v.Namespace != "default" || v.Kind != "file" || len(v.Layers) != 1 {
		t.Fatalf("created %+v", v)
	}
	if v := must[api.Volume](t)(c.VolumeResize(ctx, "", "default", "v1", api.ResizeSpec{Size: 1 << 20})); v.Size != 1<<20 {
		t.Fatalf("resized %+v", v)
	}
	if v := must[api.Volume](t)(c.VolumeShow(ctx, "", "default", "v1")); v.Size != 1<<20 {
		t.Fatalf("shown %+v", v)
	}
	if s := must[api.Status](t)(c.Status(ctx, "")); s.Volumes != 1 || s.Role != "target" {
		t.Fatalf("status %+v", s)
	}
	tg.SetOpen("default", "v1", "h1")
	_, resizeErr := c.VolumeResize(ctx, "", "default", "v1", api.ResizeSpec{Size: 4096})
	_, createErr := c.VolumeCreate(ctx, "", api.VolumeSpec{Name: "v1", Size: 1})
	_, sizeErr := c.VolumeCreate(ctx, "", api.VolumeSpec{Name: "v2"})
	_, nameErr := c.VolumeCreate(ctx, "", api.VolumeSpec{Name: "a b", Size: 1})
	_, noneErr := c.VolumeShow(ctx, "", "default", "none")
	_, badErr := c.VolumeShow(ctx, "", "..", "none")
	_, attachErr := c.Attach(ctx, api.AttachSpec{Volume: "v1"})
	for _, row := range []struct {
		desc string
		err  error
		kind api.Kind
		text string
	}{
		{"shrink", resizeErr, api.Usage, "volume resize v1: it would become smaller (allow that)"},
		{"create twice", createErr, api.Exists, "volume create v1: there is one"},
		{"no size", sizeErr, api.Usage, "volume create v2: the size is missing"},
		{"bad name", nameErr, api.Usage, "not allowed"},
		{"show none", noneErr, api.NotFound, "volume show none: not found (look at rsioctl volume list)"},
		{"bad namespace", badErr, api.Usage, "namespace"},
		{"delete an open one", c.VolumeDelete(ctx, "", "default", "v1", false), api.Exists, "volume delete v1: in use"},
		{"attach at a target", attachErr, api.Usage, "belong to the initiator"},
	} {
		if kindOf(row.err) != row.kind || !strings.Contains(row.err.Error(), row.text) {
			t.Errorf("%s: %v", row.desc, row.err)
		}
	}
	if err := c.VolumeDelete(ctx, "", "default", "v1", true); err != nil {
		t.Fatal(err)
	}
	if l := must[api.VolumeList](t)(c.VolumeList(ctx, "")); l.Volumes == nil || len(l.Volumes) != 0 {
		t.Fatalf("list %+v", l)
	}
}

func TestStrict(t *testing.T) {
	h := admin.NewTargetHandler(admintest.NewTarget("t1"))
	for _, row := range []struct {
		desc, method, path, body string
		code                     int
		text                     string
	}{
		{"unknown field", "POST", "/v1/volumes", `{"name":"v","size":1,"colour":"red"}`, 400, "colour"},
		{"two values", "POST", "/v1/volumes", `{"name":"v","size":1}{}`, 400, "behind the end"},
		{"no body", "POST", "/v1/volumes", ``, 400, "empty"},
		{"wrong type", "POST", "/v1/volumes", `{"name":"v","size":-1}`, 400, "size"},
		{"too long", "POST", "/v1/volumes", `{"name":"` + strings.Repeat("v", 1<<20) + `"}`, 400, "more than 1048576 bytes"},
		{"unknown parameter", "GET", "/v1/status?x=1", ``, 400, "x"},
		{"target at a target", "GET", "/v1/volumes?target=t1", ``, 400, "target"},
		{"unknown path", "GET", "/v1/none", ``, 400, "does not know"},
		{"unknown method", "PATCH", "/v1/volumes", ``, 400, "does not know"},
		{"bad action", "POST", "/v1/volumes/default/v/reservation", `{"action":"melt"}`, 400, "melt"},
		{"key that is a number", "POST", "/v1/volumes/default/v/reservation", `{"action":"clear","key":1}`, 400, "not understood"},
		{"reservation at a target's target", "GET", "/v1/volumes/default/v/reservation?target=t1", ``, 400, "target"},
		{"block of nothing", "POST", "/v1/volumes/default/v/block", `{"off":0,"len":0}`, 400, "aligned block"},
		{"block over an end", "POST", "/v1/volumes/default/v/block", `{"off":4000,"len":512}`, 400, "aligned block"},
		{"block at the end of all", "POST", "/v1/volumes/default/v/block", `{"off":18446744073709551615,"len":4096}`, 400, "aligned block"},
		{"compare only", "POST", "/v1/volumes/default/v/block", `{"off":0,"len":1,"compare":"AA=="}`, 400, "nothing to be written"},
		{"compare too little", "POST", "/v1/volumes/default/v/block", `{"off":0,"len":2,"compare":"AA==","write":"AAA="}`, 400, "another length"},
		{"bad flag", "DELETE", "/v1/volumes/default/v?force=maybe", ``, 400, "force"},
		{"bad number", "GET", "/v1/events?after=-1", ``, 400, "after"},
		{"bad name", "GET", "/v1/volumes/default/%20", ``, 400, "not allowed"},
		{"slash in a name", "GET", "/v1/volumes/default/a%2Fb", ``, 400, "not allowed"},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(row.method, row.path, strings.NewReader(row.body)))
		if w.Code != row.code || !strings.Contains(w.Body.String(), row.text) {
			t.Errorf("%s: %d %s", row.desc, w.Code, w.Body)
		}
	}
}

func TestCall(t *testing.T) {
	tg := admintest.NewTarget("t1")
	h := admin.NewTargetHandler(tg)
	for _, row := range []struct {
		desc string
		call api.Call
		code int
		text string
	}{
		{"create", api.Call{Method: "POST", Path: "/v1/volumes", Body: []byte(`{"name":"v","size":4096}`)}, 200, `"uuid-v"`},
		{"list", api.Call{Method: "GET", Path: "/v1/volumes"}, 200, `"uuid-v"`},
		{"none", api.Call{Method: "GET", Path: "/v1/volumes/default/x"}, 404, `"not-found"`},
		{"events do not wait", api.Call{Method: "GET", Path: "/v1/events?wait=60"}, 200, `[]`},
		{"export", api.Call{Method: "GET", Path: "/v1/volumes/default/v/data"}, 400, "session"},
		{"import", api.Call{Method: "PUT", Path: "/v1/volumes/default/v/data"}, 400, "session"},
		{"bad path", api.Call{Method: "GET", Path: "//v1/volumes"}, 400, "path"},
		{"bad escape", api.Call{Method: "GET", Path: "/v1/%zz"}, 400, "invalid"},
		{"bad method", api.Call{Method: "G T", Path: "/v1/volumes"}, 400, "method"},
		{"empty", api.Call{}, 400, "path"},
		{"too long", api.Call{Method: "POST", Path: "/v1/volumes", Body: make([]byte, 2<<20)}, 400, "long"},
	} {
		r := admin.Call(t.Context(), h, api.Caller{Nexus: "h1"}, row.call)
		if r.Code != row.code || !bytes.Contains(r.Body, []byte(row.text)) {
			t.Errorf("%s: %d %s", row.desc, r.Code, r.Body)
		}
	}
	if tg.Open() != 0 {
		t.Error("a device was opened")
	}
}

func TestInitiatorVerbs(t *testing.T) {
	t1 := admintest.NewTarget("t1")
	in := admintest.NewInitiator(t1)
	c, ctx := serve(t, admin.NewInitiatorHandler(in)), t.Context()
	v := must[api.Volume](t)(c.VolumeCreate(ctx, "", api.VolumeSpec{Name: "v1", Size: 1 << 20}))
	if v.Target != "t1" || len(t1.VolumeList()) != 1 {
		t.Fatalf("created %+v", v)
	}
	a := must[api.Attachment](t)(c.Attach(ctx, api.AttachSpec{Volume: "v1", VM: "vm1"}))
	again := must[api.Attachment](t)(c.Attach(ctx, api.AttachSpec{Volume: "v1", VM: "vm1"}))
	if a.URI == "" || a.URI != again.URI || a.Name != "v1~vm1" {
		t.Fatalf("attached %+v %+v", a, again)
	}
	if err := c.Detach(ctx, a.URI, false); err != nil {
		t.Fatal(err)
	}
	if l := must[[]api.Attachment](t)(c.Attachments(ctx)); len(l) != 0 {
		t.Fatalf("attachments %+v", l)
	}
	if err := c.PathSet(ctx, "t1/0", false); err != nil {
		t.Fatal(err)
	}
	if l := must[[]api.Path](t)(c.Paths(ctx)); len(l) != 1 || l[0].State != "disabled" {
		t.Fatalf("paths %+v", l)
	}
	must[api.Target](t)(c.TargetAdd(ctx, api.TargetSpec{Name: "t9", Addresses: []string{"h:1"}}))
	if tt := must[api.Target](t)(c.TargetShow(ctx, "t9")); tt.State != "offline" {
		t.Fatalf("target %+v", tt)
	}
	if err := c.TargetRemove(ctx, "t9"); err != nil {
		t.Fatal(err)
	}
	if s := must[api.Status](t)(c.Status(ctx, "t1")); s.Role != "target" {
		t.Fatalf("status of the target: %+v", s)
	}
	_, showErr := c.TargetShow(ctx, "t9")
	_, addErr := c.TargetAdd(ctx, api.TargetSpec{Name: "t8"})
	_, vmErr := c.Attach(ctx, api.AttachSpec{Volume: "v1", VM: "a/b"})
	for _, row := range []struct {
		desc string
		err  error
		kind api.Kind
		text string
	}{
		{"show none", showErr, api.NotFound, "target show t9"},
		{"no address", addErr, api.Usage, "no address"},
		{"bad VM", vmErr, api.Usage, "VM name"},
		{"detach none", c.Detach(ctx, "x", false), api.NotFound, "detach x"},
		{"no such path", c.PathSet(ctx, "t7/0", true), api.NotFound, "path enable t7/0"},
	} {
		if kindOf(row.err) != row.kind || !strings.Contains(row.err.Error(), row.text) {
			t.Errorf("%s: %v", row.desc, row.err)
		}
	}
}

func TestSeveralTargets(t *testing.T) {
	t1, t2, t3 := admintest.NewTarget("t1"), admintest.NewTarget("t2"), admintest.NewTarget("t3")
	in := admintest.NewInitiator(t1, t2, t3)
	c, ctx := serve(t, admin.NewInitiatorHandler(in)), t.Context()
	for _, v := range [][2]string{{"t1", "a"}, {"t2", "b"}, {"t1", "both"}, {"t2", "both"}} {
		must[api.Volume](t)(c.VolumeCreate(ctx, v[0], api.VolumeSpec{Name: v[1], Size: 4096}))
	}
	if l := must[api.VolumeList](t)(c.VolumeList(ctx, "")); len(l.Volumes) != 4 || l.Volumes[2].Target != "t2" || l.Missing != nil {
		t.Fatalf("list %+v", l)
	}
	if l := must[api.VolumeList](t)(c.VolumeList(ctx, "t2")); len(l.Volumes) != 2 {
		t.Fatalf("list of t2 %+v", l)
	}
	if v := must[api.Volume](t)(c.VolumeShow(ctx, "", "default", "b")); v.Target != "t2" {
		t.Fatalf("show %+v", v)
	}
	in.SetTarget("t3", "offline", "no path")
	if l := must[api.VolumeList](t)(c.VolumeList(ctx, "")); len(l.Volumes) != 4 || len(l.Missing) != 1 || !strings.Contains(l.Missing[0], "no path") {
		t.Fatalf("list without t3 %+v", l)
	}
	_, createErr := c.VolumeCreate(ctx, "", api.VolumeSpec{Name: "x", Size: 1})
	_, twoErr := c.VolumeShow(ctx, "", "default", "both")
	_, noneErr := c.VolumeShow(ctx, "", "default", "none")
	_, targetErr := c.VolumeShow(ctx, "t7", "default", "a")
	for _, row := range []struct {
		desc string
		err  error
		kind api.Kind
		text string
	}{
		{"create without target", createErr, api.Usage, "name one of t1, t2, t3 with --target"},
		{"two of one name", twoErr, api.Usage, "t1 and t2"},
		{"none where one does not answer", noneErr, api.Unreachable, "t3"},
		{"unknown target", targetErr, api.NotFound, "no such target"},
		{"delete of two", c.VolumeDelete(ctx, "", "default", "both", false), api.Usage, "--target"},
		{"delete of one", c.VolumeDelete(ctx, "t1", "default", "both", false), "", ""},
		{"delete at its owner", c.VolumeDelete(ctx, "", "default", "b", false), "", ""},
	} {
		if kindOf(row.err) != row.kind || row.err != nil && !strings.Contains(row.err.Error(), row.text) {
			t.Errorf("%s: %v", row.desc, row.err)
		}
	}
	if len(t1.VolumeList()) != 1 || len(t2.VolumeList()) != 1 {
		t.Errorf("left: %v %v", t1.VolumeList(), t2.VolumeList())
	}
	for _, name := range []string{"t1", "t2"} {
		in.SetTarget(name, "offline", "gone")
	}
	if _, err := c.VolumeList(ctx, ""); kindOf(err) != api.Unreachable {
		t.Errorf("no target: %v", err)
	}
}

func TestEvents(t *testing.T) {
	tg := admintest.NewTarget("t1")
	c, ctx := serve(t, admin.NewTargetHandler(tg)), t.Context()
	if l := must[[]api.Event](t)(c.Events(ctx, "", 0, 0)); l == nil || len(l) != 0 {
		t.Fatalf("events %v", l)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		l, err := c.Events(ctx, "", 0, 20*time.Second)
		if err != nil || len(l) != 1 || l[0].Text != "hello" {
			t.Errorf("events %v %v", l, err)
		}
	})
	time.Sleep(50 * time.Millisecond)
	tg.Log.Add("info", "o", "hello")
	wg.Wait()
}

// broken panics in one verb.
type broken struct{ *admintest.Target }

func (broken) VolumeList() []api.Volume { panic("oh") }

func TestPanicCostsOneCall(t *testing.T) {
	h := admin.NewTargetHandler(broken{admintest.NewTarget("t1")})
	if r := admin.Call(t.Context(), h, api.Caller{}, api.Call{Method: "GET", Path: "/v1/volumes"}); r.Code != 500 || !bytes.Contains(r.Body, []byte("internal error: oh")) {
		t.Errorf("call: %d %s", r.Code, r.Body)
	}
	c := serve(t, h)
	if _, err := c.VolumeList(t.Context(), ""); kindOf(err) != api.Failed || !strings.Contains(err.Error(), "internal error") {
		t.Errorf("socket: %v", err)
	}
	if _, err := c.Status(t.Context(), ""); err != nil {
		t.Error(err)
	}
}
