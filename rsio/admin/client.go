// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"rsio/rsio/admin/api"
)

// Client talks to the control socket of a daemon. Every error is an
// *api.Error. Its methods may be called from any goroutine; nothing stays
// open between calls.
type Client struct {
	socket string
	http   *http.Client
}

// maxReply bounds a JSON answer in bytes.
const maxReply = 64 << 20

// NewClient returns a client of the daemon at socket, PATH or unix:PATH.
func NewClient(socket string) *Client {
	path := strings.TrimPrefix(socket, "unix:")
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
	return &Client{socket: path, http: &http.Client{
		Transport: &http.Transport{
			DialContext: dial,
			// A call is never repeated by the library: each has a connection
			// of its own.
			DisableKeepAlives:     true,
			DisableCompression:    true,
			ExpectContinueTimeout: time.Hour, // an import waits until its volume is open
			WriteBufferSize:       64 << 10,
			ReadBufferSize:        64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// NewClientOver returns a client whose calls go through rt, to a daemon that
// answers somewhere else than at a socket of this host: rsioctl speaks through
// a control session this way. Only the path, the query and the body of a
// request count.
func NewClientOver(rt http.RoundTripper) *Client {
	return &Client{socket: "the other end of the session", http: &http.Client{
		Transport:     rt,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Socket returns the path of the socket.
func (c *Client) Socket() string { return c.socket }

// verb is one call.
type verb struct {
	op, object string
	method     string
	path       string
	query      url.Values
}

func (v verb) with(key, value string) verb {
	if value == "" {
		return v
	}
	q := url.Values{key: {value}}
	for k, old := range v.query {
		q[k] = old
	}
	v.query = q
	return v
}

// call sends body as JSON, if it is not nil, and decodes the answer into
// result, if that is not nil.
func (c *Client) call(ctx context.Context, v verb, body, result any) error {
	var r io.Reader
	if body != nil {
		js, err := json.Marshal(body)
		if err != nil {
			return api.Errorf(api.Usage, v.op, v.object, err.Error(), "")
		}
		r = bytes.NewReader(js)
	}
	resp, err := c.send(ctx, v, r, nil)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // only read
	return c.decode(ctx, v, resp, result)
}

// decode reads a good answer.
func (c *Client) decode(ctx context.Context, v verb, resp *http.Response, result any) error {
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if err != nil {
		return c.lost(ctx, v, err)
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(b, result); err != nil {
		return api.Errorf(api.Failed, v.op, v.object, "the answer is not understood: "+err.Error(), "rsioctl and the daemon may be of different versions")
	}
	return nil
}

// send makes the call; an answer above 299 is an error.
func (c *Client) send(ctx context.Context, v verb, body io.Reader, header http.Header) (*http.Response, error) {
	u := url.URL{Scheme: "http", Host: "rsio", Path: v.path, RawQuery: v.query.Encode()}
	req, err := http.NewRequestWithContext(ctx, v.method, u.String(), body)
	if err != nil {
		return nil, api.Errorf(api.Usage, v.op, v.object, err.Error(), "")
	}
	for k, l := range header {
		req.Header[k] = l
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.lost(ctx, v, err)
	}
	if resp.StatusCode <= 299 {
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }() // only read
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return nil, c.lost(ctx, v, err)
	}
	return nil, replyError(resp.StatusCode, b, v.op, v.object)
}

// lost makes an error of a call that did not get its answer.
func (c *Client) lost(ctx context.Context, v verb, err error) error {
	var dial *net.OpError
	isDial := errors.As(err, &dial) && dial.Op == "dial"
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return api.Errorf(api.Timeout, v.op, v.object, "no answer in time from "+c.socket, "what was asked may still happen: look at rsioctl status, or give more --timeout")
	case ctx.Err() != nil:
		return api.Errorf(api.Failed, v.op, v.object, "interrupted", "what was asked may still happen")
	case isDial && errors.Is(err, os.ErrPermission):
		e := errDenied(c.socket)
		e.Op, e.Object = v.op, v.object
		return e
	case isDial && (errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)):
		return api.Errorf(api.Unreachable, v.op, v.object, "no daemon answers at "+c.socket, "start it, or name another socket with --admin unix:PATH or RSIO_ADMIN")
	case isDial:
		return api.Errorf(api.Unreachable, v.op, v.object, fmt.Sprintf("no daemon answers at %s: %v", c.socket, dial.Err), "name another socket with --admin unix:PATH or RSIO_ADMIN")
	}
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	}
	return api.Errorf(api.Unreachable, v.op, v.object, fmt.Sprintf("the daemon at %s went away before it answered: %v", c.socket, err), "what was asked may have happened: look at rsioctl status")
}
