// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"rsio/cmd/internal/e2e"
)

// Target starts a target in the lab's namespace, with a portal in each network,
// and makes volumes: NAME=SIZE.
func (l *Lab) Target(volumes ...string) *e2e.Daemon {
	l.T.Helper()
	args := []string{"--data", l.Path("pool"), "--admin", "unix:" + l.TargetSock(), "--name", "st1", "--insecure"}
	for k := range Networks {
		args = append(args, "--listen", Addr(k)+":8861")
	}
	d := l.Daemon("target", l.NS, "rsio-target", args...)
	d.Start()
	l.Eventually("the target answers", func() bool {
		_, err := l.CtlTry(l.TargetSock(), "status")
		return err == nil
	})
	for _, v := range volumes {
		name, size, _ := strings.Cut(v, "=")
		l.Ctl(l.TargetSock(), "volume", "create", name, "--size", size)
	}
	return d
}

// TargetSock is the control socket of the target.
func (l *Lab) TargetSock() string { return l.Path("t.sock") }

// Initiator starts the initiator in the guest, under the guest's name and with
// a path in each network, and waits until it answers. It says how long that
// took.
func (g *Guest) Initiator() time.Duration {
	g.l.T.Helper()
	var paths []string
	for k := range Networks {
		paths = append(paths, fmt.Sprintf("%s:8861%%%s", Addr(k), guestAddr(k, g.N)))
	}
	g.Start(fmt.Sprintf("echo $$ > /run/initiator.pid; exec rsio-initiator --run /run/rsio --data /host --name %s --target st1=%s >> /host/initiator.log 2>&1",
		g.Name, strings.Join(paths, ",")))
	start := time.Now()
	g.Sh("n=0; until rsioctl --admin unix:/run/rsio/admin.sock status > /dev/null 2>&1; do n=$((n+1)); [ $n -lt 100 ] || { tail -n 50 /host/initiator.log; exit 1; }; usleep 50000; done")
	return time.Since(start)
}

// Signal sends a signal, by name, to the initiator and waits for its end.
func (g *Guest) Signal(name string) {
	g.l.T.Helper()
	g.Sh("p=$(cat /run/initiator.pid); kill -" + name + " $p; while kill -0 $p 2>/dev/null; do usleep 10000; done")
}

// Ctl runs rsioctl in the guest.
func (g *Guest) Ctl(args string) string {
	g.l.T.Helper()
	return strings.TrimSpace(g.Sh("rsioctl --admin unix:/run/rsio/admin.sock " + args))
}

// Soak is a verified load in a guest.
type Soak struct {
	g *Guest
	j *Job
	n int

	read int // of its log, by Worst
}

// Soak starts rsio-bench soak in the guest.
func (g *Guest) Soak(args string) *Soak {
	g.l.T.Helper()
	g.mu.Lock()
	n := g.jobs + 1
	g.mu.Unlock()
	j := g.Start(fmt.Sprintf("echo $$ > /run/soak.%d; exec rsio-bench soak --json %s 2> /host/soak.%d.log", n, args, n))
	return &Soak{g: g, j: j, n: j.n}
}

// Stop ends the load and fails the test if it saw an error.
func (s *Soak) Stop() e2e.SoakResult {
	t := s.g.l.T
	t.Helper()
	s.g.Sh(fmt.Sprintf("kill -TERM $(cat /run/soak.%d)", s.n))
	out, code := s.j.Wait(time.Minute)
	var r e2e.SoakResult
	lines := strings.Split(strings.TrimSpace(out), "\n")
	err := json.Unmarshal([]byte(lines[len(lines)-1]), &r)
	if err != nil || code != 0 || r.Errors != 0 || r.Lost != 0 || r.Ops == 0 || r.Verified == 0 {
		t.Errorf("soak in guest %s: exit code %d, %v, %+v\n%s\n%s", s.g.Name, code, err, r, out, s.log())
	}
	return r
}

// Worst returns the longest stall in milliseconds since it was asked last.
func (s *Soak) Worst() int {
	worst := 0
	log := s.g.Sh(fmt.Sprintf("cat /host/soak.%d.log", s.n))
	for line := range strings.Lines(log[s.read:]) {
		var what string
		var at float64
		var took int
		if n, _ := fmt.Sscanf(line, "soak: %s at %f s took %d ms", &what, &at, &took); n == 3 {
			worst = max(worst, took)
		}
	}
	s.read = len(log)
	return worst
}

func (s *Soak) log() string {
	out, _ := s.g.Try(fmt.Sprintf("tail -n 30 /host/soak.%d.log", s.n))
	return out
}
