// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"encoding/json"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"rsio/rsio/admin/api"
	"rsio/rsio/blocktest"
)

// reclaimed is what a process says that has called ServeReclaim.
type reclaimed struct {
	Checks   []api.Check
	Flushers []int // of some threads
	Locked   string
	Score    string
}

// asReclaimer makes this program call ServeReclaim: it is for a process of its
// own, which is not spared by the kernel for the rest of all tests.
const asReclaimer = "RSIO_TEST_RECLAIM"

func TestMain(m *testing.M) {
	if os.Getenv(asReclaimer) == "" {
		os.Exit(m.Run())
	}
	if os.Getenv(asReclaimer) == "limited" {
		if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: 1 << 16, Max: 1 << 16}); err != nil {
			panic(err)
		}
	}
	out := reclaimed{Checks: ServeReclaim()}
	var mu sync.Mutex
	var wg, all sync.WaitGroup
	all.Add(8)
	for range 8 { // each on a thread of its own, some of them new ones
		wg.Go(func() {
			runtime.LockOSThread()
			all.Done()
			all.Wait()
			n, err := unix.PrctlRetInt(unix.PR_GET_IO_FLUSHER, 0, 0, 0, 0)
			if err != nil {
				n = -1
			}
			mu.Lock()
			defer mu.Unlock()
			out.Flushers = append(out.Flushers, n)
		})
	}
	wg.Wait()
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		if s, ok := strings.CutPrefix(line, "VmLck:"); ok {
			out.Locked = strings.TrimSpace(s)
		}
	}
	score, _ := os.ReadFile("/proc/self/oom_score_adj")
	out.Score = strings.TrimSpace(string(score))
	if err := json.NewEncoder(os.Stdout).Encode(&out); err != nil {
		panic(err)
	}
}

// reclaim runs a process that calls ServeReclaim.
func reclaim(t *testing.T, how string, cred *syscall.Credential) reclaimed {
	t.Helper()
	cmd := exec.Command("/proc/self/exe") // can be executed whoever may look into the folder
	cmd.Env = append(os.Environ(), asReclaimer+"="+how)
	cmd.Dir, cmd.Stderr = "/", os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred, Pdeathsig: syscall.SIGKILL}
	b, err := cmd.Output()
	var r reclaimed
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	return r
}

// TestServeReclaim: each step is a check, and is what it says.
func TestServeReclaim(t *testing.T) {
	r := reclaim(t, "all", nil)
	var names []string
	for _, c := range r.Checks {
		names = append(names, c.Name)
		switch c.State {
		case "ok":
			if c.Text == "" || c.Remedy != "" {
				t.Errorf("%+v", c)
			}
		case "warning":
			if !strings.Contains(c.Text, "may stall when memory is short") || c.Remedy == "" {
				t.Errorf("%+v", c)
			}
		default:
			t.Errorf("%+v", c)
		}
	}
	if !slices.Equal(names, []string{"I/O flusher", "locked memory", "OOM score"}) {
		t.Fatalf("checks of %q", names)
	}
	if r.Checks[0].State == "ok" && slices.ContainsFunc(r.Flushers, func(n int) bool { return n != 1 }) {
		t.Errorf("flags of the threads: %d", r.Flushers)
	}
	if locked := r.Locked != "" && r.Locked != "0 kB"; locked != (r.Checks[1].State == "ok") {
		t.Errorf("locked: %s; %+v", r.Locked, r.Checks[1])
	}
	if (r.Score == oomScore) != (r.Checks[2].State == "ok") {
		t.Errorf("OOM score %s; %+v", r.Score, r.Checks[2])
	}
	t.Log(Refused(r.Checks))
}

// TestServeReclaimRefused: a user without privileges is told what is missing,
// and memory is not locked under a limit.
func TestServeReclaimRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		blocktest.NotChecked(t, "it needs root, to be somebody else")
	}
	r := reclaim(t, "limited", &syscall.Credential{Uid: 65534, Gid: 65534})
	for _, c := range r.Checks {
		if c.State != "warning" || c.Remedy == "" {
			t.Errorf("%+v", c)
		}
	}
	if s := r.Checks[1].Text; !strings.Contains(s, "RLIMIT_MEMLOCK is 65536 bytes") || r.Locked != "0 kB" {
		t.Errorf("locked %s: %s", r.Locked, s)
	}
	if s := Refused(r.Checks); !strings.Contains(s, "I/O flusher, locked memory, OOM score") || !strings.Contains(s, "rsioctl doctor") {
		t.Errorf("%q", s)
	}
}
