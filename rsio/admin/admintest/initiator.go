// SPDX-License-Identifier: Apache-2.0

package admintest

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"rsio/rsio/admin"
	"rsio/rsio/admin/api"
	"rsio/rsio/audit"
	"rsio/rsio/block"
)

// Initiator is an api.InitiatorService in front of Targets.
type Initiator struct {
	State api.Status
	Log   *audit.Log

	mu       sync.Mutex
	targets  []api.Target
	behind   map[string]*Target
	attached []api.Attachment
	paths    []api.Path
	calls    []api.Call
}

// NewInitiator returns an initiator that knows the given targets.
func NewInitiator(targets ...*Target) *Initiator {
	i := &Initiator{
		State: api.Status{
			Role: "initiator", Name: "h1", Version: "test", Summary: "all is well", State: "ok",
			Started: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), NBD: []string{"unix:/run/rsio/initiator/nbd.sock"},
		},
		Log:    audit.New(nil),
		behind: map[string]*Target{},
	}
	for _, t := range targets {
		name := t.State.Name
		i.behind[name] = t
		i.targets = append(i.targets, api.Target{Name: name, Addresses: []string{"127.0.0.1:8861"}, State: "online", Paths: 1, PathsUp: 1})
		i.paths = append(i.paths, api.Path{ID: name + "/0", Target: name, Nexus: "h1", Local: "127.0.0.1:50000", Remote: "127.0.0.1:8861", State: "up", ServiceUS: 250})
	}
	return i
}

// SetTarget sets the state of a target; one that is offline does not answer.
func (i *Initiator) SetTarget(name, state, reason string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for n := range i.targets {
		if i.targets[n].Name == name {
			i.targets[n].State, i.targets[n].Reason = state, reason
		}
	}
}

// Calls returns what was forwarded.
func (i *Initiator) Calls() []api.Call {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.calls)
}

// Status implements api.Common.
func (i *Initiator) Status() api.Status {
	s := i.State
	s.Targets, s.Attachments = i.TargetList(), i.Attachments()
	return s
}

// Inflight implements api.Common.
func (i *Initiator) Inflight() []api.Inflight { return nil }

// Counters implements api.Common.
func (i *Initiator) Counters() []api.Counters { return nil }

// Events implements api.Common.
func (i *Initiator) Events(ctx context.Context, after uint64) []api.Event {
	return i.Log.Since(ctx, after)
}

// OpenDevice implements api.Common: the first target that has the volume.
func (i *Initiator) OpenDevice(ctx context.Context, namespace, volume string, write bool) (block.Device, func(), error) {
	for _, t := range i.TargetList() {
		if d, done, err := i.behind[t.Name].OpenDevice(ctx, namespace, volume, write); err == nil {
			return d, done, nil
		}
	}
	return nil, nil, block.StatusNotFound
}

// TargetAdd implements api.InitiatorService.
func (i *Initiator) TargetAdd(s api.TargetSpec) (api.Target, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if slices.ContainsFunc(i.targets, func(t api.Target) bool { return t.Name == s.Name }) {
		return api.Target{}, block.StatusExists
	}
	t := api.Target{Name: s.Name, Addresses: s.Addresses, State: "offline", Reason: "connecting", Paths: len(s.Addresses)}
	i.targets = append(i.targets, t)
	i.behind[s.Name] = NewTarget(s.Name)
	return t, nil
}

// TargetRemove implements api.InitiatorService.
func (i *Initiator) TargetRemove(name string) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	n := slices.IndexFunc(i.targets, func(t api.Target) bool { return t.Name == name })
	if n < 0 {
		return block.StatusNotFound
	}
	i.targets = slices.Delete(i.targets, n, n+1)
	return nil
}

// TargetList implements api.InitiatorService.
func (i *Initiator) TargetList() []api.Target {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.targets)
}

// Attach implements api.InitiatorService.
func (i *Initiator) Attach(_ context.Context, s api.AttachSpec) (api.Attachment, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	a := api.Attachment{Namespace: s.Namespace, Volume: s.Volume, VM: s.VM, ReadOnly: s.ReadOnly, Once: s.Once, Nexus: "h1", State: "ok", Paths: 1, PathsUp: 1}
	a.Name = strings.TrimPrefix(s.Namespace+"/"+s.Volume, api.DefaultNamespace+"/")
	if s.VM != "" {
		a.Name, a.Nexus = a.Name+"~"+s.VM, "h1/"+s.VM
	}
	a.URI = "nbd+unix:///" + a.Name + "?socket=/run/rsio/initiator/nbd.sock"
	for n, old := range i.attached {
		if old.Name == a.Name {
			show(&i.attached[n], s.Show)
			return i.attached[n], nil
		}
	}
	show(&a, s.Show)
	for _, t := range i.targets {
		if v, err := i.behind[t.Name].VolumeShow(s.Namespace, s.Volume); err == nil && (s.Target == "" || s.Target == t.Name) {
			a.Target, a.Size = t.Name, v.Size
			i.attached = append(i.attached, a)
			return a, nil
		}
	}
	return a, block.StatusNotFound
}

// show pretends that what is asked for is there.
func show(a *api.Attachment, s api.Show) {
	if s.NBD {
		a.Device, a.Link = "/dev/nbd3", "/dev/rsio/"+a.Namespace+"/"+a.Volume
	}
	if s.Loop {
		a.Loop, a.Link = "/dev/loop5", "/dev/rsio/"+a.Namespace+"/"+a.Volume
	}
	if s.File || s.Loop {
		a.File = "/run/rsio/initiator/files/" + a.Namespace + "/" + a.Volume
	}
}

// Detach implements api.InitiatorService.
func (i *Initiator) Detach(_ context.Context, name string, _ bool) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	n := slices.IndexFunc(i.attached, func(a api.Attachment) bool {
		return slices.Contains([]string{a.Name, a.URI, a.Device, a.Loop, a.File}, name)
	})
	if n < 0 {
		return block.StatusNotFound
	}
	i.attached = slices.Delete(i.attached, n, n+1)
	return nil
}

// Attachments implements api.InitiatorService.
func (i *Initiator) Attachments() []api.Attachment {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.attached)
}

// Paths implements api.InitiatorService.
func (i *Initiator) Paths() []api.Path {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.paths)
}

// PathSet implements api.InitiatorService.
func (i *Initiator) PathSet(id string, enabled bool) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	for n := range i.paths {
		if i.paths[n].ID == id {
			i.paths[n].State = "disabled"
			if enabled {
				i.paths[n].State = "up"
			}
			return nil
		}
	}
	return block.StatusNotFound
}

// Forward implements api.InitiatorService.
func (i *Initiator) Forward(ctx context.Context, target string, c api.Call) (api.Reply, error) {
	targets := i.TargetList()
	if target == "" && len(targets) == 1 {
		target = targets[0].Name
	}
	i.mu.Lock()
	i.calls = append(i.calls, c)
	t, ok := i.behind[target]
	i.mu.Unlock()
	if !ok {
		return api.Reply{}, api.Errorf(api.NotFound, "", target, "there is no such target", "look at rsioctl target list")
	}
	for _, known := range targets {
		if known.Name == target && known.State == "stuck" { // has a path, but no answer
			<-ctx.Done()
			return api.Reply{}, ctx.Err()
		}
	}
	return admin.Call(ctx, admin.NewTargetHandler(t), api.Caller{Nexus: i.State.Name}, c), nil
}
