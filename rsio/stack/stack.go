// SPDX-License-Identifier: Apache-2.0

// Package stack turns a specification into a graph of devices by two explicit
// tables: stores (none below) and layers (one below). Nothing registers itself.
package stack

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"rsio/rsio/block"
	"rsio/rsio/layer/check"
	"rsio/rsio/layer/fault"
	"rsio/rsio/layer/trace"
	"rsio/rsio/store/file"
	"rsio/rsio/store/mem"
	"rsio/rsio/store/null"
)

// Spec describes a graph.
type Spec struct {
	Kind     string   // of the store: file, mem or null
	Path     string   // file: where it is
	Size     uint64   // bytes; mem, null and Create. A file that exists knows its own
	Direct   bool     // file: O_DIRECT
	Workers  int      // file: system calls in flight, 0 means file.DefaultWorkers
	ReadOnly bool     // file and mem
	Layers   []string // lowest first: NAME or NAME:ARGUMENT
}

// Hooks are what devices tell their owner.
type Hooks struct {
	OnFail    func(error)      // a store has failed; see file.Options
	CheckFail func(msg string) // a check layer saw a broken rule; nil panics
}

// Graph is an open graph: its top as a Device, and what only its store knows.
type Graph struct {
	block.Device
	store  store
	faults []*fault.Device
	logs   []*trace.Log
}

// store is what Graph needs of a leaf beyond block.Device.
type store interface {
	Resize(size uint64) error
	Used() uint64
}

// Close closes the devices and then the logs of trace layers.
func (g *Graph) Close(ctx context.Context) error {
	err := g.Device.Close(ctx)
	if ctx.Err() != nil {
		return err
	}
	for _, l := range g.logs {
		err = errors.Join(err, l.Close())
	}
	return err
}

// Resize grows the store to size bytes.
func (g *Graph) Resize(size uint64) error { return g.store.Resize(size) }

// Used returns the bytes of space the store takes.
func (g *Graph) Used() uint64 { return g.store.Used() }

// Faults returns the fault layers, lowest first, to exchange their rules or to
// release what hangs.
func (g *Graph) Faults() []*fault.Device { return g.faults }

// kind is one row of the table of stores.
type kind struct {
	create func(s Spec) error
	open   func(s Spec, h Hooks) (block.Device, store, error)
}

func kinds() map[string]kind {
	return map[string]kind{
		"file": {createFile, openFile},
		"mem":  {createNothing, openMem},
		"null": {createNothing, openNull},
	}
}

// layers is the table of layers. A row puts its layer over below and notes in
// g what the graph must reach.
func layers() map[string]func(g *Graph, below block.Device, arg string, h Hooks) (block.Device, error) {
	return map[string]func(*Graph, block.Device, string, Hooks) (block.Device, error){
		"check": overCheck,
		"fault": overFault,
		"trace": overTrace,
	}
}

// Create makes what the store of s keeps on disk; an existing file is an error.
func Create(s Spec) error {
	k, err := lookup("store kind", s.Kind, kinds())
	if err != nil {
		return err
	}
	return k.create(s)
}

// Open opens the graph that s describes. Closing its Device closes all of it.
func Open(s Spec, h Hooks) (*Graph, error) {
	k, err := lookup("store kind", s.Kind, kinds())
	if err != nil {
		return nil, err
	}
	dev, st, err := k.open(s, h)
	if err != nil {
		return nil, err
	}
	g := &Graph{Device: dev, store: st}
	for _, l := range s.Layers {
		if err := g.put(l, h); err != nil {
			return nil, errors.Join(err, g.Close(context.Background()))
		}
	}
	return g, nil
}

// put adds the layer that text describes on top.
func (g *Graph) put(text string, h Hooks) error {
	name, arg, _ := strings.Cut(text, ":")
	over, err := lookup("layer", name, layers())
	if err != nil {
		return err
	}
	top, err := over(g, g.Device, arg, h)
	if err != nil {
		return err
	}
	g.Device = top
	return nil
}

// lookup finds name in a table or says what there is.
func lookup[T any](what, name string, table map[string]T) (T, error) {
	v, ok := table[name]
	if !ok {
		all := slices.Sorted(maps.Keys(table))
		return v, fmt.Errorf("%s %q does not exist: give one of %s", what, name, strings.Join(all, ", "))
	}
	return v, nil
}

func createNothing(Spec) error { return nil }

func createFile(s Spec) error { return file.Create(s.Path, s.Size) }

func openFile(s Spec, h Hooks) (block.Device, store, error) {
	d, err := file.Open(file.Options{Path: s.Path, Direct: s.Direct, Workers: s.Workers, ReadOnly: s.ReadOnly, OnFail: h.OnFail})
	if err != nil {
		return nil, nil, err
	}
	return d, d, nil
}

func openMem(s Spec, _ Hooks) (block.Device, store, error) {
	d, err := mem.New(mem.Options{Size: s.Size, ReadOnly: s.ReadOnly})
	if err != nil {
		return nil, nil, err
	}
	return d, d, nil
}

func openNull(s Spec, _ Hooks) (block.Device, store, error) {
	return null.New(s.Size), fixed{}, nil
}

// fixed is the store of a kind that takes no space and has no size of its own.
type fixed struct{}

// Resize implements store.
func (fixed) Resize(uint64) error {
	return errors.New("a null store cannot be resized: open it with the size you want")
}

// Used implements store.
func (fixed) Used() uint64 { return 0 }

func overCheck(_ *Graph, below block.Device, arg string, h Hooks) (block.Device, error) {
	opt := check.Options{Fail: h.CheckFail}
	switch arg {
	case "":
	case "crc":
		opt.CRC = true
	default:
		return nil, fmt.Errorf("layer check: argument %q is unknown: give check or check:crc", arg)
	}
	return check.New(below, opt), nil
}

func overFault(g *Graph, below block.Device, arg string, _ Hooks) (block.Device, error) {
	var rules []fault.Rule
	if arg != "" { // without: rules are set while it runs
		var err error
		if rules, err = fault.ParseAll(arg); err != nil {
			return nil, fmt.Errorf("layer fault: %w", err)
		}
	}
	d := fault.New(below, rules...)
	g.faults = append(g.faults, d)
	return d, nil
}

func overTrace(g *Graph, below block.Device, arg string, _ Hooks) (block.Device, error) {
	if arg == "" {
		return nil, errors.New("layer trace: the file is missing: give trace:FILE")
	}
	l, err := trace.Open(arg)
	if err != nil {
		return nil, fmt.Errorf("layer trace: %w", err)
	}
	g.logs = append(g.logs, l)
	return trace.New(below, l), nil
}
