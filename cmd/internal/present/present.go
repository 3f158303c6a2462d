// SPDX-License-Identifier: Apache-2.0

// Package present is what an initiator shows attachments as: NBD exports on a
// unix socket, kernel devices /dev/nbdN, files of a FUSE mount, and loop
// devices on those files.
//
// # What outlives the process
//
// An NBD export goes with its connections. A kernel device stays when the
// initiator dies: its requests wait in the kernel until a successor hands it
// new sockets, which it knows by the device's backend identifier. Files, and
// the loop devices on them, are served by a process of their own (package
// files), which sends its unanswered requests again to the successor.
//
// # Goroutines and locks
//
// New starts one goroutine, the mender: it gives kernel devices new sockets,
// watches the files' process and passes on sizes. Close joins it. Presenter.mu
// guards the table of what there is and is a leaf; Presenter.change is held
// while something is presented or withdrawn, one at a time.
package present

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"rsio/nbd"
	"rsio/nbd/kernel"
	"rsio/rsio/admin/api"
	"rsio/rsio/audit"
	"rsio/rsio/block"
	"rsio/rsio/initiator"
)

// Attachments is where a Presenter finds what it serves: an Initiator.
type Attachments interface {
	Names() []string
	Find(name string) (dev block.Device, nexus string, readOnly, ok bool)
	// Fenced is told when devices and files of an attachment have nothing in
	// flight that is older than the right.
	Fenced(name string, right uint64)
}

// Options configure a Presenter.
type Options struct {
	Run       string   // directory of sockets, absolute
	Socket    string   // where the server listens for our own devices and files
	Addresses []string // everything the server listens on
	Mount     string   // of the files; empty: Run/files
	All       bool     // every attachment is a file
	Command   []string // starts the process that serves files
	Events    *audit.Log
	Checks    []api.Check // of the process, for doctor
}

// Presenter implements initiator.Frontend and nbd.Exports.
type Presenter struct {
	opt         Options
	srv         *nbd.Server
	attachments atomic.Pointer[Attachments]
	stop        context.CancelFunc
	mender      sync.WaitGroup
	wake        chan struct{} // the mender has something to do

	change sync.Mutex // held while something is presented or withdrawn

	mu     sync.Mutex
	shown  map[string]*shown
	driver *kernel.Driver // nil: not opened yet
	files  filesState
}

// shown is what there is of an attachment.
type shown struct {
	initiator.Presented
	index   int           // of the kernel device, -1: none
	old     *kernel.Ioctl // it was attached by ioctl
	loop    string
	file    bool
	resized bool
	trouble string

	right   atomic.Uint64 // that device and file use
	barrier chan error    // a barrier of the kernel device is under way; guarded by Presenter.change
	under   uint64        // for this right
}

// New returns a Presenter that serves with srv, whose Exports it is: see
// Start.
func New(opt Options) *Presenter {
	if opt.Mount == "" {
		opt.Mount = filepath.Join(opt.Run, "files")
	}
	return &Presenter{opt: opt, shown: make(map[string]*shown), wake: make(chan struct{}, 1)}
}

// Start gives it the server and the attachments, and starts the mender.
func (p *Presenter) Start(srv *nbd.Server) {
	p.srv = srv
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	p.mender.Go(func() { p.mend(ctx) })
}

// Serve says whose attachments are served from now on.
func (p *Presenter) Serve(a Attachments) { p.attachments.Store(&a) }

// Shut ends the mender. Devices and files stay for a successor.
func (p *Presenter) Shut() {
	p.stop()
	p.mender.Wait()
	p.mu.Lock()
	driver := p.driver
	p.driver = nil
	p.mu.Unlock()
	for _, s := range p.all() {
		if s.old != nil {
			_ = s.old.Detach() // it would end with the process anyway
		}
	}
	if driver != nil {
		_ = driver.Close() // a netlink socket: nothing can be lost
	}
}

// Present makes what is asked for; initiator.Frontend.
func (p *Presenter) Present(ctx context.Context, want initiator.Presented) error {
	p.change.Lock()
	defer p.change.Unlock()
	want.Show.File = want.Show.File || want.Show.Loop || p.opt.All
	if err := p.coherent(want); err != nil {
		return err
	}
	if _, _, err := owner(want.Show.Owner); err != nil {
		return err
	}
	p.mu.Lock()
	s := p.shown[want.Name]
	if s == nil {
		s = &shown{index: -1}
		p.shown[want.Name] = s
	}
	s.Presented = want
	if s.right.Load() == 0 {
		s.right.Store(p.firstRight(want))
	}
	p.mu.Unlock()
	err := p.make(ctx, s)
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.trouble = ""; err != nil {
		s.trouble = err.Error()
	}
	if s.index < 0 && !s.file {
		delete(p.shown, want.Name)
	}
	return err
}

// make makes what s wants and does not have. p.change is held.
func (p *Presenter) make(ctx context.Context, s *shown) error {
	if s.Show.NBD {
		if err := p.makeDevice(ctx, s); err != nil {
			return err
		}
	}
	if s.Show.File {
		if err := p.makeFile(ctx, s); err != nil {
			return err
		}
	}
	if s.Show.Loop {
		return p.makeLoop(s)
	}
	return nil
}

// Withdraw takes everything of an attachment off; initiator.Frontend.
func (p *Presenter) Withdraw(ctx context.Context, name string, force bool) error {
	p.change.Lock()
	defer p.change.Unlock()
	p.mu.Lock()
	s := p.shown[name]
	p.mu.Unlock()
	if s == nil {
		return nil
	}
	if !force { // all or nothing, as far as can be foreseen
		if err := inUse(name, p.users(s)); err != nil {
			return err
		}
	}
	err := p.dropLoop(s, force)
	if err == nil {
		err = p.dropFile(ctx, s, force)
	}
	if err == nil {
		err = p.dropDevice(ctx, s, force)
	}
	if err != nil {
		return err
	}
	p.mu.Lock()
	delete(p.shown, name)
	last := len(p.shown) == 0
	p.mu.Unlock()
	if last && !p.opt.All {
		p.endFiles()
	}
	return nil
}

// Shown returns what there is of an attachment; initiator.Frontend.
func (p *Presenter) Shown(name string) api.Shown {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.shown[name]
	if s == nil {
		return api.Shown{}
	}
	out := api.Shown{Loop: s.loop, Trouble: s.trouble}
	if s.index >= 0 {
		out.Device = kernel.Path(s.index)
	}
	if s.file {
		out.File = filepath.Join(p.opt.Mount, s.path())
	}
	if out.Device != "" || out.Loop != "" {
		out.Link = filepath.Join(devDir, s.path())
	}
	return out
}

// path is the name of s below the mount and below devDir.
func (s *shown) path() string { return fileName(s.Namespace, s.Volume, s.VM) }

// Resized says that an attachment has another size; initiator.Frontend.
func (p *Presenter) Resized(name string) {
	p.mu.Lock()
	if s := p.shown[name]; s != nil {
		s.resized = true
	}
	p.mu.Unlock()
	p.poke()
}

func (p *Presenter) poke() {
	select {
	case p.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// mendEvery is the time between two looks at devices and files when nothing
// says that there is something to do.
const mendEvery = time.Second

// mend keeps devices and files working.
func (p *Presenter) mend(ctx context.Context) {
	t := time.NewTicker(mendEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		case <-p.wake:
		}
		p.change.Lock()
		for _, s := range p.all() {
			p.mendOne(ctx, s)
		}
		p.change.Unlock()
	}
}

func (p *Presenter) all() []*shown {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]*shown, 0, len(p.shown))
	for _, s := range p.shown {
		out = append(out, s)
	}
	return out
}

// mendOne puts right what is not. p.change is held.
func (p *Presenter) mendOne(ctx context.Context, s *shown) {
	p.mu.Lock()
	resized, was := s.resized, s.trouble
	s.resized = false
	p.mu.Unlock()
	var err error
	if s.index >= 0 {
		err = p.mendDevice(ctx, s, resized)
	}
	if s.file {
		err = errors.Join(err, p.mendFile(ctx, s, resized))
	}
	err = errors.Join(err, p.mendRight(ctx, s))
	p.mu.Lock()
	if s.trouble = ""; err != nil {
		s.trouble = err.Error()
		s.resized = s.resized || resized
	}
	now := s.trouble
	p.mu.Unlock()
	if now != was && now != "" {
		p.opt.Events.Add(audit.Error, s.Name, now)
	}
}
