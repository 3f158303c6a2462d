// SPDX-License-Identifier: Apache-2.0

package present

import (
	"context"
	"os/exec"
	"strconv"
	"syscall"

	"rsio/rsio/initiator"
)

// firstRight is the right that device and file of an attachment begin with: of
// a predecessor's what they carry already.
func (p *Presenter) firstRight(want initiator.Presented) uint64 {
	if want.Right != 0 {
		return want.Right
	}
	return p.presentRight(want.Name)
}

// presentRight is the right of an attachment as its target last said; 0 if
// nobody is fenced there.
func (p *Presenter) presentRight(name string) uint64 {
	a := p.attachments.Load()
	if a == nil {
		return 0
	}
	dev, _, _, ok := (*a).Find(name)
	if !ok {
		return 0
	}
	return dev.Info().Right
}

// mendRight gives device and file of s the present right once nothing is in
// flight in the kernel that was sent under a former one.
//
// The interleaving: a guest's writes are in the queue of the kernel device, or
// of the files' mount, and this host is frozen. The nexus is fenced. Somebody
// registers it again. The host wakes, and learns of the new right before it has
// read those writes. Under the new right they would be executed, and they were
// sent before the fence. So they keep the former right, and are refused, until
// the kernel says that the queue is empty (device) or numbers them as younger
// (file). p.change is held.
func (p *Presenter) mendRight(ctx context.Context, s *shown) error {
	now := p.presentRight(s.Name)
	if now == 0 || now == s.right.Load() {
		return nil
	}
	if s.file {
		if err := p.files.client.Fence(ctx, s.path(), now); err != nil {
			return err
		}
	}
	if s.index >= 0 && !p.passed(s, now) {
		return nil
	}
	s.right.Store(now)
	p.srv.Fence(forKernel + s.Name)
	p.srv.Fence(forFile + s.Name)
	(*p.attachments.Load()).Fenced(s.Name, now)
	return nil
}

// passed reports whether all that the kernel device of s was given before it
// was first asked for this right has ended; if not, the mender is woken then.
func (p *Presenter) passed(s *shown, right uint64) bool {
	if s.barrier == nil {
		// In a process of its own: it waits in the kernel, where it cannot be
		// killed, for requests that wait for us. A thread of ours in that state
		// would keep this process from dying, and its sockets open; so neither a
		// successor could take over nor the requests end.
		done := make(chan error, 1)
		cmd := exec.Command(p.opt.Command[0], "barrier", strconv.Itoa(s.index))
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		s.barrier, s.under = done, right
		go func() { // ends with the requests of the device, or with this process
			done <- cmd.Run()
			p.poke()
		}()
	}
	select {
	case err := <-s.barrier:
		s.barrier = nil
		return err == nil && s.under == right
	default:
		return false
	}
}
