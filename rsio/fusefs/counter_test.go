// SPDX-License-Identifier: Apache-2.0

package fusefs

import (
	"sync/atomic"

	"rsio/rsio/block"
	"rsio/rsio/store/mem"
)

// counter counts what arrives at a device, and may say that it cannot do some
// of it.
type counter struct {
	block.Device
	without block.Features
	maxLen  uint32
	maxZero uint32
	n       [16]atomic.Int64
	fua     atomic.Int64
	noHole  atomic.Int64
}

func (c *counter) Info() block.Info {
	i := c.Device.Info()
	i.Features &^= c.without
	if c.maxLen != 0 {
		i.MaxLen = c.maxLen
	}
	if c.maxZero != 0 {
		i.MaxZero = c.maxZero
	}
	return i
}

func (c *counter) Submit(r *block.Request) {
	c.n[r.Op].Add(1)
	if r.Flags&block.FlagFUA != 0 {
		c.fua.Add(1)
	}
	if r.Flags&block.FlagNoHole != 0 {
		c.noHole.Add(1)
	}
	c.Device.Submit(r)
}

func (c *counter) count(op block.Op) int64 { return c.n[op].Load() }

func newReadOnly() (*mem.Device, error) {
	return mem.New(mem.Options{Size: 1 << 20, ReadOnly: true})
}
