// SPDX-License-Identifier: Apache-2.0

package dam

import (
	"fmt"
	"sync"

	"rsio/rsio/block"
)

// volume is the reservation of one volume at work.
type volume struct {
	d  *DAM
	id string

	mu     sync.Mutex
	state  *State // durable: what is shown
	next   *State // nil, or what a change that is being made will make of it
	seats  map[string]*seated
	queue  []*job
	busy   bool // a goroutine works on the queue
	tried  uint64
	behind bool            // the registry does not have the state yet
	told   map[string]bool // nexuses whose attentions were reported while a change was being made
	ended  bool            // deleted
}

// seated is a seat and how many use it.
type seated struct {
	block.Seat
	users int
}

// job is a change that waits for its turn.
type job struct {
	nexus, by string
	r         block.ReserveOut
	quit      <-chan struct{}
	done      func(block.ReserveResult)
}

func newVolume(d *DAM, s *State) *volume {
	return &volume{d: d, id: s.Volume, state: s, tried: s.Version, seats: make(map[string]*seated)}
}

func (v *volume) seat(nexus string) *block.Seat {
	v.mu.Lock()
	defer v.mu.Unlock()
	x := v.seats[nexus]
	if x == nil {
		x = new(seated)
		v.seats[nexus] = x
		x.Set(v.verdict(nexus))
	}
	x.users++
	return &x.Seat
}

func (v *volume) unseat(nexus string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if x := v.seats[nexus]; x != nil {
		if x.users--; x.users == 0 {
			delete(v.seats, nexus)
		}
	}
}

// verdict is what holds for nexus now. While a change is being made it is what
// the state before and the state after both allow, and requests that the new
// state fences are fenced already: whoever gains waits until it is durable,
// whoever loses does not.
func (v *volume) verdict(nexus string) (uint64, block.Access) {
	if v.next == nil {
		return v.state.Right(nexus), v.state.Access(nexus)
	}
	return v.next.Right(nexus), v.state.Access(nexus) & v.next.Access(nexus)
}

// settle gives all seats their verdict. v.mu is held.
func (v *volume) settle() {
	for nexus, x := range v.seats {
		x.Set(v.verdict(nexus))
	}
}

// reserve queues j.
func (v *volume) reserve(j *job) {
	v.mu.Lock()
	st := block.StatusOK
	switch {
	case v.ended:
		st = block.StatusNotFound
	case len(v.queue) >= MaxQueued:
		st = block.StatusBusy
	case v.busy:
		v.queue = append(v.queue, j)
	case v.d.start(v.run):
		v.queue, v.busy = append(v.queue, j), true
	default:
		st = block.StatusClosed
	}
	v.mu.Unlock()
	if st != block.StatusOK {
		j.done(block.ReserveResult{Status: st, Reason: st.Error()})
	}
}

// run makes the changes that wait, one by one.
func (v *volume) run() {
	for {
		v.mu.Lock()
		if len(v.queue) == 0 {
			v.busy, v.queue = false, nil
			v.mu.Unlock()
			return
		}
		j := v.queue[0]
		v.queue = v.queue[1:]
		v.mu.Unlock()
		j.done(v.do(j))
	}
}

// ended reports whether a channel is closed.
func ended(quit <-chan struct{}) bool {
	select {
	case <-quit:
		return true
	default:
		return false
	}
}

// do makes one change. Nobody else changes the state meanwhile.
func (v *volume) do(j *job) block.ReserveResult {
	if ended(j.quit) || ended(v.d.stop) {
		return block.ReserveResult{Status: block.StatusClosed, Reason: "the caller has gone"}
	}
	old := v.shown()
	n, out := Apply(old, j.nexus, j.r)
	if n == old {
		if err := v.catchUp(old); err != nil {
			return failed(err)
		}
		out.Attentions = v.report(j.nexus)
		return out.ReserveResult
	}
	n, out.Attentions = Report(n, j.nexus)
	lost := v.begin(n)
	if j.r.Action == block.ReservePreemptAbort {
		for _, l := range lost {
			if !l.seat.Drain(l.what, j.quit, v.d.stop) {
				v.abandon()
				return block.ReserveResult{Status: block.StatusClosed, Reason: "the caller has gone"}
			}
		}
	}
	if err := v.d.journal(n); err != nil {
		v.abandon()
		return failed(err)
	}
	v.d.audit(Entry{Volume: v.id, Nexus: j.nexus, By: j.by, Action: j.r, Before: old.Text(), After: n.Text(), Generation: n.Generation, Version: n.Version})
	v.mu.Lock()
	v.behind = true
	v.mu.Unlock()
	err := v.catchUp(n)
	v.commit(n, out.Raised)
	v.announce(old, n, out.Raised)
	if err != nil {
		v.retell(j.nexus, out.Attentions) // the answer does not report them
		return failed(err)
	}
	return out.ReserveResult
}

// retell lets attentions wait again.
func (v *volume) retell(nexus string, codes []block.Attention) {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := v.state.clone()
	for _, c := range codes {
		n.tell(nexus, c)
	}
	v.state = n
}

func failed(err error) block.ReserveResult {
	return block.ReserveResult{Status: block.StatusIO, Reason: fmt.Sprintf("it could not be made durable, and may hold after a restart or not: %v", err)}
}

// shown returns the state that is durable.
func (v *volume) shown() *State {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.state
}

// loss is what a nexus is about to lose.
type loss struct {
	seat *block.Seat
	what block.Access
}

// begin puts the change to n in force as far as it takes something away, and
// returns who loses what: the rights it takes, and the changes that were
// submitted under a right that is no longer the present one.
func (v *volume) begin(n *State) (lost []loss) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.tried++
	n.Version = v.tried
	for nexus, x := range v.seats {
		what := v.state.Access(nexus) &^ n.Access(nexus)
		if v.state.Right(nexus) != n.Right(nexus) {
			what |= block.AccessWrite
		}
		if what != 0 {
			lost = append(lost, loss{&x.Seat, what})
		}
	}
	v.next, v.told = n, make(map[string]bool)
	v.settle()
	return lost
}

// abandon puts the old state in force again.
func (v *volume) abandon() {
	v.mu.Lock()
	v.next = nil
	v.settle()
	v.mu.Unlock()
}

// commit puts n in force. Attentions that were reported meanwhile are not
// reported again, but for those that this change has raised.
func (v *volume) commit(n *State, raised []Raised) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for nexus := range v.told {
		n, _ = Report(n, nexus)
	}
	if len(v.told) > 0 {
		n = n.clone()
		for _, x := range raised {
			if v.told[x.Nexus] {
				n.tell(x.Nexus, x.Code)
			}
		}
	}
	v.state, v.next = n, nil
	v.settle()
}

// catchUp writes the second copy of s if the registry does not have it yet:
// nothing is answered before both copies have it.
func (v *volume) catchUp(s *State) error {
	v.mu.Lock()
	behind := v.behind && !v.ended
	v.mu.Unlock()
	if !behind {
		return nil
	}
	if err := v.d.second(s); err != nil {
		v.d.warn(v.id, "second copy of its reservation: %v", err)
		return err
	}
	v.mu.Lock()
	v.behind = false
	v.mu.Unlock()
	return nil
}

// report takes the unit attentions of nexus. That they were reported becomes
// durable with the next change: after a crash they may be reported again, but
// none is lost.
func (v *volume) report(nexus string) (codes []block.Attention) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.state, codes = Report(v.state, nexus)
	if codes != nil && v.next != nil {
		v.told[nexus] = true
	}
	return codes
}

func (v *volume) show(nexus string, report bool) block.ReserveState {
	var codes []block.Attention
	if report {
		codes = v.report(nexus)
	}
	v.mu.Lock()
	out := v.state.Show(nexus)
	v.mu.Unlock()
	out.Attentions = codes
	return out
}

// announce tells the target who has another right now, and whom to call to
// attention.
func (v *volume) announce(old, n *State, raised []Raised) {
	type news struct {
		nexus string
		right uint64
		may   block.Access
	}
	var list []news
	v.mu.Lock()
	for nexus := range v.seats {
		if old.Right(nexus) != n.Right(nexus) || old.Access(nexus) != n.Access(nexus) {
			list = append(list, news{nexus, n.Right(nexus), n.Access(nexus)})
		}
	}
	v.mu.Unlock()
	for _, x := range list {
		if v.d.opt.Right != nil {
			v.d.opt.Right(v.id, x.nexus, x.right, x.may)
		}
	}
	for _, x := range raised {
		if v.d.opt.Attention != nil {
			v.d.opt.Attention(v.id, x.Nexus, x.Code)
		}
	}
}

// gone ends the volume and returns a version that is higher than any of it.
func (v *volume) gone() uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.ended = true
	v.tried++
	return v.tried
}
