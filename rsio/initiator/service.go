// SPDX-License-Identifier: Apache-2.0

package initiator

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"rsio/rsio/admin/api"
	"rsio/rsio/audit"
	"rsio/rsio/block"
	"rsio/rsio/wire"
)

// attachTimeout is how long attach waits for a target: the grace after a
// restart and some more.
const attachTimeout = 8 * time.Second

// TargetAdd adds a target; see api.InitiatorService.
func (i *Initiator) TargetAdd(spec api.TargetSpec) (api.Target, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if t := i.target(spec.Name); t != nil {
		if slices.Equal(t.spec.Addresses, spec.Addresses) {
			return i.describeTarget(t), nil
		}
		return api.Target{}, api.Errorf(api.Exists, "target add", spec.Name, "there is a target of that name with other addresses", "remove it first")
	}
	if err := i.addTarget(spec); err != nil {
		return api.Target{}, err
	}
	t := i.target(spec.Name)
	if _, err := i.linkFor(t, i.opt.Name); err != nil {
		return api.Target{}, api.Wrap(err, api.Failed, "target add", spec.Name, "")
	}
	if err := i.save(); err != nil {
		return api.Target{}, api.Wrap(err, api.Failed, "target add", spec.Name, "")
	}
	return i.describeTarget(t), nil
}

// TargetRemove removes a target that no attachment uses.
func (i *Initiator) TargetRemove(name string) error {
	const op = "target remove"
	i.mu.Lock()
	t := i.target(name)
	if t == nil {
		i.mu.Unlock()
		return api.Errorf(api.NotFound, op, name, "no such target is configured", "rsioctl target list shows those there are")
	}
	for _, a := range i.attach {
		if a.target == name {
			i.mu.Unlock()
			return api.Errorf(api.Exists, op, name, "attachment "+a.name+" uses it", "detach it first")
		}
	}
	i.targets = slices.DeleteFunc(i.targets, func(x *targetEntry) bool { return x == t })
	var links []*link
	for k, l := range i.links {
		if l.target == name {
			links = append(links, l)
			delete(i.links, k)
		}
	}
	err := i.save()
	i.mu.Unlock()
	for _, l := range links {
		l.close()
	}
	return api.Wrap(err, api.Failed, op, name, "")
}

// TargetList lists the targets as configured.
func (i *Initiator) TargetList() []api.Target {
	i.mu.Lock()
	defer i.mu.Unlock()
	out := make([]api.Target, 0, len(i.targets))
	for _, t := range i.targets {
		out = append(out, i.describeTarget(t))
	}
	return out
}

// describeTarget tells what is known of a target. i.mu is held.
func (i *Initiator) describeTarget(t *targetEntry) api.Target {
	out := api.Target{Name: t.spec.Name, Addresses: t.spec.Addresses, State: "offline", Paths: len(t.addrs)}
	l, err := i.linkFor(t, i.opt.Name)
	if err != nil {
		out.Reason = err.Error()
		return out
	}
	if s, ok := l.client.Session(); ok {
		out.Instance = fmt.Sprintf("%x", s.Instance[:4])
	}
	for _, p := range l.pathList() {
		if d := p.describe(); d.State == stateUp {
			out.PathsUp++
		}
	}
	switch out.PathsUp {
	case out.Paths:
		out.State = "online"
	case 0:
		out.Reason = l.why()
	default:
		out.State, out.Reason = "degraded", l.why()
	}
	return out
}

// Forward hands a call of the control API to a target.
func (i *Initiator) Forward(ctx context.Context, target string, c api.Call) (api.Reply, error) {
	if target == "" {
		i.mu.Lock()
		n := len(i.targets)
		if n == 1 {
			target = i.targets[0].spec.Name
		}
		i.mu.Unlock()
		if n != 1 {
			return api.Reply{}, api.Errorf(api.Usage, "forward", c.Path, fmt.Sprintf("%d targets are configured", n), "name one with --target, or add one with rsioctl target add")
		}
	}
	payload, err := json.Marshal(c)
	if err != nil {
		return api.Reply{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, attachTimeout)
	defer cancel()
	out, err := i.call(ctx, target, wire.OpAdmin, payload)
	if err != nil {
		return api.Reply{}, err
	}
	var r api.Reply
	return r, json.Unmarshal(out, &r)
}

// Attachments lists the attachments, sorted by name, and who uses them.
func (i *Initiator) Attachments() []api.Attachment {
	out := i.attachments()
	for n := range out {
		out[n].OpenBy = i.opt.Frontend.Users(out[n].Name)
	}
	return out
}

func (i *Initiator) attachments() []api.Attachment {
	i.mu.Lock()
	list := make([]*attachment, 0, len(i.attach))
	for _, a := range i.attach {
		list = append(list, a)
	}
	i.mu.Unlock()
	slices.SortFunc(list, func(a, b *attachment) int { return strings.Compare(a.name, b.name) })
	out := make([]api.Attachment, 0, len(list))
	for _, a := range list {
		out = append(out, i.describe(a))
	}
	return out
}

func (i *Initiator) describe(a *attachment) api.Attachment {
	if a == nil {
		return api.Attachment{}
	}
	state, _, st := a.v.State()
	out := api.Attachment{Name: a.name, Namespace: a.spec.Namespace, Volume: a.spec.Volume, VM: a.spec.VM, Nexus: a.nexus,
		Target: a.target, Size: a.Info().Size, ReadOnly: a.spec.ReadOnly, Once: a.spec.Once, URI: i.opt.Frontend.URI(a.name),
		State: "ok", Clients: i.opt.Frontend.Clients(a.name), Shown: i.opt.Frontend.Shown(a.name)}
	for _, p := range a.l.pathList() {
		out.Paths++
		if p.describe().State == stateUp {
			out.PathsUp++
		}
	}
	switch {
	case state == "failed":
		out.State, out.Reason = "failed", st.Error()
		if why := a.l.client.Why(); why != "" && a.l.client.Failed() != block.StatusOK {
			out.Reason = why
		}
	case out.PathsUp == 0:
		out.State, out.Reason = "parked", "no path to target "+a.target+": "+a.l.why()
	case state != "ok":
		out.State, out.Reason = "parked", state
	}
	return out
}

// describe tells what is known of a path.
func (p *path) describe() api.Path {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := api.Path{ID: p.id, Target: p.l.target, Nexus: p.l.nexus, Local: p.addr.Local, Remote: p.addr.Address,
		State: p.state, Reason: p.reason, Failures: p.failures}
	if p.conn != nil {
		out.Local = p.conn.NetConn().LocalAddr().String()
	}
	if p.sp == nil {
		return out
	}
	d := p.sp.Describe()
	out.Outstanding, out.ServiceUS, out.Requests, out.Bytes, out.Resent = d.Outstanding, float64(d.Service)/1e3, d.Requests, d.Bytes, d.Resent
	if d.Suspect {
		out.State, out.Reason = stateSuspect, "silent"
	}
	return out
}

func (i *Initiator) linkList() []*link {
	i.mu.Lock()
	defer i.mu.Unlock()
	out := make([]*link, 0, len(i.links))
	for _, l := range i.links {
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b *link) int {
		return strings.Compare(a.target+" "+a.nexus, b.target+" "+b.nexus)
	})
	return out
}

// Paths lists all paths of all sessions.
func (i *Initiator) Paths() []api.Path {
	out := []api.Path{}
	for _, l := range i.linkList() {
		for _, p := range l.pathList() {
			out = append(out, p.describe())
		}
	}
	return out
}

// PathSet disables or enables a path, for all sessions that use it.
func (i *Initiator) PathSet(id string, enabled bool) error {
	found := false
	for _, l := range i.linkList() {
		for _, p := range l.pathList() {
			if p.name() == id || p.addr.String() == id || p.addr.Address == id {
				p.enable(enabled)
				found = true
			}
		}
	}
	if !found {
		return api.Errorf(api.NotFound, "path set", id, "there is no such path", "rsioctl path list shows those there are")
	}
	return nil
}

// Status tells how the initiator is; Summary names the worst thing.
func (i *Initiator) Status() api.Status {
	st := api.Status{Role: "initiator", Name: i.opt.Name, Version: i.opt.Version, State: "ok", Started: i.started,
		NBD: i.opt.Frontend.Addresses(), Targets: i.TargetList(), Attachments: i.attachments()}
	if i.opt.Memory != nil {
		st.Memory = i.opt.Memory()
	}
	st.Checks = i.opt.Frontend.Checks()
	st.Volumes = len(st.Attachments)
	st.Summary = fmt.Sprintf("initiator %s: all is well: %d attachments, %d targets.", i.opt.Name, len(st.Attachments), len(st.Targets))
	rank := 0
	worse := func(r int, state, format string, args ...any) {
		if r > rank {
			rank, st.State = r, state
			st.Summary = fmt.Sprintf("initiator %s: ", i.opt.Name) + fmt.Sprintf(format, args...)
		}
	}
	for _, t := range st.Targets {
		switch t.State {
		case "offline":
			worse(2, "error", "target %s is offline: %s.", t.Name, t.Reason)
		case "degraded":
			worse(1, "warning", "target %s: %d of %d paths are up: %s.", t.Name, t.PathsUp, t.Paths, t.Reason)
		}
	}
	for _, a := range st.Attachments {
		switch a.State {
		case "failed":
			worse(4, "error", "attachment %s has failed: %s.", a.Name, a.Reason)
		case "parked":
			worse(3, "error", "I/O of attachment %s waits: %s.", a.Name, a.Reason)
		}
		if a.Trouble != "" {
			worse(4, "error", "attachment %s: %s.", a.Name, a.Trouble)
		}
	}
	return st
}

// Inflight lists what is in flight.
func (i *Initiator) Inflight() []api.Inflight {
	out := []api.Inflight{}
	for _, l := range i.linkList() {
		for _, f := range l.client.InFlight() {
			out = append(out, api.Inflight{Volume: f.Volume, Nexus: l.nexus, Op: f.Op.String(), Off: f.Off, Len: f.Len,
				Age: f.Age, Where: f.Paths})
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, a := range i.attach {
		if _, n := a.v.Load(); n > 0 {
			out = append(out, api.Inflight{Volume: a.name, Nexus: a.nexus, Op: fmt.Sprintf("%d requests", n), Where: "waiting"})
		}
	}
	return out
}

// Counters returns totals per attachment.
func (i *Initiator) Counters() []api.Counters {
	i.mu.Lock()
	list := make([]*attachment, 0, len(i.attach))
	for _, a := range i.attach {
		list = append(list, a)
	}
	i.mu.Unlock()
	slices.SortFunc(list, func(a, b *attachment) int { return strings.Compare(a.name, b.name) })
	out := make([]api.Counters, 0, len(list))
	for _, a := range list {
		s := a.v.Stats()
		flying, _ := a.v.Load()
		out = append(out, api.Counters{Name: a.name, Reads: s.Reads, Writes: s.Writes, Flushes: s.Flushes, Others: s.Others,
			ReadBytes: s.ReadBytes, WriteBytes: s.WriteBytes, Errors: s.Errors, Conflicts: s.Conflicts, Inflight: uint64(flying), Busy: s.Busy})
	}
	return out
}

// Events passes on the event log.
func (i *Initiator) Events(ctx context.Context, after uint64) []api.Event {
	return i.opt.Events.Since(ctx, after)
}

// OpenDevice opens a volume under the host's nexus, for import and export. An
// attachment of the host is used if there is one.
func (i *Initiator) OpenDevice(ctx context.Context, namespace, volume string, write bool) (dev block.Device, done func(), err error) {
	spec := api.AttachSpec{Namespace: namespace, Volume: volume, ReadOnly: !write}
	if spec.Namespace == "" {
		spec.Namespace = api.DefaultNamespace
	}
	name := attachmentName(spec)
	i.mu.Lock()
	a := i.attach[name]
	i.mu.Unlock()
	if a != nil && (!write || !a.spec.ReadOnly) {
		return a, func() {}, nil
	}
	// The session has one handle per volume: an attachment that comes
	// meanwhile would lose it when we close ours.
	a, err = i.claim(spec, name)
	if err != nil {
		return nil, nil, api.Wrap(err, api.Exists, "open", name, "try again")
	}
	if a != nil { // attached in this moment
		i.release(name)
		return a, func() {}, nil
	}
	defer func() {
		if err != nil {
			i.release(name)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, attachTimeout)
	defer cancel()
	target, err := i.locate(ctx, spec)
	if err != nil {
		return nil, nil, err
	}
	l, err := i.useLink(target, i.opt.Name)
	if err != nil {
		return nil, nil, err
	}
	a = i.newAttachment(spec, l, block.Info{})
	if err := a.wait(ctx); err != nil {
		why := l.why()
		l.client.CloseVolume(a.v, true, func(block.Status) {})
		i.dropLink(l)
		return nil, nil, attachError(name, target, why, err)
	}
	return a, func() { i.closeDevice(a) }, nil
}

// closeDevice ends what OpenDevice opened.
func (i *Initiator) closeDevice(a *attachment) {
	done := make(chan block.Status, 1)
	a.l.client.CloseVolume(a.v, true, func(st block.Status) { done <- st })
	select {
	case <-done:
	case <-time.After(attachTimeout): // the record at the target is cleared by the next one
	}
	if err := i.run.forget(a.runKey()); err != nil {
		i.opt.Events.Add(audit.Warning, a.name, err.Error())
	}
	i.dropLink(a.l)
	i.release(a.name)
}
