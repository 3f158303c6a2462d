// SPDX-License-Identifier: Apache-2.0

package initiator

import (
	"context"
	"fmt"
	"sync"
	"time"

	"rsio/rsio/audit"
	"rsio/rsio/block"
	"rsio/rsio/netio"
	"rsio/rsio/session"
	"rsio/rsio/transport"
	"rsio/rsio/wire"
)

// link is the session of one nexus at one target with its paths.
type link struct {
	i      *Initiator
	target string
	nexus  string
	client *session.Client

	users int // guarded by Initiator.mu

	mu    sync.Mutex
	paths []*path

	ctx  context.Context // ends with the link; for dialling only
	stop context.CancelFunc
	wg   sync.WaitGroup
}

// newLink starts a link over the given portals.
func (i *Initiator) newLink(target, nexus string, secret wire.Secret, addrs []transport.Addr) *link {
	l := &link{i: i, target: target, nexus: nexus}
	l.ctx, l.stop = context.WithCancel(context.Background())
	l.client = session.NewClient(session.Config{Nexus: nexus, Secret: secret, Serial: i.run.serial, Target: target, Events: l, Now: netio.Now})
	l.setPaths(addrs)
	l.wg.Add(1)
	go l.tick()
	return l
}

// setPaths makes the paths those to the given portals; the ones that stay are
// not touched.
func (l *link) setPaths(addrs []transport.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.paths
	l.paths = nil
	for n, a := range addrs {
		var p *path
		for k, q := range old {
			if q != nil && q.addr == a {
				p, old[k] = q, nil
				break
			}
		}
		if p == nil {
			p = newPath(l, a)
		}
		p.rename(fmt.Sprintf("%s/%d", l.target, n))
		l.paths = append(l.paths, p)
	}
	for _, q := range old {
		if q != nil {
			q.end()
		}
	}
}

func (l *link) pathList() []*path {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]*path(nil), l.paths...)
}

// tick drives the session's timers.
func (l *link) tick() {
	defer l.wg.Done()
	t := time.NewTicker(session.TickEvery)
	defer t.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-t.C:
			l.client.Tick()
			l.checkParked()
		}
	}
}

// checkParked gives the session up when all paths have been lost for longer
// than the policy says. By default it waits for ever.
func (l *link) checkParked() {
	limit := l.i.opt.ParkTimeout
	if limit > 0 && l.client.Parked() > limit && l.client.Failed() == block.StatusOK {
		l.client.GiveUp(block.StatusTimeout, fmt.Sprintf("no path for more than %v", limit))
	}
}

// close ends the link: the session is logged out if it can be reached, then
// all connections end, and with them what is still in flight.
func (l *link) close() {
	if len(l.client.Paths()) > 0 {
		done := make(chan struct{})
		l.client.Control(&session.Control{Op: wire.OpLogout, Done: func(*session.Control) { close(done) }})
		select {
		case <-done:
		case <-time.After(time.Second): // it will be replaced by the next login anyway
		}
	}
	// What is in flight all the same (detach with force) would never end.
	l.client.GiveUp(block.StatusClosed, "the session is not used any more")
	l.shut()
}

// shut ends connections and goroutines and leaves the session to a successor.
func (l *link) shut() {
	l.stop()
	for _, p := range l.pathList() {
		p.end()
	}
	l.wg.Wait()
	l.client.Close()
}

// Event passes an event on; session.Events.
func (l *link) Event(level, object, text string) { l.i.opt.Events.Add(level, object, text) }

// VolumeChanged notes size, incarnation and right of an attached volume before
// its requests go on; session.Events.
func (l *link) VolumeChanged(v *session.Volume) {
	a := v.Owner().(*attachment)
	_, info, _ := v.State()
	if err := l.i.run.setSeen(a.runKey(), v.Incarnation(), info.Right); err != nil {
		l.i.opt.Events.Add(audit.Error, a.name, "incarnation and right could not be recorded: "+err.Error())
	}
	a.changed(v)
}

// control does one control operation and waits for its end.
func (l *link) control(ctx context.Context, op block.Op, payload []byte) ([]byte, error) {
	ct := &session.Control{Op: op, Payload: payload}
	done := make(chan struct{})
	ct.Done = func(*session.Control) { close(done) }
	l.client.Control(ct)
	select {
	case <-done:
		return ct.Reply, ct.Status.Err()
	case <-ctx.Done():
		l.client.Cancel(ct) // or it would be executed when a path comes back, long after we said no
		return nil, fmt.Errorf("target %s: %w", l.target, block.StatusTimeout)
	}
}
