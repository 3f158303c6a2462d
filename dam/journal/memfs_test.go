// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"io/fs"
	"maps"
	"slices"
)

// memFS is a file system in memory that knows what a loss of power leaves. A
// write and a change of the directory are seen at once, and durable after the
// sync that belongs to them. Only one directory exists.
type memFS struct {
	names   map[string]*node // as processes see them
	durable map[string]*node // as they are on disk
	changes []change         // of the directory, since its last sync
	log     []op             // all that was done, while recording
	record  bool
	made    int // files

	fault func(kind, path string) error // asked before each operation, may be nil
	short int                           // a write that fails has put down this many bytes
	lie   string                        // syncs of this kind do nothing
	only  error                         // why files can only be read
}

// node is a file. It keeps its number in copies of the file system.
type node struct {
	number  int
	links   int
	view    []byte // as processes see it
	durable []byte // as it is on disk
	pending []write
	bad     map[int]bool // pages that cannot be read
}

type write struct {
	off  int
	data []byte
}

// change is a change of the directory: name gets file, or none.
type change struct {
	from, name string // from is empty but for a rename
	file       *node
}

// op is an operation that was recorded.
type op struct {
	kind     string // create, remove, rename, write, fdatasync, fsync, fsync-dir
	path, to string
	number   int
	write    write
}

func newMem() *memFS {
	return &memFS{names: map[string]*node{}, durable: map[string]*node{}}
}

// memWith returns a file system in which one file is durable.
func memWith(path string, content []byte) *memFS {
	m := newMem()
	n := &node{links: 1, view: content, durable: content}
	m.names[path], m.durable[path], m.made = n, n, 1
	return m
}

// clone copies what m holds, but no faults and no records.
func (m *memFS) clone() *memFS {
	nodes := map[*node]*node{nil: nil}
	of := func(n *node) *node {
		if c, ok := nodes[n]; ok {
			return c
		}
		c := *n
		c.view, c.pending = slices.Clone(n.view), slices.Clone(n.pending)
		nodes[n] = &c
		return &c
	}
	c := newMem()
	c.made = m.made
	for name, n := range m.names {
		c.names[name] = of(n)
	}
	for name, n := range m.durable {
		c.durable[name] = of(n)
	}
	for _, ch := range m.changes {
		c.changes = append(c.changes, change{ch.from, ch.name, of(ch.file)})
	}
	return c
}

func (m *memFS) ask(kind, path string) error {
	if m.fault == nil {
		return nil
	}
	return m.fault(kind, path)
}

func (m *memFS) did(o op) {
	if m.record {
		m.log = append(m.log, o)
	}
}

// apply changes a directory.
func (c change) apply(names map[string]*node) {
	if c.from != "" {
		delete(names, c.from)
	}
	if c.file == nil {
		delete(names, c.name)
	} else {
		names[c.name] = c.file
	}
}

func (m *memFS) change(c change) {
	if old := m.names[c.name]; old != nil {
		old.links--
	}
	c.apply(m.names)
	m.changes = append(m.changes, c)
}

func (m *memFS) open(path string) (file, error, error) {
	if err := m.ask("open", path); err != nil {
		return nil, nil, err
	}
	n := m.names[path]
	if n == nil {
		return nil, nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	return &memFile{m, n, path}, m.only, nil
}

func (m *memFS) create(path string) (file, error) {
	if err := m.ask("create", path); err != nil {
		return nil, err
	}
	if m.names[path] != nil {
		return nil, fs.ErrExist
	}
	n := &node{number: m.made, links: 1}
	m.made++
	m.change(change{name: path, file: n})
	m.did(op{kind: "create", path: path, number: n.number})
	return &memFile{m, n, path}, nil
}

func (m *memFS) remove(path string) error {
	if err := m.ask("remove", path); err != nil {
		return err
	}
	if m.names[path] == nil {
		return fs.ErrNotExist
	}
	m.change(change{name: path})
	m.did(op{kind: "remove", path: path})
	return nil
}

func (m *memFS) rename(from, to string) error {
	if err := m.ask("rename", from); err != nil {
		return err
	}
	m.change(change{from: from, name: to, file: m.names[from]})
	m.did(op{kind: "rename", path: from, to: to})
	return nil
}

func (m *memFS) syncDir(dir string) error {
	if err := m.ask("fsync-dir", dir); err != nil {
		return err
	}
	m.did(op{kind: "fsync-dir", path: dir})
	if m.lie != "fsync-dir" {
		m.durable, m.changes = maps.Clone(m.names), nil
	}
	return nil
}

// replay does again what was recorded.
func (m *memFS) replay(o op) {
	of := func() *memFile {
		for name, n := range m.names {
			if n.number == o.number {
				return &memFile{m, n, name}
			}
		}
		return nil
	}
	var err error
	switch o.kind {
	case "create":
		_, err = m.create(o.path) // it gets the same number
	case "remove":
		err = m.remove(o.path)
	case "rename":
		err = m.rename(o.path, o.to)
	case "fsync-dir":
		err = m.syncDir(o.path)
	case "fsync":
		err = of().Sync()
	case "fdatasync":
		err = of().datasync()
	case "write":
		_, err = of().WriteAt(o.write.data, int64(o.write.off))
	}
	if err != nil {
		panic(err)
	}
}
