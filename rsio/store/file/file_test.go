// SPDX-License-Identifier: Apache-2.0

package file

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rsio/rsio/block"
	"rsio/rsio/blocktest"
)

const testSize = 8 << 20

// tmpfsDir returns a directory on tmpfs that is removed after the test.
func tmpfsDir(t testing.TB) string {
	t.Helper()
	const shm = "/dev/shm"
	var fs unix.Statfs_t
	if err := unix.Statfs(shm, &fs); err != nil || int64(fs.Type) != tmpfsMagic {
		blocktest.NotChecked(t, shm+" is not a tmpfs here")
	}
	dir, err := os.MkdirTemp(shm, "rsio-file-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// make1 creates a file of size bytes in dir and opens it.
func make1(t testing.TB, dir string, size uint64, opt Options, sys syscalls) *Device {
	t.Helper()
	opt.Path = filepath.Join(dir, "vol")
	os.Remove(opt.Path)
	if err := Create(opt.Path, size); err != nil {
		t.Fatal(err)
	}
	d, err := open(opt, sys)
	if err != nil && opt.Direct && strings.Contains(err.Error(), "O_DIRECT") {
		blocktest.NotChecked(t, err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func noFallocate() syscalls {
	sys := realCalls()
	sys.fallocate = func(int, uint32, int64, int64) error { return unix.EOPNOTSUPP }
	return sys
}

// choppy makes every second call fail with EINTR and cuts the others short.
func choppy(align int) syscalls {
	sys := realCalls()
	chop := func(call func(int, []byte, int64) (int, error)) func(int, []byte, int64) (int, error) {
		var turn atomic.Uint32 // never waits: the caller may hold a lock that the next one needs
		return func(fd int, p []byte, off int64) (int, error) {
			if turn.Add(1)%2 == 1 {
				return -1, unix.EINTR
			}
			if n := len(p) / 2 / align * align; n > 0 && len(p) < 1<<16 {
				p = p[:n]
			}
			return call(fd, p, off)
		}
	}
	sys.pread, sys.pwrite = chop(sys.pread), chop(sys.pwrite)
	return sys
}

func TestDevice(t *testing.T) {
	rows := []struct {
		desc  string
		opt   Options
		shm   bool
		sys   syscalls
		ops   int
		thick bool // gives no space back
	}{
		{desc: "page cache", sys: realCalls(), ops: 2000},
		{desc: "direct", opt: Options{Direct: true}, sys: realCalls(), ops: 500},
		{desc: "tmpfs", shm: true, sys: realCalls(), ops: 3000},
		{desc: "one worker", opt: Options{Workers: 1}, sys: realCalls(), ops: 300},
		{desc: "no fallocate", sys: noFallocate(), ops: 300, thick: true},
		{desc: "direct without fallocate", opt: Options{Direct: true}, sys: noFallocate(), ops: 300, thick: true},
		{desc: "tmpfs that is short and interrupted", shm: true, sys: choppy(1), ops: 500},
	}
	for _, row := range rows {
		t.Run(row.desc, func(t *testing.T) {
			t.Parallel()
			where := t.TempDir()
			if row.shm {
				where = tmpfsDir(t)
			}
			used := func(d block.Device) uint64 { return d.(*Device).Used() }
			if row.thick {
				used = nil
			}
			blocktest.Run(t, blocktest.Config{
				Make: func(t *testing.T) block.Device {
					return make1(t, where, testSize, row.opt, row.sys)
				},
				Used:   used,
				Shared: true, // goroutines of the other rows; TestAlone counts them, and allocations
				Ops:    row.ops,
				Chain:  5000,
			})
		})
	}
}

// TestAlone runs what counts for the whole process and cannot run in parallel.
func TestAlone(t *testing.T) {
	shm := tmpfsDir(t)
	for _, row := range []struct {
		desc string
		dir  string
		opt  Options
	}{
		{"page cache", t.TempDir(), Options{}},
		{"direct", t.TempDir(), Options{Direct: true}},
		{"tmpfs", shm, Options{}},
	} {
		t.Run(row.desc, func(t *testing.T) {
			blocktest.Run(t, blocktest.Config{
				Make:      func(t *testing.T) block.Device { return make1(t, row.dir, testSize, row.opt, realCalls()) },
				ZeroAlloc: true,
				Ops:       20,
				Chain:     500,
			})
		})
	}
}

func TestCreateRefuses(t *testing.T) {
	dir := t.TempDir()
	rows := []struct {
		desc, path string
		size       uint64
		want       string
	}{
		{"size zero", "a", 0, "positive multiple of 4096"},
		{"size off the grid", "a", 4097, "positive multiple of 4096"},
		{"size that overflows", "a", 1 << 63, "positive multiple of 4096"},
		{"no such directory", "no/a", 4096, "no such file"},
		{"name that exists", "b", 4096, "exists"},
	}
	if err := Create(filepath.Join(dir, "b"), 4096); err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		err := Create(filepath.Join(dir, row.path), row.size)
		if err == nil || !strings.Contains(err.Error(), row.want) || !strings.Contains(err.Error(), row.path) {
			t.Errorf("%s: error %v does not say %q", row.desc, err, row.want)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "a")); err == nil {
		t.Error("a file that was refused exists")
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	odd := filepath.Join(dir, "odd")
	if err := os.WriteFile(odd, make([]byte, 5000), 0o600); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	rows := []struct {
		desc string
		opt  Options
		want string
	}{
		{"missing", Options{Path: filepath.Join(dir, "no")}, "no such file"},
		{"directory", Options{Path: dir, ReadOnly: true}, "not a regular file"},
		{"pipe", Options{Path: fifo}, "not a regular file"},
		{"odd size with Direct", Options{Path: odd, Direct: true}, "without Direct"},
	}
	for _, row := range rows {
		if _, err := Open(row.opt); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: error %v does not say %q", row.desc, err, row.want)
		}
	}
}

func TestResizeAndReopen(t *testing.T) {
	d := make1(t, t.TempDir(), 1<<20, Options{}, realCalls())
	if got := d.Used(); got != 0 {
		t.Errorf("a new file takes %d bytes", got)
	}
	p := bytes.Repeat([]byte("r"), 4096)
	submit(t, d, block.Request{Op: block.OpWrite, Off: 1<<20 - 4096, Len: 4096, Buf: p}, block.StatusOK)
	if err := d.Resize(1 << 30); err != nil {
		t.Fatal(err)
	}
	for _, size := range []uint64{1 << 20, 1<<30 + 1, 0} {
		if err := d.Resize(size); err == nil {
			t.Errorf("Resize to %d succeeded", size)
		}
	}
	submit(t, d, block.Request{Op: block.OpWrite, Off: 1<<30 - 4096, Len: 4096, Buf: p}, block.StatusOK)
	if got := d.Used(); got < 8192 || got > 1<<20 {
		t.Errorf("two blocks take %d bytes", got)
	}
	if err := d.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := d.Resize(2 << 30); !errors.Is(err, block.StatusClosed) {
		t.Errorf("Resize after Close: %v", err)
	}

	d, err := Open(Options{Path: d.opt.Path, ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close(t.Context())
	if i := d.Info(); i.Size != 1<<30 || !i.ReadOnly {
		t.Errorf("reopened: %+v", i)
	}
	q := make([]byte, 4096)
	submit(t, d, block.Request{Op: block.OpRead, Off: 1<<30 - 4096, Len: 4096, Buf: q}, block.StatusOK)
	if !bytes.Equal(p, q) {
		t.Error("reopened: data differs")
	}
	for _, op := range []block.Op{block.OpWrite, block.OpDiscard, block.OpWriteZeroes} {
		submit(t, d, block.Request{Op: op, Len: 4096, Buf: p}, block.StatusReadOnly)
	}
	submit(t, d, block.Request{Op: block.OpFlush}, block.StatusOK)
}

// inline reports whether a request completed before Submit returned.
func inline(d block.Device, r block.Request) (bool, block.Status) {
	done := make(inlineDone, 1)
	r.Done = done
	d.Submit(&r)
	select {
	case <-done:
		return true, r.Status
	default:
		<-done
		return false, r.Status
	}
}

type inlineDone chan struct{}

func (c inlineDone) Complete(*block.Request) { c <- struct{}{} }

func TestInline(t *testing.T) {
	d := make1(t, t.TempDir(), 1<<20, Options{}, realCalls())
	defer d.Close(t.Context())
	if !d.nowait {
		blocktest.NotChecked(t, "inline service of page-cache hits: this file system does not know RWF_NOWAIT")
	}
	p := bytes.Repeat([]byte("i"), 64<<10)
	submit(t, d, block.Request{Op: block.OpWrite, Len: 64 << 10, Buf: p}, block.StatusOK)
	q := make([]byte, 64<<10)
	if hit, st := inline(d, block.Request{Op: block.OpRead, Len: 64 << 10, Buf: q}); !hit || st != block.StatusOK || !bytes.Equal(p, q) {
		t.Errorf("read of the page cache: inline %v, %v", hit, st)
	}
	submit(t, d, block.Request{Op: block.OpFlush}, block.StatusOK)
	// The kernel may keep pages that its journal still holds, so it is asked
	// until it has dropped them; the data is right whoever serves it.
	for limit := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if err := unix.Fadvise(d.fd, 0, 0, unix.FADV_DONTNEED); err != nil {
			t.Fatal(err)
		}
		clear(q)
		hit, st := inline(d, block.Request{Op: block.OpRead, Len: 64 << 10, Buf: q})
		if st != block.StatusOK || !bytes.Equal(p, q) {
			t.Fatalf("read after the page cache was dropped: inline %v, %v, data equal %v", hit, st, bytes.Equal(p, q))
		}
		if !hit {
			return
		}
		if time.Now().After(limit) {
			t.Fatal("every read is served inline: a miss does not go to the workers, or the kernel drops nothing")
		}
	}
}

func TestInlineTmpfs(t *testing.T) {
	d := make1(t, tmpfsDir(t), 1<<20, Options{}, realCalls())
	defer d.Close(t.Context())
	p := make([]byte, 4096)
	for _, r := range []block.Request{
		{Op: block.OpWrite, Len: 4096, Buf: p},
		{Op: block.OpWrite, Flags: block.FlagFUA, Len: 4096, Buf: p},
		{Op: block.OpRead, Len: 4096, Buf: p},
		{Op: block.OpFlush},
	} {
		if hit, st := inline(d, r); !hit || st != block.StatusOK {
			t.Errorf("%v flags %d: inline %v, %v", r.Op, r.Flags, hit, st)
		}
	}
}

func submit(t testing.TB, d block.Device, r block.Request, want block.Status) {
	t.Helper()
	if st := block.Do(d, &r); st != want {
		t.Errorf("%v at %d length %d flags %d: %v, want %v", r.Op, r.Off, r.Len, r.Flags, st, want)
	}
}
