// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// Record is a line of the trail: a change of who may do what.
type Record struct {
	Time       time.Time `json:"time"` // filled in by Add
	Volume     string    `json:"volume"`
	UUID       string    `json:"uuid"`
	Nexus      string    `json:"nexus"` // who acted
	By         string    `json:"by"`    // on whose word: a session's nexus, or "administrator"
	Action     string    `json:"action"`
	Type       string    `json:"type,omitempty"`
	Key        uint64    `json:"key,string"`
	NewKey     uint64    `json:"new_key,string"`
	To         string    `json:"to,omitempty"`
	Before     string    `json:"before"`
	After      string    `json:"after"`
	Generation uint32    `json:"generation"` // PRgeneration afterwards
	Version    uint64    `json:"version"`    // of the volume's reservation; grows with each change
}

// Trail is the audit log: a file to which one JSON object a line is appended
// for each change, durably, and which is never changed otherwise. It is opened
// for each line, so that it may be moved away while the daemon runs.
type Trail struct {
	path string
	mu   sync.Mutex
}

// NewTrail returns the trail in a file, which is made with the first line.
func NewTrail(path string) *Trail { return &Trail{path: path} }

// Add appends a line. An error names the file; the caller goes on without it
// and says so.
func (t *Trail) Add(r Record) error {
	r.Time = time.Now().UTC()
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("audit log %s: %w", t.path, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	f, err := os.OpenFile(t.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	_, err = f.Write(append(line, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("audit log %s: %w", t.path, err)
	}
	return nil
}
