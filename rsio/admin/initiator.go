// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"net/http"

	"rsio/rsio/admin/api"
	"rsio/rsio/block"
)

// initiator serves the verbs of an initiator.
type initiator struct {
	*server
	svc api.InitiatorService
}

// NewInitiatorHandler serves the control API of an initiator. Volume verbs go
// to the target that the parameter target names; without it, to the only one,
// or to the one that has the volume.
func NewInitiatorHandler(svc api.InitiatorService) http.Handler {
	i := &initiator{server: &server{mux: http.NewServeMux()}, svc: svc}
	i.common(svc, func(r *http.Request, target string) (any, error) {
		return i.pass(r, target, nil)
	})
	i.reserveRoutes(svc, i.owner)
	i.volumeRoutes()
	i.targetRoutes()
	i.attachRoutes()
	i.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeError(w, api.Errorf(api.Usage, r.Method, r.URL.Path, "an initiator does not know this call", "rsioctl and the daemon may be of different versions"))
	})
	return i
}

func (i *initiator) targetRoutes() {
	i.route("GET /v1/targets", "target list", nil, func(*http.Request) (any, error) {
		return list(i.svc.TargetList()), nil
	})
	i.route("POST /v1/targets", "target add", nil, func(r *http.Request) (any, error) {
		var spec api.TargetSpec
		if err := decode(r, &spec); err != nil {
			return nil, err
		}
		if err := block.CheckName("target", spec.Name); err != nil {
			return nil, at(usage(err.Error()), "target add", spec.Name)
		}
		if len(spec.Addresses) == 0 {
			return nil, at(usage("no address is given"), "target add", spec.Name)
		}
		t, err := i.svc.TargetAdd(spec)
		return t, at(err, "target add", spec.Name)
	})
	i.route("GET /v1/targets/{name}", "target show", nil, func(r *http.Request) (any, error) {
		for _, t := range i.svc.TargetList() {
			if t.Name == r.PathValue("name") {
				return t, nil
			}
		}
		return nil, api.Errorf(api.NotFound, "", "", "there is no such target", "look at rsioctl target list")
	})
	i.route("DELETE /v1/targets/{name}", "target remove", nil, func(r *http.Request) (any, error) {
		return nil, i.svc.TargetRemove(r.PathValue("name"))
	})
}

func (i *initiator) attachRoutes() {
	i.route("GET /v1/attachments", "attachment list", nil, func(*http.Request) (any, error) {
		return list(i.svc.Attachments()), nil
	})
	i.route("POST /v1/attachments", "attach", nil, func(r *http.Request) (any, error) {
		var spec api.AttachSpec
		if err := decode(r, &spec); err != nil {
			return nil, err
		}
		if spec.Namespace == "" {
			spec.Namespace = api.DefaultNamespace
		}
		name := volumeName(spec.Namespace, spec.Volume)
		err := checkVolume(spec.Namespace, spec.Volume)
		if vmErr := block.CheckName("VM", spec.VM); err == nil && spec.VM != "" && vmErr != nil {
			err = usage(vmErr.Error())
		}
		if err != nil {
			return nil, at(err, "attach", name)
		}
		a, err := i.svc.Attach(r.Context(), spec)
		return a, at(err, "attach", name)
	})
	i.route("POST /v1/detach", "detach", nil, func(r *http.Request) (any, error) {
		var spec api.DetachSpec
		if err := decode(r, &spec); err != nil {
			return nil, err
		}
		if spec.Name == "" {
			return nil, usage("the attachment is missing")
		}
		return nil, at(i.svc.Detach(r.Context(), spec.Name, spec.Force), "detach", spec.Name)
	})
	i.route("GET /v1/paths", "path list", nil, func(*http.Request) (any, error) {
		return list(i.svc.Paths()), nil
	})
	i.route("POST /v1/paths", "path", nil, func(r *http.Request) (any, error) {
		var spec api.PathSpec
		if err := decode(r, &spec); err != nil {
			return nil, err
		}
		op := "path disable"
		if spec.Enabled {
			op = "path enable"
		}
		if spec.ID == "" {
			return nil, at(usage("the path is missing"), op, "")
		}
		return nil, at(i.svc.PathSet(spec.ID, spec.Enabled), op, spec.ID)
	})
}
