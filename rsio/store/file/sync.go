// SPDX-License-Identifier: Apache-2.0

package file

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"rsio/rsio/block"
)

// errFailed is what sync returns once an fdatasync has failed.
var errFailed = errors.New("an earlier fdatasync failed: data that was written may be lost; repair the volume from a copy")

// sync makes everything written so far durable. One runs at a time, and none
// after one that failed.
func (d *Device) sync() error {
	d.syncMu.Lock()
	if d.failed.Load() {
		d.syncMu.Unlock()
		return fmt.Errorf("file %s: %w", d.opt.Path, errFailed)
	}
	err := d.sys.fdatasync(d.fd)
	for err == unix.EINTR { // a signal, not the disk: nothing was reported or forgotten
		err = d.sys.fdatasync(d.fd)
	}
	if err != nil {
		d.failed.Store(true)
	}
	d.syncMu.Unlock()
	if err == nil {
		return nil
	}
	err = fmt.Errorf("file %s: fdatasync: %w", d.opt.Path, err)
	if d.opt.OnFail != nil {
		d.opt.OnFail(err)
	}
	return err
}

// syncStatus is sync for a request: whatever the reason, what was written may
// be lost, so the outcome is StatusIO.
func (d *Device) syncStatus() block.Status {
	if d.sync() != nil {
		return block.StatusIO
	}
	return block.StatusOK
}

// syncer collects the requests that wait for durability. While one fdatasync
// runs the next batch grows.
type syncer struct {
	sync   func() error
	mu     sync.Mutex
	wake   sync.Cond
	queue  block.Queue
	closed bool
	done   sync.WaitGroup
}

func newSyncer(fn func() error) *syncer {
	s := &syncer{sync: fn}
	s.wake.L = &s.mu
	s.done.Add(1)
	go s.run()
	return s
}

// submit queues r, whose data is written; it completes after an fdatasync that
// starts from now on. The queue is bounded by what callers and workers admit.
func (s *syncer) submit(r *block.Request) {
	s.mu.Lock()
	s.queue.Push(r)
	s.mu.Unlock()
	s.wake.Signal()
}

func (s *syncer) run() {
	defer s.done.Done()
	for {
		s.mu.Lock()
		for s.queue.Len() == 0 && !s.closed {
			s.wake.Wait()
		}
		batch := s.queue.Take()
		s.mu.Unlock()
		if batch.Len() == 0 {
			return
		}
		st := block.StatusOK
		if s.sync() != nil {
			st = block.StatusIO
		}
		for r := batch.Pop(); r != nil; r = batch.Pop() {
			r.Depth = 0
			block.Finish(r, st)
		}
	}
}

// close drains the queue and joins the goroutine.
func (s *syncer) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.wake.Signal()
	s.done.Wait()
}
