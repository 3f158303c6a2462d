// SPDX-License-Identifier: Apache-2.0

package main

import (
	"rsio/dam"
	"rsio/rsio/audit"
	"rsio/rsio/target"
)

// auditName is the name of the audit log in the data directory.
const auditName = "audit.log"

// gate makes the disk access manager of a target.
func gate(trail *audit.Trail) func(target.GateHost) (target.Gate, error) {
	return func(h target.GateHost) (target.Gate, error) {
		return dam.Open(dam.Options{Dir: h.Dir, Second: copies{h}, Warn: h.Warn, Right: h.Right, Attention: h.Attention,
			Audit: func(e dam.Entry) error {
				what := e.Action.Action.String()
				if e.Recovered {
					what += " (found at a start)"
				}
				return trail.Add(audit.Record{Volume: h.Name(e.Volume), UUID: e.Volume, Nexus: e.Nexus, By: e.By, Action: what,
					Type: e.Action.Type.String(), Key: e.Action.Key, NewKey: e.Action.NewKey, To: e.Action.To,
					Before: e.Before, After: e.After, Generation: e.Generation, Version: e.Version})
			}})
	}
}

// copies is the registry as the disk access manager sees it.
type copies struct{ h target.GateHost }

// Load returns the copies of all volumes.
func (c copies) Load() map[string][]byte { return c.h.Copies() }

// Store keeps one.
func (c copies) Store(volume string, state []byte) error { return c.h.Keep(volume, state) }
