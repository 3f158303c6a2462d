// SPDX-License-Identifier: Apache-2.0

package mem

import (
	"maps"
	"math/rand/v2"
	"slices"
)

// save keeps what the blocks of p held when they were last flushed, before
// they change. A write with FUA of clean blocks needs no copy: it is durable
// at once. c.mu is held.
func (d *Device) save(c *chunk, p piece, fua bool) {
	if !d.opt.Crashable || fua {
		return
	}
	fresh := blocks(p.lo, p.hi) &^ c.dirty
	if fresh == 0 {
		return
	}
	if c.saved == nil {
		c.saved = new([chunkLen]byte)
	}
	for b := range perChunk {
		if fresh&(1<<b) != 0 {
			copy(c.saved[b*blockLen:(b+1)*blockLen], c.bytes[b*blockLen:])
		}
	}
	if c.dirty == 0 {
		d.dirtyMu.Lock()
		d.dirty[p.n] = c
		d.dirtyMu.Unlock()
	}
	c.dirty |= fresh
}

// settle makes everything durable. d.mu is held for writing.
func (d *Device) settle() {
	for _, c := range d.dirty {
		c.dirty = 0
	}
	clear(d.dirty)
}

// CrashClone returns the device that a power cut at this instant could leave
// behind: all that was flushed or written with FUA, and of the rest a part
// that rng chooses, block by block of 4 KiB (with Options.Tear also sector by
// sector). The clone has the same options, and all of it is durable. d goes on
// unchanged. The same rng state and content give the same clone.
func (d *Device) CrashClone(rng *rand.Rand) *Device {
	if !d.opt.Crashable {
		panic("mem: CrashClone of a device without Options.Crashable")
	}
	clone, err := New(d.opt)
	if err != nil {
		panic("mem: options of a living device are refused: " + err.Error())
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := clone.Resize(d.size); err != nil {
		panic("mem: size of a living device is refused: " + err.Error())
	}
	for i := range d.node {
		p := d.node[i].Load()
		if p == nil {
			continue
		}
		for j := range p {
			if c := p[j].Load(); c != nil {
				to := clone.need(uint64(i)*perNode + uint64(j))
				to.bytes, to.data = c.bytes, c.data
			}
		}
	}
	for _, n := range slices.Sorted(maps.Keys(d.dirty)) { // sorted: rng decides alone
		d.dirty[n].roll(clone.need(n), rng, d.opt.Tear)
	}
	return clone
}

// roll takes unflushed blocks of c back in to, as rng says.
func (c *chunk) roll(to *chunk, rng *rand.Rand, tear bool) {
	for b := range perChunk {
		if c.dirty&(1<<b) == 0 {
			continue
		}
		step := blockLen
		if tear && rng.IntN(2) == 0 {
			step = sectorLen
		}
		for at := b * blockLen; at < (b+1)*blockLen; at += step {
			if rng.IntN(2) == 0 {
				copy(to.bytes[at:at+step], c.saved[at:])
				to.data |= 1 << b // what was saved may be data where there is none now
			}
		}
	}
}
