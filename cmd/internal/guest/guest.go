// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Guest is a booted guest.
type Guest struct {
	l    *Lab
	Name string
	N    int    // its number, from 1: the last byte of its addresses
	Dir  string // /host of the guest
	taps []string

	cmd  *exec.Cmd
	done chan struct{}

	mu   sync.Mutex
	jobs int
	line net.Conn // jobs of a guest that does not share /host; nil: it does
}

// bootTimeout is when a guest hangs while it boots, which is rare.
const bootTimeout = 30 * time.Second

// Boot boots a User-Mode Linux guest with so much memory in MiB.
func (l *Lab) Boot(name string, mem int, modules ...string) *Guest {
	l.T.Helper()
	return l.BootAll([]string{name}, mem, modules...)[0]
}

// BootAll boots several guests at a time.
func (l *Lab) BootAll(names []string, mem int, modules ...string) []*Guest {
	l.T.Helper()
	all := make([]*Guest, len(names))
	for n, name := range names {
		all[n] = l.boot(name, mem, modules)
	}
	for n, g := range all {
		if g.waitFor("up", bootTimeout) {
			continue
		}
		g.Kill()
		l.T.Logf("guest %s did not boot within %v, which happens to User-Mode Linux now and then: once more\n%s", g.Name, bootTimeout, g.console())
		if all[n] = l.boot(g.Name, mem, modules); !all[n].waitFor("up", bootTimeout) {
			l.T.Fatalf("guest %s does not boot:\n%s", g.Name, all[n].console())
		}
	}
	return all
}

// guest makes the next guest, which is not started.
func (l *Lab) guest(name string) *Guest {
	l.T.Helper()
	l.n++
	g := &Guest{l: l, Name: name, N: l.n, Dir: l.Path(fmt.Sprintf("guest%d", l.n)), done: make(chan struct{})}
	if err := os.Mkdir(g.Dir, 0o755); err != nil {
		l.T.Fatal(err)
	}
	return g
}

func (l *Lab) boot(name string, mem int, modules []string) *Guest {
	l.T.Helper()
	g := l.guest(name)
	args := []string{"--net=/run/netns/" + l.NS, "linux.uml", fmt.Sprintf("mem=%dM", mem), fmt.Sprintf("umid=g%d", g.N), "uml_dir=" + l.Dir,
		"root=/dev/root", "rootfstype=hostfs", "rootflags=" + l.root, "ro", "init=/init", "con=null", "con0=fd:0,fd:1", "quiet",
		"lab_host=" + g.Dir, "lab_mods=" + l.mods, "lab_load=" + strings.Join(modules, ",")}
	for k, tap := range g.plug() {
		args = append(args, fmt.Sprintf("vec%d:transport=tap,ifname=%s,depth=128,gro=1", k, tap), fmt.Sprintf("lab_ip%d=%s/24", k, guestAddr(k, g.N)))
	}
	g.run(args)
	return g
}

// run starts the guest's process in the lab's namespace; it ends with the test.
func (g *Guest) run(args []string) {
	l := g.l
	l.T.Helper()
	out, err := os.Create(g.Dir + ".console")
	if err != nil {
		l.T.Fatal(err)
	}
	g.cmd = exec.Command("nsenter", args...)
	g.cmd.Stdout, g.cmd.Stderr = out, out
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := g.cmd.Start(); err != nil {
		l.T.Fatal(err)
	}
	go func() { // joined by Kill
		_ = g.cmd.Wait() // how it ends says nothing
		_ = out.Close()
		close(g.done)
	}()
	l.T.Cleanup(func() {
		g.Kill()
		if l.T.Failed() {
			l.T.Logf("--- console of guest %s ---\n%s", g.Name, g.console())
		}
	})
}

// plug makes the guest's cards, one in each network.
func (g *Guest) plug() []string {
	g.l.T.Helper()
	for k := range Networks {
		tap := fmt.Sprintf("t%dn%d", g.N, k)
		g.l.Run("ip", "-n", g.l.NS, "tuntap", "add", tap, "mode", "tap")
		g.l.Run("ip", "-n", g.l.NS, "link", "set", tap, "master", bridge(k), "up")
		g.taps = append(g.taps, tap)
	}
	return g.taps
}

func (g *Guest) console() string {
	b, _ := os.ReadFile(g.Dir + ".console") // what there is
	if len(b) > 5000 {
		b = b[len(b)-5000:]
	}
	return string(b)
}

// Kill ends the guest like a power failure: its processes are a group of the
// host's.
func (g *Guest) Kill() {
	_ = syscall.Kill(-g.cmd.Process.Pid, syscall.SIGKILL) // it may have ended
	<-g.done
}

// waitFor waits for a file of the guest's /host.
func (g *Guest) waitFor(name string, timeout time.Duration) bool {
	for end := time.Now().Add(timeout); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(g.Dir, name)); err == nil {
			return true
		}
		select {
		case <-g.done:
			return false
		default:
		}
	}
	return false
}

// Job is a script that runs in a guest.
type Job struct {
	g      *Guest
	n      int
	script string
}

// Start starts a script in the guest, beside others.
func (g *Guest) Start(script string) *Job {
	g.l.T.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.jobs++
	j := &Job{g: g, n: g.jobs, script: script}
	if err := os.WriteFile(j.path("job"), []byte(script+"\n"), 0o644); err != nil {
		g.l.T.Fatal(err)
	}
	if err := os.WriteFile(j.path("go"), nil, 0o644); err != nil {
		g.l.T.Fatal(err)
	}
	if g.line != nil {
		if _, err := fmt.Fprintf(g.line, "RUN %d %s\n", j.n, base64.StdEncoding.EncodeToString([]byte(script+"\n"))); err != nil {
			g.l.T.Fatal(err)
		}
	}
	return j
}

func (j *Job) path(kind string) string {
	return filepath.Join(j.g.Dir, kind+"."+strconv.Itoa(j.n))
}

// Wait waits for the end of the script and returns its output and exit code,
// -1 if the guest does not answer in time.
func (j *Job) Wait(timeout time.Duration) (string, int) {
	ok := j.g.waitFor(filepath.Base(j.path("rc")), timeout)
	out, _ := os.ReadFile(j.path("out")) // what there is
	if !ok {
		return string(out), -1
	}
	b, err := os.ReadFile(j.path("rc"))
	code, err2 := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || err2 != nil {
		return string(out), -1
	}
	return string(out), code
}

// Try runs a script and returns its output and exit code.
func (g *Guest) Try(script string) (string, int) {
	g.l.T.Helper()
	return g.Start(script).Wait(time.Minute)
}

// Sh runs a script; the test fails if it does.
func (g *Guest) Sh(script string) string {
	g.l.T.Helper()
	out, code := g.Try(script)
	if code != 0 {
		g.l.T.Fatalf("guest %s: exit code %d:\n%s\n%s", g.Name, code, script, out)
	}
	return out
}

// Cut takes a network of the guest away, out of its sight: the card is taken
// off the bridge. (Set down, User-Mode Linux would not use it again.)
func (g *Guest) Cut(network int) {
	g.l.T.Helper()
	g.l.Run("ip", "-n", g.l.NS, "link", "set", g.taps[network], "nomaster")
}

// Heal undoes Cut.
func (g *Guest) Heal(network int) {
	g.l.T.Helper()
	g.l.Run("ip", "-n", g.l.NS, "link", "set", g.taps[network], "master", bridge(network))
}

// PSS returns the memory of the guest's processes on the host in bytes.
func (g *Guest) PSS() int64 {
	var sum int64
	list, _ := filepath.Glob("/proc/[0-9]*/smaps_rollup") // the pattern is right
	for _, f := range list {
		pid, err := strconv.Atoi(strings.Split(f, "/")[2])
		if err != nil {
			continue
		}
		if group, err := syscall.Getpgid(pid); err != nil || group != g.cmd.Process.Pid {
			continue
		}
		b, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			var kib int64
			if n, _ := fmt.Sscanf(line, "Pss: %d kB", &kib); n == 1 {
				sum += kib << 10
			}
		}
	}
	return sum
}
