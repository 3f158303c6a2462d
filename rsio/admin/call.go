// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strings"

	"rsio/rsio/admin/api"
)

// Call runs c against h in memory: a target uses it for calls that came
// through a session, which is caller's; the end of ctx ends it. Streams are
// refused and events do not wait. A control session may do little else than
// reserve and lock.
func Call(ctx context.Context, h http.Handler, caller api.Caller, c api.Call) api.Reply {
	refuse := func(kind api.Kind, why, remedy string) api.Reply {
		e := api.Errorf(kind, "call", c.Path, why, remedy)
		body, _ := json.Marshal(e) // strings only
		return api.Reply{Code: codeOf(e.Kind), Body: body}
	}
	bad := func(why string) api.Reply { return refuse(api.Usage, why, "") }
	if !strings.HasPrefix(c.Path, "/v1/") {
		return bad("the path is wrong")
	}
	if len(c.Body) > maxBody {
		return bad("the body is too long")
	}
	ctx = api.WithCaller(context.WithValue(ctx, forwarded{}, true), caller)
	r, err := http.NewRequestWithContext(ctx, c.Method, "http://target"+c.Path, bytes.NewReader(c.Body))
	if err != nil {
		return bad(err.Error())
	}
	if caller.Control && !controlMay(r) {
		return refuse(api.Denied, "a control session may not do this", "ask the initiator of this host, or the target at its own socket")
	}
	w := &recorder{header: http.Header{}}
	h.ServeHTTP(w, r)
	if w.code == 0 {
		w.code = http.StatusOK
	}
	reply := api.Reply{Code: w.code, Body: w.body.Bytes()}
	if caller.Control && r.URL.Path == "/v1/status" {
		reply = discreet(reply)
	}
	return reply
}

// discreet leaves out of a status what a VM has no business with: other
// sessions, and that other volumes exist.
func discreet(r api.Reply) api.Reply {
	var s api.Status
	if r.Code != http.StatusOK || json.Unmarshal(r.Body, &s) != nil {
		return r
	}
	s = api.Status{Role: s.Role, Name: s.Name, Version: s.Version, State: s.State, Started: s.Started, Warnings: s.Warnings,
		Summary: s.Role + " " + s.Name + " answers: " + s.State + "."}
	r.Body, _ = json.Marshal(s) // plain fields cannot fail
	return r
}

// controlMay reports whether a control session may do r.
func controlMay(r *http.Request) bool {
	verb := r.URL.EscapedPath()
	if part := strings.Split(verb, "/"); len(part) == 6 && strings.HasPrefix(verb, "/v1/volumes/") {
		verb = part[5]
	}
	switch r.Method + " " + verb {
	case "GET /v1/status", "GET reservation", "POST reservation", "POST block":
		return true
	}
	return false
}

// recorder keeps an answer.
type recorder struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func (w *recorder) Header() http.Header { return w.header }

func (w *recorder) WriteHeader(code int) {
	if w.code == 0 {
		w.code = code
	}
}

func (w *recorder) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(b)
}
