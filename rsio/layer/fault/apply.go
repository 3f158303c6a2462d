// SPDX-License-Identifier: Apache-2.0

package fault

import (
	"rsio/rsio/block"
)

// apply does a to r.
func (d *Device) apply(a action, r *block.Request) {
	switch a.Do {
	case EIO:
		d.fin.Finish(r, block.StatusIO)
	case NoSpace:
		d.fin.Finish(r, block.StatusNoSpace)
	case Lost:
		d.fin.Finish(r, block.StatusOK)
	case Short:
		d.half(r, block.StatusIO)
	case Torn:
		d.half(r, block.StatusOK)
	case Misdirect:
		c := d.child(r, (*plain)(d))
		c.Off = d.elsewhere(a, r)
		d.below.Submit(c)
	case Bitflip:
		d.flip(a, r)
	case IgnoreFlush:
		if r.Op == block.OpFlush {
			d.fin.Finish(r, block.StatusOK)
			return
		}
		c := d.child(r, (*plain)(d))
		c.Flags &^= block.FlagFUA
		d.below.Submit(c)
	case Delay, Hang:
		d.wait(a, r)
	default:
		d.fin.Finish(r, block.StatusUnsupported)
	}
}

// child is Children.Get that keeps the device open until answer.
func (d *Device) child(r *block.Request, done block.Completer) *block.Request {
	d.in.Hold()
	return d.children.Get(r, done)
}

// answer completes the parent of c, which has completed, with st.
func (d *Device) answer(c *block.Request, st block.Status) {
	r := c.Parent
	r.N, r.Depth = c.N, c.Depth
	d.children.Put(c)
	d.fin.Finish(r, st)
	d.in.Leave()
}

// plain is the Completer of a child whose outcome is its parent's.
type plain Device

// Complete implements block.Completer.
func (p *plain) Complete(c *block.Request) { (*Device)(p).answer(c, c.Status) }

// failing is the Completer of a child whose parent ends in StatusIO.
type failing Device

// Complete implements block.Completer.
func (f *failing) Complete(c *block.Request) { (*Device)(f).answer(c, block.StatusIO) }

// half does the first half of r, whole blocks, and ends r with st. Half of one
// block is nothing.
func (d *Device) half(r *block.Request, st block.Status) {
	bs := d.below.Info().BlockSize
	n := r.Len / 2 / bs * bs
	if n == 0 {
		d.fin.Finish(r, st)
		return
	}
	var done block.Completer = (*plain)(d)
	if st != block.StatusOK {
		done = (*failing)(d)
	}
	c := d.child(r, done)
	c.Len = n
	if c.Buf != nil {
		c.Buf = c.Buf[:n]
	}
	d.below.Submit(c)
}

// elsewhere returns another offset for r, if the device has room for one.
func (d *Device) elsewhere(a action, r *block.Request) uint64 {
	i := d.below.Info()
	bs := uint64(i.BlockSize)
	places := (i.Size-uint64(r.Len))/bs + 1 // where r could start
	shift := (a.Shift + bs - 1) / bs
	if shift == 0 && places > 1 {
		shift = 1 + a.dice%(places-1)
	}
	return (r.Off/bs + shift%places) % places * bs
}

// flipped is the Completer of a read that is damaged on its way up.
type flipped Device

// Complete implements block.Completer. The dice came down in Tag.
func (f *flipped) Complete(c *block.Request) {
	if c.Status == block.StatusOK {
		flipBit(c.Buf, c.Tag) // the buffer of a read is the device's until it completes
	}
	(*Device)(f).answer(c, c.Status)
}

func flipBit(p []byte, dice uint64) {
	bit := dice % uint64(len(p)*8)
	p[bit/8] ^= 1 << (bit % 8)
}

func (d *Device) flip(a action, r *block.Request) {
	if r.Op == block.OpRead {
		c := d.child(r, (*flipped)(d))
		c.Tag = a.dice
		d.below.Submit(c)
		return
	}
	c := d.child(r, (*plain)(d))
	c.Buf = append([]byte(nil), r.Buf...) // the payload is the caller's (rule 4)
	flipBit(c.Buf, a.dice)
	d.below.Submit(c)
}

// parked is the Completer of a request that has executed and now waits.
type parked struct {
	d *Device
	a action
}

// Complete implements block.Completer.
func (p *parked) Complete(c *block.Request) {
	if !p.d.keep.park(c, p.a) {
		p.d.answer(c, c.Status)
	}
}

// wait sends r on later.
func (d *Device) wait(a action, r *block.Request) {
	if a.After {
		d.below.Submit(d.child(r, &parked{d: d, a: a}))
		return
	}
	c := d.child(r, (*plain)(d))
	if !d.keep.park(c, a) {
		d.below.Submit(c)
	}
}

// resume sends on a child that has waited, on the keeper's goroutine.
func (d *Device) resume(c *block.Request, after bool) {
	c.Depth = 0
	if after {
		d.answer(c, c.Status)
		return
	}
	d.below.Submit(c)
}
