// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"encoding/binary"
	"errors"
)

// Limits of the handshake in bytes.
const (
	maxString    = 4096     // the protocol's limit for names and queries
	maxOption    = 64 << 10 // an option with more payload ends the connection
	maxOptionBuf = 8 << 10  // an option with more payload is answered as too big, unread
	optionLen    = 16       // header of an option
	optReplyLen  = 20       // header of a reply to an option
)

// Context is what the server calls base:allocation.
const (
	contextName = "base:allocation"
	contextID   = 1
)

var (
	errMalformed = errors.New("option data does not fit its own lengths")
	errLongName  = errors.New("a name is longer than 4096 bytes")
)

// optionHeader is the fixed part of an option.
type optionHeader struct {
	magic      uint64
	id, length uint32
}

func parseOption(b []byte) optionHeader {
	_ = b[optionLen-1]
	return optionHeader{
		magic:  binary.BigEndian.Uint64(b),
		id:     binary.BigEndian.Uint32(b[8:]),
		length: binary.BigEndian.Uint32(b[12:]),
	}
}

// cutString takes a string with a 32-bit length off the front of b. The
// length is checked against b before anything is done with it.
func cutString(b []byte) (s, rest []byte, err error) {
	if len(b) < 4 {
		return nil, nil, errMalformed
	}
	n := binary.BigEndian.Uint32(b)
	b = b[4:]
	if n > uint32(len(b)) { // len(b) is below maxOption
		return nil, nil, errMalformed
	}
	if n > maxString {
		return nil, nil, errLongName
	}
	return b[:n], b[n:], nil
}

// infoRequest is the data of INFO and GO.
type infoRequest struct {
	name  string
	wants [4]bool // by information type; others are ignored
}

func parseInfo(b []byte) (infoRequest, error) {
	var r infoRequest
	name, b, err := cutString(b)
	if err != nil {
		return r, err
	}
	if len(b) < 2 {
		return r, errMalformed
	}
	n := int(binary.BigEndian.Uint16(b))
	b = b[2:]
	if len(b) != 2*n {
		return r, errMalformed
	}
	for ; len(b) > 0; b = b[2:] {
		if t := int(binary.BigEndian.Uint16(b)); t < len(r.wants) {
			r.wants[t] = true
		}
	}
	r.name = string(name)
	return r, nil
}

// metaRequest is the data of LIST_META_CONTEXT and SET_META_CONTEXT, looked at
// for the one context there is.
type metaRequest struct {
	name     string
	queries  uint32
	exact    bool // a query names base:allocation
	wildcard bool // a query is "base:"
}

func parseMeta(b []byte) (metaRequest, error) {
	var r metaRequest
	name, b, err := cutString(b)
	if err != nil {
		return r, err
	}
	if len(b) < 4 {
		return r, errMalformed
	}
	r.queries = binary.BigEndian.Uint32(b)
	b = b[4:]
	for range r.queries { // every query takes 4 bytes or ends the loop
		var q []byte
		if q, b, err = cutString(b); err != nil {
			return r, err
		}
		switch string(q) {
		case contextName:
			r.exact = true
		case "base:":
			r.wildcard = true
		}
	}
	if len(b) != 0 {
		return r, errMalformed
	}
	r.name = string(name)
	return r, nil
}
