// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rsio/rsio/block"
)

func volume(i int) Volume {
	return Volume{
		Namespace: []string{"default", "lab"}[i%2], Name: fmt.Sprintf("v%03d", i), UUID: fmt.Sprintf("uuid-%d", i),
		Size: uint64(i+1) << 30, Kind: "file", Direct: i%3 == 0, Incarnation: uint64(i),
		Layers: []string{"fault:op=write,nth=3"}[:i%2], Writers: []string{"h1", "h1/vm2"}[:i%3%2+i%2],
		Created: time.Date(2026, 1, 2, 3, 4, i, 0, time.UTC),
	}
}

// filled makes a registry in dir with a history: created, updated, deleted.
func filled(t *testing.T, dir string, n int, o options) *Registry {
	t.Helper()
	r, err := open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if err := r.Create(volume(i)); err != nil {
			t.Fatal(err)
		}
	}
	for i := 0; i < n; i += 3 {
		v := volume(i)
		if err := r.Update(v.Namespace, v.Name, func(v *Volume) error { v.Size *= 2; return nil }); err != nil {
			t.Fatal(err)
		}
	}
	for i := 0; i < n; i += 7 {
		v := volume(i)
		if err := r.Delete(v.Namespace, v.Name); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.SetMeta("boot", "b1"); err != nil {
		t.Fatal(err)
	}
	return r
}

// same fails unless r has what want has.
func same(t *testing.T, desc string, r, want *Registry) {
	t.Helper()
	if r.ID() != want.ID() || r.Generation() != want.Generation() || r.Meta("boot") != want.Meta("boot") {
		t.Fatalf("%s: head %s %d %q, want %s %d %q", desc, r.ID(), r.Generation(), r.Meta("boot"), want.ID(), want.Generation(), want.Meta("boot"))
	}
	if got, want := r.List(), want.List(); !reflect.DeepEqual(got, want) {
		t.Fatalf("%s: %d volumes, want %d: content differs", desc, len(got), len(want))
	}
}

func TestReopen(t *testing.T) {
	for _, row := range []struct {
		desc string
		n    int
	}{{"empty", 0}, {"one", 1}, {"a page", 10}, {"branch pages", 150}} {
		t.Run(row.desc, func(t *testing.T) {
			dir := t.TempDir()
			a := filled(t, dir, row.n, options{noSync: true})
			if err := a.Close(); err != nil {
				t.Fatal(err)
			}
			b, err := Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			same(t, "reopened", b, a)
			if n := b.Notes(); len(n) != 0 {
				t.Fatalf("notes of a whole registry: %q", n)
			}
			gen := b.Generation()
			if err := b.Create(Volume{Namespace: "new", Name: "x"}); err != nil {
				t.Fatal(err)
			}
			if b.Generation() <= gen {
				t.Fatalf("generation %d after %d", b.Generation(), gen)
			}
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			c, err := Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			same(t, "after one change", c, b)
		})
	}
}

func TestMethodErrors(t *testing.T) {
	r := filled(t, t.TempDir(), 3, options{noSync: true})
	noop := func(*Volume) error { return nil }
	mine := errors.New("mine")
	for _, row := range []struct {
		desc string
		err  error
		want error // nil: any
		text string
	}{
		{"create twice", r.Create(volume(1)), block.StatusExists, "lab/v001"},
		{"update none", r.Update("lab", "none", noop), block.StatusNotFound, "lab/none"},
		{"delete none", r.Delete("other", "v001"), block.StatusNotFound, "other/v001"},
		{"bad name", r.Create(Volume{Namespace: "a", Name: "../x"}), nil, "not allowed"},
		{"slash in the namespace", r.Create(Volume{Namespace: "a/b", Name: "x"}), nil, "not allowed"},
		{"empty namespace", r.Create(Volume{Name: "x"}), nil, "namespace name is empty"},
		{"bad writer", r.Update("lab", "v001", func(v *Volume) error { v.Writers = []string{"a b"}; return nil }), nil, "nexus"},
		{"rename", r.Update("lab", "v001", func(v *Volume) error { v.Name = "y"; return nil }), nil, "may not become"},
		{"fn fails", r.Update("lab", "v001", func(*Volume) error { return mine }), mine, "lab/v001"},
	} {
		if row.err == nil || row.want != nil && !errors.Is(row.err, row.want) || !strings.Contains(row.err.Error(), row.text) {
			t.Errorf("%s: got %v", row.desc, row.err)
		}
	}
	gen := r.Generation()
	if _, err := r.Get("lab", "none"); !errors.Is(err, block.StatusNotFound) {
		t.Errorf("get none: %v", err)
	}
	v, err := r.Get("lab", "v001")
	if err != nil || len(v.Writers) == 0 {
		t.Fatalf("get: %+v %v", v, err)
	}
	v.Writers[0] = "changed outside"
	if again, _ := r.Get("lab", "v001"); again.Writers[0] != "h1" || r.Generation() != gen {
		t.Error("a caller can change the table, or failures moved the generation")
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.Delete("lab", "v001"); !errors.Is(err, block.StatusClosed) {
		t.Errorf("after close: %v", err)
	}
}

func TestNeverEmptyAgain(t *testing.T) {
	dir := t.TempDir()
	if err := filled(t, dir, 3, options{noSync: true}).Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{boltName, copyName} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	_, err := Open(dir)
	if err == nil || !strings.Contains(err.Error(), boltName) || !strings.Contains(err.Error(), copyName) || !strings.Contains(err.Error(), "backup") {
		t.Fatalf("got %v", err)
	}
}

func TestOfAnotherTarget(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	for _, d := range []string{dir, other} {
		if err := filled(t, d, 3, options{noSync: true}).Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(filepath.Join(other, copyName), filepath.Join(dir, copyName)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "different targets") {
		t.Fatalf("got %v", err)
	}
}

// TestFullDisk lets each sync in turn fail: the change is refused, the table
// stays, the next change succeeds, and a reader of the disk sees old or new.
func TestFullDisk(t *testing.T) {
	for nth := range 8 {
		dir := t.TempDir()
		left := -1
		o := options{noSync: true, fault: func(string) error {
			if left--; left == -1 {
				return unix.ENOSPC
			}
			return nil
		}}
		r := filled(t, dir, 20, o)
		if nth >= 4 { // also when the next change makes everything anew
			r.db = nil
		}
		before, gen := r.List(), r.Generation()
		left = nth % 4
		err := r.Create(Volume{Namespace: "x", Name: "x"})
		fired := left < 0
		left = -1 << 40
		if fired != errors.Is(err, unix.ENOSPC) {
			t.Fatalf("nth %d: fired %v but %v", nth, fired, err)
		}
		disk, openErr := open(dir, options{noSync: true})
		if openErr != nil {
			t.Fatalf("nth %d: %v", nth, openErr)
		}
		if n := len(disk.List()) - len(before); n != 0 && n != 1 {
			t.Fatalf("nth %d: %d more on disk", nth, n)
		}
		if err != nil && !reflect.DeepEqual(r.List(), before) {
			t.Fatalf("nth %d: a failed change shows", nth)
		}
		if err := r.Create(Volume{Namespace: "x", Name: "y"}); err != nil {
			t.Fatalf("nth %d: next change: %v", nth, err)
		}
		if r.Generation() <= gen || r.Generation() <= disk.Generation() {
			t.Fatalf("nth %d: generation %d after %d and %d", nth, r.Generation(), gen, disk.Generation())
		}
		again, openErr := open(dir, options{noSync: true})
		if openErr != nil {
			t.Fatal(openErr)
		}
		same(t, fmt.Sprint("nth ", nth), again, r)
	}
}

// TestRepairOnFullDisk: a repair that cannot be written is no reason not to
// serve.
func TestRepairOnFullDisk(t *testing.T) {
	dir := t.TempDir()
	want := filled(t, dir, 5, options{noSync: true})
	if err := os.Truncate(filepath.Join(dir, boltName), 100); err != nil {
		t.Fatal(err)
	}
	full := func(string) error { return unix.ENOSPC }
	r, err := open(dir, options{noSync: true, fault: full})
	if err != nil {
		t.Fatal(err)
	}
	same(t, "unrepaired", r, want)
	if n := r.Notes(); len(n) != 2 || !strings.Contains(n[1], "repair failed") {
		t.Fatalf("notes %q", n)
	}
	if err := r.Create(Volume{Namespace: "x", Name: "x"}); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("got %v", err)
	}
	r.opts.fault = nil
	if err := r.Create(Volume{Namespace: "x", Name: "x"}); err != nil {
		t.Fatal(err)
	}
	again, err := open(dir, options{noSync: true})
	if err != nil || len(again.Notes()) != 0 {
		t.Fatalf("%v %q", err, again.Notes())
	}
	same(t, "repaired", again, r)
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	l, err := Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(dir); err == nil || !strings.Contains(err.Error(), fmt.Sprint("process ", os.Getpid())) {
		t.Fatalf("second lock: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l, err = Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(filepath.Join(dir, "none")); err == nil {
		t.Fatal("locked a directory that does not exist")
	}
}
