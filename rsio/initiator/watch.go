// SPDX-License-Identifier: Apache-2.0

package initiator

import (
	"net"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"rsio/rsio/audit"
)

// linkWatch listens to the kernel's news of network interfaces: TCP notices a
// pulled cable only by silence.
type linkWatch struct {
	done chan struct{}
	wg   sync.WaitGroup
}

// newLinkWatch calls down with the index of every interface that goes down or
// away, on its own goroutine.
func newLinkWatch(down func(index int), events *audit.Log) *linkWatch {
	w := &linkWatch{done: make(chan struct{})}
	news := make(chan netlink.LinkUpdate, 16)
	if err := netlink.LinkSubscribe(news, w.done); err != nil {
		events.Add(audit.Warning, "rtnetlink", "the state of network interfaces cannot be watched, a pulled cable shows by silence only: "+err.Error())
		close(news)
	}
	w.wg.Go(func() {
		for u := range news {
			gone := u.Header.Type == unix.RTM_DELLINK
			if gone || u.IfInfomsg.Flags&unix.IFF_UP == 0 || u.IfInfomsg.Flags&unix.IFF_RUNNING == 0 {
				down(int(u.Index))
			}
		}
	})
	return w
}

func (w *linkWatch) close() {
	close(w.done)
	w.wg.Wait()
}

// interfaceOf returns the index of the interface that has the local address of
// a connection, or 0.
func interfaceOf(a net.Addr) int {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return 0
	}
	list, err := net.Interfaces()
	if err != nil {
		return 0
	}
	for _, i := range list {
		addrs, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, ia := range addrs {
			if n, ok := ia.(*net.IPNet); ok && n.IP.Equal(t.IP) {
				return i.Index
			}
		}
	}
	return 0
}
