// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"rsio/cmd/internal/daemon"
	"rsio/cmd/internal/present"
	"rsio/nbd"
	"rsio/rsio/admin"
	"rsio/rsio/admin/api"
	"rsio/rsio/audit"
	"rsio/rsio/buf"
	"rsio/rsio/initiator"
	"rsio/rsio/registry"
	"rsio/rsio/transport"
)

// nbdBudget is the payload in flight of all NBD clients, in bytes.
const nbdBudget = 256 << 20

// config is what flags and file say.
type config struct {
	Target      []string      `yaml:"target"`
	NBD         []string      `yaml:"nbd"`
	Admin       string        `yaml:"admin"`
	Run         string        `yaml:"run"`
	Data        string        `yaml:"data"`
	Name        string        `yaml:"name"`
	Insecure    bool          `yaml:"insecure"`
	ParkTimeout time.Duration `yaml:"park-timeout"`
	Mount       string        `yaml:"mount"`
}

// fields names the fields like their flags.
func (c *config) fields() map[string]any {
	return map[string]any{"target": &c.Target, "nbd": &c.NBD, "admin": &c.Admin, "run": &c.Run, "data": &c.Data, "name": &c.Name,
		"insecure": &c.Insecure, "park-timeout": &c.ParkTimeout, "mount": &c.Mount}
}

// settle fills in defaults and makes the directories.
func (c *config) settle() (err error) {
	if c.Name, err = daemon.HostName(c.Name); err != nil {
		return err
	}
	if c.Data == "" && c.Run != "" {
		c.Data = c.Run
	}
	if c.Run == "" {
		c.Run = admin.RunDir(admin.Initiator)
	}
	if c.Data == "" {
		c.Data = admin.DataDir(admin.Initiator)
	}
	if c.Run, err = filepath.Abs(c.Run); err != nil { // our devices outlive the working directory
		return err
	}
	if c.Admin == "" {
		c.Admin = "unix:" + filepath.Join(c.Run, "admin.sock")
	}
	if err := daemon.CheckNBD(c.NBD, c.Insecure); err != nil {
		return err
	}
	path, ok := strings.CutPrefix(c.Admin, "unix:")
	if !ok {
		return &daemon.UsageError{Err: fmt.Errorf("--admin %q: give unix:PATH", c.Admin)}
	}
	return errors.Join(admin.MakeDir(c.Run), admin.MakeDir(c.Data), admin.MakeDir(filepath.Dir(path)))
}

// targets parses NAME=ADDR,ADDR. Without any it is the local one.
func (c *config) targets() ([]api.TargetSpec, error) {
	var out []api.TargetSpec
	for _, s := range c.Target {
		name, addrs, ok := strings.Cut(s, "=")
		if !ok {
			return nil, &daemon.UsageError{Err: fmt.Errorf("--target %q: give NAME=ADDR[,ADDR...]", s)}
		}
		out = append(out, api.TargetSpec{Name: name, Addresses: strings.Split(addrs, ",")})
	}
	return out, nil
}

func (c *config) run(ctx context.Context) error {
	if err := c.settle(); err != nil {
		return err
	}
	extra, err := c.targets()
	if err != nil {
		return err
	}
	lock, err := registry.Lock(c.Run)
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }() // the end of the process does the same
	events := audit.New(daemon.Logger(os.Stderr))
	pool := buf.New(nbdBudget)
	socket := filepath.Join(c.Run, "nbd.sock")
	listeners, err := daemon.Listen(append([]string{"unix:" + socket}, c.NBD...))
	if err != nil {
		return err
	}
	show, err := c.presenter(socket, listeners, events)
	if err != nil {
		return err
	}
	srv := nbd.NewServer(nbd.Options{Exports: show, Pool: pool, MaxConns: 16_000})
	show.Start(srv) // first: the initiator tells it of attachments from its start on
	i, err := initiator.New(initiator.Options{Name: c.Name, RunDir: c.Run, DataDir: c.Data, Version: daemon.Version(), Events: events,
		ParkTimeout: c.ParkTimeout, Frontend: show, Memory: func() api.Memory {
			s := pool.Stats()
			return api.Memory{Out: s.Out, High: s.High, Limit: s.Limit}
		}}, extra, api.TargetSpec{Name: "local", Addresses: []string{transport.DefaultAddress}})
	if err != nil {
		return err
	}
	show.Serve(i)
	g := daemon.NewGroup()
	for _, l := range listeners {
		g.Go(func() error {
			if err := srv.Serve(l.Listener); !errors.Is(err, nbd.ErrServerClosed) {
				return err
			}
			return nil
		})
	}
	adminCtx, adminStop := context.WithCancel(context.Background())
	g.Go(func() error {
		return admin.Serve(adminCtx, strings.TrimPrefix(c.Admin, "unix:"), admin.NewInitiatorHandler(i))
	})
	events.Add(audit.Info, c.Name, "initiator serves NBD on "+strings.Join(show.Addresses(), ", "))
	resume, resumeStop := context.WithCancel(ctx)
	g.Go(func() error { i.Resume(resume); return nil })
	g.Go(func() error { return daemon.Notify(adminCtx, events, func() { i.Status() }) })
	err = g.Wait(ctx)
	resumeStop()
	show.Shut() // no new sockets for devices from here on: they wait for our successor
	drain, cancel := context.WithTimeout(context.Background(), daemon.DrainTimeout)
	defer cancel()
	err = errors.Join(err, srv.Close(drain))
	i.Close()
	adminStop()
	g.Join()
	return err
}

// presenter makes what shows attachments to clients and to the kernel.
func (c *config) presenter(socket string, listeners []daemon.Listener, events *audit.Log) (*present.Presenter, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	checks := daemon.ServeReclaim()
	if s := daemon.Refused(checks); s != "" {
		events.Add(audit.Warning, c.Name, s)
	}
	opt := present.Options{Checks: checks, Run: c.Run, Socket: socket, Mount: c.Mount, All: c.Mount != "", Command: []string{self, "files"}, Events: events}
	for _, l := range listeners {
		opt.Addresses = append(opt.Addresses, l.Addr.String())
	}
	return present.New(opt), nil
}
