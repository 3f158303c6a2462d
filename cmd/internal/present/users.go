// SPDX-License-Identifier: Apache-2.0

package present

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"rsio/cmd/internal/files"
	"rsio/nbd/kernel"
)

// Users names who has devices or files of an attachment open;
// initiator.Frontend.
func (p *Presenter) Users(name string) []string {
	p.mu.Lock()
	s := p.shown[name]
	p.mu.Unlock()
	if s == nil {
		return nil
	}
	return p.users(s)
}

func (p *Presenter) users(s *shown) []string {
	p.mu.Lock()
	index, loop, file, c := s.index, s.loop, s.file, p.files.client
	p.mu.Unlock()
	var out []string
	if index >= 0 {
		out = append(out, of(kernel.Path(index), deviceUsers(kernel.Path(index)))...)
	}
	if loop != "" {
		out = append(out, of(loop, deviceUsers(loop))...)
	}
	if file && c != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		list, _ := c.List(ctx) // without an answer nobody has it open: the mount is dead
		if i := slices.IndexFunc(list, func(f files.State) bool { return f.Path == s.path() }); i >= 0 {
			for _, o := range list[i].Openers {
				if loop == "" || !ours(o) {
					out = append(out, fmt.Sprintf("file %s: %s", s.path(), process(strconv.Itoa(o))))
				}
			}
		}
	}
	return out
}

// ours reports whether a process that has a file open may be an initiator that
// opened it for a loop device, this one or one that is gone.
func ours(pid int) bool {
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return err != nil || strings.TrimSpace(string(name)) == "rsio-initiator"
}

func of(dev string, users []string) []string {
	for n := range users {
		users[n] = fmt.Sprintf("%s: %s", dev, users[n])
	}
	return users
}
