// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"rsio/rsio/admin/api"
)

// listTime is how long a list waits for one target: a dead host must not keep
// the others from view.
const listTime = 5 * time.Second

func (i *initiator) volumeRoutes() {
	target := []string{"target"}
	i.route("GET /v1/volumes", "volume list", target, i.volumeList)
	i.route("POST /v1/volumes", "volume create", target, func(r *http.Request) (any, error) {
		var spec api.VolumeSpec
		if err := decodeVolume(r, &spec); err != nil {
			return nil, err
		}
		t := r.URL.Query().Get("target")
		if names := i.targetNames(); t == "" && len(names) > 1 {
			return nil, api.Errorf(api.Usage, "", volumeName(spec.Namespace, spec.Name),
				"there are several targets", "name one of "+strings.Join(names, ", ")+" with --target")
		}
		return i.passVolume(r, t, spec)
	})
	i.route("GET /v1/volumes/{ns}/{vol}", "volume show", target, func(r *http.Request) (any, error) {
		return i.passOwner(r, nil)
	})
	i.route("POST /v1/volumes/{ns}/{vol}/resize", "volume resize", target, func(r *http.Request) (any, error) {
		var spec api.ResizeSpec
		if err := decodeResize(r, &spec); err != nil {
			return nil, err
		}
		return i.passOwner(r, spec)
	})
	i.route("DELETE /v1/volumes/{ns}/{vol}", "volume delete", []string{"target", "force"}, func(r *http.Request) (any, error) {
		if _, err := flag(r, "force"); err != nil {
			return nil, err
		}
		t, err := i.owner(r)
		if err != nil {
			return nil, err
		}
		return i.pass(r, t, nil)
	})
}

func (i *initiator) targetNames() []string {
	var names []string
	for _, t := range i.svc.TargetList() {
		names = append(names, t.Name)
	}
	return names
}

// pass hands r to a target, with body in the place of its own, and returns
// the answer as it comes.
func (i *initiator) pass(r *http.Request, target string, body any) (any, error) {
	c := api.Call{Method: r.Method, Path: r.URL.Path}
	q := r.URL.Query()
	q.Del("target")
	if len(q) > 0 {
		c.Path += "?" + q.Encode()
	}
	if body != nil {
		js, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		c.Body = js
	}
	reply, err := i.svc.Forward(r.Context(), target, c)
	if err != nil {
		return nil, err
	}
	if reply.Code < 200 || reply.Code > 599 {
		return nil, fmt.Errorf("the target answered with code %d", reply.Code)
	}
	return rawReply(reply), nil
}

// passOwner passes r to the target that has its volume.
func (i *initiator) passOwner(r *http.Request, body any) (any, error) {
	t, err := i.owner(r)
	if err != nil {
		return nil, err
	}
	return i.passVolume(r, t, body)
}

// passVolume is pass for verbs that answer with a volume: the target, which
// does not know what it is called here, is filled in.
func (i *initiator) passVolume(r *http.Request, target string, body any) (any, error) {
	result, err := i.pass(r, target, body)
	if err != nil {
		return nil, err
	}
	raw := result.(rawReply)
	if raw.Code > 299 {
		return raw, nil
	}
	var v api.Volume
	if err := json.Unmarshal(raw.Body, &v); err != nil {
		return nil, fmt.Errorf("the target's answer is not understood: %w", err)
	}
	if names := i.targetNames(); target == "" && len(names) == 1 {
		target = names[0]
	}
	v.Target = target
	return v, nil
}

// owner returns the target of a volume: the one that is named, "" for the only
// one, or the one that has the volume.
func (i *initiator) owner(r *http.Request) (string, error) {
	if t := r.URL.Query().Get("target"); t != "" || len(i.svc.TargetList()) < 2 {
		return t, nil
	}
	all, err := i.merged(r.Context())
	if err != nil {
		return "", err
	}
	var found []string
	for _, v := range all.Volumes {
		if v.Namespace == r.PathValue("ns") && v.Name == r.PathValue("vol") {
			found = append(found, v.Target)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return "", api.Errorf(api.Usage, "", "", "there is one of that name on targets "+strings.Join(found, " and "), "name one with --target")
	case len(all.Missing) > 0:
		return "", api.Errorf(api.Unreachable, "", "", "it is not on the targets that answer; without an answer: "+strings.Join(all.Missing, "; "), "name its target with --target, or look at rsioctl path list")
	}
	return "", api.Errorf(api.NotFound, "", "", "no target has a volume of that name", "look at rsioctl volume list")
}

func (i *initiator) volumeList(r *http.Request) (any, error) {
	if t := r.URL.Query().Get("target"); t != "" {
		return i.listOf(r.Context(), t)
	}
	return i.merged(r.Context())
}

// merged lists the volumes of all targets. It fails only if none answers.
func (i *initiator) merged(ctx context.Context) (api.VolumeList, error) {
	targets := i.svc.TargetList()
	lists, errs := make([]api.VolumeList, len(targets)), make([]error, len(targets))
	var wg sync.WaitGroup
	for n, t := range targets {
		if t.State == "offline" {
			errs[n] = api.Errorf(api.Unreachable, "volume list", t.Name, "the target is offline: "+t.Reason, "look at rsioctl path list")
			continue
		}
		wg.Go(func() { lists[n], errs[n] = i.listOf(ctx, t.Name) })
	}
	wg.Wait()
	all := api.VolumeList{Volumes: []api.Volume{}}
	for n, t := range targets {
		all.Volumes = append(all.Volumes, lists[n].Volumes...)
		if errs[n] != nil {
			all.Missing = append(all.Missing, fmt.Sprintf("target %s: %s", t.Name, reason(errs[n])))
		}
	}
	if len(targets) > 0 && len(all.Missing) == len(targets) {
		return all, api.Errorf(api.Unreachable, "", "", strings.Join(all.Missing, "; "), "look at rsioctl path list")
	}
	return all, nil
}

// reason is the core of an error whose object is named already.
func reason(err error) string { return toError(err, "", "").Reason }

func (i *initiator) listOf(ctx context.Context, target string) (api.VolumeList, error) {
	ctx, cancel := context.WithTimeout(ctx, listTime)
	defer cancel()
	var l api.VolumeList
	reply, err := i.svc.Forward(ctx, target, api.Call{Method: http.MethodGet, Path: "/v1/volumes"})
	if err != nil {
		return l, err
	}
	if reply.Code != http.StatusOK {
		return l, replyError(reply.Code, reply.Body, "volume list", target)
	}
	if err := json.Unmarshal(reply.Body, &l); err != nil {
		return l, fmt.Errorf("the target's answer is not understood: %w", err)
	}
	for n := range l.Volumes {
		l.Volumes[n].Target = target
	}
	return l, nil
}

// replyError makes an error of an answer above 299.
func replyError(code int, body []byte, op, object string) error {
	var e api.Error
	if err := json.Unmarshal(body, &e); err != nil || e.Reason == "" {
		return api.Errorf(api.Failed, op, object, fmt.Sprintf("the daemon answered with code %d: %.200q", code, body), "is there something else behind the socket?")
	}
	return &e
}

// volumePath is the path of a volume in the API.
func volumePath(namespace, name string) string {
	return "/v1/volumes/" + url.PathEscape(namespace) + "/" + url.PathEscape(name)
}
