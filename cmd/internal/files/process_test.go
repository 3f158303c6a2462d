// SPDX-License-Identifier: Apache-2.0

package files

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rsio/rsio/blocktest"
)

// built is the program under test; TestMain removes it.
var built struct {
	once sync.Once
	dir  string
	path string
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// program returns rsio-initiator: that of RSIO_BIN, or a build of this tree.
func program(t testing.TB) string {
	t.Helper()
	built.once.Do(func() {
		if dir := os.Getenv("RSIO_BIN"); dir != "" {
			built.path = filepath.Join(dir, "rsio-initiator")
			return
		}
		if built.dir, built.err = os.MkdirTemp("", "rsio-bin-"); built.err != nil {
			return
		}
		built.path = filepath.Join(built.dir, "rsio-initiator")
		cmd := exec.Command("go", "build", "-o", built.path, "rsio/cmd/rsio-initiator")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("build: %w\n%s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.path
}

// process is a files' process.
type process struct {
	cmd   *exec.Cmd
	log   bytes.Buffer
	ended chan struct{}
	err   error // of its end
}

// launch starts one and returns what it says when it is ready, or why not.
func (r *rig) launch() (*process, string) {
	r.t.Helper()
	ready, w, err := os.Pipe()
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = ready.Close() }()
	p := &process{ended: make(chan struct{})}
	p.cmd = exec.Command(program(r.t), "files", "--run", r.run, "--mount", r.mount, "--nbd", r.nbd, "--ready-fd", "3")
	p.cmd.Stderr, p.cmd.ExtraFiles = &p.log, []*os.File{w}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err = p.cmd.Start()
	_ = w.Close()
	if err != nil {
		r.t.Fatal(err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	r.t.Cleanup(func() { p.kill(r.t) })
	_ = ready.SetReadDeadline(time.Now().Add(patience))
	word, err := io.ReadAll(ready)
	if err != nil {
		r.t.Fatalf("the process does not get ready: %v\n%s", err, p.log.Bytes())
	}
	return p, string(word)
}

// must is launch that has to succeed.
func (r *rig) must() *process {
	r.t.Helper()
	p, word := r.launch()
	if word != "ok" {
		r.t.Fatalf("the process said %q", word)
	}
	return p
}

// wait waits for its end and returns its log.
func (p *process) wait(t testing.TB) (string, error) {
	t.Helper()
	select {
	case <-p.ended:
		return p.log.String(), p.err
	case <-time.After(patience):
		t.Fatal("the process does not end")
		return "", nil
	}
}

func (p *process) kill(t testing.TB) {
	t.Helper()
	_ = p.cmd.Process.Kill() // it may have ended
	_, _ = p.wait(t)         // killed
}

// mounts counts what is mounted at r.mount.
func (r *rig) mounts() int {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		r.t.Fatal(err)
	}
	return strings.Count(string(b), " "+r.mount+" ")
}

func (r *rig) client() *Client {
	c := NewClient(filepath.Join(r.run, Socket))
	r.t.Cleanup(c.Close)
	return c
}

func (r *rig) pidFile() string {
	b, err := os.ReadFile(filepath.Join(r.run, PIDFile))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// TestSecondProcess: there is one process for a socket; another one is refused
// and disturbs nothing.
func TestSecondProcess(t *testing.T) {
	r := newRig(t)
	p := r.must()
	path := r.put(r.client(), "v")
	f := r.open(path)
	second, word := r.launch()
	if !strings.Contains(word, "another process answers") {
		t.Errorf("the second process said %q", word)
	}
	if log, err := second.wait(t); err == nil || !strings.Contains(log, "another process answers") {
		t.Errorf("the second process: %v\n%s", err, log)
	}
	if want := fmt.Sprintln(p.cmd.Process.Pid); r.pidFile() != want {
		t.Errorf("%s holds %q, want %q", PIDFile, r.pidFile(), want)
	}
	if _, err := f.WriteAt([]byte("x"), 0); err != nil || r.mounts() != 1 {
		t.Errorf("after the second process: %v, %d mounts", err, r.mounts())
	}
	_ = f.Close()
	if err := r.client().Delete(t.Context(), "ns/v", false); err != nil {
		t.Error(err)
	}
	if err := r.client().Quit(t.Context()); err != nil {
		t.Error(err)
	}
	if log, err := p.wait(t); err != nil {
		t.Errorf("after quit: %v\n%s", err, log)
	}
	for _, name := range []string{Socket, PIDFile} {
		if _, err := os.Lstat(filepath.Join(r.run, name)); err == nil {
			t.Errorf("%s is there after quit", name)
		}
	}
	if r.mounted() {
		t.Error("it is mounted after quit")
	}
}

// TestTerm: SIGTERM unmounts.
func TestTerm(t *testing.T) {
	r := newRig(t)
	p := r.must()
	r.put(r.client(), "v")
	p.term(t)
	if r.mounted() {
		t.Error("it is mounted after SIGTERM")
	}
}

// term ends it in order.
func (p *process) term(t testing.TB) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if log, err := p.wait(t); err != nil {
		t.Errorf("after SIGTERM: %v\n%s", err, log)
	}
}

// TestKilled: what a killed process leaves is a mount where everything is
// ENOTCONN, also for those who have a file open or work there. The next one
// takes it off, mounts anew, and serves.
func TestKilled(t *testing.T) {
	r := newRig(t)
	p := r.must()
	var old []*os.File
	for round := range 3 {
		f := r.open(r.put(r.client(), "v"))
		if _, err := f.WriteAt([]byte{byte(round)}, 0); err != nil {
			t.Error(err)
		}
		old = append(old, f)
		if round == 1 {
			worker := exec.Command("sleep", "1000")
			worker.Dir = r.path("ns")
			if err := worker.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = worker.Process.Kill(); _ = worker.Wait() })
		}
		p.kill(t)
		var st unix.Stat_t
		eventually(t, "ENOTCONN of the mount", func() bool { return errors.Is(unix.Stat(r.mount, &st), unix.ENOTCONN) })
		for _, f := range old {
			if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, unix.ENOTCONN) {
				t.Errorf("a file of the killed process: %v", err)
			}
		}
		if r.mounts() != 1 || r.pidFile() != fmt.Sprintln(p.cmd.Process.Pid) {
			t.Errorf("after the kill %d mounts, %s %q", r.mounts(), PIDFile, r.pidFile())
		}
		if _, err := r.client().List(t.Context()); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("the socket of a killed process: %v", err)
		}
		p = r.must()
		if r.mounts() != 1 {
			t.Errorf("%d mounts, want the new one alone", r.mounts())
		}
		if list, err := r.client().List(t.Context()); err != nil || len(list) != 0 {
			t.Errorf("a new process serves %+v, %v", list, err)
		}
		got := make([]byte, 1)
		if _, err := r.open(r.put(r.client(), "v")).ReadAt(got, 0); err != nil || got[0] != byte(round) {
			t.Errorf("round %d: the file holds %d, %v", round, got[0], err)
		}
		if err := r.client().Delete(t.Context(), "ns/v", true); err != nil {
			t.Error(err)
		}
	}
	p.term(t)
}

// TestMountedOver: what somebody else has mounted over a dead mount is not
// taken off.
func TestMountedOver(t *testing.T) {
	r := newRig(t)
	p := r.must()
	if err := unix.Mount("none", r.mount, "tmpfs", 0, "size=64k"); err != nil {
		blocktest.NotChecked(t, "tmpfs: "+err.Error())
	}
	t.Cleanup(func() { _ = unix.Unmount(r.mount, unix.MNT_DETACH) })
	if err := os.WriteFile(r.path("theirs"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p.kill(t)
	p = r.must()
	r.put(r.client(), "v")
	p.term(t)
	if _, err := os.Stat(r.path("theirs")); err != nil {
		t.Errorf("what somebody else has mounted: %v", err)
	}
	if err := errors.Join(unix.Unmount(r.mount, 0), takeOff(r.mount)); err != nil || r.mounted() {
		t.Errorf("%v, mounted: %v", err, r.mounted())
	}
}
