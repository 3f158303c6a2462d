// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"rsio/rsio/admin/api"
)

// maxWait bounds a long poll for events.
const maxWait = 60 * time.Second

// forwarded marks the context of a call that came through a session.
type forwarded struct{}

func isForwarded(r *http.Request) bool { return r.Context().Value(forwarded{}) != nil }

// common adds the verbs of both roles. At an initiator, pass hands a call for
// a target on; nil at a target.
func (s *server) common(svc api.Common, pass func(r *http.Request, target string) (any, error)) {
	add := func(pattern, op string, query []string, local endpoint) {
		if pass != nil {
			query = append(query, "target")
		}
		s.route(pattern, op, query, func(r *http.Request) (any, error) {
			if t := r.URL.Query().Get("target"); t != "" {
				return pass(r, t)
			}
			return local(r)
		})
	}
	add("GET /v1/status", "status", nil, func(*http.Request) (any, error) { return svc.Status(), nil })
	add("GET /v1/inflight", "inflight", nil, func(*http.Request) (any, error) { return list(svc.Inflight()), nil })
	add("GET /v1/counters", "counters", nil, func(*http.Request) (any, error) { return list(svc.Counters()), nil })
	add("GET /v1/events", "events", []string{"after", "wait"}, func(r *http.Request) (any, error) { return events(svc, r) })
	s.mux.HandleFunc("PUT /v1/volumes/{ns}/{vol}/data", func(w http.ResponseWriter, r *http.Request) { serveImport(svc, w, r) })
	s.mux.HandleFunc("GET /v1/volumes/{ns}/{vol}/data", func(w http.ResponseWriter, r *http.Request) { serveExport(svc, w, r) })
}

// list makes sure that an empty list is sent as one.
func list[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}

func events(svc api.Common, r *http.Request) (any, error) {
	after, err := number(r, "after")
	if err != nil {
		return nil, err
	}
	seconds, err := number(r, "wait")
	if err != nil {
		return nil, err
	}
	wait := min(time.Duration(min(seconds, 1<<20))*time.Second, maxWait)
	if isForwarded(r) { // nobody may hold a session's call for long
		wait = 0
	}
	ctx, cancel := context.WithTimeout(r.Context(), wait)
	defer cancel()
	return list(svc.Events(ctx, after)), nil
}

// number returns a parameter that is zero if absent.
func number(r *http.Request, name string) (uint64, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, usage("parameter " + name + " is not a number")
	}
	return n, nil
}

// flag returns a parameter that is false if absent.
func flag(r *http.Request, name string) (bool, error) {
	switch r.URL.Query().Get(name) {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	}
	return false, usage("parameter " + name + " is neither true nor false")
}
