// SPDX-License-Identifier: Apache-2.0

package initiator

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"rsio/rsio/admin/api"
	"rsio/rsio/block"
	"rsio/rsio/wire"
)

// config is what outlives a reboot: targets and attachments.
type config struct {
	Targets     []api.TargetSpec `json:"targets"`
	Attachments []keptAttachment `json:"attachments"`
}

type keptAttachment struct {
	Spec   api.AttachSpec `json:"spec"`
	Target string         `json:"target"`
	Info   block.Info     `json:"info"` // as last seen
}

const (
	configFile = "initiator.json"
	runFile    = "sessions.json"
)

// loadConfig reads the configuration; a missing file is an empty one, a
// damaged one is refused.
func loadConfig(dir string) (config, error) {
	var c config
	err := readJSON(filepath.Join(dir, configFile), &c)
	return c, err
}

// save writes the configuration durably.
func (c *config) save(dir string) error { return writeJSON(filepath.Join(dir, configFile), c, true) }

func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s is damaged: %w: restore it, or remove it to start without", path, err)
	}
	return nil
}

// writeJSON replaces a file as a whole. Without durable it survives kill -9
// but not a crash of the host.
func writeJSON(path string, v any, durable bool) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil && durable {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil || !durable {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// run is what a successor of this process must know while the host is up: the
// secrets of the sessions, how many processes there have been, and what the
// volumes were seen with.
type run struct {
	mu   sync.Mutex
	path string
	data runData

	logins uint32 // of this process
}

type runData struct {
	Life         uint32            `json:"life"`
	Secrets      map[string]string `json:"secrets"` // by target and nexus
	Incarnations map[string]uint64 `json:"incarnations"`
	Rights       map[string]uint64 `json:"rights"`
}

// openRun reads the run file and enters this process into it.
func openRun(dir string) (*run, error) {
	r := &run{path: filepath.Join(dir, runFile)}
	if err := readJSON(r.path, &r.data); err != nil {
		return nil, err
	}
	if r.data.Secrets == nil {
		r.data.Secrets = make(map[string]string)
	}
	if r.data.Incarnations == nil {
		r.data.Incarnations = make(map[string]uint64)
	}
	if r.data.Rights == nil {
		r.data.Rights = make(map[string]uint64)
	}
	r.data.Life++
	return r, writeJSON(r.path, &r.data, false)
}

// serial returns a number that grows with each call and each process.
func (r *run) serial() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.logins++
	return uint64(r.data.Life)<<32 | uint64(r.logins)
}

// secret returns the secret of a nexus at a target, making it on first use. It
// is on record before it is used: a successor has to show it.
func (r *run) secret(target, nexus string) (wire.Secret, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var s wire.Secret
	k := target + " " + nexus
	if b, err := hex.DecodeString(r.data.Secrets[k]); err == nil && len(b) == len(s) {
		copy(s[:], b)
		return s, nil
	}
	_, _ = rand.Read(s[:]) // never fails, by its documentation
	r.data.Secrets[k] = hex.EncodeToString(s[:])
	return s, writeJSON(r.path, &r.data, false)
}

func (r *run) incarnation(key string) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.data.Incarnations[key]
}

// right returns the generation of the right that devices and files of a volume
// carry.
//
// Why a successor has to know: a device or file outlives this process and sends
// its unanswered writes again, to a successor. If the nexus was fenced in
// between, and has a right again, those writes would be executed under the new
// one although they were sent before the fence. So they carry this one until
// the successor's frontend has made sure that none is left. It is recorded when
// that has happened (Initiator.Fenced), not when the target tells of another
// right: the process may end between the two.
func (r *run) right(key string) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.data.Rights[key]
}

// setSeen records the incarnation of a volume, and its right if there is none
// on record; zeroes leave what was known.
func (r *run) setSeen(key string, incarnation, right uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	changed := put(r.data.Incarnations, key, incarnation)
	if r.data.Rights[key] == 0 {
		changed = put(r.data.Rights, key, right) || changed
	}
	if !changed {
		return nil
	}
	return writeJSON(r.path, &r.data, false)
}

// setRight records the right of a volume.
func (r *run) setRight(key string, right uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !put(r.data.Rights, key, right) {
		return nil
	}
	return writeJSON(r.path, &r.data, false)
}

func put(m map[string]uint64, key string, n uint64) (changed bool) {
	if n == 0 || m[key] == n {
		return false
	}
	m[key] = n
	return true
}

// forget ends what is on record of a volume.
func (r *run) forget(key string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.data.Incarnations, key)
	delete(r.data.Rights, key)
	return writeJSON(r.path, &r.data, false)
}
