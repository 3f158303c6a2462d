// SPDX-License-Identifier: Apache-2.0

package initiator

import (
	"context"
	"sync"

	"rsio/rsio/admin/api"
	"rsio/rsio/block"
	"rsio/rsio/session"
)

// attachment is a volume presented here under one nexus. It is the
// block.Device that frontends open: requests go straight to the session.
type attachment struct {
	spec   api.AttachSpec
	name   string // [NS/]VOL[~VM]
	nexus  string
	target string
	l      *link
	v      *session.Volume
	kick   chan struct{} // something changed

	former uint64 // right that a predecessor's devices and files had; 0: none

	mu   sync.Mutex
	info block.Info // as last seen, also before the target was reached
}

// presented describes the attachment for a Frontend.
func (a *attachment) presented(show api.Show) Presented {
	return Presented{Name: a.name, Namespace: a.spec.Namespace, Volume: a.spec.Volume, VM: a.spec.VM, Nexus: a.nexus,
		Target: a.target, ReadOnly: a.spec.ReadOnly, Right: a.former, Show: show}
}

// attachmentName is the name of an attachment: [NS/]VOL[~VM].
func attachmentName(s api.AttachSpec) string {
	name := s.Volume
	if s.Namespace != api.DefaultNamespace {
		name = s.Namespace + "/" + name
	}
	if s.VM != "" {
		name += "~" + s.VM
	}
	return name
}

func (a *attachment) runKey() string { return runKey(a.target, a.nexus, a.spec) }

// runKey names what is kept of a volume for a successor.
func runKey(target, nexus string, s api.AttachSpec) string {
	return target + " " + nexus + " " + s.Namespace + "/" + s.Volume
}

// changed is called when the session's volume has changed, perhaps before a.v
// is set.
func (a *attachment) changed(v *session.Volume) {
	_, info, _ := v.State()
	if info.Size != 0 {
		info.ReadOnly = info.ReadOnly || a.spec.ReadOnly
		a.mu.Lock()
		fence, resized := a.info.Right != info.Right, a.info.Size != info.Size
		a.info = info
		a.mu.Unlock()
		if resized {
			a.l.i.opt.Frontend.Resized(a.name)
		}
		if fence { // after Info says so: this is when frontends look
			a.l.i.opt.Frontend.Fence(a.name)
		}
	}
	select {
	case a.kick <- struct{}{}:
	default:
	}
}

// Info returns what is known of the volume.
func (a *attachment) Info() block.Info {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.info
}

// Submit hands r to the session.
func (a *attachment) Submit(r *block.Request) { a.v.Submit(r) }

// Close is of no effect: frontends come and go, the attachment stays until it
// is detached.
func (a *attachment) Close(context.Context) error { return nil }

// wait waits until the volume is ready or has failed.
func (a *attachment) wait(ctx context.Context) error {
	for {
		state, _, st := a.v.State()
		switch state {
		case "ok":
			return nil
		case "failed":
			return st
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-a.kick:
		}
	}
}
