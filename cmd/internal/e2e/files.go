// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// endFiles ends the process that serves files, which outlives its initiator,
// and takes its mount off.
func (l *Lab) endFiles(run string) {
	b, err := os.ReadFile(filepath.Join(run, "files.pid"))
	if err != nil {
		return // there was none, or it has ended
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if name, err2 := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm"); err != nil || err2 != nil || strings.TrimSpace(string(name)) != "rsio-initiator" {
		return
	}
	_ = syscall.Kill(pid, syscall.SIGTERM) // it may end at this moment
	for range 1500 {
		if syscall.Kill(pid, 0) != nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
	_ = syscall.Unmount(filepath.Join(run, "files"), syscall.MNT_DETACH) // mostly it has been
}

// Soak is a verified load on a file or device by a process of its own.
type Soak struct {
	l    *Lab
	cmd  *exec.Cmd
	out  bytes.Buffer
	errs bytes.Buffer
}

// SoakResult is what the load says at its end.
type SoakResult struct {
	Ops      uint64  `json:"ops"`
	Errors   uint64  `json:"errors"`
	First    string  `json:"first_error"`
	WorstMS  float64 `json:"worst_ms"`
	Verified uint64  `json:"verified"`
	Lost     uint64  `json:"lost"`
}

// StartSoak starts a load that goes on until Stop.
func (l *Lab) StartSoak(file string, more ...string) *Soak {
	l.T.Helper()
	s := &Soak{l: l}
	s.cmd = exec.Command(filepath.Join(l.bin, "rsio-bench"), append([]string{"soak", "--file", file, "--json"}, more...)...)
	s.cmd.Stdout, s.cmd.Stderr = &s.out, &s.errs
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		l.T.Fatal(err)
	}
	l.T.Cleanup(func() { _ = s.cmd.Process.Kill() }) // it has ended, if all went well
	return s
}

// Stop ends the load and fails the test if it saw an error or lost a block.
func (s *Soak) Stop() SoakResult {
	s.l.T.Helper()
	_ = s.cmd.Process.Signal(syscall.SIGTERM) // it may have ended with an error
	err := s.cmd.Wait()
	var r SoakResult
	lines := bytes.Split(bytes.TrimSpace(s.out.Bytes()), []byte("\n"))
	if err2 := json.Unmarshal(lines[len(lines)-1], &r); err2 != nil {
		s.l.T.Fatalf("soak: %v: %v\n%s%s", err, err2, s.out.Bytes(), s.errs.Bytes())
	}
	if err != nil || r.Errors != 0 || r.Lost != 0 || r.Ops == 0 || r.Verified == 0 {
		s.l.T.Errorf("soak: %v: %+v\n%s", err, r, s.errs.Bytes())
	}
	return r
}
