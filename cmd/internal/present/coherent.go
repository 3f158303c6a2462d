// SPDX-License-Identifier: Apache-2.0

package present

import (
	"fmt"
	"strings"

	"rsio/rsio/admin/api"
	"rsio/rsio/initiator"
)

// coherent refuses a second device with a page cache on one volume.
//
// The interleaving: VM a and VM b have one volume as /dev/nbd0 and /dev/nbd1. b
// reads block 7, which goes into the page cache of nbd1. a writes block 7, and
// is acknowledged. b reads block 7 again and gets the old content from the page
// cache: nothing tells nbd1 of the write. b changes a part of the block and
// writes it back: a's write is lost. Files of the mount are opened with
// FOPEN_DIRECT_IO and have no page cache, so any number of them is coherent.
// p.change is held.
func (p *Presenter) coherent(want initiator.Presented) error {
	if want.Show.Shared || !want.Show.NBD && !want.Show.Loop {
		return nil
	}
	for _, s := range p.all() {
		same := s.Namespace == want.Namespace && s.Volume == want.Volume && s.Target == want.Target
		if s.Name == want.Name || !same || s.index < 0 && s.loop == "" || s.ReadOnly && want.ReadOnly {
			continue
		}
		dev := p.Shown(s.Name).Link
		return api.Errorf(api.Exists, "attach", want.Name,
			fmt.Sprintf("the volume is %s on this host already, and two block devices have two page caches that do not see each other's writes", dev),
			"use --fuse, whose files have no page cache; or give --shared if everybody opens them with O_DIRECT or a cluster file system")
	}
	return nil
}

// inUse refuses what is used, or returns nil.
func inUse(name string, users []string) error {
	if len(users) == 0 {
		return nil
	}
	return api.Errorf(api.Exists, "detach", name, "in use: "+strings.Join(users, ", "), "unmount and close it first; --force gives its users I/O errors")
}
