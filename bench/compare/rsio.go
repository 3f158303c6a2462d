// SPDX-License-Identifier: Apache-2.0

package compare

import (
	"fmt"
	"strconv"
)

const volume = "disk"

// rsioTarget starts a target with a volume and an NBD socket.
func rsioTarget(l *lab, name string, portals []string) (p *process, socket string, err error) {
	socket = l.path(name + ".nbd")
	admin := "unix:" + l.path(name+".admin")
	args := []string{"--data", l.path(name), "--name", name, "--admin", admin, "--nbd", "unix:" + socket}
	for _, a := range portals {
		args = append(args, "--listen", a)
	}
	if p, err = l.start("rsio-target", args...); err != nil {
		return nil, "", err
	}
	for _, s := range []string{socket, l.path(name + ".admin")} {
		if err := l.listening(p, "unix", s); err != nil {
			return nil, "", err
		}
	}
	_, err = l.run("rsioctl", "--admin", admin, "volume", "create", volume, "--size", strconv.FormatInt(l.opt.Size, 10))
	return p, socket, err
}

// rsioOneHop is the target's own NBD.
func rsioOneHop(l *lab) ([]*process, string, error) {
	p, socket, err := rsioTarget(l, "one", []string{"unix:" + l.path("one.portal")})
	return []*process{p}, unixURI(socket, volume), err
}

// rsioTwoHops is an initiator with two paths over loopback TCP to a target.
func rsioTwoHops(l *lab) ([]*process, string, error) {
	port, err := freePort()
	if err != nil {
		return nil, "", err
	}
	portals := []string{"127.0.0.1:" + port, "127.0.0.2:" + port}
	back, _, err := rsioTarget(l, "two", portals)
	if err != nil {
		return nil, "", err
	}
	run := l.path("run")
	front, err := l.start("rsio-initiator", "--run", run, "--name", "bench", "--target", fmt.Sprintf("two=%s,%s", portals[0], portals[1]))
	if err != nil {
		return nil, "", err
	}
	admin := run + "/admin.sock"
	if err := l.listening(front, "unix", admin); err != nil {
		return nil, "", err
	}
	uri, err := l.run("rsioctl", "--admin", "unix:"+admin, "attach", volume)
	return []*process{front, back}, uri, err
}
