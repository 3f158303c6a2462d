// SPDX-License-Identifier: Apache-2.0

package api

import (
	"encoding/hex"
	"fmt"

	"rsio/rsio/block"
)

// ParseReserve reads a spec of the control API.
func ParseReserve(spec ReserveSpec) (r block.ReserveOut, err error) {
	var ok bool
	if r.Action, ok = block.ParseReserveAction(spec.Action); !ok {
		return r, fmt.Errorf("there is no action %.40q", spec.Action)
	}
	if spec.Type != "" {
		if r.Type, ok = block.ParseReserveType(spec.Type); !ok {
			return r, fmt.Errorf("there is no type %.40q: give we, ea, wero, earo, wear or eaar", spec.Type)
		}
	}
	if spec.Request != "" {
		id, err := hex.DecodeString(spec.Request)
		if err != nil || len(id) != len(r.Request) {
			return r, fmt.Errorf("request %.60q is no ID: give 32 hex digits", spec.Request)
		}
		copy(r.Request[:], id)
	}
	r.Key, r.NewKey, r.To, r.Unregister = spec.Key, spec.NewKey, spec.To, spec.Unregister
	return r, nil
}

// ReserveAnswer makes an answer of the control API of a result.
func ReserveAnswer(volume, nexus string, r block.ReserveOut, res block.ReserveResult) (ReserveResult, error) {
	op := "reservation " + r.Action.String()
	switch res.Status {
	case block.StatusOK:
		out := ReserveResult{Volume: volume, Nexus: nexus, Action: r.Action.String(), Generation: res.Generation}
		for _, a := range res.Attentions {
			out.Attentions = append(out.Attentions, a.String())
		}
		return out, nil
	case block.StatusConflict:
		return ReserveResult{}, Errorf(Conflict, op, volume, "reservation conflict: "+res.Reason, "rsioctl reservation show "+volume+" shows who holds what")
	case block.StatusInvalid:
		return ReserveResult{}, Errorf(Usage, op, volume, res.Reason, "")
	case block.StatusDenied:
		return ReserveResult{}, Errorf(Denied, op, volume, res.Reason, "")
	case block.StatusNotFound:
		return ReserveResult{}, Errorf(NotFound, op, volume, res.Reason, "")
	case block.StatusClosed, block.StatusTimeout:
		return ReserveResult{}, Errorf(Timeout, op, volume, "given up before it was decided: "+res.Reason, "it has not happened; a preempt-abort waits for requests that a disk holds")
	}
	return ReserveResult{}, Errorf(Failed, op, volume, res.Reason, "repeat it with the same --request")
}

// DescribeReservation makes an answer of the control API of a state.
func DescribeReservation(volume, nexus string, x block.ReserveState) Reservation {
	out := Reservation{Volume: volume, Generation: x.Generation, Type: x.Type.String(), Key: x.Key, Registrants: []Registrant{},
		Conflicts: x.Conflicts, Capabilities: fmt.Sprintf("%08x", block.ReserveCapabilities), Nexus: nexus}
	for _, r := range x.Registrants {
		out.Registrants = append(out.Registrants, Registrant(r))
	}
	if nexus != "" {
		out.Access, out.Right = x.Access.String(), x.Right
		for _, a := range x.Attentions {
			out.Attentions = append(out.Attentions, a.String())
		}
	}
	return out
}

// DoBlock executes a BlockCall on a device.
func DoBlock(dev block.Device, volume, nexus string, c BlockCall) (BlockReply, error) {
	const op = "block"
	r := block.Request{Op: block.OpRead, Off: c.Off, Len: c.Len, Nexus: nexus, Right: dev.Info().Right}
	if c.Len == 0 || c.Len > block.AtomicLen {
		return BlockReply{}, Errorf(Usage, op, volume, fmt.Sprintf("a length of %d bytes is outside 1..%d", c.Len, block.AtomicLen), "")
	}
	if c.Write != nil {
		if len(c.Compare) != int(c.Len) || len(c.Write) != int(c.Len) {
			return BlockReply{}, Errorf(Usage, op, volume, "what is compared or written has another length", "")
		}
		r.Op, r.Flags, r.Buf = block.OpCompareAndWrite, block.FlagFUA, append(append(make([]byte, 0, 2*c.Len), c.Compare...), c.Write...)
	} else {
		r.Buf = make([]byte, c.Len)
	}
	if st := block.Check(dev.Info(), &r); st != block.StatusOK {
		return BlockReply{}, st
	}
	switch st := block.Do(dev, &r); {
	case st == block.StatusMiscompare:
		return BlockReply{Differs: r.N}, nil
	case st != block.StatusOK:
		return BlockReply{}, st
	case c.Write != nil:
		return BlockReply{Written: true}, nil
	}
	return BlockReply{Data: r.Buf}, nil
}
