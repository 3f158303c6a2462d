// SPDX-License-Identifier: Apache-2.0

package dam

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"rsio/rsio/block"
)

// format is the version of what is stored; a higher one is refused.
const format = 1

// image is a State as it is stored: JSON, so that a human can read it in need.
type image struct {
	Format     int               `json:"format"`
	Volume     string            `json:"volume"`
	Version    uint64            `json:"version"`
	Generation uint32            `json:"generation"`
	Type       string            `json:"type,omitempty"`
	Holder     string            `json:"holder,omitempty"`
	Regs       []imageReg        `json:"registrants,omitempty"`
	Base       uint64            `json:"base"`
	Top        uint64            `json:"top"`
	Rights     map[string]uint64 `json:"rights,omitempty"`
	Pending    []imagePending    `json:"attentions,omitempty"`
	Done       []imageDone       `json:"done,omitempty"`
}

type imageReg struct {
	Nexus string `json:"nexus"`
	Key   uint64 `json:"key"`
}

type imagePending struct {
	Nexus string            `json:"nexus"`
	Codes []block.Attention `json:"codes"`
}

type imageDone struct {
	Nexus      string `json:"nexus"`
	Request    string `json:"request"`
	Action     string `json:"action"`
	Generation uint32 `json:"generation"`
}

// Encode returns the stored form of s.
func (s *State) Encode() ([]byte, error) {
	im := image{Format: format, Volume: s.Volume, Version: s.Version, Generation: s.Generation, Holder: s.Holder,
		Base: s.Base, Top: s.Top, Rights: s.Rights}
	if s.Type != block.ReserveNone {
		im.Type = s.Type.String()
	}
	for _, r := range s.Regs {
		im.Regs = append(im.Regs, imageReg(r))
	}
	for _, p := range s.Pending {
		im.Pending = append(im.Pending, imagePending(p))
	}
	for _, d := range s.Done {
		im.Done = append(im.Done, imageDone{d.Nexus, hex.EncodeToString(d.Request[:]), d.Action.String(), d.Generation})
	}
	return json.Marshal(im)
}

// Decode is the reverse of Encode. It checks everything that Apply relies on.
func Decode(b []byte) (*State, error) {
	var im image
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&im); err != nil {
		return nil, fmt.Errorf("reservation: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("reservation: there is something behind the end")
	}
	if im.Format != format {
		return nil, fmt.Errorf("reservation: format %d is not known: made by a newer version", im.Format)
	}
	s, err := im.state()
	if err == nil {
		err = s.check()
	}
	if err != nil {
		return nil, fmt.Errorf("reservation of volume %.64q: %w", im.Volume, err)
	}
	return s, nil
}

func (im *image) state() (*State, error) {
	s := &State{Volume: im.Volume, Version: im.Version, Generation: im.Generation, Holder: im.Holder, Base: im.Base, Top: im.Top, Rights: im.Rights}
	if im.Type != "" {
		var ok bool
		if s.Type, ok = block.ParseReserveType(im.Type); !ok {
			return nil, fmt.Errorf("there is no type %.20q", im.Type)
		}
	}
	for _, r := range im.Regs {
		s.Regs = append(s.Regs, Registration(r))
	}
	for _, p := range im.Pending {
		s.Pending = append(s.Pending, Pending(p))
	}
	for _, x := range im.Done {
		d := Done{Nexus: x.Nexus, Generation: x.Generation}
		id, err := hex.DecodeString(x.Request)
		if err != nil || len(id) != len(d.Request) {
			return nil, fmt.Errorf("request %.40q is no ID", x.Request)
		}
		copy(d.Request[:], id)
		var ok bool
		if d.Action, ok = block.ParseReserveAction(x.Action); !ok {
			return nil, fmt.Errorf("there is no action %.20q", x.Action)
		}
		s.Done = append(s.Done, d)
	}
	return s, nil
}

// check returns what is wrong with a state that was stored.
func (s *State) check() error {
	for i, r := range s.Regs {
		if err := block.CheckNexus(r.Nexus); err != nil {
			return err
		}
		if r.Key == 0 || i > 0 && cmp.Compare(s.Regs[i-1].Nexus, r.Nexus) >= 0 {
			return fmt.Errorf("registration %d is wrong", i)
		}
	}
	_, held := s.find(s.Holder)
	single := s.Type != block.ReserveNone && !s.Type.AllRegistrants()
	switch {
	case len(s.Regs) > block.MaxRegistrants:
		return fmt.Errorf("it has %d registrants", len(s.Regs))
	case single != (s.Holder != "") || single && !held:
		return fmt.Errorf("its holder %.127q is wrong", s.Holder)
	case s.Type.AllRegistrants() && len(s.Regs) == 0:
		return errors.New("it is held by nobody")
	case s.Volume == "" || s.Base < First || s.Top < s.Base:
		return errors.New("volume or generations of rights are wrong")
	}
	for n, g := range s.Rights {
		if g < First || g > s.Top {
			return fmt.Errorf("the right of %.127q is wrong", n)
		}
	}
	return nil
}

// Text describes the state in one line, for the audit log.
func (s *State) Text() string {
	const most = 16 // registrants; more are counted
	var b strings.Builder
	b.WriteString(s.Type.String())
	if s.Holder != "" {
		b.WriteString(" " + s.Holder)
	}
	for _, r := range s.Regs[:min(most, len(s.Regs))] {
		fmt.Fprintf(&b, ", %s=%#x", r.Nexus, r.Key)
	}
	if n := len(s.Regs) - most; n > 0 {
		fmt.Fprintf(&b, ", and %d more", n)
	}
	return b.String()
}

// same reports whether a and b are one state. Attentions do not count: that
// they were reported is stored with the next change only.
func same(a, b *State) bool {
	a, b = a.clone(), b.clone()
	a.Pending, b.Pending = nil, nil
	ea, err := a.Encode()
	if err != nil {
		return false
	}
	eb, err := b.Encode()
	return err == nil && slices.Equal(ea, eb)
}
