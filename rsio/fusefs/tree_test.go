// SPDX-License-Identifier: Apache-2.0

package fusefs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestTree: names, and that nobody but Add and Remove changes them.
func TestTree(t *testing.T) {
	r := newRig(t, Options{})
	d := memory(t, 1<<20, 512)
	var want []string
	for i := range 300 {
		name := fmt.Sprintf("volume-%03d~vm", i)
		r.addFile(File{Namespace: "many", Name: name, Device: d})
		want = append(want, name)
	}
	path := r.add("vol", d)
	if got := names(t, r.dir); !reflect.DeepEqual(got, []string{"default", "many"}) {
		t.Error(got)
	}
	if got := names(t, filepath.Join(r.dir, "many")); !reflect.DeepEqual(got, want) {
		t.Errorf("%d names: %v", len(got), got)
	}
	if n := len(r.fs.Files()); n != 301 {
		t.Errorf("%d files", n)
	}
	if err := r.fs.Add(File{Namespace: "default", Name: "vol", Device: d}); !errors.Is(err, ErrExists) {
		t.Errorf("a name twice: %v", err)
	}
	for _, f := range []File{{Namespace: "..", Name: "vol", Device: d}, {Namespace: "a", Name: "a/b", Device: d}, {Namespace: "a", Name: "v~", Device: d},
		{Namespace: "a", Name: "v"}, {Namespace: "a", Name: "v", Device: d, Mode: 0o4755}} {
		if r.fs.Add(f) == nil {
			t.Errorf("%+v was added", f)
		}
	}
	for what, do := range map[string]func() error{
		"create":     func() error { return os.WriteFile(filepath.Join(r.dir, "default", "new"), nil, 0o600) },
		"mkdir":      func() error { return os.Mkdir(filepath.Join(r.dir, "new"), 0o700) },
		"unlink":     func() error { return unix.Unlink(path) },
		"rmdir":      func() error { return unix.Rmdir(filepath.Dir(path)) },
		"rename":     func() error { return os.Rename(path, path+"2") },
		"link":       func() error { return os.Link(path, path+"2") },
		"symlink":    func() error { return os.Symlink(path, path+"2") },
		"chmod":      func() error { return os.Chmod(path, 0o644) },
		"chown":      func() error { return os.Chown(path, 1, 1) },
		"O_TRUNC":    func() error { _, err := unix.Open(path, unix.O_WRONLY|unix.O_TRUNC, 0); return err },
		"setxattr":   func() error { return unix.Setxattr(path, "user.x", nil, 0) },
		"tmpfile":    func() error { _, err := unix.Open(r.dir, unix.O_TMPFILE|unix.O_RDWR, 0); return err },
		"mknod":      func() error { return unix.Mknod(path+"2", unix.S_IFIFO, 0) },
		"chmod root": func() error { return os.Chmod(r.dir, 0o700) },
	} {
		if err := do(); !errors.Is(err, unix.EPERM) && !(what == "tmpfile" && errors.Is(err, unix.EOPNOTSUPP)) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := errors.Join(os.Chmod(path, 0o600), os.Chown(path, 0, 0)); err != nil {
		t.Errorf("what is set already: %v", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil || st.Blocks != 301<<20/4096 || st.Bsize != 4096 || st.Files != 301 {
		t.Errorf("%+v %v", st, err)
	}
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range list {
		out = append(out, e.Name())
	}
	slices.Sort(out)
	return out
}

// TestAttributes: what Attr says now.
func TestAttributes(t *testing.T) {
	r := newRig(t, Options{})
	var state atomic.Value
	state.Store("up")
	path := r.addFile(File{Namespace: "default", Name: "vol", Device: memory(t, 1<<20, 1), Attr: func() map[string]string {
		return map[string]string{"user.rsio.volume": "vol", "user.rsio.state": state.Load().(string), "user.rsio.long": strings.Repeat("x", 3000)}
	}})
	get := func(name string) string {
		p := make([]byte, 4096)
		n, err := unix.Getxattr(path, name, p)
		if err != nil {
			return err.Error()
		}
		return string(p[:n])
	}
	if a, b := get("user.rsio.state"), get("user.rsio.long"); a != "up" || len(b) != 3000 {
		t.Error(a, b)
	}
	state.Store("down")
	if a := get("user.rsio.state"); a != "down" {
		t.Error(a)
	}
	if n, err := unix.Getxattr(path, "user.rsio.volume", nil); n != 3 || err != nil {
		t.Error(n, err)
	}
	if _, err := unix.Getxattr(path, "user.rsio.long", make([]byte, 10)); err != unix.ERANGE {
		t.Error(err)
	}
	for _, name := range []string{"user.none", "security.capability", "system.posix_acl_access"} {
		if _, err := unix.Getxattr(path, name, make([]byte, 10)); err != unix.ENODATA && err != unix.EOPNOTSUPP {
			t.Error(name, err)
		}
	}
	p := make([]byte, 200)
	n, err := unix.Listxattr(path, p)
	if got := string(p[:max(n, 0)]); err != nil || got != "user.rsio.long\x00user.rsio.state\x00user.rsio.volume\x00" {
		t.Errorf("%q %v", got, err)
	}
	if n, err := unix.Listxattr(r.dir, p); n != 0 || err != nil {
		t.Error(n, err)
	}
}

// TestPermissions: owner and mode decide, and a read-only file is that.
func TestPermissions(t *testing.T) {
	r := newRig(t, Options{})
	need(t, "dd")
	d := memory(t, 1<<20, 1)
	roDevice, err := newReadOnly()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{
		"root":  r.addFile(File{Namespace: "default", Name: "root", Device: d}),
		"mine":  r.addFile(File{Namespace: "default", Name: "mine", Device: d, UID: 12345, GID: 12345}),
		"all":   r.addFile(File{Namespace: "default", Name: "all", Device: d, Mode: 0o644}),
		"ro":    r.addFile(File{Namespace: "default", Name: "ro", Device: d, UID: 12345, ReadOnly: true}),
		"rodev": r.addFile(File{Namespace: "default", Name: "rodev", Device: roDevice, UID: 12345}),
	}
	dd := func(args ...string) string {
		cmd := exec.Command("dd", append(args, "bs=512", "count=1", "conv=notrunc", "status=none")...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 12345, Gid: 12345}}
		cmd.Env = []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH")}
		out, _ := cmd.CombinedOutput()
		return string(out)
	}
	// The directories above the mount belong to the test.
	for p := filepath.Dir(r.dir); p != os.TempDir() && p != "/"; p = filepath.Dir(p) {
		if err := os.Chmod(p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string][2]string{
		"root": {"Permission denied", "Permission denied"}, "mine": {"", ""}, "all": {"", "Permission denied"},
		"ro": {"", "Read-only file system"}, "rodev": {"", "Read-only file system"},
	} {
		for i, args := range [][]string{{"if=" + files[name], "of=/dev/null"}, {"if=/dev/zero", "of=" + files[name]}} {
			if got := dd(args...); want[i] == "" && got != "" || !strings.Contains(got, want[i]) {
				t.Errorf("%v of %s: %q, want %q", []string{"read", "write"}[i], name, got, want[i])
			}
		}
	}
	if _, err := unix.Open(files["ro"], unix.O_RDWR, 0); err != unix.EROFS {
		t.Errorf("root opens a read-only file for writing: %v", err)
	}
}
