// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"rsio/cmd/internal/daemon"
	"rsio/nbd"
	"rsio/rsio/admin"
	"rsio/rsio/admin/api"
	"rsio/rsio/audit"
	"rsio/rsio/block"
	"rsio/rsio/session"
	"rsio/rsio/target"
	"rsio/rsio/transport"
)

// config is what flags and file say.
type config struct {
	Data     string   `yaml:"data"`
	Listen   []string `yaml:"listen"`
	NBD      []string `yaml:"nbd"`
	Admin    string   `yaml:"admin"`
	Name     string   `yaml:"name"`
	Insecure bool     `yaml:"insecure"`
	Budget   string   `yaml:"budget"`
}

// fields names the fields like their flags.
func (c *config) fields() map[string]any {
	return map[string]any{"data": &c.Data, "listen": &c.Listen, "nbd": &c.NBD, "admin": &c.Admin, "name": &c.Name,
		"insecure": &c.Insecure, "budget": &c.Budget}
}

// settle fills in defaults.
func (c *config) settle() (budget uint64, err error) {
	if c.Name, err = daemon.HostName(c.Name); err != nil {
		return 0, err
	}
	if c.Data == "" {
		c.Data = admin.DataDir(admin.Target)
	}
	if len(c.Listen) == 0 {
		c.Listen = []string{transport.DefaultAddress}
	}
	if c.Admin == "" {
		c.Admin = "unix:" + admin.Socket(admin.Target)
	}
	if err := daemon.CheckNBD(c.NBD, c.Insecure); err != nil {
		return 0, err
	}
	path, ok := strings.CutPrefix(c.Admin, "unix:")
	if !ok {
		return 0, &daemon.UsageError{Err: fmt.Errorf("--admin %q: give unix:PATH", c.Admin)}
	}
	if err := errors.Join(os.MkdirAll(c.Data, 0o750), admin.MakeDir(filepath.Dir(path))); err != nil {
		return 0, err
	}
	if c.Budget == "" {
		return session.DefaultBudget, nil
	}
	if budget, err = api.ParseSize(c.Budget); err == nil && (budget < 2<<20 || budget > 64<<30) {
		err = fmt.Errorf("--budget %s is outside 2M..64G", c.Budget)
	}
	if err != nil {
		return 0, &daemon.UsageError{Err: err}
	}
	return budget, nil
}

func (c *config) run(ctx context.Context) error {
	budget, err := c.settle()
	if err != nil {
		return err
	}
	events := audit.New(daemon.Logger(os.Stderr))
	trail := audit.NewTrail(filepath.Join(c.Data, auditName))
	t, err := target.New(target.Options{Dir: c.Data, Name: c.Name, Insecure: c.Insecure, Budget: budget, Version: daemon.Version(), Events: events,
		Gate: gate(trail)})
	if err != nil {
		return err
	}
	handler := admin.NewTargetHandler(t)
	t.SetAdmin(func(ctx context.Context, caller api.Caller, call []byte) []byte {
		var a api.Call
		reply := api.Reply{Code: 400}
		if json.Unmarshal(call, &a) == nil {
			reply = admin.Call(ctx, handler, caller, a)
		}
		out, _ := json.Marshal(reply) // plain fields cannot fail
		return out
	})
	portals, err := daemon.Listen(c.Listen)
	frontends, err2 := daemon.Listen(c.NBD)
	if err = errors.Join(err, err2); err != nil {
		return errors.Join(err, t.Close(ctx))
	}
	srv := nbd.NewServer(nbd.Options{Exports: &exports{t: t, nexus: c.Name + "/nbd"}})
	t.SetFence(func(namespace, volume string) { srv.Fence(exportName(api.Volume{Namespace: namespace, Name: volume})) })
	g := daemon.NewGroup()
	for _, l := range portals {
		g.Go(func() error { return t.Serve(l.Listener, l.Addr) })
	}
	for _, l := range frontends {
		g.Go(func() error {
			if err := srv.Serve(l.Listener); !errors.Is(err, nbd.ErrServerClosed) {
				return err
			}
			return nil
		})
	}
	adminCtx, adminStop := context.WithCancel(context.Background())
	g.Go(func() error { return admin.Serve(adminCtx, strings.TrimPrefix(c.Admin, "unix:"), handler) })
	events.Add(audit.Info, c.Name, fmt.Sprintf("target serves %s on %s, NBD on %s", c.Data, daemon.Where(portals), daemon.Where(frontends)))
	g.Go(func() error { return daemon.Notify(adminCtx, events, func() { t.Status() }) })
	err = g.Wait(ctx)
	drain, cancel := context.WithTimeout(context.Background(), daemon.DrainTimeout)
	defer cancel()
	err = errors.Join(err, srv.Close(drain), t.Close(drain))
	adminStop()
	g.Join()
	return err
}

// exports serves the volumes of the target to NBD clients.
type exports struct {
	t     *target.Target
	nexus string
}

// List returns all volumes.
func (e *exports) List() []nbd.ExportInfo {
	var out []nbd.ExportInfo
	for _, v := range e.t.VolumeList() {
		out = append(out, nbd.ExportInfo{Name: exportName(v), Description: "volume of target " + e.nexus})
	}
	return out
}

func exportName(v api.Volume) string {
	if v.Namespace == api.DefaultNamespace {
		return v.Name
	}
	return v.Namespace + "/" + v.Name
}

// Open opens a volume by name; without a name the only one there is.
func (e *exports) Open(name string) (*nbd.Export, error) {
	if name == "" {
		list := e.List()
		if len(list) != 1 {
			return nil, block.StatusNotFound
		}
		name = list[0].Name
	}
	ns, vol, ok := strings.Cut(name, "/")
	if !ok {
		ns, vol = api.DefaultNamespace, name
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*session.GracePeriod)
	defer cancel()
	dev, done, err := e.t.OpenAs(ctx, e.nexus, ns, vol, true)
	if err != nil {
		return nil, block.StatusNotFound
	}
	return &nbd.Export{Name: name, Description: "volume of target " + e.nexus, Device: dev, Nexus: e.nexus, Volume: ns + "/" + vol, Release: done}, nil
}
