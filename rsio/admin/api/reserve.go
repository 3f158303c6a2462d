// SPDX-License-Identifier: Apache-2.0

package api

// ReserveSpec asks for a change of a reservation. Keys are 64-bit numbers, as
// text in JSON: other languages round large numbers.
type ReserveSpec struct {
	// As is the nexus that acts. At an initiator it is a VM of this host, or
	// empty for the host itself; at a target it is a nexus and must be given.
	As         string `json:"as,omitempty"`
	Action     string `json:"action"` // register, register-ignore, reserve, release, clear, preempt, preempt-abort, move
	Type       string `json:"type,omitempty"`
	Key        uint64 `json:"key,string"`
	NewKey     uint64 `json:"new_key,string"`
	To         string `json:"to,omitempty"` // move: the other nexus
	Unregister bool   `json:"unregister,omitempty"`
	// Request is chosen at random by whoever asks, 32 hex digits. Asked again
	// with the same one, a change is answered and not made a second time.
	Request string `json:"request,omitempty"`
}

// ReserveResult is the answer to a change that was made.
type ReserveResult struct {
	Volume     string   `json:"volume"`
	Nexus      string   `json:"nexus"` // who acted
	Action     string   `json:"action"`
	Generation uint32   `json:"generation"`
	Attentions []string `json:"attentions,omitempty"` // that waited for the nexus
}

// Registrant is one registration of a volume.
type Registrant struct {
	Nexus  string `json:"nexus"`
	Key    uint64 `json:"key,string"`
	Holder bool   `json:"holder"`
}

// Reservation is who may do what to a volume.
type Reservation struct {
	Volume       string       `json:"volume"`
	Generation   uint32       `json:"generation"`
	Type         string       `json:"type"` // none, we, ea, wero, earo, wear, eaar
	Key          uint64       `json:"key,string"`
	Registrants  []Registrant `json:"registrants"`
	Conflicts    uint64       `json:"conflicts"`    // requests refused since the target started
	Capabilities string       `json:"capabilities"` // bytes 2 to 5 of REPORT CAPABILITIES, hex

	// What it means for the nexus that asks, if one does.
	Nexus      string   `json:"nexus,omitempty"`
	Access     string   `json:"access,omitempty"` // rw, r or -
	Right      uint64   `json:"right,omitempty"`  // generation of its right
	Attentions []string `json:"attentions,omitempty"`
}

// BlockCall reads a part of a volume, or compares it and writes it in one step.
type BlockCall struct {
	As      string `json:"as,omitempty"` // as in ReserveSpec
	Off     uint64 `json:"off"`          // bytes
	Len     uint32 `json:"len"`          // bytes, at most 4096, within one aligned block of that size
	Compare []byte `json:"compare,omitempty"`
	Write   []byte `json:"write,omitempty"` // written, durably, if Compare is what is there; nil: read only
}

// BlockReply is what was there, or whether it was written.
type BlockReply struct {
	Data    []byte `json:"data,omitempty"`    // of a read
	Written bool   `json:"written"`           // the comparison was right
	Differs uint32 `json:"differs,omitempty"` // place of the first difference, from Off
}
