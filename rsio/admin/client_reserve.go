// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"
	"net/http"

	"rsio/rsio/admin/api"
)

// Reservation tells who may do what to a volume, and what that means for the
// nexus as, whose unit attentions it reports; see api.ReserveSpec.
func (c *Client) Reservation(ctx context.Context, target, namespace, name, as string) (out api.Reservation, err error) {
	v, err := volumeVerb("reservation show", http.MethodGet, target, namespace, name)
	if err != nil {
		return out, err
	}
	v.path += "/reservation"
	return out, c.call(ctx, v.with("as", as), nil, &out)
}

// Reserve changes a reservation. It may take as long as ctx lets it.
func (c *Client) Reserve(ctx context.Context, target, namespace, name string, spec api.ReserveSpec) (out api.ReserveResult, err error) {
	v, err := volumeVerb("reservation "+spec.Action, http.MethodPost, target, namespace, name)
	if err != nil {
		return out, err
	}
	v.path += "/reservation"
	return out, c.call(ctx, v, spec, &out)
}

// Block reads a few bytes of a volume, or compares and writes them in one step.
func (c *Client) Block(ctx context.Context, target, namespace, name string, call api.BlockCall) (out api.BlockReply, err error) {
	v, err := volumeVerb("block", http.MethodPost, target, namespace, name)
	if err != nil {
		return out, err
	}
	v.path += "/block"
	return out, c.call(ctx, v, call, &out)
}
