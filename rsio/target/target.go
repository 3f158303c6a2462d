// SPDX-License-Identifier: Apache-2.0

// Package target owns a pool of volumes and serves them to sessions.
//
// The way of a request:
//
//  1. conn.read (one goroutine per connection) parses frames in batches and
//     reads a write's payload into a buffer of the connection.
//  2. When all of it is in and its digest is right, session.Slots decides
//     whether it is executed, attached to a running copy, answered again or
//     refused.
//  3. The volume's device executes it: hits of the page cache at once on this
//     goroutine, the rest on the store's workers.
//  4. task.Complete stores the outcome in the slot and queues the answer on
//     every path that asked. One writev takes all answers of a batch.
//  5. When the connections have let go of the answer, buffer and credit are
//     given back.
//
// Goroutines: Serve (one per listener, the caller's), one reader and one
// writer per connection, ctlWorkers for control operations, one housekeeper.
// Close joins them all.
//
// Lock order: Target.mu, then sess.mu. Neither is held during I/O of a volume
// or of the registry, except volume.mu, which serialises opening and closing
// of one volume and comes before both.
package target

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"rsio/rsio/admin/api"
	"rsio/rsio/audit"
	"rsio/rsio/block"
	"rsio/rsio/buf"
	"rsio/rsio/netio"
	"rsio/rsio/registry"
	"rsio/rsio/session"
	"rsio/rsio/transport"
	"rsio/rsio/wire"
)

// Limits of a target.
const (
	MaxConns         = 12_000          // open connections, logged in or not
	MaxPreAuth       = 1_024           // connections that have not logged in; the oldest gives way
	HandshakeTimeout = 5 * time.Second // to log in
	SilentTimeout    = 12 * time.Second
	EmptyTimeout     = 10 * time.Minute // a session with no path and no volume open is forgotten
	poolSlack        = 64 << 20         // bytes on top of the budget, for buffers being given back
	ctlWorkers       = 4
	ctlQueue         = 4096
	maxControlBytes  = 64 << 20 // payload of control operations that wait or execute
)

// Options configure a target.
type Options struct {
	Dir      string // data directory, exists
	Name     string // of this host
	Insecure bool   // accept a claimed identity over a network
	Budget   uint64 // bytes of payload in flight; 0 means session.DefaultBudget
	Version  string
	Events   *audit.Log
	// Gate makes the disk access manager; nil: everybody may do everything.
	Gate func(GateHost) (Gate, error)
}

// Target is a running target. New starts it, Close ends it.
type Target struct {
	opt      Options
	lock     *registry.DirLock
	reg      *registry.Registry
	id       wire.ID
	poolInc  uint64
	admin    func(ctx context.Context, caller api.Caller, call []byte) []byte
	fence    func(namespace, volume string)
	gate     Gate
	instance wire.ID
	started  time.Time
	pool     *buf.Pool
	budget   *session.Budget
	sessions *session.Sessions

	mu        sync.Mutex
	volumes   map[string]*volume
	uuids     map[string]*volume // the same
	controls  int                // control sessions
	sess      map[*session.Session]*sess
	conns     map[*conn]struct{}
	pre       []*conn // not logged in, oldest first
	listeners []net.Listener
	portals   []string
	waiting   []*reclaim
	closing   bool
	refused   uint64 // connections closed for want of room

	ctl      chan func()
	ctlBytes atomic.Int64
	calls    atomic.Int64

	stop chan struct{}
	life context.Context // ends with Close
	end  context.CancelFunc
	wg   sync.WaitGroup // listeners and connections
	bg   sync.WaitGroup // workers and housekeeper
}

// New locks the pool, opens the registry and starts the target without
// portals. Errors name the directory and what to do.
func New(opt Options) (*Target, error) {
	inc, err := poolIncarnation(opt.Dir)
	if err != nil {
		return nil, err
	}
	lock, err := registry.Lock(opt.Dir)
	if err != nil {
		return nil, err
	}
	reg, err := registry.Open(opt.Dir)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	if opt.Budget == 0 {
		opt.Budget = session.DefaultBudget
	}
	t := &Target{opt: opt, lock: lock, reg: reg, poolInc: inc, started: time.Now(),
		pool: buf.New(int64(opt.Budget) + poolSlack), budget: session.NewBudget(opt.Budget),
		volumes: make(map[string]*volume), uuids: make(map[string]*volume), sess: make(map[*session.Session]*sess), conns: make(map[*conn]struct{}),
		ctl: make(chan func(), ctlQueue), stop: make(chan struct{})}
	sum := sha256.Sum256([]byte(reg.ID()))
	copy(t.id[:], sum[:])
	_, _ = rand.Read(t.instance[:]) // never fails, by its documentation
	t.sessions = session.NewSessions(t.budget, session.DefaultSlots, rand.Reader, t.sessionEnded)
	for _, note := range reg.Notes() {
		opt.Events.Add(audit.Warning, opt.Dir, note)
	}
	t.life, t.end = context.WithCancel(context.Background())
	if err := t.loadVolumes(); err != nil {
		return nil, errors.Join(err, reg.Close(), lock.Close())
	}
	if err := t.openGate(); err != nil {
		return nil, errors.Join(err, reg.Close(), lock.Close())
	}
	t.bg.Add(ctlWorkers + 1)
	for range ctlWorkers {
		go t.ctlWorker()
	}
	go t.housekeep()
	return t, nil
}

func (t *Target) volumeDir() string { return filepath.Join(t.opt.Dir, "volumes") }

func (t *Target) loadVolumes() error {
	if err := os.MkdirAll(t.volumeDir(), 0o750); err != nil {
		return fmt.Errorf("pool %s: %w", t.opt.Dir, err)
	}
	now := netio.Now()
	for _, rec := range t.reg.List() {
		v := newVolume(t, rec, now)
		t.volumes[v.name()], t.uuids[v.uuid] = v, v
	}
	return nil
}

// openGate makes the gate, which finds the volumes' reservations.
func (t *Target) openGate() (err error) {
	if t.opt.Gate == nil {
		t.gate = &open{seats: make(map[[2]string]*openSeat)}
		return nil
	}
	t.gate, err = t.opt.Gate(t.gateHost())
	return err
}

// Serve accepts connections of initiators on l until Close. It takes l over.
func (t *Target) Serve(l net.Listener, addr transport.Addr) error {
	t.mu.Lock()
	if t.closing {
		t.mu.Unlock()
		return l.Close()
	}
	t.listeners = append(t.listeners, l)
	t.portals = append(t.portals, addr.String())
	t.wg.Add(1)
	t.mu.Unlock()
	defer t.wg.Done()
	for {
		nc, err := l.Accept()
		if err != nil {
			if t.isClosing() {
				return nil
			}
			if !temporary(err) {
				return fmt.Errorf("accept on %s: %w", addr, err)
			}
			select { // out of descriptors: let some go
			case <-time.After(20 * time.Millisecond):
			case <-t.stop:
			}
			continue
		}
		t.accept(nc)
	}
}

// temporary reports errors of accept after which the next call may succeed.
func temporary(err error) bool {
	var ne interface{ Temporary() bool }
	return errors.As(err, &ne) && ne.Temporary()
}

func (t *Target) isClosing() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.closing
}

// accept starts a connection, making room if need be.
func (t *Target) accept(nc net.Conn) {
	sc, err := transport.Stream(nc)
	if err != nil {
		return
	}
	t.mu.Lock()
	if t.closing || len(t.conns) >= MaxConns {
		t.refused++
		t.mu.Unlock()
		_ = sc.Close() // refused
		return
	}
	var oldest *conn
	if len(t.pre) >= MaxPreAuth {
		oldest, t.pre = t.pre[0], t.pre[1:]
		t.refused++
	}
	t.mu.Unlock()
	if oldest != nil {
		oldest.nc.Close(errNoRoom)
	}
	io, err := netio.New(sc, preAuthBuf, 0)
	if err != nil {
		_ = sc.Close() // it ended already
		return
	}
	c := &conn{t: t, nc: io}
	t.mu.Lock()
	if t.closing { // Close has listed the connections it will end in between
		t.mu.Unlock()
		io.Close(errShutdown)
		io.Wait()
		return
	}
	t.conns[c] = struct{}{}
	t.pre = append(t.pre, c)
	t.wg.Add(1)
	t.mu.Unlock()
	go c.run()
}

// SetAdmin sets what executes a call of the control API that an initiator
// passes on, before the first Serve.
func (t *Target) SetAdmin(fn func(ctx context.Context, caller api.Caller, call []byte) []byte) {
	t.admin = fn
}

// loggedIn takes c off the list of those that have to give way.
func (t *Target) loggedIn(c *conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, p := range t.pre {
		if p == c {
			t.pre = append(t.pre[:i], t.pre[i+1:]...)
			return
		}
	}
}

func (t *Target) gone(c *conn) {
	t.loggedIn(c)
	t.mu.Lock()
	delete(t.conns, c)
	t.mu.Unlock()
}

// Close drains: initiators are told to leave, what runs is finished and
// answered, volumes are flushed and closed. If ctx ends first, connections are
// cut, and what runs is still finished.
func (t *Target) Close(ctx context.Context) error {
	t.mu.Lock()
	if t.closing {
		t.mu.Unlock()
		return nil
	}
	t.closing = true
	listeners := t.listeners
	conns := make([]*conn, 0, len(t.conns))
	for c := range t.conns {
		conns = append(conns, c)
	}
	t.mu.Unlock()
	for _, l := range listeners {
		_ = l.Close() // no more connections; an error changes nothing
	}
	for _, c := range t.paths() {
		c.event(wire.EventLeave, 0, 0)
	}
	t.drain(ctx)
	for _, c := range conns {
		c.nc.Close(errShutdown)
	}
	t.wg.Wait()
	t.end()
	err := t.gate.Close() // ends what waits for a disk
	close(t.stop)
	t.bg.Wait()
	err = errors.Join(err, t.closeVolumes())
	return errors.Join(err, t.reg.Close(), t.lock.Close())
}

// drain shuts all gates after the initiators had time to react, and waits
// until nothing runs and no answer is unsent.
func (t *Target) drain(ctx context.Context) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	quiet := 0
	for quiet < 10 { // 50 ms without a request: everybody has left
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		quiet++
		for _, s := range t.sessions.All() {
			if s.Running() > 0 {
				quiet = 0
			}
		}
	}
}

// paths returns all connections that are logged in.
func (t *Target) paths() []*conn {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []*conn
	for _, s := range t.sess {
		for i := range s.conns {
			if c := s.conns[i].Load(); c != nil {
				out = append(out, c)
			}
		}
	}
	return out
}

func (t *Target) closeVolumes() error {
	var errs []error
	for _, v := range t.volumeList() {
		errs = append(errs, v.close(context.Background()))
	}
	return errors.Join(errs...)
}

type targetError string

func (e targetError) Error() string { return string(e) }

const (
	errNoRoom    = targetError("too many connections have not logged in, this was the oldest")
	errShutdown  = targetError("the target shuts down")
	errHandshake = targetError("no login in time")
	errPanic     = targetError("a defect of the target ended it")
	errSilent    = targetError("silent for too long")
	errReplaced  = targetError("the session has ended")
	errControl   = targetError("too many control operations wait")
	errUnread    = targetError("the initiator does not read its answers")
	errCredit    = targetError("the initiator exceeds its credit")
)

// statusOf is the status of an error of the control path for the wire.
func statusOf(err error) block.Status {
	var st block.Status
	if err == nil {
		return block.StatusOK
	}
	if errors.As(err, &st) {
		return st
	}
	return block.StatusIO
}
