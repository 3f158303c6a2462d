// SPDX-License-Identifier: Apache-2.0

package target

import (
	"sync"
	"sync/atomic"
	"time"

	"rsio/rsio/admin/api"
	"rsio/rsio/audit"
	"rsio/rsio/block"
	"rsio/rsio/netio"
	"rsio/rsio/session"
)

// MaxHandles is the number of volumes a session may have open.
const MaxHandles = 1024

// maxFreeTasks is the number of idle tasks a session keeps.
const maxFreeTasks = 2 * session.DefaultSlots

// sess is what the target adds to a session: its connections, open volumes and
// tasks.
type sess struct {
	*session.Session
	t      *Target
	conns  [session.MaxPaths]atomic.Pointer[conn]
	used   atomic.Int64 // bytes of credit in use, as seen here
	active atomic.Bool  // a request came since the last look

	mu      sync.Mutex
	handles atomic.Pointer[[]*handle] // replaced as a whole under mu; index is the handle modulo MaxHandles
	free    *task
	nfree   int
	ended   bool
	opens   uint32        // handles ever given
	quit    chan struct{} // closed with the gate: what is not decided yet is taken back
	over    sync.Once
	control bool        // no I/O
	rights  atomic.Bool // FeatureReserve
	opening sync.Mutex  // one open or close at a time
}

// handle is a volume that a session has open.
type handle struct {
	id       uint32
	v        *volume
	dev      block.Device
	seat     *block.Seat
	right    uint64 // when it was opened: what requests of a peer without FeatureReserve carry
	readOnly bool
	ready    atomic.Bool // the grace is over for this session
}

// attach returns the target's part of a session, making it for a new one.
func (t *Target) attach(ss *session.Session) *sess {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.sess[ss]
	if s == nil {
		s = &sess{Session: ss, t: t, quit: make(chan struct{})}
		s.handles.Store(&[]*handle{})
		t.sess[ss] = s
	}
	return s
}

// sessionEnded is told by session.Sessions that the gate of a session was
// shut: its connections are closed; the housekeeper closes its volumes when
// it is drained.
func (t *Target) sessionEnded(ss *session.Session) {
	t.mu.Lock()
	s := t.sess[ss]
	t.mu.Unlock()
	t.opt.Events.Add(audit.Info, ss.Nexus, "its session has ended, a successor logs in")
	if s != nil {
		s.giveUp()
		s.closeConns(errReplaced)
	}
}

func (s *sess) closeConns(why error) {
	for i := range s.conns {
		if c := s.conns[i].Load(); c != nil {
			c.nc.Close(why)
		}
	}
}

func (s *sess) dropConn(c *conn) {
	s.conns[c.path].CompareAndSwap(c, nil)
	s.DropPath(c.path)
}

// paths returns the remote addresses of the session's connections.
func (s *sess) paths() []string {
	var out []string
	for i := range s.conns {
		if c := s.conns[i].Load(); c != nil {
			out = append(out, c.nc.NetConn().RemoteAddr().String())
		}
	}
	return out
}

// handle returns an open volume of the session, or nil.
func (s *sess) handle(id uint32) *handle {
	list := *s.handles.Load()
	i := id % MaxHandles
	if i >= uint32(len(list)) || list[i] == nil || list[i].id != id {
		return nil
	}
	return list[i]
}

// empty reports whether the session has no volume open.
func (s *sess) empty() bool {
	for _, h := range *s.handles.Load() {
		if h != nil {
			return false
		}
	}
	return true
}

func (s *sess) handleOf(v *volume) *handle {
	for _, h := range *s.handles.Load() {
		if h != nil && h.v == v {
			return h
		}
	}
	return nil
}

// addHandle enters an open volume; false if the session has too many.
func (s *sess) addHandle(h *handle) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := append([]*handle(nil), *s.handles.Load()...)
	for i, old := range list {
		if old == nil {
			h.id = s.newID(i)
			list[i] = h
			s.handles.Store(&list)
			return true
		}
	}
	if len(list) >= MaxHandles || s.ended {
		return false
	}
	h.id = s.newID(len(list))
	list = append(list, h)
	s.handles.Store(&list)
	return true
}

// newID makes the handle of index i. It is not one that was closed: a frame or
// an event that was long under way and names that one must not meet another
// volume. s.mu is held.
func (s *sess) newID(i int) uint32 {
	id := s.opens*MaxHandles + uint32(i)
	s.opens++
	return id
}

func (s *sess) removeHandle(id uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := append([]*handle(nil), *s.handles.Load()...)
	list[id%MaxHandles] = nil
	s.handles.Store(&list)
}

// end closes the volumes of a session that is drained.
func (s *sess) end() {
	s.mu.Lock()
	s.ended = true
	list := *s.handles.Load()
	s.handles.Store(&[]*handle{})
	s.mu.Unlock()
	for _, h := range list {
		if h != nil {
			h.drop(s.Nexus)
		}
	}
}

// reserve takes credit for a request of c. An initiator that keeps to its
// window waits at most for an answer that it has already read to be let go of
// here; one that does not is held up, and cut off after a while.
func (s *sess) reserve(c *conn, cost int64) error {
	limit := int64(s.Window.Reserved())
	if s.used.Add(cost) <= limit {
		return nil
	}
	c.endBatch()
	for end := netio.Now() + HandshakeTimeout; s.used.Load() > int64(s.Window.Reserved()); {
		if netio.Now() > end || c.nc.Err() != nil {
			s.used.Add(-cost)
			return errCredit
		}
		time.Sleep(200 * time.Microsecond)
	}
	return nil
}

// getTask returns an idle task.
func (s *sess) getTask() *task {
	s.mu.Lock()
	t := s.free
	if t != nil {
		s.free, t.next = t.next, nil
		s.nfree--
	}
	s.mu.Unlock()
	if t == nil {
		t = &task{s: s}
		t.req.Done, t.out.Owner, t.req.Nexus = t, t, s.Nexus
	}
	return t
}

func (s *sess) putTask(t *task) {
	s.mu.Lock()
	if s.nfree < maxFreeTasks {
		t.next, s.free = s.free, t
		s.nfree++
	}
	s.mu.Unlock()
}

// giveUp takes back what the session has asked the gate for and is not decided:
// its successor must not wait for it, nor be surprised by it.
func (s *sess) giveUp() { s.over.Do(func() { close(s.quit) }) }

// caller is the session as the control API knows it.
func (s *sess) caller() api.Caller { return api.Caller{Nexus: s.Nexus, Control: s.control} }

// drop lets go of the volume; nothing runs on the handle any more.
func (h *handle) drop(nexus string) {
	h.v.t.gate.Unseat(h.v.uuid, nexus)
	h.v.release()
}
