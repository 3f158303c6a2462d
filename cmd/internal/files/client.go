// SPDX-License-Identifier: Apache-2.0

package files

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
	"time"
)

// ErrInUse says that a file is open and was not removed.
var ErrInUse = errors.New("in use")

// callTimeout bounds a call: none waits for the network.
const callTimeout = 10 * time.Second

// Client rules a process that serves files.
type Client struct {
	http http.Client
}

// NewClient returns a client of the process behind a socket; it connects when
// it is used.
func NewClient(socket string) *Client {
	return &Client{http.Client{Timeout: callTimeout, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
		MaxIdleConns: 2,
	}}}
}

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// List returns the files as they are served.
func (c *Client) List(ctx context.Context) (out []State, err error) {
	return out, c.call(ctx, http.MethodGet, "/v1/files", nil, nil, &out)
}

// Put adds a file and waits until it can be opened; adding it again changes
// owner and mode.
func (c *Client) Put(ctx context.Context, f File) error {
	return c.call(ctx, http.MethodPut, "/v1/files", nil, f, nil)
}

// Delete removes a file. One that is open is refused with ErrInUse, unless
// force is set. It is no error if there is none.
func (c *Client) Delete(ctx context.Context, path string, force bool) error {
	q := url.Values{"path": {path}, "force": {fmt.Sprint(force)}}
	return c.call(ctx, http.MethodDelete, "/v1/files", q, nil, nil)
}

// Refresh makes the process look at the size of a file again.
func (c *Client) Refresh(ctx context.Context, path string) error {
	return c.call(ctx, http.MethodPost, "/v1/refresh", url.Values{"path": {path}}, nil, nil)
}

// Fence says under which right of its nexus a file is used from now on: what
// processes have sent to it carries the former one, and changes nothing any
// more when this returns. After an error, call it again.
func (c *Client) Fence(ctx context.Context, path string, right uint64) error {
	q := url.Values{"path": {path}, "right": {fmt.Sprint(right)}}
	return c.call(ctx, http.MethodPost, "/v1/fence", q, nil, nil)
}

// Quit ends the process, which must not have files.
func (c *Client) Quit(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/v1/quit", nil, nil, nil)
}

func (c *Client) call(ctx context.Context, method, path string, q url.Values, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	u := url.URL{Scheme: "http", Host: "files", Path: path, RawQuery: q.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("files: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	switch {
	case err != nil:
		return fmt.Errorf("files: %w", err)
	case resp.StatusCode == http.StatusConflict:
		return fmt.Errorf("%w: %s", ErrInUse, bytes.TrimSpace(b))
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("files: %s", bytes.TrimSpace(b))
	case out != nil:
		return json.Unmarshal(b, out)
	}
	return nil
}
