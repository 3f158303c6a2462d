// SPDX-License-Identifier: Apache-2.0

// Package fault is a layer that breaks what passes through it, on purpose and
// repeatably: it does what disks, cables and full pools do. Tests and the lab
// put it over a healthy device. A rule is one line of text:
//
//	op=write,nth=3,do=hang
//	op=read,range=0-4096,p=0.01,seed=7,do=bitflip
//	op=write,do=delay,ms=50-500
//
// Syntax lists all keys. The first rule that selects a request is applied to
// it; what no rule selects is forwarded untouched. The payload of a write and
// the request itself are never changed: a child goes down instead.
//
// # Waiting
//
// Requests that wait sit in one heap; one goroutine, started by New and joined
// by Close, sends them on when their time has come, when Release is called,
// when the file of a rule's until exists (looked for every 10 ms), or when
// Close is called. They are executed then, however late.
//
// Locks: Device.mu guards rules and counters, keeper.mu what waits. Neither is
// held for a Submit or a completion.
package fault

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"rsio/rsio/block"
)

// Device is a layer with rules. New makes one.
type Device struct {
	below    block.Device
	in       block.Inflight
	fin      block.Finisher
	children block.Children
	keep     *keeper

	mu    sync.Mutex
	rules []*armed
	hits  uint64
}

// armed is a rule at work.
type armed struct {
	Rule
	rng  *rand.Rand
	ops  [256]bool
	seen uint64 // requests that op and range selected
}

// New puts a layer with rules over below.
func New(below block.Device, rules ...Rule) *Device {
	d := &Device{below: below}
	d.Set(rules...)
	d.keep = newKeeper(d.resume)
	return d
}

// Set exchanges the rules; counting starts anew. What waits goes on waiting.
func (d *Device) Set(rules ...Rule) {
	var all []*armed
	for _, r := range rules {
		a := &armed{Rule: r, rng: rand.New(rand.NewPCG(r.Seed, 0))}
		for op := block.OpRead; op.Known(); op++ {
			a.ops[op] = (r.Op == 0 || r.Op == op) && r.Do.takes(op)
		}
		all = append(all, a)
	}
	d.mu.Lock()
	d.rules = all
	d.mu.Unlock()
}

// Hits returns how often a rule was applied.
func (d *Device) Hits() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.hits
}

// Release sends on all requests that hang now.
func (d *Device) Release() { d.keep.release() }

// Held returns the number of requests that wait now.
func (d *Device) Held() int { return d.keep.held() }

// Info implements block.Device.
func (d *Device) Info() block.Info {
	i := d.below.Info()
	i.Features &^= block.NeverBlocks
	return i
}

// Submit implements block.Device.
func (d *Device) Submit(r *block.Request) {
	if !d.in.Enter() {
		d.fin.Finish(r, block.StatusClosed)
		return
	}
	if !r.Op.Known() {
		d.fin.Finish(r, block.StatusUnsupported)
	} else if a, ok := d.pick(r); ok {
		d.apply(a, r)
	} else {
		d.below.Submit(r)
	}
	d.in.Leave()
}

// Close implements block.Device: what waits is sent on at once.
func (d *Device) Close(ctx context.Context) error {
	d.keep.hurry()
	return d.in.Close(ctx, func() error {
		d.keep.close()
		d.fin.Close()
		return d.below.Close(context.Background())
	})
}

// action is a rule with the dice thrown.
type action struct {
	Rule
	dice uint64
	wait time.Duration
}

// pick returns what happens to r, if anything.
func (d *Device) pick(r *block.Request) (action, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, a := range d.rules {
		if !a.selects(r) {
			continue
		}
		d.hits++
		act := action{Rule: a.Rule, dice: a.rng.Uint64()}
		if a.Do == Delay {
			ms := a.MinMS + a.rng.IntN(a.MaxMS-a.MinMS+1)
			act.wait = time.Duration(ms) * time.Millisecond
		}
		return act, true
	}
	return action{}, false
}

func (a *armed) selects(r *block.Request) bool {
	if !a.ops[r.Op] {
		return false
	}
	if a.To != 0 && (r.Op == block.OpFlush || r.Off >= a.To || r.End() <= a.From) {
		return false
	}
	if a.Do == IgnoreFlush && r.Op != block.OpFlush && r.Flags&block.FlagFUA == 0 {
		return false
	}
	a.seen++
	switch {
	case a.Nth != 0 && a.seen != a.Nth,
		a.seen < a.Start,
		a.Every != 0 && (a.seen-max(a.Start, 1)+1)%a.Every != 0:
		return false
	}
	return a.P == 0 || a.rng.Float64() < a.P
}

// String describes the layer for logs.
func (d *Device) String() string {
	return fmt.Sprintf("fault layer, %d hits, %d waiting", d.Hits(), d.Held())
}
