// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// mustOpen opens a journal that has to hold want.
func mustOpen(t *testing.T, desc, path string, fsys files, want states, usable bool) *Journal {
	t.Helper()
	j, found, err := open(path, fsys)
	if err != nil {
		t.Fatalf("%s: open: %v", desc, err)
	}
	if !want.same(found.Records) {
		t.Fatalf("%s: found %v, want %v, %q", desc, states(found.Records), want, found.Notes)
	}
	if j.Usable() != usable || usable != (len(found.Notes) == 0 && !found.Missing) {
		t.Fatalf("%s: usable %v, want %v, %+v", desc, j.Usable(), usable, found)
	}
	return j
}

func must(t *testing.T, desc string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", desc, err)
	}
}

// TestRoundTrip: what was saved is found, by each way of saving, in a real
// directory; and after each save the file is closed and opened, or not.
func TestRoundTrip(t *testing.T) {
	for _, row := range scripts() {
		for _, reopen := range []bool{false, true} {
			desc := fmt.Sprintf("%s, reopened %v", row.desc, reopen)
			path := filepath.Join(t.TempDir(), "j")
			now := states{}
			j := mustOpen(t, desc, path, osFiles{}, now, false)
			must(t, desc, j.Rewrite(nil))
			for i, v := range row.saves {
				if reopen {
					must(t, desc, j.Close())
					j = mustOpen(t, desc, path, osFiles{}, now, true)
				}
				now = now.with(v)
				if v.rewrite {
					must(t, desc, j.Rewrite(now.list()))
				} else {
					must(t, desc, j.Append(v.Record))
				}
				info, err := os.Stat(path)
				must(t, desc, err)
				if !j.Usable() || j.Size() != info.Size() {
					t.Fatalf("%s: save %d: usable %v, size %d of %d", desc, i, j.Usable(), j.Size(), info.Size())
				}
			}
			must(t, desc, j.Close())
			must(t, desc, mustOpen(t, desc, path, osFiles{}, now, true).Close())
			if left, _ := filepath.Glob(path + ".*"); left != nil {
				t.Errorf("%s: left %v", desc, left)
			}
		}
	}
}

// TestRefused: what cannot be stored is refused with a reason, and changes
// nothing.
func TestRefused(t *testing.T) {
	long := strings.Repeat("v", MaxVolume+1)
	for _, row := range []struct {
		desc string
		r    Record
		want string // part of the error; empty if it is stored
	}{
		{"no volume", Record{Version: 9}, "names no volume"},
		{"the shortest UUID", Record{Volume: "v", Version: 9}, ""},
		{"the longest UUID", Record{Volume: long[1:], Version: 9}, ""},
		{"a longer UUID", Record{Volume: long, Version: 9}, "has 65 bytes: at most 64"},
		{"a UUID that is no text", Record{Volume: "\x00\xff", Version: 9}, ""},
		{"the longest state", Record{Volume: "v", Version: 9, State: blob(MaxState)}, ""},
		{"a longer state", Record{Volume: "v", Version: 9, State: make([]byte, MaxState+1)}, "at most 1048576"},
		{"no state", Record{Volume: "v", Version: 9}, ""},
		{"removed", Record{Volume: "v", Version: 9, Removed: true}, ""},
		{"removed with a state", Record{Volume: "v", Version: 9, Removed: true, State: []byte{1}}, "is removed and yet"},
		{"version 0 of another volume", Record{Volume: "v"}, ""},
		{"the highest version", Record{Volume: "a", Version: 1<<64 - 1}, ""},
		{"the same version again", Record{Volume: "a", Version: 5}, "version 5 comes after version 5"},
		{"an earlier version", Record{Volume: "a", Version: 4}, "version 4 comes after version 5"},
		{"removed with the same version", Record{Volume: "a", Version: 5, Removed: true}, "version 5 comes after"},
	} {
		for _, rewrite := range []bool{false, true} {
			desc := fmt.Sprintf("%s, rewrite %v", row.desc, rewrite)
			m := newMem()
			old := put("a", 5, 10)
			now := states{}.with(old)
			j := mustOpen(t, desc, memPath, m, states{}, false)
			must(t, desc, j.Rewrite(now.list()))
			size := j.Size()
			err := j.Append(row.r)
			if rewrite {
				err = j.Rewrite([]Record{old.Record, row.r})
			}
			if row.want == "" {
				must(t, desc, err)
				now = now.with(save{Record: row.r})
			} else if err == nil || !strings.Contains(err.Error(), row.want) || !strings.Contains(err.Error(), memPath) {
				t.Errorf("%s: %v", desc, err)
			} else if j.Size() != size {
				t.Errorf("%s: size %d, was %d", desc, j.Size(), size)
			}
			if !j.Usable() {
				t.Errorf("%s: not usable", desc)
			}
			mustOpen(t, desc, memPath, m, now, true)
		}
	}
}

// TestNotAJournal: what cannot be judged is an error that says why.
func TestNotAJournal(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	must(t, "FIFO", syscall.Mkfifo(path("fifo"), 0o600))
	must(t, "link", os.Symlink("/dev/null", path("link")))
	must(t, "dir", os.Mkdir(path("dir"), 0o700))
	must(t, "file", os.WriteFile(path("file"), nil, 0o600))
	must(t, "long", os.WriteFile(path("long"), nil, 0o600))
	must(t, "long", os.Truncate(path("long"), MaxFile+1))
	later, _ := appendHeader(nil, fileID{1})
	later[11]++
	copy(later[60:], be32(checksum(later[:60])))
	must(t, "later", os.WriteFile(path("later"), later, 0o600))
	for _, row := range []struct{ desc, path, want string }{
		{"a FIFO", path("fifo"), "not a regular file"},
		{"a symbolic link", path("link"), "not a regular file"},
		{"a directory", path("dir"), "not a regular file"},
		{"a file as directory", path("file/j"), "not a directory"},
		{"a file that is too long", path("long"), "too many"},
		{"a newer format", path("later"), "newer version"},
	} {
		j, _, err := Open(row.path)
		if j != nil || err == nil || !strings.Contains(err.Error(), row.want) || !strings.Contains(err.Error(), row.path) {
			t.Errorf("%s: %v", row.desc, err)
		}
	}
	m := memWith(memPath, nil)
	m.fault = func(kind, _ string) error { return map[string]error{"open": syscall.EACCES}[kind] }
	if _, _, err := open(memPath, m); !errors.Is(err, syscall.EACCES) {
		t.Errorf("no permission: %v", err)
	}
}

// TestUnusable: Append is refused with the reason, and Rewrite mends it.
func TestUnusable(t *testing.T) {
	good := journalOf(put("a", 1, 30), put("b", 1, 30), put("a", 2, 30))
	for _, row := range []struct {
		desc string
		m    *memFS
		want string
	}{
		{"no file", newMem(), "there is no file"},
		{"an empty file", memWith(memPath, nil), "it is damaged"},
		{"a torn file", memWith(memPath, good[:len(good)-1]), "its end is torn"},
		{"a damaged file", memWith(memPath, good[1:]), "it is damaged"},
		{"a file that can only be read", &memFS{names: memWith(memPath, good).names, only: syscall.EROFS}, syscall.EROFS.Error()},
	} {
		j, _, err := open(memPath, row.m)
		must(t, row.desc, err)
		err = j.Append(put("a", 3, 30).Record)
		if j.Usable() || err == nil || !strings.Contains(err.Error(), "not usable until it is rewritten: "+row.want) {
			t.Errorf("%s: usable %v, %v", row.desc, j.Usable(), err)
		}
		must(t, row.desc, j.Rewrite(nil))
		must(t, row.desc, j.Append(put("a", 3, 30).Record))
		row.m.only = nil
		mustOpen(t, row.desc, memPath, row.m, states{}.with(put("a", 3, 30)), true)
	}
}

// TestClosed: a closed journal refuses everything.
func TestClosed(t *testing.T) {
	for _, m := range []*memFS{newMem(), memWith(memPath, journalOf(put("a", 1, 30)))} {
		j, _, err := open(memPath, m)
		must(t, "open", err)
		must(t, "close", j.Close())
		must(t, "close again", j.Close())
		for _, err := range []error{j.Append(put("b", 1, 1).Record), j.Rewrite(nil)} {
			if j.Usable() || err == nil || !strings.Contains(err.Error(), "it is closed") {
				t.Errorf("usable %v, %v", j.Usable(), err)
			}
		}
	}
}

// TestFull: the file does not outgrow what Open would read.
func TestFull(t *testing.T) {
	m := newMem()
	j := mustOpen(t, "full", memPath, m, states{}, false)
	must(t, "rewrite", j.Rewrite(nil))
	j.size = MaxFile - minRecord // as if
	if err := j.Append(put("a", 1, 30).Record); err == nil || !strings.Contains(err.Error(), "full") || j.Usable() {
		t.Errorf("append: %v, usable %v", err, j.Usable())
	}
	must(t, "rewrite", j.Rewrite(nil))
	must(t, "append", j.Append(put("a", 1, 30).Record))
	all := make([]Record, MaxFile/MaxState)
	state := make([]byte, MaxState)
	for i := range all {
		all[i] = Record{Volume: fmt.Sprint(i), State: state}
	}
	if err := j.Rewrite(all); err == nil || !strings.Contains(err.Error(), "do not fit") || !j.Usable() {
		t.Errorf("rewrite: %v, usable %v", err, j.Usable())
	}
}

// TestOthers: nothing is written into a file that somebody else has changed.
func TestOthers(t *testing.T) {
	for _, row := range []struct {
		desc, want string
		do         func(path string) error
	}{
		{"it was cut", "somebody else has changed it", func(p string) error { return os.Truncate(p, 100) }},
		{"it was removed", "removed or replaced", os.Remove},
		{"it was replaced", "removed or replaced", func(p string) error {
			if err := os.WriteFile(p+"2", nil, 0o600); err != nil {
				return err
			}
			return os.Rename(p+"2", p)
		}},
	} {
		path := filepath.Join(t.TempDir(), "j")
		j := mustOpen(t, row.desc, path, osFiles{}, states{}, false)
		must(t, row.desc, j.Rewrite([]Record{put("a", 1, 100).Record}))
		must(t, row.desc, row.do(path))
		if err := j.Append(put("a", 2, 9).Record); err == nil || !strings.Contains(err.Error(), row.want) || j.Usable() {
			t.Errorf("%s: %v, usable %v", row.desc, err, j.Usable())
		}
		must(t, row.desc, j.Rewrite([]Record{put("a", 2, 9).Record}))
		must(t, row.desc, j.Append(put("a", 3, 9).Record))
		must(t, row.desc, j.Close())
		must(t, row.desc, mustOpen(t, row.desc, path, osFiles{}, states{}.with(put("a", 3, 9)), true).Close())
	}
}

// TestFormat: the bytes on disk, which must not change.
func TestFormat(t *testing.T) {
	id := fileID([]byte("0123456789abcdef"))
	b, sum := appendHeader(nil, id)
	b, sum = appendRecord(b, id, 1, sum, &Record{Volume: "vol", Version: 7, State: []byte("state")})
	b, _ = appendRecord(b, id, 2, sum, &Record{Volume: "vol", Version: 8, Removed: true})
	want, err := os.ReadFile("testdata/format.hex")
	must(t, "golden file", err)
	if got := hex.Dump(b); got != string(want) {
		t.Errorf("got\n%s", got)
	}
	s, err := judge(b)
	must(t, "judge", err)
	if f := s.result(); len(f.Notes) != 0 || !(states{}).with(save{Record: Record{Volume: "vol", Version: 8, Removed: true}}).same(f.Records) {
		t.Errorf("%+v", f)
	}
}
