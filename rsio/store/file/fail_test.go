// SPDX-License-Identifier: Apache-2.0

package file

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rsio/rsio/block"
)

// TestFailedSync: one failed fdatasync, by whatever it was caused, and the
// device never promises durability again, asks the kernel never again, and
// still reads.
func TestFailedSync(t *testing.T) {
	p := make([]byte, 4096)
	rows := []struct {
		desc string
		shm  bool
		r    block.Request
		err  error
	}{
		{"flush, EIO", false, block.Request{Op: block.OpFlush}, unix.EIO},
		{"flush, ENOSPC of delayed allocation", false, block.Request{Op: block.OpFlush}, unix.ENOSPC},
		{"write with FUA", false, block.Request{Op: block.OpWrite, Flags: block.FlagFUA, Len: 4096, Buf: p}, unix.EIO},
		{"discard with FUA", false, block.Request{Op: block.OpDiscard, Flags: block.FlagFUA, Len: 4096}, unix.EIO},
		{"inline flush", true, block.Request{Op: block.OpFlush}, unix.EIO},
		{"inline write with FUA", true, block.Request{Op: block.OpWrite, Flags: block.FlagFUA, Len: 4096, Buf: p}, unix.EIO},
	}
	for _, row := range rows {
		t.Run(row.desc, func(t *testing.T) {
			var calls, told atomic.Int32
			sys := realCalls()
			sys.fdatasync = func(int) error {
				if calls.Add(1) == 1 {
					return row.err
				}
				return nil // as the kernel does: the error is reported once
			}
			dir := t.TempDir()
			if row.shm {
				dir = tmpfsDir(t)
			}
			d := make1(t, dir, 1<<20, Options{OnFail: func(err error) {
				told.Add(1)
				if !errors.Is(err, row.err) || !strings.Contains(err.Error(), "vol") {
					t.Errorf("OnFail got %v", err)
				}
			}}, sys)
			submit(t, d, block.Request{Op: block.OpWrite, Len: 4096, Buf: p}, block.StatusOK)
			submit(t, d, row.r, block.StatusIO)
			for range 2 {
				for _, fl := range []block.Flags{0, block.FlagFUA} {
					submit(t, d, block.Request{Op: block.OpWrite, Flags: fl, Len: 4096, Buf: p}, block.StatusIO)
					submit(t, d, block.Request{Op: block.OpDiscard, Flags: fl, Len: 4096}, block.StatusIO)
					submit(t, d, block.Request{Op: block.OpWriteZeroes, Flags: fl, Len: 4096}, block.StatusIO)
				}
				submit(t, d, block.Request{Op: block.OpFlush}, block.StatusIO)
				submit(t, d, block.Request{Op: block.OpRead, Len: 4096, Buf: p}, block.StatusOK)
			}
			if err := d.Resize(2 << 20); err == nil {
				t.Error("Resize of a failed device succeeded")
			}
			if err := d.Close(t.Context()); !errors.Is(err, errFailed) {
				t.Errorf("Close: %v", err)
			}
			if n := calls.Load(); n != 1 {
				t.Errorf("fdatasync was called %d times, want 1", n)
			}
			if n := told.Load(); n != 1 {
				t.Errorf("OnFail was called %d times, want 1", n)
			}
		})
	}
}

// TestSyncsAreSerial: the kernel reports a lost write to one fdatasync only,
// so of all flushes that cover the write none may succeed, and two must never
// run side by side.
func TestSyncsAreSerial(t *testing.T) {
	t.Run("syncer and resize", func(t *testing.T) { serial(t, t.TempDir()) })
	t.Run("inline on tmpfs", func(t *testing.T) { serial(t, tmpfsDir(t)) })
}

func serial(t *testing.T, dir string) {
	var running, overlaps, calls atomic.Int32
	release := make(chan struct{})
	sys := realCalls()
	sys.fdatasync = func(int) error {
		if running.Add(1) > 1 {
			overlaps.Add(1)
		}
		defer running.Add(-1)
		time.Sleep(time.Millisecond) // time for another to come beside
		if calls.Add(1) == 1 {
			<-release
			return unix.EIO
		}
		return nil
	}
	d := make1(t, dir, 1<<20, Options{}, sys)
	var wg sync.WaitGroup
	var good atomic.Int32
	p := make([]byte, 4096)
	started := make(chan struct{}, 64)
	for i := range 32 {
		wg.Go(func() {
			r := block.Request{Op: block.OpFlush}
			if i%2 == 1 {
				r = block.Request{Op: block.OpWrite, Flags: block.FlagFUA, Off: uint64(i) * 4096, Len: 4096, Buf: p}
			}
			started <- struct{}{}
			if block.Do(d, &r) == block.StatusOK {
				good.Add(1)
			}
		})
	}
	wg.Go(func() {
		started <- struct{}{}
		if d.Resize(2<<20) == nil {
			good.Add(1)
		}
	})
	for range 33 {
		<-started
	}
	time.Sleep(10 * time.Millisecond) // those that started reach the sync
	close(release)
	wg.Wait()
	if n := good.Load(); n != 0 {
		t.Errorf("%d requests were told that they are durable", n)
	}
	if n := overlaps.Load(); n != 0 {
		t.Errorf("%d fdatasync ran beside another", n)
	}
	d.Close(t.Context())
}

// TestFlushesShare: flushes that wait while one runs share the next.
func TestFlushesShare(t *testing.T) {
	var calls atomic.Int32
	first, release := make(chan struct{}), make(chan struct{})
	sys := realCalls()
	sys.fdatasync = func(int) error {
		if calls.Add(1) == 1 {
			close(first)
			<-release
		}
		return nil
	}
	d := make1(t, t.TempDir(), 1<<20, Options{}, sys)
	done := make(inlineDone, 100)
	flush := func() { d.Submit(&block.Request{Op: block.OpFlush, Done: done}) }
	flush()
	<-first
	for range 99 {
		flush()
	}
	close(release)
	for range 100 {
		<-done
	}
	if n := calls.Load(); n != 2 {
		t.Errorf("100 flushes took %d fdatasync, want 2", n)
	}
	if err := d.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestErrors(t *testing.T) {
	fail := func(err error) func(int, []byte, int64) (int, error) {
		return func(int, []byte, int64) (int, error) { return -1, err }
	}
	nothing := func(int, []byte, int64) (int, error) { return 0, nil }
	p := make([]byte, 4096)
	write := block.Request{Op: block.OpWrite, Len: 4096, Buf: p}
	read := block.Request{Op: block.OpRead, Len: 4096, Buf: p}
	discard := block.Request{Op: block.OpDiscard, Len: 4096}
	rows := []struct {
		desc string
		set  func(*syscalls)
		r    block.Request
		want block.Status
	}{
		{"write, ENOSPC", func(s *syscalls) { s.pwrite = fail(unix.ENOSPC) }, write, block.StatusNoSpace},
		{"write, EDQUOT", func(s *syscalls) { s.pwrite = fail(unix.EDQUOT) }, write, block.StatusNoSpace},
		{"write, EIO", func(s *syscalls) { s.pwrite = fail(unix.EIO) }, write, block.StatusIO},
		{"write, EROFS", func(s *syscalls) { s.pwrite = fail(unix.EROFS) }, write, block.StatusIO},
		{"write that takes nothing", func(s *syscalls) { s.pwrite = nothing }, write, block.StatusIO},
		{"read, EIO", func(s *syscalls) { s.pread = fail(unix.EIO) }, read, block.StatusIO},
		{"read of a file that was cut off", func(s *syscalls) { s.pread = nothing }, read, block.StatusIO},
		{"discard, EIO", func(s *syscalls) {
			s.fallocate = func(int, uint32, int64, int64) error { return unix.EIO }
		}, discard, block.StatusIO},
		{"discard, ENOSPC", func(s *syscalls) {
			s.fallocate = func(int, uint32, int64, int64) error { return unix.ENOSPC }
		}, discard, block.StatusNoSpace},
		{"zeroes that must be written, ENOSPC", func(s *syscalls) {
			s.fallocate, s.pwrite = noFallocate().fallocate, fail(unix.ENOSPC)
		}, block.Request{Op: block.OpWriteZeroes, Len: 4096}, block.StatusNoSpace},
		{"fast zeroes that must be written", func(s *syscalls) { s.fallocate = noFallocate().fallocate },
			block.Request{Op: block.OpWriteZeroes, Flags: block.FlagFastZero, Len: 4096}, block.StatusUnsupported},
	}
	for _, row := range rows {
		t.Run(row.desc, func(t *testing.T) {
			sys := realCalls()
			row.set(&sys)
			d := make1(t, tmpfsDir(t), 1<<20, Options{}, sys)
			submit(t, d, row.r, row.want)
			submit(t, d, block.Request{Op: block.OpFlush}, block.StatusOK) // the device has not failed
			if err := d.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestSteps: no fallocate is longer than 64 MiB, no write of zeroes longer
// than 1 MiB, and the whole range is covered.
func TestSteps(t *testing.T) {
	for _, lacking := range []bool{false, true} {
		var mu sync.Mutex
		var longest, sum int64
		note := func(n int64) {
			mu.Lock()
			longest, sum = max(longest, n), sum+n
			mu.Unlock()
		}
		sys := realCalls()
		sys.fallocate = func(_ int, _ uint32, _, n int64) error {
			if lacking {
				return unix.EOPNOTSUPP
			}
			note(n)
			return nil
		}
		sys.pwrite = func(_ int, p []byte, _ int64) (int, error) {
			note(int64(len(p)))
			return len(p), nil
		}
		d := make1(t, t.TempDir(), 2<<30, Options{}, sys)
		submit(t, d, block.Request{Op: block.OpWriteZeroes, Off: 12345, Len: 1 << 30}, block.StatusOK)
		limit := int64(64 << 20)
		if lacking {
			limit = 1 << 20
		}
		if longest != limit || sum != 1<<30 {
			t.Errorf("without fallocate %v: longest step %d, want %d; sum %d", lacking, longest, limit, sum)
		}
		d.Close(t.Context())
	}
}

func TestBeyondTheEnd(t *testing.T) {
	d := make1(t, t.TempDir(), 1<<20, Options{}, realCalls())
	defer d.Close(t.Context())
	submit(t, d, block.Request{Op: block.OpWrite, Off: 1 << 20, Len: 4096, Buf: make([]byte, 4096)}, block.StatusInvalid)
	var st unix.Stat_t
	if err := unix.Fstat(d.fd, &st); err != nil || st.Size != 1<<20 {
		t.Errorf("the file has %d bytes now, %v", st.Size, err)
	}
}
