// SPDX-License-Identifier: Apache-2.0

package initiator

import (
	"testing"

	"rsio/rsio/admin/api"
)

func TestCheckShow(t *testing.T) {
	for _, row := range []struct {
		desc string
		show api.Show
		ok   bool
	}{
		{"nothing", api.Show{}, true},
		{"a device with connections", api.Show{NBD: true, Connections: 16, Mode: 0o660}, true},
		{"a file and a loop device", api.Show{File: true, Loop: true}, true},
		{"both kinds of device", api.Show{NBD: true, Loop: true}, false},
		{"too many connections", api.Show{NBD: true, Connections: 17}, false},
		{"a negative number of them", api.Show{NBD: true, Connections: -1}, false},
		{"connections of nothing", api.Show{File: true, Connections: 2}, false},
		{"setuid", api.Show{File: true, Mode: 0o4755}, false},
	} {
		if err := checkShow(row.show, "v"); (err == nil) != row.ok {
			t.Errorf("%s: %v", row.desc, err)
		}
	}
}

func TestMerge(t *testing.T) {
	is := merge(api.Show{NBD: true, Connections: 2, Owner: "a"}, api.Show{File: true, Mode: 0o640})
	if is != (api.Show{NBD: true, File: true, Connections: 2, Owner: "a", Mode: 0o640}) {
		t.Errorf("%+v", is)
	}
	if is = merge(is, api.Show{}); !is.File || is.Mode != 0o640 {
		t.Errorf("asking for nothing takes away: %+v", is)
	}
}

// TestRun: what a successor finds of incarnations and rights.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	open := func() *run {
		t.Helper()
		r, err := openRun(dir)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	r := open()
	must(r.setSeen("k", 7, 100))
	must(r.setSeen("k", 8, 200)) // the target tells of another right; nothing is fenced yet
	r = open()
	if r.incarnation("k") != 8 || r.right("k") != 100 {
		t.Errorf("incarnation %d, right %d", r.incarnation("k"), r.right("k"))
	}
	must(r.setRight("k", 200))
	must(r.setSeen("k", 0, 0))
	r = open()
	if r.incarnation("k") != 8 || r.right("k") != 200 {
		t.Errorf("incarnation %d, right %d", r.incarnation("k"), r.right("k"))
	}
	must(r.forget("k"))
	if r = open(); r.incarnation("k") != 0 || r.right("k") != 0 {
		t.Error("what was forgotten is there")
	}
}
