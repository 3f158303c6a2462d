// SPDX-License-Identifier: Apache-2.0

// Package initiator holds the sessions of a host to its targets and presents
// attached volumes as block devices.
//
// The way of a request: attachment.Submit hands it to session.Volume, which
// picks slot and path and queues the frame on a netio.Conn; the path's reader
// goroutine gets the answer, and the session completes the request.
//
// Goroutines: per link (a nexus at a target) one for the timers, per path one
// that dials and then reads, and the writer of its connection; one for the
// kernel's news of network interfaces. Close joins them all.
//
// Lock order: Initiator.mu, link.mu, path.mu, then the session's; attachment.mu
// is a leaf. Nothing waits for the network under any of them.
package initiator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"rsio/rsio/admin/api"
	"rsio/rsio/audit"
	"rsio/rsio/block"
	"rsio/rsio/transport"
)

// Frontend is what presents attachments to clients; it is told when one goes.
type Frontend interface {
	// Clients returns how many connections have the export open, but those of
	// devices and files.
	Clients(name string) int
	// Close ends the connections of an export after their requests.
	Close(name string)
	// URI returns where clients find the export.
	URI(name string) string
	// Fence says that the right of the export's nexus is another one: see
	// block.Info.Right. It does not wait. What devices and files have in flight
	// keeps the former right; the frontend calls Initiator.Fenced when all that
	// comes from them is younger than the right of that call.
	Fence(name string)
	// Addresses returns where the frontend listens.
	Addresses() []string

	// Present makes the devices and files that p asks for; what is there
	// already stays. After an error there may be some of them. It is called
	// for one name at a time.
	Present(ctx context.Context, p Presented) error
	// Withdraw takes all devices and files of an attachment off, flushed. One
	// that is in use is refused with the users named, unless force is set:
	// then its users get errors. Doing it again is no error.
	Withdraw(ctx context.Context, name string, force bool) error
	// Shown returns what there is of an attachment, but for its users. It does
	// not wait.
	Shown(name string) api.Shown
	// Users names who has devices or files of an attachment open.
	Users(name string) []string
	// Resized says that an attachment has another size. It does not wait.
	Resized(name string)
	// Checks tells what of the host devices and files depend on.
	Checks() []api.Check
}

// Presented is an attachment as a Frontend needs it.
type Presented struct {
	Name      string // [NS/]VOL[~VM]
	Namespace string
	Volume    string
	VM        string
	Nexus     string
	Target    string
	ReadOnly  bool
	Right     uint64 // what a predecessor's devices and files carry: see Fenced; 0: they carry none
	Show      api.Show
}

// Options configure an initiator.
type Options struct {
	Name        string // of this host: the HOST of every nexus
	RunDir      string // lost with a reboot: secrets, incarnations
	DataDir     string // outlives a reboot: targets, attachments
	Version     string
	Events      *audit.Log
	ParkTimeout time.Duration // how long I/O waits without a path; 0: for ever
	Frontend    Frontend
	Memory      func() api.Memory // of the frontends' payload pool
}

// Initiator is a running initiator. New starts it, Close ends it.
type Initiator struct {
	opt     Options
	run     *run
	started time.Time
	watch   *linkWatch

	mu      sync.Mutex
	targets []*targetEntry // as configured
	links   map[string]*link
	attach  map[string]*attachment
	busy    map[string]bool  // attachments that are being made or ended
	lost    []keptAttachment // on record, but their target is not configured now
	closed  bool
}

type targetEntry struct {
	spec  api.TargetSpec
	addrs []transport.Addr
	given bool // by the command line: not kept
}

// New starts an initiator with what is configured in its directories. Extra are
// targets from the command line, which are not kept; fallback is used if there
// is no target at all. Attachments that cannot be opened now are opened when
// their target comes up.
func New(opt Options, extra []api.TargetSpec, fallback api.TargetSpec) (*Initiator, error) {
	if err := block.CheckName("host", opt.Name); err != nil {
		return nil, err
	}
	cfg, err := loadConfig(opt.DataDir)
	if err != nil {
		return nil, err
	}
	r, err := openRun(opt.RunDir)
	if err != nil {
		return nil, err
	}
	i := &Initiator{opt: opt, run: r, started: time.Now(), links: make(map[string]*link),
		attach: make(map[string]*attachment), busy: make(map[string]bool)}
	for _, spec := range slices.Concat(extra, cfg.Targets) {
		if i.target(spec.Name) != nil {
			continue
		}
		if err := i.addTarget(spec); err != nil {
			return nil, err
		}
	}
	if len(i.targets) == 0 {
		if err := i.addTarget(fallback); err != nil {
			return nil, err
		}
	}
	for _, t := range i.targets {
		t.given = !slices.ContainsFunc(cfg.Targets, func(s api.TargetSpec) bool { return s.Name == t.spec.Name })
		if _, err := i.linkFor(t, opt.Name); err != nil {
			return nil, err
		}
	}
	i.watch = newLinkWatch(i.interfaceDown, opt.Events)
	for _, k := range cfg.Attachments {
		if err := i.restore(k); err != nil {
			i.lost = append(i.lost, k)
			opt.Events.Add(audit.Error, attachmentName(k.Spec), "the attachment could not be restored: "+err.Error())
		}
	}
	return i, nil
}

// Close ends everything and leaves attachments and sessions to a successor.
// Requests in flight end when their frontends have been closed, before this.
func (i *Initiator) Close() {
	i.mu.Lock()
	i.closed = true
	links := make([]*link, 0, len(i.links))
	for _, l := range i.links {
		links = append(links, l)
	}
	i.mu.Unlock()
	i.watch.close()
	for _, l := range links {
		l.client.GiveUp(block.StatusClosed, "the initiator ends")
		l.shut()
	}
}

func (i *Initiator) target(name string) *targetEntry {
	for _, t := range i.targets {
		if t.spec.Name == name {
			return t
		}
	}
	return nil
}

func (i *Initiator) addTarget(spec api.TargetSpec) error {
	const op = "target add"
	if err := block.CheckName("target", spec.Name); err != nil {
		return api.Errorf(api.Usage, op, spec.Name, err.Error(), "")
	}
	if len(spec.Addresses) == 0 {
		return api.Errorf(api.Usage, op, spec.Name, "no address is given", "give one HOST:PORT[%LOCAL] or unix:PATH for each path")
	}
	t := &targetEntry{spec: spec}
	for _, s := range spec.Addresses {
		a, err := transport.ParseAddr(s)
		if err != nil {
			return api.Errorf(api.Usage, op, spec.Name, err.Error(), "")
		}
		t.addrs = append(t.addrs, a)
	}
	i.targets = append(i.targets, t)
	return nil
}

// linkFor returns the link of a nexus at a target, starting it. i.mu is held.
func (i *Initiator) linkFor(t *targetEntry, nexus string) (*link, error) {
	k := t.spec.Name + " " + nexus
	if l := i.links[k]; l != nil {
		return l, nil
	}
	secret, err := i.run.secret(t.spec.Name, nexus)
	if err != nil {
		return nil, err
	}
	l := i.newLink(t.spec.Name, nexus, secret, t.addrs)
	i.links[k] = l
	return l, nil
}

// useLink is linkFor for one use, which ends with dropLink.
func (i *Initiator) useLink(target, nexus string) (*link, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed {
		return nil, block.StatusClosed
	}
	t := i.target(target)
	if t == nil {
		return nil, api.Errorf(api.NotFound, "use target", target, "no such target is configured", "rsioctl target add NAME ADDR...")
	}
	l, err := i.linkFor(t, nexus)
	if err != nil {
		return nil, err
	}
	l.users++
	return l, nil
}

// dropLink ends a use; the last one closes the link of a VM. The host's own
// stays for the control API.
func (i *Initiator) dropLink(l *link) {
	i.mu.Lock()
	l.users--
	last := l.users == 0 && l.nexus != i.opt.Name && !i.closed
	if last {
		delete(i.links, l.target+" "+l.nexus)
	}
	i.mu.Unlock()
	if last {
		l.close()
	}
}

// save writes the configuration. i.mu is held.
func (i *Initiator) save() error {
	var c config
	for _, t := range i.targets {
		if !t.given {
			c.Targets = append(c.Targets, t.spec)
		}
	}
	for _, k := range i.lost {
		if i.attach[attachmentName(k.Spec)] == nil {
			c.Attachments = append(c.Attachments, k)
		}
	}
	for _, a := range i.attach {
		if !a.spec.Once {
			c.Attachments = append(c.Attachments, keptAttachment{Spec: a.spec, Target: a.target, Info: a.Info()})
		}
	}
	slices.SortFunc(c.Attachments, func(a, b keptAttachment) int {
		return slices.Compare([]string{attachmentName(a.Spec)}, []string{attachmentName(b.Spec)})
	})
	return c.save(i.opt.DataDir)
}

// restore brings an attachment of an earlier process back.
func (i *Initiator) restore(k keptAttachment) error {
	l, err := i.useLink(k.Target, i.nexus(k.Spec.VM))
	if err != nil {
		return err
	}
	k.Info.Right = i.run.right(runKey(k.Target, l.nexus, k.Spec))
	a := i.newAttachment(k.Spec, l, k.Info)
	i.mu.Lock()
	if s := k.Spec.Show; s.NBD || s.File || s.Loop {
		a.former = k.Info.Right
	}
	i.attach[a.name] = a
	i.mu.Unlock()
	return nil
}

func (i *Initiator) nexus(vm string) string {
	if vm == "" {
		return i.opt.Name
	}
	return i.opt.Name + "/" + vm
}

// newAttachment opens the volume in the link's session; info is what was last
// seen of it.
func (i *Initiator) newAttachment(spec api.AttachSpec, l *link, info block.Info) *attachment {
	a := &attachment{spec: spec, name: attachmentName(spec), nexus: l.nexus, target: l.target, l: l, kick: make(chan struct{}, 1), info: info}
	a.v = l.client.OpenVolume(spec.Namespace, spec.Volume, spec.ReadOnly, i.run.incarnation(a.runKey()), a)
	return a
}

// Find returns the device of an attachment and its nexus; ok is false if there
// is none of that name.
func (i *Initiator) Find(name string) (dev block.Device, nexus string, readOnly, ok bool) {
	i.mu.Lock()
	a := i.attach[name]
	i.mu.Unlock()
	if a == nil || a.Info().Size == 0 {
		return nil, "", false, false
	}
	return a, a.nexus, a.spec.ReadOnly, true
}

// Fenced keeps for a successor that all that devices and files of an attachment
// send was given to them under this right, or is refused.
func (i *Initiator) Fenced(name string, right uint64) {
	i.mu.Lock()
	a := i.attach[name]
	i.mu.Unlock()
	if a == nil {
		return
	}
	if err := i.run.setRight(a.runKey(), right); err != nil {
		i.opt.Events.Add(audit.Error, name, "its right could not be recorded: "+err.Error())
	}
}

// Names returns the names of all attachments, sorted.
func (i *Initiator) Names() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	out := make([]string, 0, len(i.attach))
	for n := range i.attach {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

// interfaceDown cuts the paths of an interface that the kernel says is down.
func (i *Initiator) interfaceDown(index int) {
	i.mu.Lock()
	links := make([]*link, 0, len(i.links))
	for _, l := range i.links {
		links = append(links, l)
	}
	i.mu.Unlock()
	for _, l := range links {
		for _, p := range l.pathList() {
			p.mu.Lock()
			on := p.ifindex == index
			p.mu.Unlock()
			if on {
				p.cut(errLinkDown)
			}
		}
	}
}

// call does one control operation at a target under the host's nexus.
func (i *Initiator) call(ctx context.Context, target string, op block.Op, payload []byte) ([]byte, error) {
	l, err := i.useLink(target, i.opt.Name)
	if err != nil {
		return nil, err
	}
	defer i.dropLink(l)
	out, err := l.control(ctx, op, payload)
	if err == nil {
		return out, nil
	}
	if errors.Is(err, block.StatusTimeout) || errors.Is(err, block.StatusUnknown) {
		return nil, api.Errorf(api.Unreachable, "call", "target "+target, "no answer: "+l.why(), "check that rsio-target runs there and that a path is up: rsioctl path list")
	}
	return nil, fmt.Errorf("target %s: %w", target, err)
}

// why says why a target is not reached: the reason of its first path.
func (l *link) why() string {
	for _, p := range l.pathList() {
		p.mu.Lock()
		state, reason := p.state, p.reason
		p.mu.Unlock()
		if reason != "" {
			return fmt.Sprintf("path %s is %s: %s", p.name(), state, reason)
		}
	}
	return "the target does not answer"
}
