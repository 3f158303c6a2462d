// SPDX-License-Identifier: Apache-2.0

package admin_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"rsio/rsio/admin"
	"rsio/rsio/admin/admintest"
	"rsio/rsio/admin/api"
	"rsio/rsio/block"
)

// image returns size bytes with runs of noise and of zeroes of many lengths.
func image(seed uint64, size int) []byte {
	rnd := rand.New(rand.NewPCG(seed, 0))
	b := make([]byte, size)
	for at := 0; at < size; {
		n := min(1+rnd.IntN(1<<rnd.IntN(22)), size-at)
		if rnd.IntN(2) == 0 {
			for i := range n {
				b[at+i] = byte(rnd.Uint32())
			}
		}
		at += n
	}
	return b
}

// sparse writes b to a file, leaving out zero blocks.
func sparse(t *testing.T, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(b); at += 4096 {
		if c := b[at:min(at+4096, len(b))]; len(bytes.Trim(c, "\x00")) > 0 {
			if _, err := f.WriteAt(c, int64(at)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := errors.Join(f.Truncate(int64(len(b))), f.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

// volume makes a volume in tg whose content is noise.
func volume(t *testing.T, tg *admintest.Target, name string, size int) *admintest.Device {
	t.Helper()
	if _, err := tg.VolumeCreate(api.VolumeSpec{Namespace: "default", Name: name, Size: uint64(size)}); err != nil {
		t.Fatal(err)
	}
	d := tg.Device("default", name)
	noise := make([]byte, size)
	for i := range noise {
		noise[i] = byte(i%255) + 1
	}
	d.SetContent(noise)
	return d
}

func TestRoundTrip(t *testing.T) {
	const size = 9 << 20
	scatter := func(*block.Request) { time.Sleep(time.Duration(rand.IntN(300)) * time.Microsecond) }
	for n, row := range []struct {
		desc  string
		image int // bytes
		stdin bool
		set   func(d *admintest.Device)
	}{
		{"full size", size, false, nil},
		{"out of order", size, false, func(d *admintest.Device) { d.Delay = scatter }},
		{"shorter image", 3<<20 + 4096, false, nil},
		{"odd length", 5<<20 + 1, false, nil},
		{"one byte", 1, false, nil},
		{"stdin", size, true, nil},
		{"stdin, odd", 1<<20 + 12345, true, nil},
		{"only writes", size, false, func(d *admintest.Device) { d.Caps.Features = block.CanFlush }},
		{"no discard", size, false, func(d *admintest.Device) { d.Caps.Features &^= block.CanDiscard }},
		{"small requests", size, false, func(d *admintest.Device) { d.Caps.MaxLen, d.Caps.MaxZero = 64<<10, 128<<10 }},
		{"refuses discard at run time", size, false, func(d *admintest.Device) {
			d.Fault = func(r *block.Request) block.Status {
				if r.Op == block.OpDiscard {
					return block.StatusUnsupported
				}
				return block.StatusOK
			}
		}},
		{"refuses all holes at run time", size, false, func(d *admintest.Device) {
			d.Delay = scatter
			d.Fault = func(r *block.Request) block.Status {
				if r.Op != block.OpRead && r.Op != block.OpWrite && r.Op != block.OpFlush {
					return block.StatusUnsupported
				}
				return block.StatusOK
			}
		}},
	} {
		t.Run(row.desc, func(t *testing.T) {
			tg := admintest.NewTarget("t1")
			d := volume(t, tg, "v1", size)
			if row.set != nil {
				row.set(d)
			}
			c := serve(t, admin.NewTargetHandler(tg))
			img := image(uint64(n), row.image)
			path, stdin := sparse(t, img), io.Reader(nil)
			if row.stdin {
				path, stdin = "-", iotest.HalfReader(bytes.NewReader(img))
			}
			src := must[*admin.Source](t)(admin.OpenSource(path, stdin, nil))
			tr := must[api.Transfer](t)(c.Import(t.Context(), "default", "v1", src))
			if err := src.Close(); err != nil {
				t.Error(err)
			}
			want := append(bytes.Clone(img), make([]byte, size-len(img))...)
			if !bytes.Equal(d.Content(), want) {
				t.Fatal("the volume is not the image")
			}
			if tr.Size != uint64(row.image) || tr.Data+tr.Zeroes < tr.Size {
				t.Errorf("transfer %+v of %d", tr, row.image)
			}
			checkExport(t, c, want)
			if tg.Open() != 0 {
				t.Errorf("%d devices are open", tg.Open())
			}
		})
	}
}

// checkExport exports v1 to a file and to a stream.
func checkExport(t *testing.T, c *admin.Client, want []byte) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "out")
	var stdout bytes.Buffer
	for _, to := range []string{path, "-"} {
		sink := must[*admin.Sink](t)(admin.OpenSink(to, &stdout))
		tr := must[api.Transfer](t)(c.Export(t.Context(), "default", "v1", sink, nil))
		sink.Abort()
		if tr.Size != uint64(len(want)) {
			t.Errorf("%s: %+v", to, tr)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("the file is not the volume: %d bytes, %v", len(got), err)
	}
	if !bytes.Equal(stdout.Bytes(), want) {
		t.Fatalf("the stream is not the volume: %d bytes", stdout.Len())
	}
	left(t, filepath.Dir(path), 1)
}

// left fails unless dir has n entries.
func left(t *testing.T, dir string, n int) {
	t.Helper()
	l, err := os.ReadDir(dir)
	if err != nil || len(l) != n {
		t.Errorf("%s has %v, %v", dir, l, err)
	}
}

func TestSparseStaysSparse(t *testing.T) {
	tg := admintest.NewTarget("t1")
	const size = 256 << 20
	if _, err := tg.VolumeCreate(api.VolumeSpec{Namespace: "default", Name: "v1", Size: size}); err != nil {
		t.Fatal(err)
	}
	d := tg.Device("default", "v1")
	var written atomic.Uint64
	d.Seen = func(r *block.Request, _ block.Status) {
		if r.Op == block.OpWrite {
			written.Add(uint64(r.Len))
		}
	}
	c := serve(t, admin.NewTargetHandler(tg))
	path := filepath.Join(t.TempDir(), "image")
	f := must[*os.File](t)(os.Create(path))
	_, err := f.WriteAt([]byte("hello"), 100<<20)
	if err := errors.Join(err, f.Truncate(size), f.Close()); err != nil {
		t.Fatal(err)
	}
	src := must[*admin.Source](t)(admin.OpenSource(path, nil, nil))
	tr := must[api.Transfer](t)(c.Import(t.Context(), "default", "v1", src))
	if tr.Data > 64<<10 || written.Load() > 64<<10 {
		t.Errorf("%+v, %d bytes written", tr, written.Load())
	}
	out := filepath.Join(t.TempDir(), "out")
	sink := must[*admin.Sink](t)(admin.OpenSink(out, nil))
	must[api.Transfer](t)(c.Export(t.Context(), "default", "v1", sink, nil))
	info := must[os.FileInfo](t)(os.Stat(out))
	if used := info.Sys().(*syscall.Stat_t).Blocks * 512; info.Size() != size || used > 1<<20 {
		t.Errorf("%d bytes, %d on disk", info.Size(), used)
	}
}

// nth returns a fault for the nth request of an operation.
func nth(op block.Op, n int64, st block.Status) func(*block.Request) block.Status {
	var seen atomic.Int64
	return func(r *block.Request) block.Status {
		if r.Op == op && seen.Add(1) == n {
			return st
		}
		return block.StatusOK
	}
}

// TestImportFails: an import answers ok only if every request did.
func TestImportFails(t *testing.T) {
	const size = 40 << 20
	img := image(1, size-1<<20)
	mine := errors.New("the tape broke")
	for _, row := range []struct {
		desc  string
		vol   string
		set   func(d *admintest.Device)
		stdin io.Reader
		kind  api.Kind
		text  string
	}{
		{"no volume", "none", nil, nil, api.NotFound, "volume import none: not found"},
		{"first write", "v1", func(d *admintest.Device) { d.Fault = nth(block.OpWrite, 1, block.StatusIO) }, nil, api.Failed, "input/output error (import again"},
		{"last write", "v1", func(d *admintest.Device) { d.Fault = nth(block.OpWrite, 20, block.StatusNoSpace) }, nil, api.Failed, "make room in the pool, then import again"},
		{"a hole", "v1", func(d *admintest.Device) { d.Fault = nth(block.OpDiscard, 3, block.StatusIO) }, nil, api.Failed, "discard of"},
		{"the flush", "v1", func(d *admintest.Device) { d.Fault = nth(block.OpFlush, 1, block.StatusLost) }, nil, api.Failed, "flush: acknowledged data may be lost"},
		{"read-only", "v1", func(d *admintest.Device) { d.Caps.ReadOnly = true }, nil, api.Denied, "read-only"},
		{"fenced", "v1", func(d *admintest.Device) { d.Fault = nth(block.OpWrite, 2, block.StatusConflict) }, nil, api.Conflict, "reservation"},
		{"stdin fails", "v1", nil, io.MultiReader(bytes.NewReader(img[:3<<20+5]), iotest.ErrReader(mine)), api.Failed, "the tape broke"},
		{"image too large", "v1", func(d *admintest.Device) { d.SetContent(make([]byte, 1<<20)) }, nil, api.Usage, "larger than the volume (1048576 bytes)"},
		{"stdin too large", "v1", func(d *admintest.Device) { d.SetContent(make([]byte, 3<<20)) }, bytes.NewReader(img), api.Usage, "larger than the volume"},
	} {
		t.Run(row.desc, func(t *testing.T) {
			tg := admintest.NewTarget("t1")
			d := volume(t, tg, "v1", size)
			if row.set != nil {
				row.set(d)
			}
			c := serve(t, admin.NewTargetHandler(tg))
			path := sparse(t, img)
			if row.stdin != nil {
				path = "-"
			}
			src := must[*admin.Source](t)(admin.OpenSource(path, row.stdin, nil))
			_, err := c.Import(t.Context(), "default", row.vol, src)
			if kindOf(err) != row.kind || !strings.Contains(err.Error(), row.text) {
				t.Errorf("got %v", err)
			}
			if err := src.Close(); err != nil {
				t.Error(err)
			}
			for n := 0; tg.Open() != 0; n++ { // the handler may still be at its end
				if n > 100 {
					t.Fatal("the device stays open")
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
}

// TestExportFails: no half file stays, a former file stays as it was.
func TestExportFails(t *testing.T) {
	for _, row := range []struct {
		desc string
		vol  string
		st   block.Status
		kind api.Kind
		text string
	}{
		{"no volume", "none", 0, api.NotFound, "not found"},
		{"a read", "v1", block.StatusIO, api.Failed, "input/output error"},
		{"fenced behind a hole", "v1", block.StatusConflict, api.Conflict, "reservation conflict"},
	} {
		t.Run(row.desc, func(t *testing.T) {
			tg := admintest.NewTarget("t1")
			d := volume(t, tg, "v1", 40<<20)
			content := d.Content()
			clear(content[10<<20 : 29<<20])
			d.SetContent(content)
			d.Fault = nth(block.OpRead, 11, row.st)
			c := serve(t, admin.NewTargetHandler(tg))
			dir := t.TempDir()
			path := filepath.Join(dir, "out")
			if err := os.WriteFile(path, []byte("former"), 0o600); err != nil {
				t.Fatal(err)
			}
			sink := must[*admin.Sink](t)(admin.OpenSink(path, nil))
			_, err := c.Export(t.Context(), "default", row.vol, sink, nil)
			sink.Abort()
			if kindOf(err) != row.kind || !strings.Contains(err.Error(), row.text) {
				t.Errorf("got %v", err)
			}
			if b, _ := os.ReadFile(path); string(b) != "former" {
				t.Error("the former file was destroyed")
			}
			left(t, dir, 1)
		})
	}
}

// TestInterrupted ends the context in the middle of both directions.
func TestInterrupted(t *testing.T) {
	tg := admintest.NewTarget("t1")
	d := volume(t, tg, "v1", 64<<20)
	d.Delay = func(*block.Request) { time.Sleep(5 * time.Millisecond) }
	c := serve(t, admin.NewTargetHandler(tg))
	ctx, cancel := context.WithCancel(t.Context())
	src := must[*admin.Source](t)(admin.OpenSource(sparse(t, d.Content()), nil, func(done, total uint64) {
		if done > total/2 {
			cancel()
		}
	}))
	if _, err := c.Import(ctx, "default", "v1", src); kindOf(err) != api.Failed || !strings.Contains(err.Error(), "interrupted") {
		t.Errorf("import: %v", err)
	}
	if err := src.Close(); err != nil {
		t.Error(err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	dir := t.TempDir()
	sink := must[*admin.Sink](t)(admin.OpenSink(filepath.Join(dir, "out"), nil))
	_, err := c.Export(ctx, "default", "v1", sink, func(done, total uint64) {
		if done > total/2 {
			cancel()
		}
	})
	sink.Abort()
	if kindOf(err) != api.Failed || !strings.Contains(err.Error(), "interrupted") {
		t.Errorf("export: %v", err)
	}
	left(t, dir, 0)
}

func TestSinkKeepsModeAndLinks(t *testing.T) {
	tg := admintest.NewTarget("t1")
	d := volume(t, tg, "v1", 1<<20)
	c := serve(t, admin.NewTargetHandler(tg))
	dir := t.TempDir()
	path, link := filepath.Join(dir, "disk"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(path, nil, 0o640), os.Symlink(path, link)); err != nil {
		t.Fatal(err)
	}
	sink := must[*admin.Sink](t)(admin.OpenSink(link, nil))
	must[api.Transfer](t)(c.Export(t.Context(), "default", "v1", sink, nil))
	info := must[os.FileInfo](t)(os.Lstat(link))
	if info.Mode()&os.ModeSymlink == 0 {
		t.Error("the link was replaced")
	}
	info = must[os.FileInfo](t)(os.Stat(path))
	if info.Mode().Perm() != 0o640 || info.Size() != 1<<20 {
		t.Errorf("%v %d", info.Mode(), info.Size())
	}
	sink = must[*admin.Sink](t)(admin.OpenSink("/dev/null", nil))
	must[api.Transfer](t)(c.Export(t.Context(), "default", "v1", sink, nil))
	if _, err := admin.OpenSink(dir, nil); kindOf(err) != api.Failed || !strings.Contains(err.Error(), "directory") {
		t.Errorf("a directory: %v", err)
	}
	if _, err := admin.OpenSource(dir, nil, nil); kindOf(err) != api.Failed || !strings.Contains(err.Error(), "directory") {
		t.Errorf("a directory: %v", err)
	}
	if _, err := admin.OpenSource(filepath.Join(dir, "none"), nil, nil); kindOf(err) != api.NotFound {
		t.Errorf("no file: %v", err)
	}
	_ = d
}
