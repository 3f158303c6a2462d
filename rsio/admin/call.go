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
// through a session. Streams are refused and events do not wait.
func Call(h http.Handler, c api.Call) api.Reply {
	bad := func(why string) api.Reply {
		e := api.Errorf(api.Usage, "call", c.Path, why, "")
		body, _ := json.Marshal(e) // strings only
		return api.Reply{Code: codeOf(e.Kind), Body: body}
	}
	if !strings.HasPrefix(c.Path, "/v1/") {
		return bad("the path is wrong")
	}
	if len(c.Body) > maxBody {
		return bad("the body is too long")
	}
	ctx := context.WithValue(context.Background(), forwarded{}, true)
	r, err := http.NewRequestWithContext(ctx, c.Method, "http://target"+c.Path, bytes.NewReader(c.Body))
	if err != nil {
		return bad(err.Error())
	}
	w := &recorder{header: http.Header{}}
	h.ServeHTTP(w, r)
	if w.code == 0 {
		w.code = http.StatusOK
	}
	return api.Reply{Code: w.code, Body: w.body.Bytes()}
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
