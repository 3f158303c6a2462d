// SPDX-License-Identifier: Apache-2.0

package target

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"rsio/rsio/admin/api"
	"rsio/rsio/audit"
	"rsio/rsio/block"
	"rsio/rsio/registry"
	"rsio/rsio/session"
	"rsio/rsio/wire"
)

// copies returns the second copies of the reservations.
func (t *Target) copies() map[string][]byte {
	out := make(map[string][]byte)
	for _, rec := range t.reg.List() {
		out[rec.UUID] = rec.Reservation
	}
	return out
}

// keepCopy stores one.
func (t *Target) keepCopy(uuid string, state []byte) error {
	v := t.byUUID(uuid)
	if v == nil {
		return block.StatusNotFound
	}
	return v.update(func(r *registry.Volume) error { r.Reservation = json.RawMessage(state); return nil })
}

func (t *Target) byUUID(uuid string) *volume {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.uuids[uuid]
}

func (t *Target) nameOf(uuid string) string {
	if v := t.byUUID(uuid); v != nil {
		return v.name()
	}
	return uuid
}

func (t *Target) gateWarns(uuid, text string) {
	object := t.opt.Dir
	if uuid != "" {
		object = t.nameOf(uuid)
	}
	t.opt.Events.Add(audit.Warning, object, text)
}

// tellNexus sends an event about a volume on all paths of a nexus that has it
// open.
func (t *Target) tellNexus(uuid, nexus string, h wire.Header) (v *volume) {
	if v = t.byUUID(uuid); v == nil {
		return nil
	}
	for _, s := range t.sessionsOf(v) {
		open := s.handleOf(v)
		if s.Nexus != nexus || open == nil {
			continue
		}
		h.Volume = open.id
		for i := range s.conns {
			if c := s.conns[i].Load(); c != nil && c.reserve {
				c.tell(h)
			}
		}
	}
	return v
}

// tellRight passes on that a nexus has another right. With the target's own
// NBD server its clients are to be told.
func (t *Target) tellRight(uuid, nexus string, right uint64, a block.Access) {
	v := t.tellNexus(uuid, nexus, wire.Header{Op: wire.EventRight, Off: right, Len: uint32(a)})
	if v != nil && t.fence != nil {
		t.fence(v.ns, v.vol)
	}
}

func (t *Target) tellAttention(uuid, nexus string, code block.Attention) {
	t.opt.Events.Add(audit.Info, t.nameOf(uuid), fmt.Sprintf("unit attention for %s: %s", nexus, code))
	t.tellNexus(uuid, nexus, wire.Header{Op: wire.EventAttention, Off: uint64(code)})
}

// SetFence sets who is told that rights on a volume have changed, before the
// first Serve: a frontend of the target's own.
func (t *Target) SetFence(fn func(namespace, volume string)) { t.fence = fn }

// speaksFor reports whether a session may act for a nexus: a host speaks for
// itself and its VMs, a VM for itself.
func speaksFor(session, nexus string) bool {
	return session == nexus || !strings.Contains(session, "/") && strings.HasPrefix(nexus, session+"/")
}

// acting returns the nexus that a session acts for on v. A control session of
// a VM that does not say on which host acts for the nexus under which the
// volume is open for that VM.
func (t *Target) acting(v *volume, caller api.Caller, as string) (string, error) {
	if caller.Control && !strings.Contains(caller.Nexus, "/") {
		return t.attachedAs(v, caller.Nexus, as)
	}
	if as == "" {
		return caller.Nexus, nil
	}
	if err := block.CheckNexus(as); err != nil {
		return "", api.Errorf(api.Usage, "", v.name(), err.Error(), "")
	}
	if !speaksFor(caller.Nexus, as) {
		return "", api.Errorf(api.Denied, "", v.name(), fmt.Sprintf("%s does not speak for %s", caller.Nexus, as), "a host speaks for itself and for its own VMs")
	}
	return as, nil
}

func (t *Target) attachedAs(v *volume, vm, as string) (string, error) {
	var found []string
	for _, s := range t.sessionsOf(v) {
		if strings.HasSuffix(s.Nexus, "/"+vm) && !s.Closed() {
			found = append(found, s.Nexus)
		}
	}
	switch {
	case as != "" && as != vm && (len(found) != 1 || found[0] != as):
		return "", api.Errorf(api.Denied, "", v.name(), fmt.Sprintf("VM %s does not speak for %s", vm, as), "")
	case len(found) == 0:
		return "", api.Errorf(api.NotFound, "", v.name(), fmt.Sprintf("no host has it attached for VM %s", vm), "attach it with --as "+vm+" on the host that runs the VM")
	case len(found) > 1:
		return "", api.Errorf(api.Exists, "", v.name(), fmt.Sprintf("VM %s has it attached as %s", vm, strings.Join(found, " and as ")), "act from one of these hosts")
	}
	return found[0], nil
}

// reserveOut executes OpReserveOut. It is answered when the gate has decided,
// which may take as long as a disk hangs; no worker waits for it.
func (s *sess) reserveOut(d wire.Header, payload []byte) {
	var r wire.ReserveOut
	if r.Parse(payload) != nil {
		s.answer(d, session.Answer{Status: block.StatusProtocol})
		return
	}
	refuse := func(st block.Status, why string) {
		w := wire.ReserveOutResponse{Reason: []byte(why)}
		s.answer(d, session.Answer{Status: st, Payload: w.Append(nil)})
	}
	v := s.t.find(string(r.Namespace), string(r.Volume))
	if v == nil {
		refuse(block.StatusNotFound, "there is no such volume")
		return
	}
	nexus, err := s.t.acting(v, s.caller(), string(r.As))
	if err != nil {
		refuse(refusal(err), err.Error())
		return
	}
	out := block.ReserveOut{Action: r.Action, Type: r.Type, Scope: r.Scope, Key: r.Key, NewKey: r.NewKey, To: string(r.To),
		Unregister: r.Unregister, Request: r.Request}
	s.t.gate.Reserve(v.uuid, nexus, s.Nexus, out, s.quit, func(res block.ReserveResult) {
		v.noteReserve(nexus, out, res)
		w := wire.ReserveOutResponse{Generation: res.Generation, Sense: res.Sense, Attentions: res.Attentions, Reason: []byte(res.Reason)}
		s.answer(d, session.Answer{Status: res.Status, Payload: w.Append(nil)})
	})
}

// refusal is the status of an error of acting.
func refusal(err error) block.Status {
	var e *api.Error
	if errors.As(err, &e) {
		switch e.Kind {
		case api.Denied:
			return block.StatusDenied
		case api.NotFound:
			return block.StatusNotFound
		case api.Exists:
			return block.StatusInUse
		}
	}
	return block.StatusInvalid
}

// reserveIn executes OpReserveIn.
func (s *sess) reserveIn(d wire.Header, payload []byte) {
	var r wire.ReserveIn
	if r.Parse(payload) != nil {
		s.answer(d, session.Answer{Status: block.StatusProtocol})
		return
	}
	w := wire.ReserveInResponse{}
	v := s.t.find(string(r.Namespace), string(r.Volume))
	if v == nil {
		w.Reason = []byte("there is no such volume")
		s.answer(d, session.Answer{Status: block.StatusNotFound, Payload: w.Append(nil)})
		return
	}
	nexus, err := s.t.acting(v, s.caller(), string(r.As))
	if err != nil || r.What > wire.ReadFullStatus {
		st := block.StatusInvalid
		if err != nil {
			st, w.Reason = refusal(err), []byte(err.Error())
		}
		s.answer(d, session.Answer{Status: st, Payload: w.Append(nil)})
		return
	}
	x := s.t.gate.Show(v.uuid, nexus, r.Report)
	w.Generation, w.Right, w.Access, w.Attentions = x.Generation, x.Right, x.Access, x.Attentions
	w.Conflicts = v.stats.conflicts.Load()
	if r.What == wire.ReadCapabilities || r.What == wire.ReadFullStatus {
		w.Capabilities = block.ReserveCapabilities
	}
	if r.What == wire.ReadReservation || r.What == wire.ReadFullStatus {
		w.Type, w.Key = x.Type, x.Key
	}
	if r.What == wire.ReadKeys || r.What == wire.ReadFullStatus {
		w.Total, w.Registrants = uint32(len(x.Registrants)), x.Registrants
		if n := int64(r.Limit); n > 0 && n < int64(len(w.Registrants)) {
			w.Registrants = w.Registrants[:n] // Total stays: SPC-4, 6.15.2
		}
	}
	s.answer(d, session.Answer{Payload: w.Append(nil)})
}

// noteReserve tells of a change, and of one that was refused.
func (v *volume) noteReserve(nexus string, r block.ReserveOut, res block.ReserveResult) {
	text := fmt.Sprintf("%s of %s", r.Action, nexus)
	if res.Status == block.StatusOK {
		v.t.opt.Events.Add(audit.Info, v.name(), fmt.Sprintf("%s: done, generation %d", text, res.Generation))
		return
	}
	v.t.opt.Events.Add(audit.Warning, v.name(), fmt.Sprintf("%s: %v: %s", text, res.Status, res.Reason))
}

// actingFor is acting for a call of the control API; an administrator at the
// target's own socket names any nexus, but must name one if one acts.
func (t *Target) actingFor(ctx context.Context, v *volume, as string, must bool) (nexus, by string, err error) {
	caller, ok := api.CallerOf(ctx)
	if ok {
		nexus, err = t.acting(v, caller, as)
		return nexus, caller.Nexus, err
	}
	if as == "" {
		if must {
			return "", "", api.Errorf(api.Usage, "", v.name(), "who acts is not named", "at a target give --as HOST or --as HOST/VM, or ask the initiator of that host")
		}
		return "", "administrator", nil
	}
	if err := block.CheckNexus(as); err != nil {
		return "", "", api.Errorf(api.Usage, "", v.name(), err.Error(), "")
	}
	return as, "administrator", nil
}

// Reserve changes a reservation; see api.Common. It waits as long as ctx, and
// if ctx ends before the change is durable it has not happened.
func (t *Target) Reserve(ctx context.Context, _, namespace, volume string, spec api.ReserveSpec) (api.ReserveResult, error) {
	const op = "reservation"
	v, err := t.lookup(op+" "+spec.Action, namespace, volume)
	if err != nil {
		return api.ReserveResult{}, err
	}
	nexus, by, err := t.actingFor(ctx, v, spec.As, true)
	if err != nil {
		return api.ReserveResult{}, err
	}
	r, err := api.ParseReserve(spec)
	if err != nil {
		return api.ReserveResult{}, api.Errorf(api.Usage, op, v.name(), err.Error(), "")
	}
	done := make(chan block.ReserveResult, 1)
	t.gate.Reserve(v.uuid, nexus, by, r, ctx.Done(), func(res block.ReserveResult) { done <- res })
	res := <-done
	v.noteReserve(nexus, r, res)
	return api.ReserveAnswer(v.name(), nexus, r, res)
}

// Reservation tells who holds what; see api.Common.
func (t *Target) Reservation(ctx context.Context, _, namespace, volume, as string) (api.Reservation, error) {
	v, err := t.lookup("reservation show", namespace, volume)
	if err != nil {
		return api.Reservation{}, err
	}
	nexus, _, err := t.actingFor(ctx, v, as, false)
	if err != nil {
		return api.Reservation{}, err
	}
	x := t.gate.Show(v.uuid, nexus, as != "")
	x.Conflicts = v.stats.conflicts.Load()
	return api.DescribeReservation(v.name(), nexus, x), nil
}

// mayChange refuses an administrative change of a volume that others have
// reserved: it counts as a write of whoever asks.
func (t *Target) mayChange(op string, v *volume, by string, force bool) error {
	x := t.gate.Show(v.uuid, "", false)
	access := x.Access // of a stranger
	if by != "" {
		seat := t.gate.Seat(v.uuid, by)
		_, access = seat.Right()
		t.gate.Unseat(v.uuid, by)
	}
	if access&block.AccessWrite != 0 {
		return nil
	}
	if force {
		t.opt.Events.Add(audit.Warning, v.name(), fmt.Sprintf("%s by %s in spite of a reservation (%s), by force", op, orAdmin(by), v.reserved()))
		return nil
	}
	return api.Errorf(api.Conflict, op, v.name(), "it is reserved: "+v.reserved(), "rsioctl reservation show "+v.name()+" shows by whom; --force does it all the same")
}

func orAdmin(by string) string {
	if by == "" {
		return "an administrator"
	}
	return by
}

// reserved says in a few words who has reserved the volume; empty if nobody.
func (v *volume) reserved() string {
	x := v.t.gate.Show(v.uuid, "", false)
	if x.Type == block.ReserveNone {
		return ""
	}
	var holders []string
	for _, r := range x.Registrants {
		if r.Holder && len(holders) < 4 {
			holders = append(holders, r.Nexus)
		}
	}
	return x.Type.String() + " " + strings.Join(holders, ",")
}

// Block reads or compares and writes a few bytes under a nexus; see api.Common.
func (t *Target) Block(ctx context.Context, _, namespace, volume string, c api.BlockCall) (api.BlockReply, error) {
	const op = "block"
	v, err := t.lookup(op, namespace, volume)
	if err != nil {
		return api.BlockReply{}, err
	}
	nexus, _, err := t.actingFor(ctx, v, c.As, true)
	if err != nil {
		return api.BlockReply{}, err
	}
	dev, done, err := t.openAs(ctx, v, nexus, c.Write != nil)
	if err != nil {
		return api.BlockReply{}, err
	}
	defer done()
	return api.DoBlock(dev, v.name(), nexus, c)
}
