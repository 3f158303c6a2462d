// SPDX-License-Identifier: Apache-2.0

package block

import "sync/atomic"

// Access is what a nexus may do to a volume.
type Access uint8

// The two classes of rights. Reads and block-status need AccessRead, all
// other operations AccessWrite, flush included (SPC-4, 5.12.1, table of
// commands and reservations).
const (
	AccessRead  Access = 1 << 0
	AccessWrite Access = 1 << 1
	AccessAll          = AccessRead | AccessWrite
)

// String returns r, w, rw or -.
func (a Access) String() string {
	return [...]string{"-", "r", "w", "rw"}[a&AccessAll]
}

// Needs returns the right that an operation needs.
func Needs(op Op) Access {
	if op == OpRead || op == OpBlockStatus {
		return AccessRead
	}
	return AccessWrite
}

// Seat is the place of one nexus at one volume, where the verdict of the disk
// access manager meets the data path. A request enters right before it
// executes and leaves when it has completed.
//
// Enter marks the request as running first and looks at the verdict then; who
// takes a right away changes the verdict first and looks for what runs then.
// So either the request sees the new verdict, or it is seen running. The
// interleaving the order stands against: a write looks, and may; the right is
// taken away, nothing runs, and the preempt is answered; then the write
// executes.
//
// Enter and Leave are for any goroutine, take no lock and do not allocate: one
// atomic addition and one load, however many registrants there are.
type Seat struct {
	verdict atomic.Uint64 // generation of the right << 2 | Access
	reading runners
	writing runners
}

// runners counts the requests of one class; each class has a cache line of its
// own together with nobody else's.
type runners struct {
	n      atomic.Int64
	waiter atomic.Pointer[chan struct{}]
	_      [48]byte
}

func (s *Seat) of(op Op) *runners {
	if Needs(op) == AccessRead {
		return &s.reading
	}
	return &s.writing
}

// Enter reports whether the request may execute now: StatusOK, and Leave is
// due, or StatusConflict. right is the generation of the right that the
// request's frontend saw when the request was submitted. A change that carries
// another one was submitted before the nexus lost a right and must not execute,
// also when the nexus has it again. A read does no harm, however old.
func (s *Seat) Enter(op Op, right uint64) Status {
	run := s.of(op)
	run.n.Add(1)
	v := s.verdict.Load()
	if Access(v)&Needs(op) != 0 && (v>>2 == right || !op.Changes()) {
		return StatusOK
	}
	run.leave()
	return StatusConflict
}

// Leave ends what Enter allowed.
func (s *Seat) Leave(op Op) { s.of(op).leave() }

func (r *runners) leave() {
	if r.n.Add(-1) != 0 {
		return
	}
	if w := r.waiter.Load(); w != nil {
		select {
		case *w <- struct{}{}:
		default:
		}
	}
}

// Right returns the generation of the right and what the nexus may do.
func (s *Seat) Right() (uint64, Access) {
	v := s.verdict.Load()
	return v >> 2, Access(v) & AccessAll
}

// Running returns the number of requests that execute.
func (s *Seat) Running() int { return int(s.reading.n.Load() + s.writing.n.Load()) }

// Set changes the verdict. Only the disk access manager calls it.
func (s *Seat) Set(right uint64, a Access) { s.verdict.Store(right<<2 | uint64(a)) }

// Drain waits until no request that needs one of the rights in lost runs any
// more, or until quit is closed: then it returns false. The verdict has been
// changed before. One goroutine at a time may call it.
func (s *Seat) Drain(lost Access, quit ...<-chan struct{}) bool {
	return (lost&AccessRead == 0 || s.reading.drain(quit)) && (lost&AccessWrite == 0 || s.writing.drain(quit))
}

// drain: the waiter is in place before the count is looked at, and leave looks
// for a waiter after it has counted down.
func (r *runners) drain(quit []<-chan struct{}) bool {
	wake := make(chan struct{}, 1)
	r.waiter.Store(&wake)
	defer r.waiter.Store(nil)
	var more [2]<-chan struct{}
	copy(more[:], quit)
	for r.n.Load() != 0 {
		select {
		case <-wake:
		case <-more[0]:
			return false
		case <-more[1]:
			return false
		}
	}
	return true
}
