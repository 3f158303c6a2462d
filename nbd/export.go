// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"rsio/rsio/block"
)

// Export is a device as a client sees it.
type Export struct {
	// Name is the canonical name, up to 4096 bytes.
	Name string

	// Description is shown to people; it may be empty. What is beyond 4096
	// bytes is cut off.
	Description string

	// Device serves the requests. All connections to an export must be given
	// the same device, or devices whose flush covers each other's writes: the
	// server promises clients that several connections act as one.
	Device block.Device

	// Nexus is put into every request.
	Nexus string

	// Volume names the storage behind the export. Exports with the same
	// Volume wait for each other's orphans. Empty means Name.
	Volume string

	// ReadOnly refuses changes even if the device takes them.
	ReadOnly bool

	// Release, if not nil, is called once when the server has let go of the
	// export that Open returned: no request of it is in flight any more.
	Release func()
}

// ExportInfo is an entry of the list a client may ask for.
type ExportInfo struct {
	Name        string
	Description string
}

// Exports is where a Server finds what it serves. Its methods are called from
// the goroutines of connections, at any time, several at once.
type Exports interface {
	// List returns the exports a client may see. The order is kept.
	List() []ExportInfo

	// Open returns the export called name; the empty name is the default
	// export, if there is exactly one. It is called for every connection and
	// for every client that only asks. An error that is block.StatusNotFound
	// or block.StatusDenied is answered as an unknown export, another
	// block.Status by its text, any other error without detail.
	Open(name string) (*Export, error)
}

// Stats is what a Server knows of itself.
type Stats struct {
	Conns      int            // connections now, those that still haggle included
	Handshakes int            // connections now that still haggle
	Exports    map[string]int // connections now by canonical name of the export

	Accepted uint64 // connections ever accepted
	Refused  uint64 // of these, closed at once because of MaxConns or MaxHandshakes
	Rejected uint64 // handshakes that ended without an export, LIST and INFO included
	Broken   uint64 // connections that ended because of what the client sent
	Panics   uint64 // connections that ended because of a defect of the server
	Orphans  uint64 // changing requests that were in flight when their connection closed
	HeldBack uint64 // changing requests that waited for an orphan
	Refusals uint64 // changing requests of closed connections that were not started
}

// key is what connections share their orphans by.
func (e *Export) key() string {
	if e.Volume != "" {
		return e.Volume
	}
	return e.Name
}

func (e *Export) release() {
	if e.Release != nil {
		e.Release()
	}
}

// info is the device's, as far as this export allows.
func (e *Export) info() block.Info {
	i := e.Device.Info()
	i.ReadOnly = i.ReadOnly || e.ReadOnly
	return i
}

// flags returns the transmission flags; chunks says whether replies are
// structured or extended.
func (e *Export) flags(i block.Info, chunks bool) uint16 {
	f := exportHasFlags | exportMultiConn | exportCache
	add := func(ok bool, bit uint16) {
		if ok {
			f |= bit
		}
	}
	add(chunks, exportDF)
	add(i.Has(block.CanFlush), exportFlush)
	add(i.Has(block.CanFUA), exportFUA)
	if i.ReadOnly {
		return f | exportReadOnly
	}
	add(i.Has(block.CanDiscard), exportTrim)
	add(i.Has(block.CanZero), exportZeroes)
	add(i.Has(block.CanZero|block.CanFastZero), exportFastZero)
	return f
}
