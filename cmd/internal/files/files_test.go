// SPDX-License-Identifier: Apache-2.0

package files

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rsio/rsio/block"
)

// TestFile: a file is there with its owner, mode, size and attributes, holds
// what is written to it, and goes.
func TestFile(t *testing.T) {
	r := newRig(t)
	c, _ := r.start()
	if list, err := c.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("at first: %+v, %v", list, err)
	}
	path := r.put(c, "v")
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || st.Uid != 1000 || st.Gid != 50 || st.Mode != unix.S_IFREG|0o640 || st.Size != 1<<20 {
		t.Errorf("%+v, %v", st, err)
	}
	for name, want := range map[string]string{"volume": "ns/v", "nexus": "h1", "target": "t", "state": "ok"} {
		attr := make([]byte, 64)
		if n, err := unix.Getxattr(path, "user.rsio."+name, attr); err != nil || string(attr[:n]) != want {
			t.Errorf("user.rsio.%s: %q, %v", name, attr[:max(n, 0)], err)
		}
	}
	f, got := r.open(path), make([]byte, 9)
	if _, err := f.WriteAt([]byte("some data"), 5000); err != nil {
		t.Error(err)
	}
	if _, err := f.ReadAt(got, 5000); err != nil || string(got) != "some data" {
		t.Errorf("%q, %v", got, err)
	}
	list, err := c.List(t.Context())
	if err != nil || len(list) != 1 || list[0].File != file("v") || list[0].Size != 1<<20 || !list[0].Up || list[0].Reason != "" {
		t.Errorf("%+v, %v", list, err)
	}
	_ = f.Close()
	for range 2 { // once more is no error
		if err := c.Delete(t.Context(), "ns/v", false); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("after Delete: %v", err)
		}
	}
	r.ex.mu.Lock()
	dev := r.ex.devs["v"]
	r.ex.mu.Unlock()
	if st := block.Do(dev, &block.Request{Op: block.OpRead, Off: 4096, Len: 4096, Buf: make([]byte, 4096)}); st != block.StatusOK {
		t.Error(st)
	}
	path = r.put(c, "v") // again
	if _, err := r.open(path).ReadAt(got, 5000); err != nil || string(got) != "some data" {
		t.Errorf("made again: %q, %v", got, err)
	}
}

// TestPutAgain: owner and mode change while nobody has it open; the right it
// began with is no change.
func TestPutAgain(t *testing.T) {
	r := newRig(t)
	c, _ := r.start()
	path := r.put(c, "v")
	change := file("v")
	change.Right = 7
	hold := r.open(path)
	if err := c.Put(t.Context(), change); err != nil {
		t.Errorf("the same file: %v", err)
	}
	change.Mode = 0o600
	if err := c.Put(t.Context(), change); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "open file cannot be changed") {
		t.Errorf("while it is open: %v", err)
	}
	if _, err := hold.WriteAt([]byte("x"), 0); err != nil {
		t.Errorf("after the refusal: %v", err)
	}
	_ = hold.Close()
	if err := c.Put(t.Context(), change); err != nil {
		t.Error(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
}

// TestPutRefused: what cannot be a file is refused and leaves nothing.
func TestPutRefused(t *testing.T) {
	r := newRig(t)
	c, _ := r.start()
	for _, row := range []struct {
		desc   string
		change func(*File)
		want   string
	}{
		{"no such export", func(f *File) { f.Export = "x" }, "not found"},
		{"no path", func(f *File) { f.Path = "" }, "name"},
		{"no volume", func(f *File) { f.Path = "ns" }, "name"},
		{"a path that leads out", func(f *File) { f.Path = "../v" }, "name"},
		{"a deep path", func(f *File) { f.Path = "a/b/c" }, "name"},
		{"a hidden file", func(f *File) { f.Path = "ns/.v" }, "name"},
		{"a VM without a name", func(f *File) { f.Path = "ns/v~" }, "name"},
		{"setuid", func(f *File) { f.Mode = 0o4755 }, "mode"},
	} {
		f := file("v")
		row.change(&f)
		if err := c.Put(t.Context(), f); err == nil || errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v, want %q", row.desc, err, row.want)
		}
	}
	for _, row := range []struct{ method, path, body string }{
		{"PUT", "/v1/files", "{"}, {"PUT", "/v1/files", `{"path": 7}`}, {"POST", "/v1/fence?path=ns/v&right=-1", ""},
		{"POST", "/v1/fence?path=ns/v&right=2", ""}, {"POST", "/v1/refresh?path=ns/v", ""}, {"GET", "/v1/quit", ""}, {"GET", "/", ""},
	} {
		req, err := http.NewRequestWithContext(t.Context(), row.method, "http://files"+row.path, strings.NewReader(row.body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode < 400 || resp.StatusCode == http.StatusConflict || len(text) == 0 {
			t.Errorf("%s %s %s: %s %s", row.method, row.path, row.body, resp.Status, text)
		}
	}
	if list, err := c.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("left: %+v, %v", list, err)
	}
	if names, err := os.ReadDir(r.mount); err != nil || len(names) != 0 {
		t.Errorf("left: %v, %v", names, err)
	}
}

// TestOpeners: who has a file open is told, by process, and goes when it
// closes; a file that is open stays unless it is taken by force.
func TestOpeners(t *testing.T) {
	r := newRig(t)
	c, _ := r.start()
	path := r.put(c, "v")
	openers := func() []int {
		list, err := c.List(t.Context())
		if err != nil || len(list) != 1 {
			t.Fatalf("%+v, %v", list, err)
		}
		return list[0].Openers
	}
	own := r.open(path)
	other := exec.Command("sleep", "1000")
	in, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	other.Stdin = in
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Process.Kill(); _ = other.Wait() })
	_ = in.Close() // the child has it
	self := os.Getpid()
	if got := openers(); !slices.Equal(got, []int{self, self}) {
		t.Errorf("open twice by %d, once handed on: %v", self, got)
	}
	err = c.Delete(t.Context(), "ns/v", false)
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), fmt.Sprintf("process %d", self)) {
		t.Errorf("Delete of an open file: %v", err)
	}
	if _, err := own.WriteAt([]byte("x"), 0); err != nil {
		t.Errorf("after the refusal: %v", err)
	}
	_ = other.Process.Kill()
	_ = other.Wait() // killed
	eventually(t, "the killed process has closed it", func() bool { return len(openers()) == 1 })
	if err := c.Delete(t.Context(), "ns/v", true); err != nil {
		t.Errorf("by force: %v", err)
	}
	if _, err := own.WriteAt([]byte("x"), 0); err == nil {
		t.Error("a file that was taken by force can be written")
	}
	if list, err := c.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("after all: %+v, %v", list, err)
	}
	path = r.put(c, "v") // the old handle is open still
	if _, err := r.open(path).WriteAt([]byte("x"), 0); err != nil {
		t.Errorf("a new file of the name: %v", err)
	}
}

// TestRefresh: the size of the file follows the export.
func TestRefresh(t *testing.T) {
	r := newRig(t)
	c, _ := r.start()
	path := r.put(c, "v")
	f := r.open(path)
	for _, size := range []uint64{4 << 20, 2 << 20} {
		r.ex.set("v", memory(t, size))
		if err := c.Refresh(t.Context(), "ns/v"); err != nil {
			t.Error(err)
		}
		st, err := f.Stat()
		if err != nil || st.Size() != int64(size) {
			t.Errorf("%v, %v, want %d bytes", st, err, size)
		}
	}
	r.ex.set("v", nil)
	if err := c.Refresh(t.Context(), "ns/v"); err == nil {
		t.Error("an export that is gone: refreshed")
	}
	if err := c.Refresh(t.Context(), "ns/x"); err == nil || !strings.Contains(err.Error(), "no file ns/x") {
		t.Errorf("of nobody: %v", err)
	}
}

// TestForceHung: a file with a write that hangs is taken by force; the writer
// gets an error, though the device still has the write.
func TestForceHung(t *testing.T) {
	r := newRig(t)
	c, _ := r.start()
	r.ex.set("v", hung(t))
	f := r.open(r.put(c, "v"))
	ended := make(chan error, 1)
	go func() {
		_, err := f.WriteAt(bytes.Repeat([]byte{1}, 4096), 0)
		ended <- err
	}()
	time.Sleep(20 * time.Millisecond) // most likely it is on its way
	if err := c.Delete(t.Context(), "ns/v", false); !errors.Is(err, ErrInUse) {
		t.Errorf("without force: %v", err)
	}
	if err := c.Delete(t.Context(), "ns/v", true); err != nil {
		t.Errorf("by force: %v", err)
	}
	select {
	case err := <-ended:
		if err == nil {
			t.Error("the write that hung succeeded")
		}
	case <-time.After(patience):
		t.Error("the write does not end")
	}
}

// TestServerAway: without the initiator files wait, say why, and go on.
func TestServerAway(t *testing.T) {
	r := newRig(t)
	c, _ := r.start()
	f := r.open(r.put(c, "v"))
	r.cut()
	up := func() (State, bool) {
		list, err := c.List(t.Context())
		if err != nil || len(list) != 1 {
			t.Fatalf("%+v, %v", list, err)
		}
		return list[0], list[0].Up
	}
	eventually(t, "that the connection broke", func() bool { _, ok := up(); return !ok })
	if s, _ := up(); s.Reason == "" || s.Size != 1<<20 {
		t.Errorf("without the initiator: %+v", s)
	}
	if err := c.Put(t.Context(), file("w")); err == nil {
		t.Error("a file was made without the initiator")
	}
	ended := make(chan error, 1)
	go func() {
		_, err := f.WriteAt([]byte("late"), 0)
		ended <- err
	}()
	select {
	case err := <-ended:
		t.Errorf("the write did not wait: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	r.serve()
	if err := r.wait(ended); err != nil {
		t.Error(err)
	}
	eventually(t, "that it is connected", func() bool { s, ok := up(); return ok && s.Reason == "" })
}

// TestFence: a file's right is what its device has from then on.
func TestFence(t *testing.T) {
	r := newRig(t)
	c, _ := r.start()
	f := r.open(r.put(c, "v"))
	for n := range uint64(20) {
		for range 2 { // once more changes nothing
			if err := c.Fence(t.Context(), "ns/v", n+1); err != nil {
				t.Error(err)
			}
		}
		if _, err := f.WriteAt([]byte{byte(n)}, 0); err != nil {
			t.Errorf("after fence %d: %v", n, err)
		}
	}
	if err := c.Fence(t.Context(), "ns/x", 1); err == nil {
		t.Error("a fence of nobody")
	}
}

// TestMany: files come and go while others are used and all are listed.
func TestMany(t *testing.T) {
	r := newRig(t)
	c, _ := r.start()
	path := r.put(c, "w")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var wg sync.WaitGroup
	for k := range 4 {
		wg.Go(func() {
			f := file("v")
			f.Path = fmt.Sprintf("ns%d/v~%d", k%2, k)
			for range 10 {
				err := c.Put(ctx, f)
				if err == nil {
					err = write(r.path(f.Path))
				}
				if err = errors.Join(err, c.Delete(ctx, f.Path, false)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Go(func() {
		for range 50 {
			if _, err := c.List(ctx); err != nil {
				t.Error(err)
			}
			if err := write(path); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	if list, err := c.List(ctx); err != nil || len(list) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
}

// write opens, writes and closes.
func write(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte("text"), 0)
	return errors.Join(err, f.Close())
}
