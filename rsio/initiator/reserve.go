// SPDX-License-Identifier: Apache-2.0

package initiator

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"time"

	"rsio/rsio/admin/api"
	"rsio/rsio/block"
	"rsio/rsio/wire"
)

// retryEvery is the pause before a reservation is asked for again whose answer
// was lost.
const retryEvery = 50 * time.Millisecond

// actor returns the nexus that as means here: a VM of this host, or the host.
func (i *Initiator) actor(as string) (string, error) {
	if as == "" || as == i.opt.Name {
		return i.opt.Name, nil
	}
	vm := strings.TrimPrefix(as, i.opt.Name+"/")
	if err := block.CheckName("VM", vm); err != nil {
		return "", api.Errorf(api.Usage, "", as, err.Error(), "name a VM of this host")
	}
	return i.nexus(vm), nil
}

// place returns the target of a volume.
func (i *Initiator) place(ctx context.Context, target, namespace, volume string) (string, error) {
	if target != "" {
		return target, nil
	}
	return i.locate(ctx, api.AttachSpec{Namespace: namespace, Volume: volume})
}

// Reserve changes a reservation; see api.Common. An answer that is lost with a
// path or with the target is asked for again: the request ID makes sure that
// nothing happens twice.
func (i *Initiator) Reserve(ctx context.Context, target, namespace, volume string, spec api.ReserveSpec) (api.ReserveResult, error) {
	op, name := "reservation "+spec.Action, namespace+"/"+volume
	r, err := api.ParseReserve(spec)
	if err != nil {
		return api.ReserveResult{}, api.Errorf(api.Usage, "reservation", name, err.Error(), "")
	}
	nexus, err := i.actor(spec.As)
	if err != nil {
		return api.ReserveResult{}, err
	}
	if target, err = i.place(ctx, target, namespace, volume); err != nil {
		return api.ReserveResult{}, err
	}
	if r.Request == (block.ReserveID{}) {
		_, _ = rand.Read(r.Request[:]) // never fails, by its documentation
	}
	w := wire.ReserveOut{Action: r.Action, Type: r.Type, Scope: r.Scope, Unregister: r.Unregister, Key: r.Key, NewKey: r.NewKey,
		Request: r.Request, Namespace: []byte(namespace), Volume: []byte(volume), As: []byte(nexus), To: []byte(r.To)}
	reply, st, err := i.reserveCall(ctx, target, wire.OpReserveOut, w.Append(nil))
	if err != nil {
		return api.ReserveResult{}, api.Wrap(err, api.Failed, op, name, "")
	}
	var a wire.ReserveOutResponse
	if len(reply) > 0 {
		if err := a.Parse(reply); err != nil {
			return api.ReserveResult{}, api.Errorf(api.Failed, op, name, "the target's answer is not understood: "+err.Error(), "")
		}
	}
	return api.ReserveAnswer(name, nexus, r, block.ReserveResult{Status: st, Sense: a.Sense, Generation: a.Generation,
		Reason: string(a.Reason), Attentions: a.Attentions})
}

// Reservation tells who holds what; see api.Common.
func (i *Initiator) Reservation(ctx context.Context, target, namespace, volume, as string) (api.Reservation, error) {
	const op = "reservation show"
	name := namespace + "/" + volume
	nexus, err := i.actor(as)
	if err != nil {
		return api.Reservation{}, err
	}
	if target, err = i.place(ctx, target, namespace, volume); err != nil {
		return api.Reservation{}, err
	}
	w := wire.ReserveIn{What: wire.ReadFullStatus, Report: as != "", Namespace: []byte(namespace), Volume: []byte(volume), As: []byte(nexus)}
	reply, st, err := i.reserveCall(ctx, target, wire.OpReserveIn, w.Append(nil))
	if err != nil {
		return api.Reservation{}, api.Wrap(err, api.Failed, op, name, "")
	}
	var a wire.ReserveInResponse
	if err := a.Parse(reply); err != nil {
		return api.Reservation{}, api.Errorf(api.Failed, op, name, "the target's answer is not understood: "+err.Error(), "")
	}
	if st == block.StatusNotFound {
		return api.Reservation{}, api.Errorf(api.NotFound, op, name, string(a.Reason), "rsioctl volume list shows those there are")
	}
	if st != block.StatusOK {
		return api.Reservation{}, api.Errorf(api.Failed, op, name, string(a.Reason), "")
	}
	return api.DescribeReservation(name, nexus, block.ReserveState{Generation: a.Generation, Type: a.Type, Key: a.Key, Registrants: a.Registrants,
		Conflicts: a.Conflicts, Attentions: a.Attentions, Right: a.Right, Access: a.Access}), nil
}

// reserveCall does a control operation of reservations until it is answered.
func (i *Initiator) reserveCall(ctx context.Context, target string, op block.Op, payload []byte) ([]byte, block.Status, error) {
	l, err := i.useLink(target, i.opt.Name)
	if err != nil {
		return nil, 0, err
	}
	defer i.dropLink(l)
	for {
		if s, up := l.client.Session(); up && s.Features&wire.FeatureReserve == 0 {
			return nil, 0, api.Errorf(api.Failed, "", "target "+target, "it knows no reservations", "update it")
		}
		reply, err := l.control(ctx, op, payload)
		var st block.Status
		if err == nil {
			return reply, block.StatusOK, nil
		}
		if !errors.As(err, &st) {
			return nil, 0, err
		}
		switch {
		case st == block.StatusTimeout && ctx.Err() != nil:
			return nil, 0, api.Errorf(api.Timeout, "", "target "+target, "no answer in time: "+l.why(), "it may still happen: repeat it with the same --request to learn; a preempt-abort waits for requests that a disk holds")
		case st == block.StatusUnknown || st == block.StatusBusy || st == block.StatusTimeout:
			select { // the target was restarted, or the session made anew
			case <-time.After(retryEvery):
			case <-ctx.Done():
			}
			continue
		}
		return reply, st, nil
	}
}

// Block reads or compares and writes a few bytes; see api.Common. A volume that
// is not attached is attached for as long as the initiator runs, or until it is
// detached: a lock asks again and again.
func (i *Initiator) Block(ctx context.Context, target, namespace, volume string, c api.BlockCall) (api.BlockReply, error) {
	nexus, err := i.actor(c.As)
	if err != nil {
		return api.BlockReply{}, err
	}
	_, vm, _ := strings.Cut(nexus, "/")
	spec := api.AttachSpec{Namespace: namespace, Volume: volume, VM: vm, Target: target, Once: true}
	name := attachmentName(spec)
	i.mu.Lock()
	a := i.attach[name]
	i.mu.Unlock()
	if a == nil {
		if _, err := i.Attach(ctx, spec); err != nil {
			return api.BlockReply{}, err
		}
		i.mu.Lock()
		a = i.attach[name]
		i.mu.Unlock()
		if a == nil { // detached in this moment
			return api.BlockReply{}, block.StatusClosed
		}
	}
	return api.DoBlock(a, name, nexus, c)
}
