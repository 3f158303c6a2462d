// SPDX-License-Identifier: Apache-2.0

package initiator

import (
	"context"
	"fmt"
	"sync"
	"time"

	"rsio/rsio/admin/api"
	"rsio/rsio/audit"
)

// MaxConnections is the largest number of connections of a kernel device.
const MaxConnections = 16

func checkShow(s api.Show, name string) error {
	usage := func(why, remedy string) error { return api.Errorf(api.Usage, "attach", name, why, remedy) }
	switch {
	case s.NBD && s.Loop:
		return usage("a kernel device and a loop device each have a page cache of their own and do not see each other's writes", "ask for one of them")
	case s.Connections < 0 || s.Connections > MaxConnections:
		return usage(fmt.Sprintf("%d connections", s.Connections), fmt.Sprintf("1 to %d are possible", MaxConnections))
	case s.Connections > 0 && !s.NBD:
		return usage("connections are a matter of kernel devices", "give --nbd too")
	case s.Mode&^0o777 != 0:
		return usage(fmt.Sprintf("mode %#o", s.Mode), "give permissions like 0660")
	}
	return nil
}

// merge adds what is asked for to what there is.
func merge(is, more api.Show) api.Show {
	is.NBD, is.Loop, is.File, is.Shared = is.NBD || more.NBD, is.Loop || more.Loop, is.File || more.File, is.Shared || more.Shared
	if more.Connections != 0 {
		is.Connections = more.Connections
	}
	if more.Owner != "" {
		is.Owner = more.Owner
	}
	if more.Mode != 0 {
		is.Mode = more.Mode
	}
	return is
}

// showMore presents an attachment as more than it was, and keeps that. Its name
// is busy.
func (i *Initiator) showMore(ctx context.Context, a *attachment, more api.Show) (api.Attachment, error) {
	i.mu.Lock()
	show := merge(a.spec.Show, more)
	i.mu.Unlock()
	if err := checkShow(show, a.name); err != nil {
		return api.Attachment{}, err
	}
	if err := i.opt.Frontend.Present(ctx, a.presented(show)); err != nil {
		return api.Attachment{}, api.Wrap(err, api.Failed, "attach", a.name, "")
	}
	i.mu.Lock()
	was := a.spec.Show
	a.spec.Show = show
	var err error
	if was != show {
		err = i.save()
	}
	i.mu.Unlock()
	return i.describe(a), api.Wrap(err, api.Failed, "attach", a.name, "it is there, but will not be after a reboot")
}

// Resume presents what an earlier process presented, once the frontends are
// served. What fails is an event, and is tried again until ctx ends, which it
// waits for.
func (i *Initiator) Resume(ctx context.Context) {
	i.mu.Lock()
	var all []*attachment
	for _, a := range i.attach {
		all = append(all, a)
	}
	i.mu.Unlock()
	var wg sync.WaitGroup
	for _, a := range all {
		wg.Go(func() { i.resume(ctx, a) })
	}
	wg.Wait()
}

// resumeEvery is the time between two tries to present an attachment.
const resumeEvery = time.Second

func (i *Initiator) resume(ctx context.Context, a *attachment) {
	for told := false; ctx.Err() == nil; told = true {
		i.mu.Lock()
		here, show := i.attach[a.name] == a, a.spec.Show
		busy := i.busy[a.name]
		if here && !busy {
			i.busy[a.name] = true
		}
		i.mu.Unlock()
		if !here {
			return
		}
		if !busy {
			err := i.opt.Frontend.Present(ctx, a.presented(show))
			i.release(a.name)
			if err == nil {
				return
			}
			if !told && ctx.Err() == nil {
				i.opt.Events.Add(audit.Error, a.name, "could not be presented as before, trying on: "+err.Error())
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(resumeEvery):
		}
	}
}
