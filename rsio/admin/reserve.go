// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"fmt"
	"net/http"
	"slices"

	"rsio/rsio/admin/api"
	"rsio/rsio/block"
)

// reserveRoutes adds reservations and blocks, which both roles serve. owner
// finds the target of a volume at an initiator; it is nil at a target. The
// context of the request reaches the services: a change may wait for long, and
// ends with whoever asked for it.
func (s *server) reserveRoutes(svc api.Common, owner func(*http.Request) (string, error)) {
	const volume = "/v1/volumes/{ns}/{vol}"
	add := func(pattern, op string, query []string, fn func(r *http.Request, target string) (any, error)) {
		if owner != nil {
			query = append(slices.Clone(query), "target")
		}
		s.route(pattern, op, query, func(r *http.Request) (any, error) {
			if owner == nil {
				return fn(r, "")
			}
			target, err := owner(r)
			if err != nil {
				return nil, err
			}
			return fn(r, target)
		})
	}
	add("GET "+volume+"/reservation", "reservation show", []string{"as"}, func(r *http.Request, target string) (any, error) {
		out, err := svc.Reservation(r.Context(), target, r.PathValue("ns"), r.PathValue("vol"), r.URL.Query().Get("as"))
		out.Registrants = list(out.Registrants)
		return out, err
	})
	add("POST "+volume+"/reservation", "reservation", nil, func(r *http.Request, target string) (any, error) {
		var spec api.ReserveSpec
		if err := decode(r, &spec); err != nil {
			return nil, err
		}
		if _, err := api.ParseReserve(spec); err != nil {
			return nil, usage(err.Error())
		}
		out, err := svc.Reserve(r.Context(), target, r.PathValue("ns"), r.PathValue("vol"), spec)
		return out, at(err, "reservation "+spec.Action, object(r))
	})
	add("POST "+volume+"/block", "block", nil, func(r *http.Request, target string) (any, error) {
		var c api.BlockCall
		if err := decode(r, &c); err != nil {
			return nil, err
		}
		if err := checkBlock(c); err != nil {
			return nil, err
		}
		return svc.Block(r.Context(), target, r.PathValue("ns"), r.PathValue("vol"), c)
	})
}

// checkBlock refuses what is not within one block.
func checkBlock(c api.BlockCall) error {
	switch {
	case c.Len == 0 || c.Len > block.AtomicLen || c.Off%block.AtomicLen+uint64(c.Len) > block.AtomicLen:
		return usage(fmt.Sprintf("%d bytes at %d are not within one aligned block of %d", c.Len, c.Off, block.AtomicLen))
	case c.Write == nil && c.Compare != nil:
		return usage("something is to be compared, but nothing to be written")
	case c.Write != nil && (len(c.Write) != int(c.Len) || len(c.Compare) != int(c.Len)):
		return usage("what is compared or written has another length")
	}
	return nil
}
