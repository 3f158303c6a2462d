// SPDX-License-Identifier: Apache-2.0

package initiator

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"rsio/rsio/admin/api"
	"rsio/rsio/block"
	"rsio/rsio/netio"
	"rsio/rsio/transport"
	"rsio/rsio/wire"
)

// Control is a control session at a target: no I/O, reservations, locks and
// status only, for a VM that has no initiator of its own. It carries calls of
// the control API, one at a time; it is a http.RoundTripper, so that their
// client can use it. There is one goroutine, which pings; Close joins it.
type Control struct {
	c    *netio.Conn
	stop chan struct{}
	wg   sync.WaitGroup

	mu  sync.Mutex // around a call
	seq uint64
}

// controlPing is how often a control session says that it lives; a target
// closes a connection that is silent for 12 s.
const controlPing = 3 * time.Second

// DialControl opens a control session. Nexus is HOST/VM, or a VM, which then
// acts for the nexus under which its volume is attached.
func DialControl(ctx context.Context, a transport.Addr, nexus string) (*Control, error) {
	const op = "connect to"
	if err := block.CheckNexus(nexus); err != nil {
		return nil, api.Errorf(api.Usage, op, a.String(), err.Error(), "")
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	nc, err := transport.Dial(ctx, a)
	if err != nil {
		return nil, api.Errorf(api.Unreachable, op, a.String(), err.Error(), "check that rsio-target listens there")
	}
	c, err := netio.New(nc, 0, 0)
	if err != nil {
		_ = nc.Close() // it ended already
		return nil, api.Errorf(api.Unreachable, op, a.String(), err.Error(), "")
	}
	l := wire.Login{VersionMin: wire.VersionMin, VersionMax: wire.VersionMax, Features: wire.Features, Mode: wire.LoginControl, Nexus: []byte(nexus)}
	st, r, err := exchange(c, &l)
	switch {
	case err != nil:
		err = api.Errorf(api.Unreachable, op, a.String(), err.Error(), "")
	case st == block.StatusDenied:
		err = api.Errorf(api.Denied, op, a.String(), string(r.Text), "")
	case st != block.StatusOK:
		err = api.Errorf(api.Failed, op, a.String(), "login refused: "+st.Error()+": "+string(r.Text), "")
	case r.Features != wire.Features:
		err = api.Errorf(api.Failed, op, a.String(), "the target knows no reservations", "update it")
	}
	if err != nil {
		c.Close(nil)
		c.Wait()
		return nil, err
	}
	x := &Control{c: c, stop: make(chan struct{})}
	x.wg.Go(x.ping)
	return x, nil
}

func (x *Control) ping() {
	t := time.NewTicker(controlPing)
	defer t.Stop()
	for {
		select {
		case <-x.stop:
			return
		case <-t.C:
			transport.Send(x.c, wire.Header{Kind: wire.KindPing, Seq: 1}, nil, true)
		}
	}
}

// Close ends the session.
func (x *Control) Close() {
	close(x.stop)
	x.wg.Wait()
	x.c.Close(nil)
	x.c.Wait()
}

// RoundTrip carries one call; see http.RoundTripper. The end of the request's
// context ends the session: what was asked for and is not decided is taken
// back by the target.
func (x *Control) RoundTrip(req *http.Request) (*http.Response, error) {
	call := api.Call{Method: req.Method, Path: req.URL.RequestURI()}
	if req.Body != nil {
		b, err := io.ReadAll(io.LimitReader(req.Body, wire.MaxControl))
		_ = req.Body.Close() // read only
		if err != nil {
			return nil, err
		}
		call.Body = b
	}
	payload, err := json.Marshal(call)
	if err != nil {
		return nil, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	stop := context.AfterFunc(req.Context(), func() { x.c.Close(context.Cause(req.Context())) })
	defer stop()
	reply, st, err := x.call(payload)
	if err != nil {
		if cause := req.Context().Err(); cause != nil {
			err = cause
		}
		return nil, err
	}
	if st != block.StatusOK {
		return nil, fmt.Errorf("the target refuses the call: %w", st)
	}
	var a api.Reply
	if err := json.Unmarshal(reply, &a); err != nil {
		return nil, fmt.Errorf("the target's answer is not understood: %w", err)
	}
	return &http.Response{StatusCode: a.Code, Status: http.StatusText(a.Code), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(a.Body)),
		ContentLength: int64(len(a.Body)), Request: req}, nil
}

// call sends a call and reads until its answer.
func (x *Control) call(payload []byte) ([]byte, block.Status, error) {
	if len(payload) > wire.MaxControl {
		return nil, 0, fmt.Errorf("a call of %d bytes is too long", len(payload))
	}
	x.seq++
	transport.Send(x.c, wire.Header{Kind: wire.KindRequest, Op: wire.OpAdmin, Seq: x.seq}, payload, true)
	for {
		var h wire.Header
		if err := transport.ReadHeader(x.c, &h, true); err != nil {
			return nil, 0, err
		}
		p := make([]byte, h.PayloadLen)
		if err := transport.ReadPayload(x.c, &h, p, true); err != nil {
			return nil, 0, err
		}
		if h.Kind == wire.KindResponse && h.Seq == x.seq {
			return p, h.Status, nil
		}
	}
}
