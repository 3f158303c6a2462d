// SPDX-License-Identifier: Apache-2.0

package present

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"rsio/cmd/internal/files"
	"rsio/rsio/admin/api"
)

// filesState is what is known of the process that serves files.
type filesState struct {
	client *files.Client // nil: not used yet
}

// startTimeout is how long the files' process has to mount and answer.
const startTimeout = 10 * time.Second

// filesClient returns a client of the files' process, starting it if there is
// none. p.change is held.
func (p *Presenter) filesClient(ctx context.Context) (*files.Client, error) {
	p.mu.Lock()
	c := p.files.client
	if c == nil {
		c = files.NewClient(filepath.Join(p.opt.Run, files.Socket))
		p.files.client = c
	}
	p.mu.Unlock()
	if _, err := c.List(ctx); err == nil {
		return c, nil
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := p.spawn(ctx); err != nil {
		return nil, fmt.Errorf("files at %s: %w", p.opt.Mount, err)
	}
	return c, nil
}

// spawn starts the files' process in a session of its own: it outlives us. Its
// first process tells by its end whether all is well.
func (p *Presenter) spawn(ctx context.Context) error {
	log := filepath.Join(p.opt.Run, files.LogFile)
	out, err := os.OpenFile(log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }()
	r, w, err := os.Pipe() // it closes its end when files can be opened, or when it fails
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	args := append(slices.Clone(p.opt.Command[1:]), "--run", p.opt.Run, "--mount", p.opt.Mount, "--nbd", p.opt.Socket, "--ready-fd", "3")
	cmd := exec.Command(p.opt.Command[0], args...)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = out, out, []*os.File{w}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	_ = w.Close()
	if err != nil {
		return err
	}
	p.mender.Go(func() { _ = cmd.Wait() }) // it is ours to reap if it ends before us
	if dl, ok := ctx.Deadline(); ok {
		_ = r.SetReadDeadline(dl)
	}
	word := make([]byte, 512)
	n, err := r.Read(word)
	if err == nil && string(word[:n]) == "ok" {
		return nil
	}
	if n == 0 {
		return fmt.Errorf("the process that serves them did not start: see %s", log)
	}
	return errors.New(string(word[:n]))
}

// makeFile makes the file of s. p.change is held.
func (p *Presenter) makeFile(ctx context.Context, s *shown) error {
	uid, gid, err := owner(s.Show.Owner)
	if err != nil {
		return err
	}
	c, err := p.filesClient(ctx)
	if err != nil {
		return api.Errorf(api.Failed, "attach", s.Name, err.Error(), "see rsioctl doctor")
	}
	err = c.Put(ctx, files.File{Path: s.path(), Export: forFile + s.Name, Volume: s.Namespace + "/" + s.Volume, Nexus: s.Nexus,
		Target: s.Target, ReadOnly: s.ReadOnly, UID: uint32(uid), GID: uint32(gid), Mode: uint32(permissions(s.Show)), Right: s.right.Load()})
	if err != nil {
		return err
	}
	p.mu.Lock()
	s.file = true
	p.mu.Unlock()
	return nil
}

// mendFile sees to it that the file of s is served.
func (p *Presenter) mendFile(ctx context.Context, s *shown, resized bool) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	p.mu.Lock()
	c := p.files.client
	p.mu.Unlock()
	list, err := c.List(ctx)
	i := slices.IndexFunc(list, func(f files.State) bool { return f.Path == s.path() })
	if err != nil || i < 0 {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := p.makeFile(ctx, s); err != nil {
			return err
		}
		if s.lost() {
			return s.lostError()
		}
		return fmt.Errorf("its file %s was gone and has been made again: who had it open has to open it anew", s.path())
	}
	if s.lost() {
		return s.lostError()
	}
	if !resized {
		return nil
	}
	if err := c.Refresh(ctx, s.path()); err != nil {
		return err
	}
	if s.loop != "" {
		return loopResized(s.loop)
	}
	return nil
}

// dropFile removes the file of s.
func (p *Presenter) dropFile(ctx context.Context, s *shown, force bool) error {
	if !s.file {
		return nil
	}
	p.mu.Lock()
	c := p.files.client
	p.mu.Unlock()
	err := c.Delete(ctx, s.path(), force)
	for n := 0; n < releaseTries && errors.Is(err, files.ErrInUse); n++ {
		time.Sleep(releaseEvery) // the loop device's release is on its way
		err = c.Delete(ctx, s.path(), force)
	}
	if errors.Is(err, files.ErrInUse) {
		return inUse(s.Name, []string{err.Error()})
	}
	if err != nil && !force {
		return err
	}
	p.mu.Lock()
	s.file = false
	p.mu.Unlock()
	return nil
}

// A file that a loop device has let go of is closed a moment later.
const (
	releaseTries = 20
	releaseEvery = 25 * time.Millisecond
)

// endFiles ends the files' process: nothing needs it any more.
func (p *Presenter) endFiles() {
	p.mu.Lock()
	c := p.files.client
	p.files.client = nil
	p.mu.Unlock()
	if c == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	_ = c.Quit(ctx) // it may have ended already; a folder of the mount may be somebody's current one
	c.Close()
}

// lost reports whether the files' process of the loop device of s has died and
// its mount is gone: the device has a file that nobody serves, for ever.
func (s *shown) lost() bool { return s.loop != "" && loopFile(s.loop) == "/"+s.path() }

func (s *shown) lostError() error {
	return fmt.Errorf("its file %s was gone and has been made again: %s has lost it and fails; unmount, detach with --force, and attach", s.path(), s.loop)
}

// makeLoop makes the loop device of s. p.change is held.
func (p *Presenter) makeLoop(s *shown) error {
	if s.lost() {
		if err := p.dropLoop(s, true); err != nil {
			return err
		}
	}
	dev, err := loopAttach(filepath.Join(p.opt.Mount, s.path()), s.ReadOnly)
	if err != nil {
		return err
	}
	p.mu.Lock()
	s.loop = dev
	p.mu.Unlock()
	return p.name(s, dev)
}

// name gives a device owner, mode and stable name.
func (p *Presenter) name(s *shown, dev string) error {
	if err := own(dev, s.Show); err != nil {
		return fmt.Errorf("%s: %w", dev, err)
	}
	if err := link(filepath.Join(devDir, s.path()), dev); err != nil {
		return fmt.Errorf("%s: stable name: %w", dev, err)
	}
	return nil
}

// dropLoop takes the loop device of s off.
func (p *Presenter) dropLoop(s *shown, force bool) error {
	path := filepath.Join(p.opt.Mount, s.path())
	if s.loop == "" {
		return nil
	}
	if loopFile(s.loop) == path || s.lost() { // else somebody else has taken it off
		hold, err := hold(s.loop, force)
		if err != nil && !force {
			return inUse(s.Name, append(deviceUsers(s.loop), err.Error()))
		}
		if err == nil { // by force it may hang and stay: its file goes, and it fails
			err = loopDetach(s.loop, hold)
		}
		if err != nil && !force {
			return err
		}
	}
	unlink(filepath.Join(devDir, s.path()), s.loop)
	p.mu.Lock()
	s.loop = ""
	p.mu.Unlock()
	return nil
}

// flushTimeout is how long the page cache of a device has to be written back
// when it is taken off.
const flushTimeout = 30 * time.Second

// hold opens a device so that nobody can mount it any more, and writes back its
// page cache. By force it only opens it.
func hold(dev string, force bool) (*os.File, error) {
	type result struct {
		f   *os.File
		err error
	}
	done := make(chan result, 1)
	go func() { // ends with the I/O of the device; nobody can end it sooner
		flag := unix.O_RDONLY
		if !force {
			flag |= unix.O_EXCL
		}
		f, err := os.OpenFile(dev, flag, 0)
		if err == nil && !force {
			if err = f.Sync(); err != nil {
				_ = f.Close()
			}
		}
		done <- result{f, err}
	}()
	select {
	case r := <-done:
		return r.f, r.err
	case <-time.After(flushTimeout):
		go func() {
			if r := <-done; r.err == nil {
				_ = r.f.Close()
			}
		}()
		return nil, fmt.Errorf("%s: what was written could not be flushed within %v: its I/O waits", dev, flushTimeout)
	}
}
