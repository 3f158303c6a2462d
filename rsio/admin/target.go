// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"net/http"

	"rsio/rsio/admin/api"
)

// NewTargetHandler serves the control API of a target.
func NewTargetHandler(svc api.TargetService) http.Handler {
	s := &server{mux: http.NewServeMux()}
	s.common(svc, nil)
	s.reserveRoutes(svc, nil)
	s.route("GET /v1/volumes", "volume list", nil, func(*http.Request) (any, error) {
		return api.VolumeList{Volumes: list(svc.VolumeList())}, nil
	})
	s.route("POST /v1/volumes", "volume create", nil, func(r *http.Request) (any, error) {
		var spec api.VolumeSpec
		if err := decodeVolume(r, &spec); err != nil {
			return nil, err
		}
		v, err := svc.VolumeCreate(spec)
		return v, at(err, "volume create", volumeName(spec.Namespace, spec.Name))
	})
	s.route("GET /v1/volumes/{ns}/{vol}", "volume show", nil, func(r *http.Request) (any, error) {
		return svc.VolumeShow(r.PathValue("ns"), r.PathValue("vol"))
	})
	s.route("POST /v1/volumes/{ns}/{vol}/resize", "volume resize", nil, func(r *http.Request) (any, error) {
		var spec api.ResizeSpec
		if err := decodeResize(r, &spec); err != nil {
			return nil, err
		}
		return svc.VolumeResize(actor(r), r.PathValue("ns"), r.PathValue("vol"), spec.Size, spec.Shrink, spec.Force)
	})
	s.route("DELETE /v1/volumes/{ns}/{vol}", "volume delete", []string{"force"}, func(r *http.Request) (any, error) {
		force, err := flag(r, "force")
		if err != nil {
			return nil, err
		}
		return nil, svc.VolumeDelete(actor(r), r.PathValue("ns"), r.PathValue("vol"), force)
	})
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeError(w, api.Errorf(api.Usage, r.Method, r.URL.Path, "a target does not know this call",
			"attachments, targets and paths belong to the initiator: name its socket with --admin"))
	})
	return s
}

// actor is the nexus on whose behalf a call came; empty for an administrator.
func actor(r *http.Request) string {
	caller, _ := api.CallerOf(r.Context())
	return caller.Nexus
}

// at puts op and object into an error that lacks them.
func at(err error, op, object string) error {
	if err == nil {
		return nil
	}
	return toError(err, op, object)
}

// decodeVolume reads and checks the body of a create.
func decodeVolume(r *http.Request, spec *api.VolumeSpec) error {
	if err := decode(r, spec); err != nil {
		return err
	}
	if spec.Namespace == "" {
		spec.Namespace = api.DefaultNamespace
	}
	if err := checkVolume(spec.Namespace, spec.Name); err != nil {
		return at(err, "volume create", volumeName(spec.Namespace, spec.Name))
	}
	if spec.Size == 0 {
		return at(usage("the size is missing"), "volume create", volumeName(spec.Namespace, spec.Name))
	}
	return nil
}

func decodeResize(r *http.Request, spec *api.ResizeSpec) error {
	if err := decode(r, spec); err != nil {
		return err
	}
	if spec.Size == 0 {
		return usage("the size is missing")
	}
	return nil
}
