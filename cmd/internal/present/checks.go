// SPDX-License-Identifier: Apache-2.0

package present

import (
	"os"
	"os/exec"

	"rsio/rsio/admin/api"
)

// Checks tells what of the host devices and files depend on;
// initiator.Frontend.
func (p *Presenter) Checks() []api.Check {
	out := []api.Check{checkNBD(), checkFUSE()}
	if _, err := os.Stat(loopControl); err != nil {
		out = append(out, api.Check{Name: "loop devices", State: "warning", Text: "the kernel has none: --loop is not possible", Remedy: "modprobe loop"})
	} else {
		out = append(out, api.Check{Name: "loop devices", State: "ok", Text: loopControl})
	}
	return append(out, p.opt.Checks...)
}

func checkNBD() api.Check {
	c := api.Check{Name: "kernel nbd", State: "ok", Text: "the driver is loaded"}
	if _, err := os.Stat("/sys/module/nbd"); err == nil {
		return c
	}
	if _, err := os.Stat("/sys/block/nbd0"); err == nil {
		return c
	}
	return api.Check{Name: "kernel nbd", State: "warning", Text: "the driver is not loaded: --nbd is not possible", Remedy: "modprobe nbd; --loop and --fuse need no driver"}
}

func checkFUSE() api.Check {
	c := api.Check{Name: "FUSE", State: "warning", Remedy: "modprobe fuse"}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		c.Text = "there is no /dev/fuse: --fuse and --loop are not possible"
		return c
	}
	if os.Getuid() != 0 {
		if _, err := exec.LookPath("fusermount3"); err != nil {
			c.Text, c.Remedy = "fusermount3 is missing: only root can mount", "install the package fuse3"
			return c
		}
	}
	c.State, c.Text, c.Remedy = "ok", "/dev/fuse", ""
	return c
}
