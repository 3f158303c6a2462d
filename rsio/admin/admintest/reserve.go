// SPDX-License-Identifier: Apache-2.0

package admintest

import (
	"context"
	"strings"
	"time"

	"rsio/dam"
	"rsio/rsio/admin/api"
	"rsio/rsio/block"
)

// Hold makes every change of a reservation take d.
func (t *Target) Hold(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.held = d
}

// Refuse makes every Block fail as if its nexus were fenced, or not any more.
func (t *Target) Refuse(lost bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lost = lost
}

// state returns the reservation of a volume. t.mu is held.
func (t *Target) state(k string) (*dam.State, error) {
	v, ok := t.volumes[k]
	if !ok {
		return nil, block.StatusNotFound
	}
	if t.reserved[k] == nil {
		t.reserved[k] = dam.New(v.UUID)
	}
	return t.reserved[k], nil
}

// plain is the name of a volume for people.
func plain(k string) string { return strings.TrimPrefix(k, api.DefaultNamespace+"/") }

// reservedText is what api.Volume says of a reservation.
func reservedText(s *dam.State) string {
	if s == nil || s.Type == block.ReserveNone {
		return ""
	}
	var holders []string
	for _, r := range s.Show("").Registrants {
		if r.Holder {
			holders = append(holders, r.Nexus)
		}
	}
	return s.Type.String() + " " + strings.Join(holders, ",")
}

// mayChange refuses what a reservation forbids. t.mu is held.
func (t *Target) mayChange(by, k string, force bool) error {
	s := t.reserved[k]
	if s == nil || force || s.Access(by)&block.AccessWrite != 0 {
		return nil
	}
	return api.Errorf(api.Conflict, "", "", "it is reserved: "+reservedText(s), "--force does it all the same")
}

// acting returns the nexus that acts: as, or that of the session.
func acting(ctx context.Context, as string) (string, error) {
	if as == "" {
		caller, _ := api.CallerOf(ctx)
		as = caller.Nexus
	}
	if as == "" {
		return "", api.Errorf(api.Usage, "", "", "who acts is not named", "give --as HOST or --as HOST/VM")
	}
	if err := block.CheckNexus(as); err != nil {
		return "", api.Errorf(api.Usage, "", "", err.Error(), "")
	}
	return as, nil
}

// Reservation implements api.Common.
func (t *Target) Reservation(ctx context.Context, _, namespace, volume, as string) (api.Reservation, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := namespace + "/" + volume
	s, err := t.state(k)
	if err != nil {
		return api.Reservation{}, err
	}
	nexus, report := as, as != ""
	if caller, ok := api.CallerOf(ctx); ok && as == "" {
		nexus = caller.Nexus
	}
	x := s.Show(nexus)
	if report {
		t.reserved[k], x.Attentions = dam.Report(s, nexus)
	}
	return api.DescribeReservation(plain(k), nexus, x), nil
}

// Reserve implements api.Common.
func (t *Target) Reserve(ctx context.Context, _, namespace, volume string, spec api.ReserveSpec) (api.ReserveResult, error) {
	t.mu.Lock()
	held := t.held
	t.mu.Unlock()
	if held > 0 {
		select {
		case <-time.After(held):
		case <-ctx.Done():
			return api.ReserveResult{}, ctx.Err()
		}
	}
	nexus, err := acting(ctx, spec.As)
	if err != nil {
		return api.ReserveResult{}, err
	}
	r, err := api.ParseReserve(spec)
	if err != nil {
		return api.ReserveResult{}, api.Errorf(api.Usage, "", "", err.Error(), "")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	k := namespace + "/" + volume
	s, err := t.state(k)
	if err != nil {
		return api.ReserveResult{}, err
	}
	next, out := dam.Apply(s, nexus, r)
	if t.reserved[k] = next; out.Status == block.StatusOK {
		t.reserved[k], out.Attentions = dam.Report(next, nexus)
	}
	return api.ReserveAnswer(plain(k), nexus, r, out.ReserveResult)
}

// Block implements api.Common.
func (t *Target) Block(ctx context.Context, _, namespace, volume string, c api.BlockCall) (api.BlockReply, error) {
	k := namespace + "/" + volume
	nexus, err := acting(ctx, c.As)
	if err != nil {
		return api.BlockReply{}, err
	}
	t.mu.Lock()
	s, err := t.state(k)
	dev, lost := t.devices[k], t.lost
	t.mu.Unlock()
	if err != nil {
		return api.BlockReply{}, err
	}
	op := block.OpRead
	if c.Write != nil {
		op = block.OpCompareAndWrite
	}
	if lost || s.Access(nexus)&block.Needs(op) == 0 {
		return api.BlockReply{}, block.StatusConflict
	}
	return api.DoBlock(dev, plain(k), nexus, c)
}

// at returns the target that has a volume, and the nexus that as means.
func (i *Initiator) at(target, namespace, volume, as string) (*Target, string, error) {
	nexus := i.State.Name
	if as != "" && as != nexus {
		nexus += "/" + strings.TrimPrefix(as, nexus+"/")
	}
	for _, t := range i.TargetList() {
		behind := i.behind[t.Name]
		if target != "" && target != t.Name {
			continue
		}
		if _, err := behind.VolumeShow(namespace, volume); err == nil {
			return behind, nexus, nil
		}
	}
	return nil, "", block.StatusNotFound
}

// Reservation implements api.Common.
func (i *Initiator) Reservation(ctx context.Context, target, namespace, volume, as string) (api.Reservation, error) {
	t, nexus, err := i.at(target, namespace, volume, as)
	if err != nil {
		return api.Reservation{}, err
	}
	if as == "" { // what it means for the host, without a report
		return t.Reservation(api.WithCaller(ctx, api.Caller{Nexus: nexus}), "", namespace, volume, "")
	}
	return t.Reservation(ctx, "", namespace, volume, nexus)
}

// Reserve implements api.Common.
func (i *Initiator) Reserve(ctx context.Context, target, namespace, volume string, spec api.ReserveSpec) (api.ReserveResult, error) {
	t, nexus, err := i.at(target, namespace, volume, spec.As)
	if err != nil {
		return api.ReserveResult{}, err
	}
	spec.As = nexus
	return t.Reserve(ctx, "", namespace, volume, spec)
}

// Block implements api.Common.
func (i *Initiator) Block(ctx context.Context, target, namespace, volume string, c api.BlockCall) (api.BlockReply, error) {
	t, nexus, err := i.at(target, namespace, volume, c.As)
	if err != nil {
		return api.BlockReply{}, err
	}
	c.As = nexus
	return t.Block(ctx, "", namespace, volume, c)
}
