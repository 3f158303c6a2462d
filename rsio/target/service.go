// SPDX-License-Identifier: Apache-2.0

package target

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"time"

	"rsio/rsio/admin/api"
	"rsio/rsio/audit"
	"rsio/rsio/block"
	"rsio/rsio/netio"
	"rsio/rsio/registry"
	"rsio/rsio/stack"
	"rsio/rsio/wire"
)

// MaxVolumeSize is the largest volume in bytes.
const MaxVolumeSize = 1 << 50

// VolumeCreate makes a volume; see api.TargetService.
func (t *Target) VolumeCreate(spec api.VolumeSpec) (api.Volume, error) {
	const op = "volume create"
	if spec.Namespace == "" {
		spec.Namespace = api.DefaultNamespace
	}
	object := key(spec.Namespace, spec.Name)
	if err := errors.Join(block.CheckName("namespace", spec.Namespace), block.CheckName("volume", spec.Name)); err != nil {
		return api.Volume{}, api.Errorf(api.Usage, op, object, err.Error(), "")
	}
	if spec.Size == 0 || spec.Size > MaxVolumeSize {
		return api.Volume{}, api.Errorf(api.Usage, op, object, fmt.Sprintf("a size of %d bytes is outside 1..%d", spec.Size, uint64(MaxVolumeSize)), "give --size, for example 20G")
	}
	if spec.Kind == "" {
		spec.Kind = "file"
	}
	rec := registry.Volume{Namespace: spec.Namespace, Name: spec.Name, UUID: newUUID(), Size: (spec.Size + 4095) &^ 4095,
		Kind: spec.Kind, Direct: spec.Direct, Layers: spec.Layers, Created: time.Now().UTC()}
	v := newVolume(t, rec, netio.Now())
	if t.find(rec.Namespace, rec.Name) != nil {
		return api.Volume{}, api.Errorf(api.Exists, op, object, "there is a volume of that name", "choose another name, or delete it first")
	}
	if err := v.make(); err != nil {
		return api.Volume{}, api.Wrap(err, api.Failed, op, object, "")
	}
	if err := t.reg.Create(rec); err != nil {
		err = errors.Join(err, v.close(context.Background()), v.removeFile())
		if errors.Is(err, block.StatusExists) {
			return api.Volume{}, api.Errorf(api.Exists, op, object, "there is a volume of that name", "choose another name, or delete it first")
		}
		return api.Volume{}, api.Wrap(err, api.Failed, op, object, "")
	}
	t.mu.Lock()
	t.volumes[object], t.uuids[v.uuid] = v, v
	t.mu.Unlock()
	t.opt.Events.Add(audit.Info, object, fmt.Sprintf("created with %d bytes", rec.Size))
	return v.describe(), nil
}

// make creates the data of a new volume and tries to open it, so that a wrong
// layer or a file system without O_DIRECT shows at once.
func (v *volume) make() error {
	if err := stack.Create(v.spec()); err != nil {
		return err
	}
	if _, err := v.open(); err != nil {
		return errors.Join(err, v.removeFile())
	}
	v.release()
	return nil
}

func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails, by its documentation
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// describe tells what is known of a volume.
func (v *volume) describe() api.Volume {
	v.mu.Lock()
	rec, g := v.rec, v.graph
	v.mu.Unlock()
	out := api.Volume{Namespace: rec.Namespace, Name: rec.Name, UUID: rec.UUID, Size: rec.Size, Kind: rec.Kind, Direct: rec.Direct,
		Layers: rec.Layers, State: "ok", Writers: rec.Writers, Reserved: v.reserved()}
	if g != nil {
		out.Used = g.Used()
	} else if st, err := os.Stat(v.path()); err == nil {
		out.Used = used(st)
	}
	for _, s := range v.t.sessionsOf(v) {
		out.Open = append(out.Open, s.Nexus)
	}
	if waiting := v.grace.Waiting(); len(waiting) > 0 && len(out.Open) > 0 {
		out.State, out.Reason = "grace", fmt.Sprintf("after the restart waiting for %v", waiting)
	}
	if why := v.failed.Load(); why != nil {
		out.State, out.Reason = "failed", "the store failed: "+*why
	}
	return out
}

// VolumeList returns all volumes, sorted by name.
func (t *Target) VolumeList() []api.Volume {
	out := []api.Volume{}
	for _, v := range t.volumeList() {
		out = append(out, v.describe())
	}
	return out
}

func (t *Target) lookup(op, namespace, name string) (*volume, error) {
	if namespace == "" {
		namespace = api.DefaultNamespace
	}
	if v := t.find(namespace, name); v != nil {
		return v, nil
	}
	return nil, api.Errorf(api.NotFound, op, key(namespace, name), "there is no such volume", "rsioctl volume list shows those there are")
}

// VolumeShow returns one volume.
func (t *Target) VolumeShow(namespace, name string) (api.Volume, error) {
	v, err := t.lookup("volume show", namespace, name)
	if err != nil {
		return api.Volume{}, err
	}
	return v.describe(), nil
}

// VolumeResize changes the size; see api.TargetService.
func (t *Target) VolumeResize(by, namespace, name string, size uint64, shrink, force bool) (api.Volume, error) {
	const op = "volume resize"
	v, err := t.lookup(op, namespace, name)
	if err != nil {
		return api.Volume{}, err
	}
	size = (size + 4095) &^ 4095
	now := v.record().Size
	if size == 0 || size > MaxVolumeSize {
		return api.Volume{}, api.Errorf(api.Usage, op, v.name(), fmt.Sprintf("a size of %d bytes is outside 1..%d", size, uint64(MaxVolumeSize)), "")
	}
	if size < now && !shrink {
		return api.Volume{}, api.Errorf(api.Usage, op, v.name(), fmt.Sprintf("%d bytes are less than the %d it has: what lies behind would be lost", size, now), "give --yes if that is meant")
	}
	if err := t.mayChange(op, v, by, force); err != nil {
		return api.Volume{}, err
	}
	if size < now {
		err = v.shrink(size)
	} else {
		err = v.grow(size)
	}
	if err != nil {
		return api.Volume{}, api.Wrap(err, api.Failed, op, v.name(), "")
	}
	t.tell(v, wire.EventResize, size)
	t.opt.Events.Add(audit.Info, v.name(), fmt.Sprintf("resized from %d to %d bytes", now, size))
	return v.describe(), nil
}

func (v *volume) recordSize(size uint64) error {
	return v.update(func(r *registry.Volume) error { r.Size = size; return nil })
}

// grow changes the store first: a crash in between leaves the smaller size on
// record, never one that the store does not have.
func (v *volume) grow(size uint64) error {
	dev, err := v.open()
	if err != nil {
		return err
	}
	defer v.release()
	if err := dev.(*stack.Graph).Resize(size); err != nil { // not v.graph: it may be deleted meanwhile
		return err
	}
	return v.recordSize(size)
}

// shrink cuts a file that nobody has open or is on record as writing (he may be
// parked), the record first.
func (v *volume) shrink(size uint64) error {
	v.mu.Lock()
	rec, users, g, cut := v.rec, v.users, v.graph, v.cut
	if free := users == 0 && len(rec.Writers) == 0 && rec.Kind == "file" && !cut; free {
		v.graph, v.cut = nil, true
		defer func() {
			v.mu.Lock()
			v.cut = false
			v.mu.Unlock()
		}()
	}
	v.mu.Unlock()
	switch {
	case rec.Kind != "file":
		return fmt.Errorf("a volume of kind %s cannot shrink", rec.Kind)
	case users > 0 || cut:
		return api.Errorf(api.Exists, "volume resize", v.name(), "it is open, and what uses it may write behind the new end", "detach it first")
	case len(rec.Writers) > 0:
		return api.Errorf(api.Exists, "volume resize", v.name(), fmt.Sprintf("%v are on record as writing it", rec.Writers), "detach it there")
	}
	if g != nil {
		if err := g.Close(context.Background()); err != nil {
			return err
		}
	}
	if err := v.recordSize(size); err != nil {
		return err
	}
	return os.Truncate(v.path(), int64(size))
}

// VolumeDelete removes a volume and its data.
func (t *Target) VolumeDelete(by, namespace, name string, force bool) error {
	const op = "volume delete"
	v, err := t.lookup(op, namespace, name)
	if err != nil {
		return err
	}
	if err := t.mayChange(op, v, by, force); err != nil {
		return err
	}
	if open := v.describe().Open; len(open) > 0 && !force {
		return api.Errorf(api.Exists, op, v.name(), fmt.Sprintf("it is open for %v", open), "detach it there, or give --force")
	}
	if w := v.record().Writers; len(w) > 0 && !force {
		return api.Errorf(api.Exists, op, v.name(), fmt.Sprintf("%v are on record as writing it", w), "detach it there, or give --force")
	}
	if err := t.reg.Delete(v.ns, v.vol); err != nil {
		return api.Wrap(err, api.Failed, op, v.name(), "")
	}
	t.mu.Lock()
	delete(t.volumes, v.name())
	t.mu.Unlock()
	t.tell(v, wire.EventGone, 0)
	if err := t.gate.Drop(v.uuid); err != nil {
		t.opt.Events.Add(audit.Warning, v.name(), "its reservation could not be forgotten: "+err.Error())
	}
	t.mu.Lock()
	delete(t.uuids, v.uuid)
	t.mu.Unlock()
	v.mu.Lock()
	v.gone = true
	v.mu.Unlock()
	err = errors.Join(v.close(context.Background()), v.removeFile())
	t.opt.Events.Add(audit.Info, v.name(), "deleted")
	return api.Wrap(err, api.Failed, op, v.name(), "its name is free again; remove the file by hand")
}

// OpenDevice opens a volume for import and export, under the nexus of the
// target's host. A writer waits for the grace after a restart, as sessions do.
func (t *Target) OpenDevice(ctx context.Context, namespace, name string, write bool) (block.Device, func(), error) {
	return t.OpenAs(ctx, t.opt.Name, namespace, name, write)
}

// OpenAs is OpenDevice under another nexus.
func (t *Target) OpenAs(ctx context.Context, nexus, namespace, name string, write bool) (block.Device, func(), error) {
	v, err := t.lookup("open", namespace, name)
	if err != nil {
		return nil, nil, err
	}
	return t.openAs(ctx, v, nexus, write)
}

func (t *Target) openAs(ctx context.Context, v *volume, nexus string, write bool) (block.Device, func(), error) {
	dev, err := v.open()
	if err != nil {
		return nil, nil, api.Wrap(err, api.Failed, "open", v.name(), "")
	}
	for write && !v.mayWrite("", netio.Now()) {
		select {
		case <-ctx.Done():
			v.release()
			return nil, nil, api.Errorf(api.Timeout, "open", v.name(), fmt.Sprintf("after the restart %v have not come back yet", v.grace.Waiting()), "try again in two seconds")
		case <-time.After(houseEvery):
		}
	}
	l := &local{Device: dev, v: v, seat: t.gate.Seat(v.uuid, nexus), readOnly: !write}
	return l, func() {
		l.refuse.Close()
		t.gate.Unseat(v.uuid, nexus)
		v.release()
	}, nil
}
