// SPDX-License-Identifier: Apache-2.0

package fusefs

import (
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// rights is what a file knows of the right of its nexus: which requests carry
// which generation.
//
// A request carries the generation that was in force when its process sent it,
// not when this one came to read it. The interleaving: a guest has writes in
// the kernel's queue, and this process is frozen. The nexus is fenced, the
// reservation released. The process wakes and learns of the new generation.
// If it then gave the writes that one, they would be executed: they were sent
// before the fence. The kernel numbers requests in the order in which it
// queues them, so one of our own tells up to where they are old.
type rights struct {
	mu      sync.Mutex // one Fence at a time
	state   atomic.Pointer[rightState]
	barrier atomic.Uint32 // thread whose getattr is the request of our own; 0: none
}

// rightState is one generation and the one before.
type rightState struct {
	now    uint64
	before uint64
	upto   uint64 // number of the last request that carries before
}

// of returns the generation for a request with the kernel's number.
func (r *rights) of(unique uint64) uint64 {
	s := r.state.Load()
	if unique <= s.upto {
		return s.before
	}
	return s.now
}

// renew takes the device's right for all requests after the one at hand.
func (f *file) renew(unique uint64) {
	old := f.rights.state.Load()
	f.rights.state.Store(&rightState{now: f.Device.Info().Right, before: old.now, upto: unique})
}

// Fence tells that the right of a file's nexus is another one
// (block.Info.Right of its device): requests that processes have sent carry
// the former one, and will be refused. Without this call all that follow carry
// it too. Fence waits for one answer of this process to the kernel, not for a
// device. After an error the former generation is still carried: what changes
// data is refused until Fence succeeds.
func (s *FS) Fence(namespace, name string) error {
	s.mu.RLock()
	f, m := s.lookup(namespace, name), s.mount
	s.mu.RUnlock()
	if f == nil {
		return fmt.Errorf("file %s/%s: %w", namespace, name, ErrNotFound)
	}
	r := &f.rights
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.state.Load()
	if f.Device.Info().Right == old.now {
		return nil
	}
	if m == nil {
		f.renew(0) // no mount, no requests; numbers begin again with the next
		return nil
	}
	runtime.LockOSThread() // the kernel tells which thread asks
	defer runtime.UnlockOSThread()
	r.barrier.Store(uint32(unix.Gettid()))
	defer r.barrier.Store(0)
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, filepath.Join(m.dir, namespace, name), unix.AT_STATX_FORCE_SYNC, unix.STATX_SIZE, &st)
	if err == nil && r.state.Load() == old {
		err = unix.ESTALE // another file is there, as when something is mounted over it
	}
	if err != nil {
		return fmt.Errorf("file %s/%s: requests keep their former right: %w", namespace, name, err)
	}
	return nil
}
