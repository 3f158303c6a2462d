// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bytes"
	"errors"
	"io"
	"syscall"
)

// errFault is what tests inject.
var errFault = errors.New("injected")

// memFile is an open file.
type memFile struct {
	m    *memFS
	n    *node
	path string
}

func (f *memFile) ReadAt(b []byte, off int64) (int, error) {
	if err := f.m.ask("read", f.path); err != nil {
		return 0, err
	}
	if off >= int64(len(f.n.view)) {
		return 0, io.EOF
	}
	n := copy(b, f.n.view[off:])
	for page := int(off) / readPage; page*readPage < int(off)+n; page++ {
		if f.n.bad[page] {
			return max(0, page*readPage-int(off)), syscall.EIO
		}
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) WriteAt(b []byte, off int64) (int, error) {
	err := f.m.ask("write", f.path)
	if err != nil {
		b = b[:min(f.m.short, len(b))]
	}
	w := write{int(off), bytes.Clone(b)}
	f.n.view = w.apply(f.n.view)
	f.n.pending = append(f.n.pending, w)
	f.m.did(op{kind: "write", number: f.n.number, write: w})
	return len(b), err
}

// apply returns b with the write done. It does not change b.
func (w write) apply(b []byte) []byte {
	b = append(bytes.Clone(b), make([]byte, max(0, w.off+len(w.data)-len(b)))...)
	copy(b[w.off:], w.data)
	return b
}

// sync fails as Linux does: what could not be written is forgotten, and stays
// to be seen until the cache lets go of it.
func (f *memFile) sync(kind string) error {
	if err := f.m.ask(kind, f.path); err != nil {
		f.n.pending = nil
		return err
	}
	f.m.did(op{kind: kind, number: f.n.number})
	if f.m.lie == kind {
		return nil
	}
	for _, w := range f.n.pending {
		f.n.durable = w.apply(f.n.durable)
	}
	f.n.pending = nil
	return nil
}

func (f *memFile) Sync() error     { return f.sync("fsync") }
func (f *memFile) datasync() error { return f.sync("fdatasync") }
func (f *memFile) Close() error    { return f.m.ask("close", f.path) }

func (f *memFile) settle() error {
	if err := f.datasync(); err != nil {
		return err
	}
	if f.m.lie == "" && !bytes.Equal(f.n.view, f.n.durable) {
		f.n.view = bytes.Clone(f.n.durable)
	}
	return nil
}

func (f *memFile) stat() (int64, uint64, error) {
	if err := f.m.ask("stat", f.path); err != nil {
		return 0, 0, err
	}
	return int64(len(f.n.view)), uint64(f.n.links), nil
}
