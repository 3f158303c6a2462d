// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// format is the version of what is stored; a higher one is refused.
const format = 1

// state is the whole content. A state that is in use is never changed: a
// change makes a new one. Slices inside records are never written to.
type state struct {
	id         string
	generation uint64
	meta       map[string]string
	volumes    map[string]Volume
}

// head is what is stored about the state as a whole.
type head struct {
	Format     int               `json:"format"`
	ID         string            `json:"id"`
	Generation uint64            `json:"generation"`
	Meta       map[string]string `json:"meta,omitempty"`
	Count      int               `json:"count"`
	Digest     string            `json:"digest,omitempty"` // of the image; only in bbolt
}

// image is the canonical form of a state: the payload of the second copy, and
// what the digest in bbolt is taken of.
type image struct {
	head
	Volumes []Volume `json:"volumes"`
}

func (s *state) next() *state {
	return &state{id: s.id, generation: s.generation, meta: maps.Clone(s.meta), volumes: maps.Clone(s.volumes)}
}

func (s *state) list() []Volume {
	out := make([]Volume, 0, len(s.volumes))
	for _, k := range slices.Sorted(maps.Keys(s.volumes)) {
		v := s.volumes[k]
		out = append(out, v.clone())
	}
	return out
}

func (s *state) head() head {
	return head{Format: format, ID: s.id, Generation: s.generation, Meta: s.meta, Count: len(s.volumes)}
}

func (s *state) encode() ([]byte, error) {
	return json.Marshal(image{head: s.head(), Volumes: s.list()})
}

func digest(encoded []byte) string {
	sum := sha256.Sum256(encoded)
	return hex.EncodeToString(sum[:])
}

func decodeState(encoded []byte) (*state, error) {
	var im image
	if err := strictJSON(encoded, &im); err != nil {
		return nil, err
	}
	s, err := im.empty()
	if err != nil {
		return nil, err
	}
	for i := range im.Volumes {
		if err := s.add(key(im.Volumes[i].Namespace, im.Volumes[i].Name), im.Volumes[i]); err != nil {
			return nil, err
		}
	}
	if len(s.volumes) != im.Count {
		return nil, fmt.Errorf("%d volumes where %d belong", len(s.volumes), im.Count)
	}
	return s, nil
}

// empty returns the state that h describes, still without volumes.
func (h *head) empty() (*state, error) {
	if h.Format != format {
		return nil, fmt.Errorf("format %d is not known: made by a newer version", h.Format)
	}
	if h.ID == "" || h.Generation == 0 {
		return nil, errors.New("the identity or the generation is missing")
	}
	meta := h.Meta
	if meta == nil {
		meta = map[string]string{}
	}
	return &state{id: h.ID, generation: h.Generation, meta: meta, volumes: map[string]Volume{}}, nil
}

// add puts in a record that came from disk.
func (s *state) add(k string, v Volume) error {
	if err := v.check(); err != nil {
		return err
	}
	if key(v.Namespace, v.Name) != k {
		return fmt.Errorf("record %.80q holds volume %s/%s", k, v.Namespace, v.Name)
	}
	if _, ok := s.volumes[k]; ok {
		return fmt.Errorf("volume %s is there twice", k)
	}
	s.volumes[k] = v
	return nil
}
