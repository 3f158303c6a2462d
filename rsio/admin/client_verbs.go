// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"rsio/rsio/admin/api"
	"rsio/rsio/block"
)

// In all methods, target names a target when the daemon is an initiator; it
// may be empty.

// Status returns the state of the daemon.
func (c *Client) Status(ctx context.Context, target string) (s api.Status, err error) {
	v := verb{op: "status", method: http.MethodGet, path: "/v1/status"}.with("target", target)
	return s, c.call(ctx, v, nil, &s)
}

// Inflight returns the requests in flight.
func (c *Client) Inflight(ctx context.Context, target string) (l []api.Inflight, err error) {
	v := verb{op: "inflight", method: http.MethodGet, path: "/v1/inflight"}.with("target", target)
	return l, c.call(ctx, v, nil, &l)
}

// Counters returns totals since the start of the daemon.
func (c *Client) Counters(ctx context.Context, target string) (l []api.Counters, err error) {
	v := verb{op: "counters", method: http.MethodGet, path: "/v1/counters"}.with("target", target)
	return l, c.call(ctx, v, nil, &l)
}

// Events returns events with an ID above after. If there are none, it waits
// for one up to wait (whole seconds, at most a minute).
func (c *Client) Events(ctx context.Context, target string, after uint64, wait time.Duration) (l []api.Event, err error) {
	v := verb{op: "events", method: http.MethodGet, path: "/v1/events"}.with("target", target).
		with("after", strconv.FormatUint(after, 10)).with("wait", strconv.Itoa(int(wait/time.Second)))
	return l, c.call(ctx, v, nil, &l)
}

// volumeVerb is a verb for one volume; its names are checked before anything
// is sent.
func volumeVerb(op, method, target, namespace, name string) (verb, error) {
	v := verb{op: op, object: volumeName(namespace, name), method: method, path: volumePath(namespace, name)}
	err := at(checkVolume(namespace, name), op, v.object)
	return v.with("target", target), err
}

// VolumeCreate makes a volume.
func (c *Client) VolumeCreate(ctx context.Context, target string, spec api.VolumeSpec) (out api.Volume, err error) {
	v := verb{op: "volume create", object: volumeName(spec.Namespace, spec.Name), method: http.MethodPost, path: "/v1/volumes"}
	return out, c.call(ctx, v.with("target", target), spec, &out)
}

// VolumeList lists the volumes of the target, or of all targets.
func (c *Client) VolumeList(ctx context.Context, target string) (l api.VolumeList, err error) {
	v := verb{op: "volume list", method: http.MethodGet, path: "/v1/volumes"}.with("target", target)
	return l, c.call(ctx, v, nil, &l)
}

// VolumeShow returns one volume.
func (c *Client) VolumeShow(ctx context.Context, target, namespace, name string) (out api.Volume, err error) {
	v, err := volumeVerb("volume show", http.MethodGet, target, namespace, name)
	if err != nil {
		return out, err
	}
	return out, c.call(ctx, v, nil, &out)
}

// VolumeResize sets the size of a volume.
func (c *Client) VolumeResize(ctx context.Context, target, namespace, name string, spec api.ResizeSpec) (out api.Volume, err error) {
	v, err := volumeVerb("volume resize", http.MethodPost, target, namespace, name)
	if err != nil {
		return out, err
	}
	v.path += "/resize"
	return out, c.call(ctx, v, spec, &out)
}

// VolumeDelete destroys a volume.
func (c *Client) VolumeDelete(ctx context.Context, target, namespace, name string, force bool) error {
	v, err := volumeVerb("volume delete", http.MethodDelete, target, namespace, name)
	if err != nil {
		return err
	}
	if force {
		v = v.with("force", "true")
	}
	return c.call(ctx, v, nil, nil)
}

// TargetAdd tells an initiator of a target.
func (c *Client) TargetAdd(ctx context.Context, spec api.TargetSpec) (t api.Target, err error) {
	return t, c.call(ctx, verb{op: "target add", object: spec.Name, method: http.MethodPost, path: "/v1/targets"}, spec, &t)
}

// TargetList lists the targets that an initiator knows.
func (c *Client) TargetList(ctx context.Context) (l []api.Target, err error) {
	return l, c.call(ctx, verb{op: "target list", method: http.MethodGet, path: "/v1/targets"}, nil, &l)
}

// TargetShow returns one target.
func (c *Client) TargetShow(ctx context.Context, name string) (t api.Target, err error) {
	v, err := targetVerb("target show", http.MethodGet, name)
	if err != nil {
		return t, err
	}
	return t, c.call(ctx, v, nil, &t)
}

// TargetRemove makes an initiator forget a target.
func (c *Client) TargetRemove(ctx context.Context, name string) error {
	v, err := targetVerb("target remove", http.MethodDelete, name)
	if err != nil {
		return err
	}
	return c.call(ctx, v, nil, nil)
}

func targetVerb(op, method, name string) (verb, error) {
	v := verb{op: op, object: name, method: method, path: "/v1/targets/" + url.PathEscape(name)}
	if err := block.CheckName("target", name); err != nil {
		return v, at(usage(err.Error()), op, name)
	}
	return v, nil
}

// Attach makes an initiator present a volume; doing it again returns the same
// attachment.
func (c *Client) Attach(ctx context.Context, spec api.AttachSpec) (a api.Attachment, err error) {
	v := verb{op: "attach", object: volumeName(spec.Namespace, spec.Volume), method: http.MethodPost, path: "/v1/attachments"}
	return a, c.call(ctx, v, spec, &a)
}

// Detach ends an attachment, by name or URI.
func (c *Client) Detach(ctx context.Context, name string, force bool) error {
	v := verb{op: "detach", object: name, method: http.MethodPost, path: "/v1/detach"}
	return c.call(ctx, v, api.DetachSpec{Name: name, Force: force}, nil)
}

// Attachments lists what an initiator presents.
func (c *Client) Attachments(ctx context.Context) (l []api.Attachment, err error) {
	return l, c.call(ctx, verb{op: "attachment list", method: http.MethodGet, path: "/v1/attachments"}, nil, &l)
}

// Paths lists the paths of an initiator.
func (c *Client) Paths(ctx context.Context) (l []api.Path, err error) {
	return l, c.call(ctx, verb{op: "path list", method: http.MethodGet, path: "/v1/paths"}, nil, &l)
}

// PathSet enables or disables a path, by ID or address.
func (c *Client) PathSet(ctx context.Context, id string, enabled bool) error {
	op := "path disable"
	if enabled {
		op = "path enable"
	}
	return c.call(ctx, verb{op: op, object: id, method: http.MethodPost, path: "/v1/paths"}, api.PathSpec{ID: id, Enabled: enabled}, nil)
}
