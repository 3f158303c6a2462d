// SPDX-License-Identifier: Apache-2.0

package present

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"rsio/nbd"
	"rsio/rsio/admin/api"
	"rsio/rsio/block"
	"rsio/rsio/store/mem"
)

// TestOwnerNumbers: numbers that the system does not have are refused: cut to
// 32 bits they would be somebody else's, 0 among them.
func TestOwnerNumbers(t *testing.T) {
	for _, row := range []struct {
		in       string
		uid, gid int
		ok       bool
	}{
		{"0", 0, 0, true},
		{"0:5", 0, 5, true},
		{"root:", 0, 0, true},
		{"4294967294:4294967294", 1<<32 - 2, 1<<32 - 2, true},
		{"4294967295", 0, 0, false},
		{"4294967296", 0, 0, false},
		{"5:4294967296", 0, 0, false},
		{"99999999999999999999", 0, 0, false},
		{"5:-1", 0, 0, false},
		{":5", 0, 0, false},
		{"5:6:7", 0, 0, false},
		{" 5", 0, 0, false},
	} {
		uid, gid, err := owner(row.in)
		if (err == nil) != row.ok || row.ok && (uid != row.uid || gid != row.gid) {
			t.Errorf("%q: %d:%d, %v", row.in, uid, gid, err)
		}
		var e *api.Error
		if err != nil && (!errors.As(err, &e) || e.Kind != api.Usage || e.Remedy == "") {
			t.Errorf("%q: %v is no error of usage", row.in, err)
		}
	}
}

// TestLinkNeighbours: the name of one volume is made, moved and removed without
// harm to those beside it, whatever they are called.
func TestLinkNeighbours(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ns")
	names := []string{"v", "v.new", "v.new.new", "v~a", "v~a.new", "v-tmp"}
	leads := func(when string) {
		t.Helper()
		for _, n := range names {
			if to, err := os.Readlink(filepath.Join(dir, n)); err != nil || to != "/dev/"+n {
				t.Errorf("%s: %s leads to %q, %v", when, n, to, err)
			}
		}
	}
	for _, n := range names {
		if err := link(filepath.Join(dir, n), "/dev/"+n); err != nil {
			t.Fatal(err)
		}
	}
	leads("made")
	for _, n := range names {
		for _, dev := range []string{"/dev/elsewhere", "/dev/" + n} {
			if err := link(filepath.Join(dir, n), dev); err != nil {
				t.Fatal(err)
			}
		}
		leads("moved " + n)
	}
	if err := os.Symlink("/dev/left", filepath.Join(dir, ".w")); err != nil { // by one that was killed
		t.Fatal(err)
	}
	names = append(names, "w")
	if err := link(filepath.Join(dir, "w"), "/dev/w"); err != nil {
		t.Fatal(err)
	}
	for len(names) > 0 {
		leads("removed others")
		unlink(filepath.Join(dir, names[0]), "/dev/"+names[0])
		names = names[1:]
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("the empty folder stays")
	}
	if err := os.MkdirAll(filepath.Join(dir, "v"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := link(filepath.Join(dir, "v"), "/dev/v"); err == nil {
		t.Error("a folder was replaced")
	}
	unlink(filepath.Join(dir, "v"), "/dev/v")
}

func TestOwn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dev")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		desc     string
		show     api.Show
		uid, gid int
		mode     os.FileMode
		ok       bool
	}{
		{"nothing said", api.Show{}, os.Getuid(), os.Getgid(), 0o600, true},
		{"a mode", api.Show{Mode: 0o664}, os.Getuid(), os.Getgid(), 0o664, true},
		{"an owner", api.Show{Owner: "1000:50", Mode: 0o640}, 1000, 50, 0o640, os.Geteuid() == 0},
		{"nobody", api.Show{Owner: "nobody-of-that-name"}, 0, 0, 0, false},
	} {
		err := own(path, row.show)
		if (err == nil) != row.ok {
			t.Errorf("%s: %v", row.desc, err)
		}
		if !row.ok {
			continue
		}
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		sys := st.Sys().(*syscall.Stat_t)
		if int(sys.Uid) != row.uid || int(sys.Gid) != row.gid || st.Mode() != row.mode {
			t.Errorf("%s: %d:%d %v", row.desc, sys.Uid, sys.Gid, st.Mode())
		}
	}
	if err := own(path+"-", api.Show{}); err == nil {
		t.Error("a device that is not there")
	}
}

func TestFileName(t *testing.T) {
	for _, row := range [][]string{{"ns", "v", "", "ns/v"}, {"ns", "v", "box", "ns/v~box"}} {
		if got := fileName(row[0], row[1], row[2]); got != row[3] {
			t.Errorf("%v: %s", row, got)
		}
	}
}

// volumes are attachments without an initiator, by name.
type volumes map[string]block.Device

func (v volumes) Names() (names []string) {
	for n := range v {
		names = append(names, n)
	}
	return names
}

func (v volumes) Find(name string) (dev block.Device, nexus string, readOnly, ok bool) {
	dev, ok = v[name]
	return dev, "h1", false, ok
}

func (v volumes) Fenced(string, uint64) {}

func memory(t *testing.T, size uint64) block.Device {
	t.Helper()
	d, err := mem.New(mem.Options{Size: size})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestExports: who finds what under which name.
func TestExports(t *testing.T) {
	p := presenter(t)
	if _, err := p.Open("v"); !errors.Is(err, block.StatusNotFound) || p.List() != nil {
		t.Errorf("before the initiator is there: %v", err)
	}
	v := volumes{"v": memory(t, 1<<20)}
	p.Serve(v)
	p.change.Lock() // the mender has no device to look for
	defer p.change.Unlock()
	open := func(name string) (string, error) {
		e, err := p.Open(name)
		if err != nil {
			return "", err
		}
		return e.Name, nil
	}
	type row struct {
		desc, name, want string
		err              error
	}
	check := func(rows []row) {
		t.Helper()
		for _, r := range rows {
			if got, err := open(r.name); got != r.want || !errors.Is(err, r.err) {
				t.Errorf("%s, %q: %q, %v, want %q, %v", r.desc, r.name, got, err, r.want, r.err)
			}
		}
	}
	check([]row{
		{"a client", "v", "v", nil},
		{"without a name, there is one", "", "v", nil},
		{"another one", "w", "", block.StatusNotFound},
		{"a predecessor's file", "@file/v", "", block.StatusBusy},
		{"a predecessor's device", "@nbd/v", "", block.StatusBusy},
		{"of what is not there", "@nbd/w", "", block.StatusNotFound},
		{"only the prefix", "@nbd/", "", block.StatusNotFound},
	})
	p.mu.Lock()
	p.shown["v"] = &shown{index: -1}
	p.mu.Unlock()
	v["w"] = memory(t, 1<<20)
	check([]row{
		{"our file", "@file/v", "@file/v", nil},
		{"our device", "@nbd/v", "@nbd/v", nil},
		{"not presented", "@file/w", "", block.StatusBusy},
		{"without a name, there are two", "", "", block.StatusNotFound},
	})
	if l := p.List(); len(l) != 2 {
		t.Errorf("listed: %+v", l)
	}
	if e, err := p.Open("@file/v"); err != nil || e.Device.Info().Right != 0 || e.Nexus != "h1" {
		t.Errorf("%+v, %v", e, err)
	}
	p.shown["v"].right.Store(9)
	if e, err := p.Open("@file/v"); err != nil || e.Device.Info().Right != 9 {
		t.Errorf("the right of a file is not that of its requests: %v", err)
	}
	if uri := p.URI("ns/v~a"); !strings.HasPrefix(uri, "nbd+unix:///ns/v~a?socket=") {
		t.Errorf("%s", uri)
	}
	delete(p.shown, "v")
}

var _ nbd.Exports = (*Presenter)(nil)
