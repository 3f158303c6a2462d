// SPDX-License-Identifier: Apache-2.0

package initiator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"rsio/rsio/admin/api"
	"rsio/rsio/audit"
	"rsio/rsio/block"
)

// errBusy says that a name is claimed.
var errBusy = errors.New("it is being attached or detached at this moment")

// claimEvery is the time between two tries to claim a name.
const claimEvery = 20 * time.Millisecond

// Attach attaches a volume; repeating it returns the same attachment.
func (i *Initiator) Attach(ctx context.Context, spec api.AttachSpec) (api.Attachment, error) {
	const op = "attach"
	if spec.Namespace == "" {
		spec.Namespace = api.DefaultNamespace
	}
	name := attachmentName(spec)
	err := errors.Join(block.CheckName("namespace", spec.Namespace), block.CheckName("volume", spec.Volume))
	if spec.VM != "" {
		err = errors.Join(err, block.CheckName("VM", spec.VM))
	}
	if err != nil {
		return api.Attachment{}, api.Errorf(api.Usage, op, name, err.Error(), "")
	}
	if err := checkShow(spec.Show, name); err != nil {
		return api.Attachment{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, attachTimeout)
	defer cancel()
	a, err := i.claim(spec, name)
	for ; errors.Is(err, errBusy) && ctx.Err() == nil; a, err = i.claim(spec, name) {
		time.Sleep(claimEvery) // somebody attaches the same
	}
	if err != nil {
		return api.Attachment{}, api.Wrap(err, api.Exists, op, name, "try again")
	}
	defer i.release(name)
	if a != nil {
		return i.showMore(ctx, a, spec.Show)
	}
	if spec.Target == "" {
		if spec.Target, err = i.locate(ctx, spec); err != nil {
			return api.Attachment{}, err
		}
	}
	l, err := i.useLink(spec.Target, i.nexus(spec.VM))
	if err != nil {
		return api.Attachment{}, api.Wrap(err, api.Failed, op, name, "")
	}
	show := spec.Show
	spec.Show = api.Show{} // until it is there
	a = i.newAttachment(spec, l, block.Info{})
	if err := a.wait(ctx); err != nil {
		why := l.why()
		l.client.CloseVolume(a.v, true, func(block.Status) {})
		i.dropLink(l)
		return api.Attachment{}, attachError(name, spec.Target, why, err)
	}
	i.mu.Lock()
	i.attach[name] = a
	err = i.save()
	i.mu.Unlock()
	if err != nil {
		return api.Attachment{}, api.Wrap(err, api.Failed, op, name, "it is attached, but will not be after a reboot")
	}
	i.opt.Events.Add(audit.Info, name, "attached under nexus "+a.nexus)
	out, err := i.showMore(ctx, a, show)
	if err != nil {
		return out, errors.Join(err, i.take(context.WithoutCancel(ctx), a, false))
	}
	return out, nil
}

// claim returns the attachment if there is one, and marks the name as busy
// until release.
func (i *Initiator) claim(spec api.AttachSpec, name string) (*attachment, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed {
		return nil, api.Errorf(api.Failed, "attach", name, "the initiator ends", "")
	}
	if i.busy[name] {
		return nil, errBusy
	}
	a := i.attach[name]
	if a != nil && (a.spec.ReadOnly != spec.ReadOnly || spec.Target != "" && spec.Target != a.target) {
		return nil, api.Errorf(api.Exists, "attach", name, "it is attached in another way", "detach it first")
	}
	i.busy[name] = true
	return a, nil
}

func (i *Initiator) release(name string) {
	i.mu.Lock()
	delete(i.busy, name)
	i.mu.Unlock()
}

// locate asks the targets which one has the volume.
func (i *Initiator) locate(ctx context.Context, spec api.AttachSpec) (string, error) {
	object := spec.Namespace + "/" + spec.Volume
	targets := i.TargetList()
	if len(targets) == 1 {
		return targets[0].Name, nil
	}
	var silent []string
	for _, t := range targets {
		r, err := i.Forward(ctx, t.Name, api.Call{Method: "GET", Path: "/v1/volumes/" + spec.Namespace + "/" + spec.Volume})
		switch {
		case err != nil:
			silent = append(silent, t.Name)
		case r.Code == 200:
			return t.Name, nil
		}
	}
	if len(targets) == 0 {
		return "", api.Errorf(api.NotFound, "attach", object, "no target is configured", "rsioctl target add NAME ADDR...")
	}
	if len(silent) > 0 {
		return "", api.Errorf(api.Unreachable, "attach", object, "not found at the targets that answer; "+strings.Join(silent, ", ")+" did not", "rsioctl path list shows why")
	}
	return "", api.Errorf(api.NotFound, "attach", object, "no target has such a volume", "rsioctl volume list shows those there are")
}

func attachError(name, target, why string, err error) error {
	switch {
	case errors.Is(err, block.StatusNotFound):
		return api.Errorf(api.NotFound, "attach", name, "target "+target+" has no such volume", "rsioctl volume list shows those there are")
	case errors.Is(err, block.StatusDenied):
		return api.Errorf(api.Denied, "attach", name, "target "+target+" does not allow it", "")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return api.Errorf(api.Unreachable, "attach", name, "target "+target+" did not answer in time: "+why, "rsioctl path list shows the paths")
	}
	return api.Wrap(err, api.Failed, "attach", name, "")
}

// Detach ends an attachment; see api.InitiatorService.
func (i *Initiator) Detach(ctx context.Context, name string, force bool) error {
	const op = "detach"
	i.mu.Lock()
	a := i.lookup(name)
	if a == nil {
		i.mu.Unlock()
		return api.Errorf(api.NotFound, op, name, "there is no such attachment", "rsioctl attachment list shows those there are")
	}
	if i.busy[a.name] {
		i.mu.Unlock()
		return api.Wrap(errBusy, api.Exists, op, a.name, "try again")
	}
	i.busy[a.name] = true
	i.mu.Unlock()
	defer i.release(a.name)
	return i.take(ctx, a, force)
}

// checkIdle refuses an attachment that NBD clients have open.
func (i *Initiator) checkIdle(a *attachment, force bool) error {
	if n := i.opt.Frontend.Clients(a.name); n > 0 && !force {
		return api.Errorf(api.Exists, "detach", a.name, fmt.Sprintf("%d NBD connections have it open", n), "end them, or give --force")
	}
	return nil
}

// reached reports whether requests get to the target at the moment.
func (a *attachment) reached() bool { return a.v.Ready() && len(a.l.client.Paths()) > 0 }

// checkReached refuses to detach what the target cannot be told of.
func (a *attachment) checkReached(force bool) error {
	if force || a.reached() {
		return nil
	}
	return api.Errorf(api.Unreachable, "detach", a.name, "its target cannot be told: "+a.l.why(), "--force detaches all the same; the target then keeps this host on record as a writer")
}

// take withdraws an attachment and ends it. Its name is busy.
func (i *Initiator) take(ctx context.Context, a *attachment, force bool) error {
	const op = "detach"
	if err := i.checkIdle(a, force); err != nil {
		return err
	}
	if err := a.checkReached(force); err != nil { // flushing a device would have no end
		return err
	}
	if err := i.opt.Frontend.Withdraw(ctx, a.name, force); err != nil {
		return api.Wrap(err, api.Exists, op, a.name, "")
	}
	i.mu.Lock()
	delete(i.attach, a.name) // no new client finds it
	i.mu.Unlock()
	err := i.checkIdle(a, force) // one may have come since
	if err == nil {
		err = i.end(ctx, a, force)
	}
	if err != nil {
		i.mu.Lock()
		i.attach[a.name] = a
		i.mu.Unlock()
		if err2 := i.opt.Frontend.Present(ctx, a.presented(a.spec.Show)); err2 != nil {
			err = fmt.Errorf("%w; its devices are gone: %w", err, err2)
		}
		return err
	}
	i.mu.Lock()
	err = i.save()
	i.mu.Unlock()
	i.dropLink(a.l)
	i.opt.Events.Add(audit.Info, a.name, "detached")
	return api.Wrap(err, api.Failed, op, a.name, "it is detached, but may come back after a restart")
}

// lookup finds an attachment by name, URI, device, link or file. i.mu is held.
func (i *Initiator) lookup(name string) *attachment {
	if a := i.attach[strings.TrimPrefix(name, api.DefaultNamespace+"/")]; a != nil {
		return a
	}
	for _, a := range i.attach {
		s := i.opt.Frontend.Shown(a.name)
		if slices.Contains([]string{i.opt.Frontend.URI(a.name), s.Device, s.Loop, s.File, s.Link}, name) {
			return a
		}
	}
	return nil
}

// end flushes the volume, closes its clients and takes it out of the session.
func (i *Initiator) end(ctx context.Context, a *attachment, force bool) error {
	const op = "detach"
	i.opt.Frontend.Close(a.name)
	if a.reached() && !a.spec.ReadOnly {
		if st := block.Do(a, &block.Request{Op: block.OpFlush, Nexus: a.nexus}); st != block.StatusOK && !force {
			return api.Errorf(api.Failed, op, a.name, "flush: "+st.Error(), "look at rsioctl events; --force detaches all the same")
		}
	}
	if err := a.checkReached(force); err != nil {
		return err
	}
	done := make(chan block.Status, 1)
	a.l.client.CloseVolume(a.v, force, func(st block.Status) { done <- st })
	ctx, cancel := context.WithTimeout(ctx, attachTimeout)
	defer cancel()
	var st block.Status
	select {
	case st = <-done:
	case <-ctx.Done():
		st = block.StatusTimeout
	}
	if st == block.StatusInUse {
		return api.Errorf(api.Exists, op, a.name, "requests are in flight", "try again when they are done")
	}
	return i.run.forget(a.runKey())
}
