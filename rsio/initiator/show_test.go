// SPDX-License-Identifier: Apache-2.0

package initiator

import (
	"errors"
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
		{"all permissions there are", api.Show{File: true, Mode: 0o777}, true},
		{"an owner of nothing", api.Show{Owner: "root"}, true},
		{"both kinds of device", api.Show{NBD: true, Loop: true}, false},
		{"too many connections", api.Show{NBD: true, Connections: 17}, false},
		{"a negative number of them", api.Show{NBD: true, Connections: -1}, false},
		{"connections of nothing", api.Show{File: true, Connections: 2}, false},
		{"setuid", api.Show{File: true, Mode: 0o4755}, false},
	} {
		err := checkShow(row.show, "v")
		var e *api.Error
		if (err == nil) != row.ok || err != nil && (!errors.As(err, &e) || e.Kind != api.Usage || e.Object != "v" || e.Remedy == "") {
			t.Errorf("%s: %v", row.desc, err)
		}
	}
}

// TestMerge: asking for more adds and replaces, asking for nothing takes nothing
// away; what cannot be together is refused though each alone could be.
func TestMerge(t *testing.T) {
	dev := api.Show{NBD: true, Connections: 2, Owner: "a", Mode: 0o600}
	for _, row := range []struct {
		desc           string
		is, more, want api.Show
		ok             bool
	}{
		{"nothing", dev, api.Show{}, dev, true},
		{"of nothing", api.Show{}, dev, dev, true},
		{"the same", dev, dev, dev, true},
		{"a file", dev, api.Show{File: true}, api.Show{NBD: true, File: true, Connections: 2, Owner: "a", Mode: 0o600}, true},
		{"another owner", dev, api.Show{Owner: "b:c"}, api.Show{NBD: true, Connections: 2, Owner: "b:c", Mode: 0o600}, true},
		{"another mode", dev, api.Show{Mode: 0o640}, api.Show{NBD: true, Connections: 2, Owner: "a", Mode: 0o640}, true},
		{"more connections", dev, api.Show{NBD: true, Connections: 4}, api.Show{NBD: true, Connections: 4, Owner: "a", Mode: 0o600}, true},
		{"shared", dev, api.Show{Shared: true}, api.Show{NBD: true, Connections: 2, Owner: "a", Mode: 0o600, Shared: true}, true},
		{"a loop device on the file", api.Show{File: true}, api.Show{Loop: true}, api.Show{File: true, Loop: true}, true},
		{"a loop device beside the kernel's", dev, api.Show{Loop: true}, api.Show{NBD: true, Loop: true, Connections: 2, Owner: "a", Mode: 0o600}, false},
		{"connections of a file", api.Show{File: true}, api.Show{Connections: 2}, api.Show{File: true, Connections: 2}, false},
	} {
		got := merge(row.is, row.more)
		if err := checkShow(got, "v"); got != row.want || (err == nil) != row.ok {
			t.Errorf("%s: %+v, %v", row.desc, got, err)
		}
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
