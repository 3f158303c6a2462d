// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"rsio/cmd/internal/daemon"
	"rsio/nbd"
	"rsio/rsio/admin"
	"rsio/rsio/admin/api"
	"rsio/rsio/audit"
	"rsio/rsio/block"
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
}

// fields names the fields like their flags.
func (c *config) fields() map[string]any {
	return map[string]any{"target": &c.Target, "nbd": &c.NBD, "admin": &c.Admin, "run": &c.Run, "data": &c.Data, "name": &c.Name,
		"insecure": &c.Insecure, "park-timeout": &c.ParkTimeout}
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
	ex := &exports{socket: filepath.Join(c.Run, "nbd.sock")}
	ex.srv = nbd.NewServer(nbd.Options{Exports: ex, Pool: pool, MaxConns: 16_000})
	listeners, err := daemon.Listen(append([]string{"unix:" + ex.socket}, c.NBD...))
	if err != nil {
		return err
	}
	for _, l := range listeners {
		ex.addrs = append(ex.addrs, l.Addr.String())
	}
	i, err := initiator.New(initiator.Options{Name: c.Name, RunDir: c.Run, DataDir: c.Data, Version: daemon.Version(), Events: events,
		ParkTimeout: c.ParkTimeout, Frontend: ex, Memory: func() api.Memory {
			s := pool.Stats()
			return api.Memory{Out: s.Out, High: s.High, Limit: s.Limit}
		}}, extra, api.TargetSpec{Name: "local", Addresses: []string{transport.DefaultAddress}})
	if err != nil {
		return err
	}
	ex.i.Store(i)
	g := daemon.NewGroup()
	for _, l := range listeners {
		g.Go(func() error {
			if err := ex.srv.Serve(l.Listener); !errors.Is(err, nbd.ErrServerClosed) {
				return err
			}
			return nil
		})
	}
	adminCtx, adminStop := context.WithCancel(context.Background())
	g.Go(func() error {
		return admin.Serve(adminCtx, strings.TrimPrefix(c.Admin, "unix:"), admin.NewInitiatorHandler(i))
	})
	events.Add(audit.Info, c.Name, "initiator serves NBD on "+strings.Join(ex.addrs, ", "))
	err = g.Wait(ctx)
	drain, cancel := context.WithTimeout(context.Background(), daemon.DrainTimeout)
	defer cancel()
	err = errors.Join(err, ex.srv.Close(drain))
	i.Close()
	adminStop()
	g.Join()
	return err
}

// exports serves attachments to NBD clients and tells the initiator of them.
type exports struct {
	i      atomic.Pointer[initiator.Initiator] // nil until it has started
	srv    *nbd.Server
	socket string
	addrs  []string
}

// URI returns where clients find an attachment.
func (e *exports) URI(name string) string {
	u := url.URL{Scheme: "nbd+unix", Path: "/" + name, RawQuery: "socket=" + url.QueryEscape(e.socket)}
	u.RawQuery = strings.ReplaceAll(u.RawQuery, "%2F", "/")
	return u.String()
}

// Addresses returns where NBD is served.
func (e *exports) Addresses() []string { return e.addrs }

// Fence says that the right of an attachment's nexus is another one.
func (e *exports) Fence(name string) { e.srv.Fence(name) }

// Clients returns how many connections an attachment has.
func (e *exports) Clients(name string) int { return e.srv.Stats().Exports[name] }

// Close ends the connections of an attachment.
func (e *exports) Close(name string) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = e.srv.CloseExport(ctx, name) // what does not end now ends with its requests
}

// List returns all attachments.
func (e *exports) List() []nbd.ExportInfo {
	i := e.i.Load()
	if i == nil {
		return nil
	}
	var out []nbd.ExportInfo
	for _, n := range i.Names() {
		out = append(out, nbd.ExportInfo{Name: n})
	}
	return out
}

// Open opens an attachment; without a name the only one there is.
func (e *exports) Open(name string) (*nbd.Export, error) {
	i := e.i.Load()
	if i == nil {
		return nil, block.StatusNotFound
	}
	if names := i.Names(); name == "" && len(names) == 1 {
		name = names[0]
	}
	dev, nexus, ro, ok := i.Find(name)
	if !ok {
		return nil, block.StatusNotFound
	}
	return &nbd.Export{Name: name, Description: "attached under nexus " + nexus, Device: dev, Nexus: nexus, ReadOnly: ro}, nil
}
