// SPDX-License-Identifier: Apache-2.0

package present

import (
	"context"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"rsio/nbd"
	"rsio/rsio/block"
)

// An attachment has one export for clients, and one more for each frontend of
// ours, so that detach can tell clients from devices. A name of an attachment
// never begins with "@".
const (
	forKernel = "@nbd/"
	forFile   = "@file/"
)

// exportNames are all exports of an attachment.
func exportNames(name string) []string { return []string{name, forKernel + name, forFile + name} }

// URI returns where NBD clients find an attachment.
func (p *Presenter) URI(name string) string {
	u := url.URL{Scheme: "nbd+unix", Path: "/" + name, RawQuery: "socket=" + url.QueryEscape(p.opt.Socket)}
	u.RawQuery = strings.ReplaceAll(u.RawQuery, "%2F", "/")
	return u.String()
}

// Addresses returns where NBD is served.
func (p *Presenter) Addresses() []string { return p.opt.Addresses }

// Fence says that the right of an attachment's nexus is another one. Clients
// have it from now on; devices and files when the mender has fenced them.
func (p *Presenter) Fence(name string) {
	p.srv.Fence(name)
	p.poke()
}

// held is the device of an attachment as a device or file of ours uses it:
// under the right that it is known to be younger than.
type held struct {
	block.Device
	right *atomic.Uint64
}

// Info implements block.Device.
func (h *held) Info() block.Info {
	i := h.Device.Info()
	i.Right = h.right.Load()
	return i
}

// Clients returns how many connections an attachment has, but those of devices
// and files.
func (p *Presenter) Clients(name string) int { return p.srv.Stats().Exports[name] }

// closeTimeout is how long connections have for their last requests.
const closeTimeout = 5 * time.Second

// Close ends the connections of an attachment.
func (p *Presenter) Close(name string) {
	for _, n := range exportNames(name) {
		p.closeExport(n)
	}
}

func (p *Presenter) closeExport(name string) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_ = p.srv.CloseExport(ctx, name) // what does not end now ends with its requests
}

// List returns all attachments; nbd.Exports.
func (p *Presenter) List() []nbd.ExportInfo {
	a := p.attachments.Load()
	if a == nil {
		return nil
	}
	var out []nbd.ExportInfo
	for _, n := range (*a).Names() {
		out = append(out, nbd.ExportInfo{Name: n})
	}
	return out
}

// Open opens an attachment, without a name the only one there is; nbd.Exports.
func (p *Presenter) Open(export string) (*nbd.Export, error) {
	a := p.attachments.Load()
	if a == nil {
		return nil, block.StatusNotFound
	}
	name := strings.TrimPrefix(strings.TrimPrefix(export, forKernel), forFile)
	if names := (*a).Names(); export == "" && len(names) == 1 {
		name, export = names[0], names[0]
	}
	dev, nexus, ro, ok := (*a).Find(name)
	if !ok {
		return nil, block.StatusNotFound
	}
	if export != name {
		p.mu.Lock()
		s := p.shown[name]
		p.mu.Unlock()
		if s == nil {
			return nil, block.StatusBusy // a predecessor's: it comes again until it is presented
		}
		dev = &held{dev, &s.right}
	}
	return &nbd.Export{Name: export, Description: "attached under nexus " + nexus, Device: dev, Nexus: nexus, Volume: name, ReadOnly: ro}, nil
}
