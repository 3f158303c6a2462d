// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"time"

	"rsio/rsio/block"
)

// Volume is the record of one volume.
type Volume struct {
	Namespace   string    `json:"namespace"`
	Name        string    `json:"name"`
	UUID        string    `json:"uuid"`
	Size        uint64    `json:"size"` // bytes
	Kind        string    `json:"kind"`
	Direct      bool      `json:"direct,omitempty"`
	Layers      []string  `json:"layers,omitempty"`
	Incarnation uint64    `json:"incarnation"`
	Writers     []string  `json:"writers,omitempty"` // nexuses on record as writing
	Created     time.Time `json:"created"`
	// Reservation is the second copy of the volume's reservation, as the disk
	// access manager encodes it.
	Reservation json.RawMessage `json:"reservation,omitempty"`
}

// maxReservation bounds Volume.Reservation, in bytes.
const maxReservation = 1 << 20

// key is the place of a volume in the table; neither part can hold a slash.
func key(namespace, name string) string { return namespace + "/" + name }

func checkKey(namespace, name string) error {
	if err := block.CheckName("namespace", namespace); err != nil {
		return err
	}
	return block.CheckName("volume", name)
}

func (v *Volume) check() error {
	if err := checkKey(v.Namespace, v.Name); err != nil {
		return err
	}
	for _, w := range v.Writers {
		if err := block.CheckNexus(w); err != nil {
			return fmt.Errorf("writer: %w", err)
		}
	}
	if len(v.Reservation) > maxReservation {
		return fmt.Errorf("its reservation has %d bytes", len(v.Reservation))
	}
	return nil
}

// clone returns a copy that shares nothing with v, in the form in which it
// comes back from disk.
func (v *Volume) clone() Volume {
	c := *v
	c.Layers, c.Writers = cloneList(v.Layers), cloneList(v.Writers)
	c.Created = v.Created.UTC().Round(0)
	return c
}

func cloneList(s []string) []string {
	if len(s) == 0 {
		return nil
	}
	return slices.Clone(s)
}

// encodeRecord returns the value stored in bbolt under k: the CRC32C of key
// and payload (4 bytes, big-endian), then the payload as JSON.
func encodeRecord(k string, payload any) ([]byte, error) {
	js, err := json.Marshal(payload)
	if err != nil {
		return nil, err
	}
	return append(binary.BigEndian.AppendUint32(nil, recordSum(k, js)), js...), nil
}

func recordSum(k string, js []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Checksum([]byte(k), table), table, js)
}

func decodeRecord(k string, value []byte, into any) error {
	if len(value) < 4 {
		return fmt.Errorf("record %.80q has %d bytes", k, len(value))
	}
	if binary.BigEndian.Uint32(value) != recordSum(k, value[4:]) {
		return fmt.Errorf("record %.80q: checksum is wrong", k)
	}
	if err := strictJSON(value[4:], into); err != nil {
		return fmt.Errorf("record %.80q: %w", k, err)
	}
	return nil
}

// strictJSON refuses unknown fields and anything behind the value.
func strictJSON(js []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(js))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is something behind the end")
	}
	return nil
}
