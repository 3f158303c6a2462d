// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
)

// bbolt reads its file through a mapping and trusts what it finds: a damaged
// page ends in a panic, a fault that cannot be recovered, or a walk in a
// circle. So the file is read here first, from memory, with every number
// checked; bbolt opens it only if all of it is as bbolt itself would write it.
// The layout is that of bbolt's internal/common (page.go, meta.go, bucket.go),
// integers in the byte order of the machine.
const (
	boltMagic      = 0xED0CDAED
	boltVersion    = 2
	boltPage       = 4096 // bytes; we always create files with this page size
	boltNoFreelist = ^uint64(0)

	pageHeader  = 16 // id 8, flags 2, count 2, overflow 4
	elementLen  = 16 // branch: pos 4, ksize 4, pgid 8; leaf: flags 4, pos 4, ksize 4, vsize 4
	metaLen     = 64 // magic, version, pageSize, flags 4 each; root, sequence, freelist, pgid, txid, checksum 8 each
	bucketLen   = 16 // root 8, sequence 8
	flagBranch  = 1
	flagLeaf    = 2
	flagMeta    = 4
	flagBucket  = 1
	maxBoltDeep = 16
)

// boltFile is a bbolt file in memory during a walk.
type boltFile struct {
	data  []byte
	pages uint64          // high water mark: ids are below
	seen  map[uint64]bool // pages that belong to the tree
}

// visitor is called for each key with its bucket ("" at the root). A value of
// nil means that the key is a bucket.
type visitor func(bucket string, key, value []byte) error

// readBolt calls visit for each key in the file. clean is false if one of the
// two meta pages is damaged: what was found may then be a former state.
func readBolt(data []byte, visit visitor) (clean bool, err error) {
	if len(data) < 4*boltPage {
		return false, fmt.Errorf("%d bytes are too few", len(data))
	}
	m0, err0 := readMeta(data, 0)
	m1, err1 := readMeta(data, 1)
	m := m0
	switch {
	case err0 != nil && err1 != nil:
		return false, fmt.Errorf("both meta pages: %w", err0)
	case err0 != nil || err1 == nil && m1.txid > m0.txid:
		m = m1
	}
	if m.pages > uint64(len(data)/boltPage) {
		return false, fmt.Errorf("%d pages where %d belong", len(data)/boltPage, m.pages)
	}
	b := &boltFile{data: data, pages: m.pages, seen: map[uint64]bool{0: true, 1: true}}
	if err := b.walk(m.root, "", bounds{}, 0, visit); err != nil {
		return false, err
	}
	return err0 == nil && err1 == nil, nil
}

type boltMeta struct{ root, pages, txid uint64 }

func readMeta(data []byte, id uint64) (boltMeta, error) {
	p := data[id*boltPage:][:boltPage]
	ne := binary.NativeEndian
	if ne.Uint64(p) != id || ne.Uint16(p[8:]) != flagMeta {
		return boltMeta{}, fmt.Errorf("page %d is not a meta page", id)
	}
	b := p[pageHeader:][:metaLen]
	h := fnv.New64a()
	_, _ = h.Write(b[:metaLen-8]) // a hash never fails
	if ne.Uint64(b[metaLen-8:]) != h.Sum64() {
		return boltMeta{}, fmt.Errorf("meta page %d: checksum is wrong", id)
	}
	if ne.Uint32(b) != boltMagic || ne.Uint32(b[4:]) != boltVersion || ne.Uint32(b[8:]) != boltPage {
		return boltMeta{}, fmt.Errorf("meta page %d: magic, version or page size is not ours", id)
	}
	if ne.Uint64(b[32:]) != boltNoFreelist {
		return boltMeta{}, fmt.Errorf("meta page %d: there is a freelist, we write none", id)
	}
	return boltMeta{root: ne.Uint64(b[16:]), pages: ne.Uint64(b[40:]), txid: ne.Uint64(b[48:])}, nil
}

// bounds is the range in which the keys of a page must lie; nil is open.
type bounds struct{ from, to []byte }

// walk visits the page id and all below it.
func (b *boltFile) walk(id uint64, bucket string, in bounds, deep int, visit visitor) error {
	if deep > maxBoltDeep {
		return errors.New("the tree is too deep")
	}
	p, err := b.page(id)
	if err != nil {
		return err
	}
	switch flags := binary.NativeEndian.Uint16(p[8:]); flags {
	case flagLeaf:
		return b.leaf(p, bucket, in, deep, visit)
	case flagBranch:
		return b.branch(p, bucket, in, deep, visit)
	default:
		return fmt.Errorf("page %d is of an unknown kind %#x", id, flags)
	}
}

// page returns a page with its overflow and notes that it was visited.
func (b *boltFile) page(id uint64) ([]byte, error) {
	if id < 2 || id >= b.pages {
		return nil, fmt.Errorf("page %d of %d does not exist", id, b.pages)
	}
	p := b.data[id*boltPage:]
	if got := binary.NativeEndian.Uint64(p); got != id {
		return nil, fmt.Errorf("page %d says that it is page %d", id, got)
	}
	n := uint64(binary.NativeEndian.Uint32(p[12:])) + 1
	if n > b.pages-id {
		return nil, fmt.Errorf("page %d reaches beyond the end", id)
	}
	for i := id; i < id+n; i++ {
		if b.seen[i] {
			return nil, fmt.Errorf("page %d is used twice", i)
		}
		b.seen[i] = true
	}
	return p[:n*boltPage], nil
}

// element returns the header of element i; its pos counts from that header.
func element(p []byte, i int) ([]byte, error) {
	at := pageHeader + i*elementLen
	if at+elementLen > len(p) {
		return nil, errors.New("a page has more elements than fit")
	}
	return p[at:], nil
}

// cut returns e[pos:pos+n].
func cut(e []byte, pos, n uint64) ([]byte, error) {
	if pos < elementLen || pos+n > uint64(len(e)) {
		return nil, errors.New("a key or value lies outside of its page")
	}
	return e[pos : pos+n], nil
}

func (b *boltFile) branch(p []byte, bucket string, in bounds, deep int, visit visitor) error {
	count := int(binary.NativeEndian.Uint16(p[10:]))
	if count == 0 {
		return errors.New("a branch page is empty")
	}
	keys, ids := make([][]byte, count), make([]uint64, count)
	for i := range count {
		e, err := element(p, i)
		if err != nil {
			return err
		}
		keys[i], err = cut(e, uint64(binary.NativeEndian.Uint32(e)), uint64(binary.NativeEndian.Uint32(e[4:])))
		if err != nil {
			return err
		}
		if err := in.check(keys, i); err != nil {
			return err
		}
		ids[i] = binary.NativeEndian.Uint64(e[8:])
	}
	for i := range count {
		below := bounds{from: keys[i], to: in.to}
		if i+1 < count {
			below.to = keys[i+1]
		}
		if err := b.walk(ids[i], bucket, below, deep+1, visit); err != nil {
			return err
		}
	}
	return nil
}

// check makes sure that keys[i] lies in bounds and behind keys[i-1].
func (in bounds) check(keys [][]byte, i int) error {
	k := keys[i]
	switch {
	case i > 0 && bytes.Compare(keys[i-1], k) >= 0,
		in.from != nil && bytes.Compare(k, in.from) < 0,
		in.to != nil && bytes.Compare(k, in.to) >= 0:
		return fmt.Errorf("key %.80q is out of order", k)
	}
	return nil
}

func (b *boltFile) leaf(p []byte, bucket string, in bounds, deep int, visit visitor) error {
	count := int(binary.NativeEndian.Uint16(p[10:]))
	keys := make([][]byte, count)
	for i := range count {
		e, err := element(p, i)
		if err != nil {
			return err
		}
		ne := binary.NativeEndian
		flags, pos, klen, vlen := ne.Uint32(e), uint64(ne.Uint32(e[4:])), uint64(ne.Uint32(e[8:])), uint64(ne.Uint32(e[12:]))
		if keys[i], err = cut(e, pos, klen); err != nil {
			return err
		}
		value, err := cut(e, pos+klen, vlen)
		if err != nil {
			return err
		}
		if err := in.check(keys, i); err != nil {
			return err
		}
		switch {
		case flags == flagBucket && bucket == "":
			err = b.bucket(string(keys[i]), value, deep, visit)
		case flags == 0:
			err = visit(bucket, keys[i], value)
		default:
			err = fmt.Errorf("key %.80q is of an unknown kind %#x", keys[i], flags)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// bucket visits a bucket that has a page of its own or lies in its value.
func (b *boltFile) bucket(name string, value []byte, deep int, visit visitor) error {
	if len(value) < bucketLen || name == "" {
		return fmt.Errorf("bucket %.80q is damaged", name)
	}
	if err := visit("", []byte(name), nil); err != nil {
		return err
	}
	if root := binary.NativeEndian.Uint64(value); root != 0 {
		return b.walk(root, name, bounds{}, deep+1, visit)
	}
	p := value[bucketLen:]
	if len(p) < pageHeader || binary.NativeEndian.Uint16(p[8:]) != flagLeaf {
		return fmt.Errorf("bucket %.80q is damaged", name)
	}
	return b.leaf(p, name, bounds{}, deep+1, visit)
}
