// SPDX-License-Identifier: Apache-2.0

package admintest

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"rsio/dam"
	"rsio/rsio/admin/api"
	"rsio/rsio/audit"
	"rsio/rsio/block"
)

// Target is an api.TargetService in memory.
type Target struct {
	State    api.Status
	InFlight []api.Inflight
	Log      *audit.Log

	mu       sync.Mutex
	volumes  map[string]api.Volume
	devices  map[string]*Device
	counters []api.Counters
	open     int
	reserved map[string]*dam.State // by namespace and name, as volumes
	held     time.Duration         // how long a change of a reservation takes
	lost     bool                  // blocks are refused
}

// NewTarget returns a target without volumes.
func NewTarget(name string) *Target {
	return &Target{
		State: api.Status{
			Role: "target", Name: name, Version: "test", Summary: "all is well", State: "ok",
			Started: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Portals: []string{"127.0.0.1:8861"},
		},
		Log:      audit.New(nil),
		volumes:  map[string]api.Volume{},
		devices:  map[string]*Device{},
		reserved: map[string]*dam.State{},
	}
}

// Status implements api.Common.
func (t *Target) Status() api.Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.State
	s.Volumes = len(t.volumes)
	return s
}

// Inflight implements api.Common.
func (t *Target) Inflight() []api.Inflight { return t.InFlight }

// Counters implements api.Common.
func (t *Target) Counters() []api.Counters {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.counters)
}

// SetCounters sets what Counters returns.
func (t *Target) SetCounters(c ...api.Counters) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.counters = c
}

// Events implements api.Common.
func (t *Target) Events(ctx context.Context, after uint64) []api.Event {
	return t.Log.Since(ctx, after)
}

// OpenDevice implements api.Common.
func (t *Target) OpenDevice(_ context.Context, namespace, volume string, _ bool) (block.Device, func(), error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d, ok := t.devices[namespace+"/"+volume]
	if !ok {
		return nil, nil, block.StatusNotFound
	}
	t.open++
	return d, func() {
		t.mu.Lock()
		t.open--
		t.mu.Unlock()
	}, nil
}

// Open returns how many devices are open.
func (t *Target) Open() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.open
}

// Device returns the device of a volume, or nil.
func (t *Target) Device(namespace, volume string) *Device {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.devices[namespace+"/"+volume]
}

// VolumeCreate implements api.TargetService.
func (t *Target) VolumeCreate(s api.VolumeSpec) (api.Volume, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := s.Namespace + "/" + s.Name
	if _, ok := t.volumes[k]; ok {
		return api.Volume{}, api.Errorf(api.Exists, "volume create", s.Name, "there is one of that name already", "choose another name, or delete it first")
	}
	if s.Kind == "" {
		s.Kind = "file"
	}
	s.Size = (s.Size + 4095) &^ 4095
	v := api.Volume{Namespace: s.Namespace, Name: s.Name, UUID: "uuid-" + s.Name, Size: s.Size, Kind: s.Kind, Direct: s.Direct, Layers: s.Layers, State: "ok"}
	t.volumes[k] = v
	if s.Size <= 1<<30 {
		t.devices[k] = NewDevice(s.Size)
	}
	return v, nil
}

// VolumeList implements api.TargetService.
func (t *Target) VolumeList() []api.Volume {
	t.mu.Lock()
	defer t.mu.Unlock()
	var l []api.Volume
	for _, k := range slices.Sorted(maps.Keys(t.volumes)) {
		l = append(l, t.used(k))
	}
	return l
}

// used fills in how much of a volume is not zero.
func (t *Target) used(k string) api.Volume {
	v := t.volumes[k]
	v.Reserved = reservedText(t.reserved[k])
	if d := t.devices[k]; d != nil {
		for b := d.Content(); len(b) > 0; b = b[min(len(b), 4096):] {
			if !isZero(b[:min(len(b), 4096)]) {
				v.Used += 4096
			}
		}
	}
	return v
}

// VolumeShow implements api.TargetService.
func (t *Target) VolumeShow(namespace, name string) (api.Volume, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.volumes[namespace+"/"+name]; !ok {
		return api.Volume{}, block.StatusNotFound
	}
	return t.used(namespace + "/" + name), nil
}

// VolumeResize implements api.TargetService.
func (t *Target) VolumeResize(by, namespace, name string, size uint64, shrink, force bool) (api.Volume, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v, ok := t.volumes[namespace+"/"+name]
	if !ok {
		return v, block.StatusNotFound
	}
	if size < v.Size && !shrink {
		return v, api.Errorf(api.Usage, "", "", "it would become smaller", "allow that")
	}
	if err := t.mayChange(by, namespace+"/"+name, force); err != nil {
		return v, err
	}
	v.Size = size
	t.volumes[namespace+"/"+name] = v
	return v, nil
}

// VolumeDelete implements api.TargetService.
func (t *Target) VolumeDelete(by, namespace, name string, force bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := namespace + "/" + name
	v, ok := t.volumes[k]
	if !ok {
		return block.StatusNotFound
	}
	if len(v.Open) > 0 && !force {
		return block.StatusInUse
	}
	if err := t.mayChange(by, k, force); err != nil {
		return err
	}
	delete(t.volumes, k)
	delete(t.reserved, k)
	delete(t.devices, k)
	return nil
}

// SetOpen records who has a volume open.
func (t *Target) SetOpen(namespace, name string, nexuses ...string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v := t.volumes[namespace+"/"+name]
	v.Open = nexuses
	t.volumes[namespace+"/"+name] = v
}
