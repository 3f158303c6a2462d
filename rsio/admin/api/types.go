// SPDX-License-Identifier: Apache-2.0

// Package api holds the types that the control API speaks: what rsioctl, the
// daemons and their libraries exchange. It has no behaviour beyond errors.
package api

import (
	"context"
	"time"

	"rsio/rsio/block"
)

// DefaultNamespace is the namespace that may be left out in commands.
const DefaultNamespace = "default"

// VolumeSpec asks for a new volume.
type VolumeSpec struct {
	Namespace string   `json:"namespace"`
	Name      string   `json:"name"`
	Size      uint64   `json:"size"`             // bytes; rounded up to 4096
	Direct    bool     `json:"direct,omitempty"` // O_DIRECT instead of the page cache
	Kind      string   `json:"kind,omitempty"`   // "file" (default), "mem", "null"
	Layers    []string `json:"layers,omitempty"` // test layers, lowest first, e.g. "fault:op=write,nth=3,do=hang"
}

// Volume is a volume as its target knows it.
type Volume struct {
	Namespace string   `json:"namespace"`
	Name      string   `json:"name"`
	UUID      string   `json:"uuid"`
	Size      uint64   `json:"size"` // bytes
	Used      uint64   `json:"used"` // bytes of the pool it takes
	Kind      string   `json:"kind"`
	Direct    bool     `json:"direct,omitempty"`
	Layers    []string `json:"layers,omitempty"`
	State     string   `json:"state"` // one word: ok, failed, grace
	Reason    string   `json:"reason,omitempty"`
	Target    string   `json:"target,omitempty"`   // name of the target, filled in by the initiator
	Writers   []string `json:"writers,omitempty"`  // nexuses on record as writing
	Reserved  string   `json:"reserved,omitempty"` // type and holder of the reservation
	Open      []string `json:"open,omitempty"`     // nexuses that have it open now
}

// TargetSpec names a target and its portals for an initiator.
type TargetSpec struct {
	Name      string   `json:"name"`
	Addresses []string `json:"addresses"` // HOST:PORT[%LOCAL] or unix:PATH, one path each
}

// Target is a target as an initiator knows it.
type Target struct {
	Name      string   `json:"name"`
	Addresses []string `json:"addresses"`
	State     string   `json:"state"` // online, degraded, offline
	Reason    string   `json:"reason,omitempty"`
	Paths     int      `json:"paths"`
	PathsUp   int      `json:"paths_up"`
	Instance  string   `json:"instance,omitempty"` // changes with each start of the target
}

// AttachSpec asks for an attachment.
type AttachSpec struct {
	Namespace string `json:"namespace"`
	Volume    string `json:"volume"`
	VM        string `json:"vm,omitempty"`     // attach under HOST/VM
	Target    string `json:"target,omitempty"` // empty: the one that has the volume
	ReadOnly  bool   `json:"read_only,omitempty"`
	Once      bool   `json:"once,omitempty"` // not kept over a restart
	Show
}

// Show says as what an attachment is presented beside its NBD export. Asking
// again adds to what there is.
type Show struct {
	NBD         bool   `json:"nbd,omitempty"`         // a kernel device /dev/nbdN
	Loop        bool   `json:"loop,omitempty"`        // a loop device on the file
	File        bool   `json:"file,omitempty"`        // a file of the FUSE mount
	Connections int    `json:"connections,omitempty"` // of the kernel device, 1..16; 0: 1
	Owner       string `json:"owner,omitempty"`       // USER[:GROUP] of device and file; empty: the initiator's
	Mode        uint32 `json:"mode,omitempty"`        // permissions of device and file; 0: 0600
	Shared      bool   `json:"shared,omitempty"`      // other devices of this host with the volume are known and cared for
}

// Attachment is a volume that an initiator presents.
type Attachment struct {
	Name      string `json:"name"` // [NS/]VOL[~VM], also the NBD export name
	Namespace string `json:"namespace"`
	Volume    string `json:"volume"`
	VM        string `json:"vm,omitempty"`
	Nexus     string `json:"nexus"`
	Target    string `json:"target"`
	Size      uint64 `json:"size"`
	ReadOnly  bool   `json:"read_only,omitempty"`
	Once      bool   `json:"once,omitempty"`
	URI       string `json:"uri"`
	State     string `json:"state"` // ok, parked, failed
	Reason    string `json:"reason,omitempty"`
	PathsUp   int    `json:"paths_up"`
	Paths     int    `json:"paths"`
	Clients   int    `json:"clients"` // NBD connections
	Shown
}

// Shown is what an attachment is presented as now.
type Shown struct {
	Device  string   `json:"device,omitempty"` // /dev/nbdN
	Loop    string   `json:"loop,omitempty"`   // /dev/loopN
	File    string   `json:"file,omitempty"`
	Link    string   `json:"link,omitempty"`    // the stable name of the device
	OpenBy  []string `json:"open_by,omitempty"` // who has device or file open: processes, mounts, devices above
	Trouble string   `json:"trouble,omitempty"` // why something of it is missing
}

// Path is one connection of a session, seen from the initiator.
type Path struct {
	ID          string  `json:"id"` // TARGET/N, stable while the target is configured
	Target      string  `json:"target"`
	Nexus       string  `json:"nexus"`
	Local       string  `json:"local"`
	Remote      string  `json:"remote"`
	State       string  `json:"state"` // up, suspect, connecting, down, disabled
	Reason      string  `json:"reason,omitempty"`
	Outstanding uint64  `json:"outstanding"` // bytes in flight
	ServiceUS   float64 `json:"service_us"`  // measured service time, microseconds
	Requests    uint64  `json:"requests"`
	Bytes       uint64  `json:"bytes"`
	Resent      uint64  `json:"resent"`   // requests taken over from this path by others
	Failures    uint64  `json:"failures"` // times the path was lost
}

// Session is a session as its target sees it.
type Session struct {
	ID        string        `json:"id"`
	Nexus     string        `json:"nexus"`
	Paths     []string      `json:"paths"` // remote addresses
	State     string        `json:"state"` // open, idle (no path), draining
	Running   int           `json:"running"`
	Window    uint64        `json:"window"` // bytes granted
	Volumes   []string      `json:"volumes"`
	Heard     time.Duration `json:"heard"`     // since the last byte
	Plaintext bool          `json:"plaintext"` // identity is claimed, not proven
}

// Inflight is one request in flight.
type Inflight struct {
	Volume string        `json:"volume"`
	Nexus  string        `json:"nexus"`
	Op     string        `json:"op"`
	Off    uint64        `json:"off"`
	Len    uint32        `json:"len"`
	Age    time.Duration `json:"age"`
	Where  string        `json:"where"` // running, waiting, path NAME, parked
}

// Counters are totals since the start, per volume or attachment; rsioctl top
// takes the difference of two.
type Counters struct {
	Name       string        `json:"name"`
	Reads      uint64        `json:"reads"`
	Writes     uint64        `json:"writes"`
	Flushes    uint64        `json:"flushes"`
	Others     uint64        `json:"others"`
	ReadBytes  uint64        `json:"read_bytes"`
	WriteBytes uint64        `json:"write_bytes"`
	Errors     uint64        `json:"errors"`
	Conflicts  uint64        `json:"conflicts"` // of the errors, those of a reservation
	Inflight   uint64        `json:"inflight"`
	Busy       time.Duration `json:"busy"` // sum of service times
}

// Event is something that happened and that somebody may have to know.
type Event struct {
	ID     uint64    `json:"id"` // grows by one
	Time   time.Time `json:"time"`
	Level  string    `json:"level"` // info, warning, error
	Object string    `json:"object"`
	Text   string    `json:"text"`
}

// Status is the state of a daemon; Summary names the worst thing.
type Status struct {
	Role        string       `json:"role"` // target, initiator
	Name        string       `json:"name"` // of the host
	Version     string       `json:"version"`
	Summary     string       `json:"summary"`
	State       string       `json:"state"` // ok, warning, error
	Started     time.Time    `json:"started"`
	Warnings    []string     `json:"warnings,omitempty"` // e.g. plain-text portals
	Portals     []string     `json:"portals,omitempty"`
	NBD         []string     `json:"nbd,omitempty"`
	Volumes     int          `json:"volumes"`
	Targets     []Target     `json:"targets,omitempty"`
	Sessions    []Session    `json:"sessions,omitempty"`
	Attachments []Attachment `json:"attachments,omitempty"`
	Memory      Memory       `json:"memory"`
	Checks      []Check      `json:"checks,omitempty"` // what rsioctl doctor shows
}

// Check is one thing of a host that was looked at.
type Check struct {
	Name   string `json:"name"`
	State  string `json:"state"` // ok, warning, error
	Text   string `json:"text"`
	Remedy string `json:"remedy,omitempty"`
}

// Memory is the payload budget of a daemon in bytes.
type Memory struct {
	Out   int64 `json:"out"`
	High  int64 `json:"high"`
	Limit int64 `json:"limit"`
}

// Call is a request of the control API that an initiator passes on to a
// target inside its session.
type Call struct {
	Method string `json:"method"`
	Path   string `json:"path"` // with query
	Body   []byte `json:"body,omitempty"`
}

// Reply is the answer to a Call.
type Reply struct {
	Code int    `json:"code"`
	Body []byte `json:"body,omitempty"`
}

// Common is what both daemons offer.
type Common interface {
	Status() Status
	Inflight() []Inflight
	Counters() []Counters
	// Events returns those with an ID above after, waiting until ctx ends if
	// there is none.
	Events(ctx context.Context, after uint64) []Event
	// OpenDevice opens a volume for import or export; done closes it.
	OpenDevice(ctx context.Context, namespace, volume string, write bool) (dev block.Device, done func(), err error)
	// Reservation reports the unit attentions of the nexus that as names (see
	// ReserveSpec.As); without one there is nobody to report to. target is
	// where an initiator asks, empty for the one that has the volume; a target
	// ignores it.
	Reservation(ctx context.Context, target, namespace, volume, as string) (Reservation, error)
	// Reserve changes a reservation. A refusal is an error of kind Conflict or
	// Usage.
	Reserve(ctx context.Context, target, namespace, volume string, spec ReserveSpec) (ReserveResult, error)
	// Block reads or compares and writes a few bytes.
	Block(ctx context.Context, target, namespace, volume string, c BlockCall) (BlockReply, error)
}

// TargetService is what package admin serves for a target.
type TargetService interface {
	Common
	VolumeCreate(VolumeSpec) (Volume, error)
	VolumeList() []Volume
	VolumeShow(namespace, name string) (Volume, error)
	// VolumeResize sets the size in bytes; a smaller one needs shrink.
	// A nexus by has to have the right to write the volume, unless force is set.
	VolumeResize(by, namespace, name string, size uint64, shrink, force bool) (Volume, error)
	// VolumeDelete refuses a volume that is open, or reserved by others than
	// by, unless force is set.
	VolumeDelete(by, namespace, name string, force bool) error
}

// InitiatorService is what package admin serves for an initiator.
type InitiatorService interface {
	Common
	TargetAdd(TargetSpec) (Target, error)
	TargetRemove(name string) error
	TargetList() []Target
	Attach(ctx context.Context, spec AttachSpec) (Attachment, error)
	// Detach takes the name of an attachment or its URI.
	Detach(ctx context.Context, name string, force bool) error
	Attachments() []Attachment
	Paths() []Path
	// PathSet disables or enables the path with the given ID or address.
	PathSet(id string, enabled bool) error
	// Forward hands a Call to the named target, or to the only one.
	Forward(ctx context.Context, target string, c Call) (Reply, error)
}
