// SPDX-License-Identifier: Apache-2.0

package mem

import (
	"sync"
	"sync/atomic"

	"rsio/rsio/block"
)

const (
	chunkLen  = 64 << 10 // bytes
	blockLen  = block.AtomicLen
	perChunk  = chunkLen / blockLen // blocks
	perNode   = 512                 // chunks
	nodeLen   = perNode * chunkLen  // bytes; two levels keep a 1 TiB device at 256 KiB of table
	sectorLen = 512                 // what a disk writes in one piece at least
)

type node [perNode]atomic.Pointer[chunk]

// chunk holds the bytes of 16 blocks. Its lock makes each block atomic
// towards readers and CrashClone.
type chunk struct {
	mu    sync.Mutex
	data  uint16 // bit per block: may be non-zero
	dirty uint16 // bit per block: saved holds what was last flushed
	bytes [chunkLen]byte
	saved *[chunkLen]byte
}

// find returns the chunk with number n, nil if it was never written. d.mu is
// held for reading.
func (d *Device) find(n uint64) *chunk {
	p := d.node[n/perNode].Load()
	if p == nil {
		return nil
	}
	return p[n%perNode].Load()
}

// need is find that allocates.
func (d *Device) need(n uint64) *chunk {
	slot := &d.node[n/perNode]
	p := slot.Load()
	if p == nil {
		p = new(node)
		if !slot.CompareAndSwap(nil, p) {
			p = slot.Load()
		}
	}
	c := p[n%perNode].Load()
	if c == nil {
		c = new(chunk)
		if p[n%perNode].CompareAndSwap(nil, c) {
			d.used.Add(1)
		} else if other := p[n%perNode].Load(); other != nil {
			c = other
		} // else a discard removed it since: this write came before it
	}
	return c
}

// drop gives the memory of chunk n back. A write of the same chunk that is in
// flight overlaps the discard and may be lost with it (rule 3).
func (d *Device) drop(n uint64) {
	if p := d.node[n/perNode].Load(); p != nil && p[n%perNode].Swap(nil) != nil {
		d.used.Add(-1)
	}
}

// piece is the part of a request that lies in one chunk.
type piece struct {
	n      uint64 // chunk number
	lo, hi int    // bytes in the chunk
}

func pieceAt(off uint64, left int) piece {
	lo := int(off % chunkLen)
	return piece{n: off / chunkLen, lo: lo, hi: min(chunkLen, lo+left)}
}

// blocks returns the bits of the blocks that [lo, hi) touches.
func blocks(lo, hi int) uint16 {
	first, end := lo/blockLen, (hi+blockLen-1)/blockLen
	return uint16(1<<end - 1<<first)
}

func (d *Device) read(off uint64, buf []byte) {
	for len(buf) > 0 {
		p := pieceAt(off, len(buf))
		part := buf[:p.hi-p.lo]
		if c := d.find(p.n); c == nil {
			clear(part)
		} else {
			c.mu.Lock()
			copy(part, c.bytes[p.lo:p.hi])
			c.mu.Unlock()
		}
		buf = buf[len(part):]
		off += uint64(len(part))
	}
}

func (d *Device) write(off uint64, buf []byte, fua bool) {
	for len(buf) > 0 {
		p := pieceAt(off, len(buf))
		part := buf[:p.hi-p.lo]
		c := d.need(p.n)
		c.mu.Lock()
		d.save(c, p, fua)
		copy(c.bytes[p.lo:p.hi], part)
		if fua && c.dirty != 0 {
			copy(c.saved[p.lo:p.hi], part)
		}
		c.data |= blocks(p.lo, p.hi)
		c.mu.Unlock()
		buf = buf[len(part):]
		off += uint64(len(part))
	}
}

// zero executes a discard or a write of zeroes.
func (d *Device) zero(r *block.Request) {
	fua := r.Flags&block.FlagFUA != 0
	keep := r.Op == block.OpWriteZeroes && r.Flags&block.FlagNoHole != 0
	off, left := r.Off, int(r.Len)
	for left > 0 {
		p := pieceAt(off, left)
		whole := p.hi-p.lo == chunkLen
		switch c := d.find(p.n); {
		case keep:
			d.clear(d.need(p.n), p, fua)
		case c == nil:
		case whole && !d.opt.Crashable:
			d.drop(p.n)
		default:
			d.clear(c, p, fua)
		}
		off += uint64(p.hi - p.lo)
		left -= p.hi - p.lo
	}
}

func (d *Device) clear(c *chunk, p piece, fua bool) {
	c.mu.Lock()
	d.save(c, p, fua)
	clear(c.bytes[p.lo:p.hi])
	if fua && c.dirty != 0 {
		clear(c.saved[p.lo:p.hi])
	}
	first, end := (p.lo+blockLen-1)/blockLen, p.hi/blockLen
	if first < end { // whole blocks only
		c.data &^= blocks(first*blockLen, end*blockLen)
	}
	c.mu.Unlock()
}

// status appends the extents of r as far as Buf allows.
func (d *Device) status(r *block.Request) {
	r.N = 0
	off, left := r.Off, int(r.Len)
	for left > 0 {
		p := pieceAt(off, left)
		flags := block.ExtentHole | block.ExtentZero
		if c := d.find(p.n); c != nil {
			p.hi = min(p.hi, p.lo/blockLen*blockLen+blockLen)
			flags = block.ExtentZero
			c.mu.Lock()
			if c.data&blocks(p.lo, p.hi) != 0 {
				flags = 0
			}
			c.mu.Unlock()
		}
		if !block.AppendExtent(r, block.Extent{Len: uint64(p.hi - p.lo), Flags: flags}) {
			return
		}
		off += uint64(p.hi - p.lo)
		left -= p.hi - p.lo
	}
}
