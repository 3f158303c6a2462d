// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"rsio/rsio/admin"
	"rsio/rsio/admin/admintest"
	"rsio/rsio/admin/api"
)

// host runs rsioctl against a daemon.
type host struct {
	t      *testing.T
	socket string
}

// serve runs h on a socket until the test ends.
func serve(t *testing.T, h http.Handler) *host {
	t.Helper()
	dir, err := os.MkdirTemp("", "rsio") // t.TempDir can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "admin.sock")
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- admin.Serve(ctx, path, h) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("serve: %v", err)
		}
		_ = os.RemoveAll(dir)
	})
	for range 500 {
		if c, err := net.Dial("unix", path); err == nil {
			_ = c.Close()
			return &host{t: t, socket: path}
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("nobody listens")
	return nil
}

// run runs a command line, split at spaces.
func (h *host) run(line string) (code int, stdout, stderr string) {
	return h.runIn(h.t.Context(), nil, strings.Fields(line)...)
}

func (h *host) runIn(ctx context.Context, stdin io.Reader, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	env := Env{Stdin: stdin, Stdout: &out, Stderr: &errs, Version: "v0", Getenv: func(k string) string {
		if k == "RSIO_ADMIN" {
			return "unix:" + h.socket
		}
		return ""
	}}
	code = Run(ctx, env, args)
	return code, out.String(), errs.String()
}

// ok runs a command line that must succeed in silence.
func (h *host) ok(line string) string {
	h.t.Helper()
	code, out, errs := h.run(line)
	if code != 0 || errs != "" {
		h.t.Fatalf("%s: code %d, stderr %q", line, code, errs)
	}
	return out
}

func TestOutput(t *testing.T) {
	t1 := admintest.NewTarget("t1")
	t1.InFlight = []api.Inflight{
		{Volume: "v1", Nexus: "h1", Op: "write", Off: 4096, Len: 8192, Age: time.Millisecond, Where: "running"},
		{Volume: "v1", Nexus: "h1", Op: "flush", Age: time.Second, Where: "waiting"},
	}
	in := admintest.NewInitiator(t1)
	in.State.Warnings = []string{"portal 0.0.0.0:8861 is plain text"}
	in.State.Checks = []api.Check{{Name: "kernel nbd", State: "warning", Text: "the driver is not loaded", Remedy: "modprobe nbd"}}
	h := serve(t, admin.NewInitiatorHandler(in))
	for _, row := range slices.Concat(listRows(), volumeRows(), attachRows(), pathRows()) {
		code, out, errs := h.run(row.line)
		want := strings.TrimPrefix(row.want, "\n")
		if code != 0 || errs != "" || squeeze(out) != squeeze(want) {
			t.Errorf("%s: %s: code %d, stderr %q, stdout\n%s\nwant\n%s", row.desc, row.line, code, errs, out, want)
		}
	}
}

// outputRow is a command line and what it prints.
type outputRow struct{ desc, line, want string }

// listRows makes volumes and lists them.
func listRows() []outputRow {
	return []outputRow{
		{"create", "volume create v1 --size 20G --direct --layer fault:op=write --layer delay:ms=1", "volume v1 created, 20G\n"},
		{"create in a namespace", "volume create lab/v2 --size 1.5M --target t1", "volume lab/v2 created, 1.5M\n"},
		{"list", "volume list", `
NAME    SIZE  USED  STATE  TARGET  OPEN BY  RESERVED  REASON
v1      20G   0     ok     t1      -        -         -
lab/v2  1.5M  0     ok     t1      -        -         -
`},
		{"list as JSON", "volume list -o json --target t1", `[
  {
    "namespace": "default",
    "name": "v1",
    "uuid": "uuid-v1",
    "size": 21474836480,
    "used": 0,
    "kind": "file",
    "direct": true,
    "layers": [
      "fault:op=write",
      "delay:ms=1"
    ],
    "state": "ok",
    "target": "t1"
  },
  {
    "namespace": "lab",
    "name": "v2",
    "uuid": "uuid-v2",
    "size": 1572864,
    "used": 0,
    "kind": "file",
    "state": "ok",
    "target": "t1"
  }
]
`},
	}
}

// volumeRows shows and resizes what listRows made.
func volumeRows() []outputRow {
	return []outputRow{
		{"show as YAML", "volume show lab/v2 -o yaml", `
namespace: lab
name: v2
uuid: uuid-v2
size: 1572864
used: 0
kind: file
state: ok
target: t1
`},
		{"show", "volume show v1", `
NAME     v1
UUID     uuid-v1
SIZE     20G
USED     0
KIND     file
DIRECT   yes
LAYERS   fault:op=write delay:ms=1
STATE    ok
TARGET   t1
OPEN BY  -
WRITERS  -
RESERVED  -
`},
		{"grow by", "volume resize v1 --size +10G", "volume v1 has 30G now, 20G before\n"},
		{"grow to", "volume resize v1 --size 40G", "volume v1 has 40G now, 30G before\n"},
		{"shrink", "volume resize v1 --size 10G --yes", "volume v1 has 10G now, 40G before\n"},
	}
}

// attachRows attaches what listRows made.
func attachRows() []outputRow {
	return []outputRow{
		{"attach", "attach v1", "nbd+unix:///v1?socket=/run/rsio/initiator/nbd.sock\n"},
		{"attach again", "attach default/v1", "nbd+unix:///v1?socket=/run/rsio/initiator/nbd.sock\n"},
		{"attach for a VM", "attach lab/v2 --as vm1 --read-only --once", "nbd+unix:///lab/v2~vm1?socket=/run/rsio/initiator/nbd.sock\n"},
		{"attachments", "attachment list", `
ATTACHMENT  SIZE  STATE              PATHS UP  TARGET  NEXUS   CLIENTS  SHOWN AS                                                    OPEN BY  REASON
v1          10G   ok                 1 of 1    t1      h1      0        nbd+unix:///v1?socket=/run/rsio/initiator/nbd.sock          -        -
lab/v2~vm1  1.5M  ok,read-only,once  1 of 1    t1      h1/vm1  0        nbd+unix:///lab/v2~vm1?socket=/run/rsio/initiator/nbd.sock  -        -
`},
		{"status", "status", `
all is well
warning: portal 0.0.0.0:8861 is plain text

INITIATOR  h1
VERSION    test
STARTED    2026-01-02T03:04:05Z
NBD        unix:/run/rsio/initiator/nbd.sock
VOLUMES    0
MEMORY     0 of 0, at most 0

TARGET  STATE   PATHS UP  ADDRESSES       REASON
t1      online  1 of 1    127.0.0.1:8861  -

ATTACHMENT  SIZE  STATE              PATHS UP  TARGET  NEXUS   CLIENTS  SHOWN AS                                                    OPEN BY  REASON
v1          10G   ok                 1 of 1    t1      h1      0        nbd+unix:///v1?socket=/run/rsio/initiator/nbd.sock          -        -
lab/v2~vm1  1.5M  ok,read-only,once  1 of 1    t1      h1/vm1  0        nbd+unix:///lab/v2~vm1?socket=/run/rsio/initiator/nbd.sock  -        -
`},
	}
}

// pathRows detaches again, and the rest.
func pathRows() []outputRow {
	return []outputRow{
		{"detach", "detach lab/v2~vm1", "lab/v2~vm1 detached\n"},
		{"detach by URI", "detach nbd+unix:///v1?socket=/run/rsio/initiator/nbd.sock", "nbd+unix:///v1?socket=/run/rsio/initiator/nbd.sock detached\n"},
		{"as a device", "attach v1 --nbd --connections 2", "/dev/nbd3\n"},
		{"also as a file", "attach v1 --fuse --owner box1 --mode 0660", "/run/rsio/initiator/files/default/v1\n"},
		{"as a loop device", "attach lab/v2 --loop", "/dev/loop5\n"},
		{"all of it", "attachment list", `
ATTACHMENT  SIZE  STATE  PATHS UP  TARGET  NEXUS  CLIENTS  SHOWN AS                                            OPEN BY  REASON
v1          10G   ok     1 of 1    t1      h1     0        /dev/nbd3 /run/rsio/initiator/files/default/v1      -        -
lab/v2      1.5M  ok     1 of 1    t1      h1     0        /dev/loop5 /run/rsio/initiator/files/lab/v2         -        -
`},
		{"doctor", "doctor", `
CHECK              STATE    WHAT                                               REMEDY
kernel nbd         warning  the driver is not loaded                           modprobe nbd
daemon             warning  portal 0.0.0.0:8861 is plain text                  -
target t1          ok       1 of 1 paths are up                                -
attachment v1      ok       /dev/nbd3 /run/rsio/initiator/files/default/v1     -
attachment lab/v2  ok       /dev/loop5 /run/rsio/initiator/files/lab/v2        -
`},
		{"detach by device", "detach /dev/nbd3", "/dev/nbd3 detached\n"},
		{"detach by file", "detach /run/rsio/initiator/files/lab/v2", "/run/rsio/initiator/files/lab/v2 detached\n"},
		{"detach none", "detach none", "none is not attached\n"},
		{"no attachments", "attachment list -o json", "[]\n"},
		{"path off", "path disable t1/0", "path t1/0 disabled\n"},
		{"paths", "path list", `
PATH  STATE     NEXUS  LOCAL            REMOTE          IN FLIGHT  SERVICE  REQUESTS  BYTES  RESENT  FAILURES  REASON
t1/0  disabled  h1     127.0.0.1:50000  127.0.0.1:8861  0          250us    0         0      0       0         -
`},
		{"path on", "path enable t1/0 -o json", "{}\n"},
		{"in flight at the target", "inflight --target t1", `
AGE  VOLUME  NEXUS  OP     OFFSET  LENGTH  WHERE
1s   v1      h1     flush  0       0       waiting
1ms  v1      h1     write  4096    8K      running
`},
		{"target add", "target add t9 10.0.0.1:1%10.0.0.2 10.0.1.1:1", "target t9 added, it is offline connecting\n"},
		{"target show", "target show t9", `
TARGET  STATE    PATHS UP  ADDRESSES                        REASON
t9      offline  0 of 2    10.0.0.1:1%10.0.0.2 10.0.1.1:1  connecting
`},
		{"target remove", "target remove t9", "target t9 removed\n"},
		{"target list", "target list -o yaml", "- name: t1\n  addresses:\n  - 127.0.0.1:8861\n  state: online\n  paths: 1\n  paths_up: 1\n"},
		{"delete", "volume delete v1 --yes", "volume v1 deleted\n"},
		{"no events", "events -o json", "[]\n"},
		{"version", "version", "rsioctl v0\n"},
	}
}

// squeeze makes runs of spaces inside a line one, so that a table in a test
// need not be aligned to the blank.
func squeeze(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		indent := len(l) - len(strings.TrimLeft(l, " "))
		lines[i] = l[:indent] + strings.Join(strings.Fields(l), " ")
	}
	return strings.Join(lines, "\n")
}

func TestErrors(t *testing.T) {
	t1, t2 := admintest.NewTarget("t1"), admintest.NewTarget("t2")
	in := admintest.NewInitiator(t1, t2)
	h := serve(t, admin.NewInitiatorHandler(in))
	h.ok("volume create v1 --size 1M --target t1")
	h.ok("volume create busy --size 1M --target t1")
	t1.SetOpen("default", "busy", "h7")
	for _, row := range []struct {
		desc, line string
		code       int
		text       string
	}{
		{"no verb", "volume", 2, "volume: the verb is missing (use one of create, list"},
		{"unknown verb", "volume melt v1", 2, `volume: there is no verb "melt"`},
		{"unknown noun", "volumes", 2, `unknown command "volumes"`},
		{"unknown flag", "volume list --colour", 2, "volume list: unknown flag: --colour"},
		{"bad output", "volume list -o xml", 2, `there is no output "xml"`},
		{"bad timeout", "volume list --timeout 0s", 2, "timeout is not positive"},
		{"bad socket", "volume list --admin tcp:1", 2, "give unix:PATH"},
		{"missing name", "volume create", 2, "volume create: NAME is missing"},
		{"one too many", "volume show a b", 2, `volume show: argument "b" is one too many`},
		{"missing address", "target add t3", 2, "target add: ADDR is missing"},
		{"missing size", "volume create v3 --target t1", 2, "volume create v3: the size is missing (give one like --size 20G)"},
		{"bad size", "volume create v3 --size 20X", 2, `size "20X" is not a size`},
		{"zero size", "volume create v3 --size 0", 2, "the size is zero"},
		{"bad name", "volume create -- -v3 --size 1", 2, "one too many"},
		{"bad volume name", "volume show a/b/c", 2, "not allowed"},
		{"several targets", "volume create v3 --size 1M", 2, "volume create v3: there are several targets (name one of t1, t2 with --target)"},
		{"taken", "volume create v1 --size 1M --target t1", 4, "volume create v1: there is one of that name already (choose another name"},
		{"not found", "volume show none", 3, "volume show none: no target has a volume of that name (look at rsioctl volume list)"},
		{"shrink", "volume resize v1 --size 4K", 2, "volume resize v1: from 1M to 4K destroys what is behind the new end (repeat it with --yes"},
		{"size overflow", "volume resize v1 --size +18446744073709551615", 2, "too large"},
		{"delete without yes", "volume delete v1", 2, "volume delete v1: this destroys the volume and all its data (repeat it with --yes"},
		{"delete an open one", "volume delete busy --yes", 4, "volume delete busy: in use (look at rsioctl volume show"},
		{"unknown target", "target remove t7", 3, "target remove t7: not found"},
		{"attach none", "attach none", 3, "attach none: not found"},
		{"detach a file that is not ours", "detach /dev/null", 3, "detach /dev/null: not found"},
		{"mode", "attach v1 --fuse --mode 9", 2, `attach: --mode "9" is no permission (give an octal number like 0660)`},
		{"two lines", "attach v1 --uri --nbd", 2, "one line is printed"},
		{"path none", "path disable t7/0", 3, "path disable t7/0: not found"},
		{"import without a file", "volume import v1", 2, "FILE is missing"},
		{"import a missing file", "volume import v1 /nonexistent/x", 3, "read /nonexistent/x: no such file"},
		{"export none", "volume export none /tmp/rsio-test-none", 3, "volume export none: not found"},
		{"export to nowhere", "volume export v1 /nonexistent/x", 3, "write /nonexistent/x: no such file"},
		{"unreachable", "volume list --admin unix:/nonexistent/s", 7, "volume list: no daemon answers at /nonexistent/s (start it"},
		{"short interval", "top --interval 0", 2, "interval"},
	} {
		code, out, errs := h.run(row.line)
		if code != row.code || !strings.Contains(errs, row.text) || out != "" {
			t.Errorf("%s: code %d, stdout %q, stderr %q", row.desc, code, out, errs)
		}
		if !strings.HasPrefix(errs, "rsioctl: ") || strings.Count(errs, "\n") != 1 {
			t.Errorf("%s: not one line: %q", row.desc, errs)
		}
	}
	in.SetTarget("t2", "stuck", "")
	if code, _, errs := h.run("volume show v9 --target t2 --timeout 100ms"); code != 8 || !strings.Contains(errs, "no answer in time") {
		t.Errorf("timeout: %d %q", code, errs)
	}
	in.SetTarget("t2", "offline", "cable pulled")
	code, out, errs := h.run("volume list")
	if code != 0 || !strings.Contains(out, "v1") || !strings.Contains(errs, "not complete: target t2: the target is offline: cable pulled") {
		t.Errorf("one target dead: %d %q %q", code, out, errs)
	}
}

func TestEvents(t *testing.T) {
	t1 := admintest.NewTarget("t1")
	h := serve(t, admin.NewTargetHandler(t1))
	t1.Log.Add("warning", "path\x1b[2J t1/0", "silent\nfor 1s")
	out := h.ok("events")
	if strings.Count(out, "\n") != 1 || !strings.Contains(out, "warning path [2J t1/0: silent for 1s") {
		t.Errorf("events %q", out)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	time.AfterFunc(50*time.Millisecond, func() { t1.Log.Add("info", "o", "second") })
	time.AfterFunc(300*time.Millisecond, cancel)
	code, out, errs := h.runIn(ctx, nil, "events", "--follow", "-o", "json")
	if code != 0 || errs != "" || strings.Count(out, "\n") != 2 || !strings.Contains(out, `"id":2`) {
		t.Errorf("follow: %d %q %q", code, out, errs)
	}
}

func TestTop(t *testing.T) {
	t1 := admintest.NewTarget("t1")
	h := serve(t, admin.NewTargetHandler(t1))
	t1.SetCounters(api.Counters{Name: "v1", Reads: 1000}, api.Counters{Name: "v2", Writes: 50})
	timer := time.AfterFunc(100*time.Millisecond, func() {
		t1.SetCounters(api.Counters{Name: "v1", Reads: 1000}, api.Counters{Name: "v2", Writes: 100, WriteBytes: 4096 * 50, Busy: 50 * time.Millisecond, Inflight: 3})
	})
	defer timer.Stop()
	out := h.ok("top --once --interval 300ms")
	lines := strings.Split(squeeze(out), "\n")
	if len(lines) != 4 || !strings.HasPrefix(lines[1], "v2 0 1") || !strings.Contains(lines[1], "1000us 3 0") || !strings.HasPrefix(lines[2], "v1 0 0 0") {
		t.Errorf("top\n%s", out)
	}
	old := sample{at: time.Unix(0, 0), list: []api.Counters{{Name: "v", Reads: 100}}}
	now := sample{at: time.Unix(2, 0), list: []api.Counters{{Name: "v", Reads: 10}}}
	if l := rates(old, now); l[0].Reads != 5 {
		t.Errorf("after a restart: %+v", l)
	}
}

func TestCompletion(t *testing.T) {
	in := admintest.NewInitiator(admintest.NewTarget("t1"))
	h := serve(t, admin.NewInitiatorHandler(in))
	h.ok("volume create v1 --size 1M")
	h.ok("attach v1 --as vm1")
	for _, row := range []struct{ desc, line, want string }{
		{"volumes", "__complete volume show", "v1"},
		{"volumes to attach", "__complete attach", "v1"},
		{"volumes to reserve", "__complete pr preempt", "v1"},
		{"volumes to look at", "__complete reservation show", "v1"},
		{"types", "__complete pr reserve --type", "wear"},
		{"volumes to lock", "__complete lock", "v1"},
		{"targets", "__complete target show", "t1"},
		{"targets of a flag", "__complete volume list --target", "t1"},
		{"attachments", "__complete detach", "v1~vm1"},
		{"paths", "__complete path enable", "t1/0"},
		{"output", "__complete status -o", "yaml"},
	} {
		code, out, _ := h.runIn(t.Context(), nil, append(strings.Fields(row.line), "")...)
		if code != 0 || !strings.Contains(out, row.want+"\n") {
			t.Errorf("%s: %d %q", row.desc, code, out)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if out := h.ok("completion " + shell); len(out) < 500 {
			t.Errorf("%s: %d bytes", shell, len(out))
		}
	}
}

func TestManPages(t *testing.T) {
	h := &host{t: t, socket: "/nonexistent"}
	dir := filepath.Join(t.TempDir(), "man")
	h.ok("man " + dir)
	b, err := os.ReadFile(filepath.Join(dir, "rsioctl-volume-create.1"))
	if err != nil || !bytes.Contains(b, []byte("size")) {
		t.Errorf("%v %.100q", err, b)
	}
}
