// SPDX-License-Identifier: Apache-2.0

// Package admin is the control API of the daemons: JSON over HTTP on a unix
// socket, its client, and the streams that carry images.
//
//	GET    /v1/volumes                        api.VolumeList
//	POST   /v1/volumes                        api.VolumeSpec -> api.Volume
//	GET    /v1/volumes/NS/VOL                 api.Volume
//	DELETE /v1/volumes/NS/VOL?force=true
//	POST   /v1/volumes/NS/VOL/resize          api.ResizeSpec -> api.Volume
//	PUT    /v1/volumes/NS/VOL/data            image stream -> api.Transfer
//	GET    /v1/volumes/NS/VOL/data            image stream
//	GET    /v1/volumes/NS/VOL/reservation?as=NEXUS   api.Reservation
//	POST   /v1/volumes/NS/VOL/reservation     api.ReserveSpec -> api.ReserveResult
//	POST   /v1/volumes/NS/VOL/block           api.BlockCall -> api.BlockReply
//	GET    /v1/status, inflight, counters     api.Status, []api.Inflight, []api.Counters
//	GET    /v1/events?after=ID&wait=SECONDS   []api.Event
//
// and at an initiator
//
//	GET    /v1/targets                        []api.Target
//	POST   /v1/targets                        api.TargetSpec -> api.Target
//	GET    /v1/targets/NAME                   api.Target
//	DELETE /v1/targets/NAME
//	GET    /v1/attachments                    []api.Attachment
//	POST   /v1/attachments                    api.AttachSpec -> api.Attachment
//	POST   /v1/detach                         api.DetachSpec
//	GET    /v1/paths                          []api.Path
//	POST   /v1/paths                          api.PathSpec
//
// An initiator takes a parameter target=NAME with everything that is the
// target's, and passes the call on inside its session; streams, reservations
// and blocks it serves itself, through a device or session of its own. What
// comes through a session is Call's: a control session may only ask for the
// status, reservations and blocks. An answer above 299 carries an
// api.Error. What is not understood is refused: unknown fields, parameters,
// paths.
//
// Goroutines: those of net/http, joined by Serve; a list at an initiator asks
// its targets at the same time and waits for all.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"rsio/rsio/admin/api"
	"rsio/rsio/block"
)

// Limits of the control API.
const (
	maxBody  = 1 << 20          // bytes of a JSON body
	bodyTime = 30 * time.Second // for a JSON body to arrive
)

// endpoint serves one verb: the result is sent as JSON, nil as an empty
// object.
type endpoint func(r *http.Request) (any, error)

// server is what the handlers of both roles share.
type server struct {
	mux *http.ServeMux
}

// route adds a verb. op is its name in errors; query lists the parameters it
// takes.
func (s *server) route(pattern, op string, query []string, fn endpoint) {
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		result, err := checked(query, fn, r)
		if err != nil {
			writeError(w, toError(err, op, object(r)))
			return
		}
		if raw, ok := result.(rawReply); ok {
			writeRaw(w, raw.Code, raw.Body)
			return
		}
		if result == nil {
			result = struct{}{}
		}
		writeJSON(w, http.StatusOK, result)
	})
}

// rawReply is the answer of a target that goes out as it came.
type rawReply api.Reply

func checked(query []string, fn endpoint, r *http.Request) (any, error) {
	for k := range r.URL.Query() {
		if !slices.Contains(query, k) {
			return nil, usage(fmt.Sprintf("parameter %.40q is not known here", k))
		}
	}
	if ns := r.PathValue("ns"); ns != "" {
		if err := checkVolume(ns, r.PathValue("vol")); err != nil {
			return nil, err
		}
	}
	return fn(r)
}

// ServeHTTP makes a panic of a verb cost that call only.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		if p == http.ErrAbortHandler {
			panic(p)
		}
		writeError(w, api.Errorf(api.Failed, "call", r.URL.Path, fmt.Sprintf("internal error: %v", p), "report it with the log of the daemon"))
	}()
	s.mux.ServeHTTP(w, r)
}

// object names what a request is about.
func object(r *http.Request) string {
	if ns := r.PathValue("ns"); ns != "" {
		return volumeName(ns, r.PathValue("vol"))
	}
	return r.PathValue("name")
}

func volumeName(namespace, name string) string {
	if namespace == api.DefaultNamespace {
		return name
	}
	return namespace + "/" + name
}

func checkVolume(namespace, name string) error {
	if err := block.CheckName("namespace", namespace); err != nil {
		return usage(err.Error())
	}
	if err := block.CheckName("volume", name); err != nil {
		return usage(err.Error())
	}
	return nil
}

// usage is an error whose op and object are filled in by route.
func usage(reason string) error { return api.Errorf(api.Usage, "", "", reason, "") }

// decode reads the body, strictly.
func decode(r *http.Request, into any) error {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil {
		return usage("the body did not arrive: " + err.Error())
	}
	if len(body) > maxBody {
		return usage(fmt.Sprintf("the body has more than %d bytes", maxBody))
	}
	return strictJSON(body, into)
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	body, err := json.Marshal(v)
	if err != nil { // a number that JSON cannot express, say
		code = http.StatusInternalServerError
		body, _ = json.Marshal(api.Errorf(api.Failed, "call", "", err.Error(), ""))
	}
	writeRaw(w, code, append(body, '\n'))
}

func writeRaw(w http.ResponseWriter, code int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body))) // known to be whole before the call ends
	w.WriteHeader(code)
	_, _ = w.Write(body) // the client is gone: nobody is left to tell
}

func writeError(w http.ResponseWriter, e *api.Error) { writeJSON(w, codeOf(e.Kind), e) }

func codeOf(k api.Kind) int {
	switch k {
	case api.Usage:
		return http.StatusBadRequest
	case api.NotFound:
		return http.StatusNotFound
	case api.Exists:
		return http.StatusConflict
	case api.Denied:
		return http.StatusForbidden
	case api.Unreachable:
		return http.StatusBadGateway
	case api.Timeout:
		return http.StatusGatewayTimeout
	case api.Conflict:
		return http.StatusLocked
	}
	return http.StatusInternalServerError
}

// toError makes an api.Error of whatever a service returned.
func toError(err error, op, object string) *api.Error {
	var e *api.Error
	if !errors.As(err, &e) {
		kind, remedy := kindOf(err)
		return api.Errorf(kind, op, object, err.Error(), remedy)
	}
	full := *e
	if full.Op == "" {
		full.Op = op
	}
	if full.Object == "" {
		full.Object = object
	}
	return &full
}

func kindOf(err error) (api.Kind, string) {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return api.Timeout, "look at rsioctl status and rsioctl inflight"
	case errors.Is(err, context.Canceled):
		return api.Failed, "the caller gave up or the daemon is stopping"
	}
	var st block.Status
	if !errors.As(err, &st) {
		return api.Failed, ""
	}
	switch st {
	case block.StatusInvalid, block.StatusUnsupported:
		return api.Usage, ""
	case block.StatusNotFound, block.StatusNoSession:
		return api.NotFound, "look at rsioctl volume list"
	case block.StatusExists:
		return api.Exists, "choose another name, or delete it first"
	case block.StatusInUse:
		return api.Exists, "look at rsioctl volume show who has it open"
	case block.StatusDenied, block.StatusReadOnly:
		return api.Denied, ""
	case block.StatusConflict:
		return api.Conflict, "another nexus holds a reservation"
	case block.StatusTimeout:
		return api.Timeout, "look at rsioctl status"
	case block.StatusNoSpace:
		return api.Failed, "make room in the pool"
	case block.StatusDraining, block.StatusBusy:
		return api.Failed, "try again soon"
	}
	return api.Failed, ""
}
