// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pour starts n writes to a file, each by a goroutine of its own, and returns
// when all are on their way or done; wait counts how they ended.
func (r *fenceRig) pour(f *os.File, n int) (wait func() (ok, fenced int)) {
	var wg, on sync.WaitGroup
	errs := make([]error, n)
	for k := range n {
		r.seq++
		seq := r.seq
		on.Add(1)
		wg.Go(func() {
			b := make([]byte, stampLen)
			stamp(b, seq%64, seq, 1)
			on.Done()
			_, errs[k] = f.WriteAt(b, int64(seq%64*stampLen))
		})
	}
	on.Wait()
	time.Sleep(20 * time.Millisecond) // from the last step to the system call
	return func() (ok, fenced int) {
		wg.Wait()
		for _, err := range errs {
			switch {
			case err == nil:
				ok++
			case errors.Is(err, unix.EBADE), errors.Is(err, unix.EIO):
				fenced++
			default:
				r.T.Errorf("a write ended with %v, want success or EBADE", err)
			}
		}
		return ok, fenced
	}
}

func (r *fenceRig) filesPid() int {
	r.T.Helper()
	b, err := os.ReadFile(r.Path("run/files.pid"))
	pid, err2 := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || err2 != nil {
		r.T.Fatal(err, err2)
	}
	return pid
}

// TestP4_File: writes to a file of a fenced nexus never land once
// preempt-and-abort has answered, though everybody may write again: they wait
// in the mount's queue of a frozen process, in a frozen initiator, or are sent
// again to the successor of one that was killed.
func TestP4_File(t *testing.T) {
	needFUSE(t)
	r := newFenceRig(t)
	f, err := os.OpenFile(r.attachAs("v", "--fuse"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	signal := func(pid int, s syscall.Signal) {
		if err := syscall.Kill(pid, s); err != nil {
			t.Error(err)
		}
	}
	for n := range rounds(8) {
		r.Ctl(r.Sock, "pr", "register", "v")
		r.Ctl(r.Sock, "pr", "reserve", "v", "--type", "wero")
		r.Ctl(r.sock2, "pr", "register", "v")
		r.Eventually("the victim may write", func() bool { ok, _ := r.pour(f, 1)(); return ok == 1 })
		files, what := r.filesPid(), []string{"files frozen", "initiator frozen", "both frozen", "initiator killed"}[n%4]
		first := r.pour(f, 16)
		if what == "files frozen" || what == "both frozen" {
			signal(files, syscall.SIGSTOP)
			r.Eventually("the files' process is frozen", func() bool { return frozenNow(files) })
		}
		switch what {
		case "initiator frozen", "both frozen":
			r.Initiator.Signal(syscall.SIGSTOP)
			r.Eventually("the initiator is frozen", func() bool { return frozenNow(r.Initiator.Pid()) })
		case "initiator killed":
			r.Initiator.Kill()
		}
		second := r.pour(f, 16)
		r.Ctl(r.sock2, "pr", "preempt-abort", "v", "--victim", "h1")
		answered, last := mono(t), r.seq
		r.Ctl(r.sock2, "pr", "clear", "v") // everybody may write again
		time.Sleep(100 * time.Millisecond)
		switch what {
		case "initiator frozen", "both frozen":
			r.Initiator.Signal(syscall.SIGCONT)
		case "initiator killed":
			r.Initiator.Start()
		}
		if what == "both frozen" {
			time.Sleep(time.Second) // the initiator learns of the fence long before
		}
		if what != "initiator frozen" && what != "initiator killed" {
			signal(files, syscall.SIGCONT)
		}
		_, fenced := first()
		_, fenced2 := second()
		if err := r.late(answered, last); err != nil {
			t.Fatalf("round %d (%s): %v", n, what, err)
		}
		if fenced+fenced2 == 0 {
			t.Errorf("round %d (%s): no write was fenced", n, what)
		}
		start := time.Now()
		r.Eventually("the victim writes again", func() bool { ok, _ := r.pour(f, 1)(); return ok == 1 })
		t.Logf("%s: %d and %d fenced, writes again after %d ms", what, fenced, fenced2, time.Since(start).Milliseconds())
	}
}
