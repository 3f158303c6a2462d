// SPDX-License-Identifier: Apache-2.0

package present

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rsio/cmd/internal/files"
	"rsio/nbd"
	"rsio/rsio/admin/api"
	"rsio/rsio/audit"
	"rsio/rsio/blocktest"
	"rsio/rsio/initiator"
	"rsio/rsio/transport"
)

// patience is how long anything in a test may take that should take no time.
const patience = 20 * time.Second

// asFiles makes this program the files' process of a Presenter.
const asFiles = "RSIO_TEST_FILES"

func TestMain(m *testing.M) {
	if os.Getenv(asFiles) != "" {
		os.Exit(serveFiles(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// serveFiles does what rsio-initiator files does.
func serveFiles(args []string) int {
	f := flag.NewFlagSet("files", flag.ExitOnError)
	run, mount, socket, ready := f.String("run", "", ""), f.String("mount", "", ""), f.String("nbd", "", ""), f.Int("ready-fd", 0, "")
	_ = f.Parse(args) // it exits
	word := os.NewFile(uintptr(*ready), "ready")
	l, err := transport.Listen(transport.Addr{Network: "unix", Address: filepath.Join(*run, files.Socket)})
	if err == nil {
		err = os.WriteFile(filepath.Join(*run, files.PIDFile), []byte(strconv.Itoa(os.Getpid())), 0o600)
	}
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		err = files.New(files.Options{Mount: *mount, NBD: *socket}).Run(ctx, l, func() {
			_, _ = word.WriteString("ok") // the parent may have given up
			_ = word.Close()
		})
	}
	if err != nil {
		_, _ = word.WriteString(err.Error())
		_, _ = fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// rig is a folder where one Presenter after the other works.
type rig struct {
	t    *testing.T
	dir  string
	ns   string // that no other test or daemon uses
	vols volumes
	p    *Presenter
	srv  *nbd.Server
	end  chan error
}

func newRig(t *testing.T) *rig {
	t.Helper()
	if os.Geteuid() != 0 {
		blocktest.NotChecked(t, "it needs root, for mounts and loop devices")
	}
	for _, dev := range []string{"/dev/fuse", loopControl} {
		fd, err := unix.Open(dev, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			blocktest.NotChecked(t, dev+": "+err.Error())
		}
		_ = unix.Close(fd)
	}
	dir, err := os.MkdirTemp("", "present") // t.TempDir can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(asFiles, "1")
	r := &rig{t: t, dir: dir, ns: "test" + strconv.Itoa(os.Getpid()), vols: volumes{}}
	r.start()
	t.Cleanup(func() {
		r.stop()
		for range 500 { // who has withdrawn all does not wait for the mount to end
			if !r.mounted() {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		r.kill()
		for unix.Unmount(filepath.Join(dir, "files"), unix.MNT_DETACH) == nil {
			t.Error("it was still mounted")
		}
		_ = os.RemoveAll(dir)
	})
	return r
}

func (r *rig) mounted() bool {
	b, err := os.ReadFile("/proc/self/mountinfo")
	return err == nil && strings.Contains(string(b), " "+r.dir)
}

// start starts a Presenter, as an initiator does.
func (r *rig) start() {
	r.t.Helper()
	socket := filepath.Join(r.dir, "nbd")
	l, err := net.Listen("unix", socket)
	if err != nil {
		r.t.Fatal(err)
	}
	r.p = New(Options{Run: r.dir, Socket: socket, Events: audit.New(nil), Command: []string{os.Args[0]}})
	r.srv, r.end = nbd.NewServer(nbd.Options{Exports: r.p}), make(chan error, 1)
	r.p.Start(r.srv)
	r.p.Serve(r.vols)
	srv, end := r.srv, r.end
	go func() { end <- srv.Serve(l) }()
}

// stop ends it; devices and files stay. The process of the files is reaped
// when it ends.
func (r *rig) stop() {
	if r.p == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := r.srv.Close(ctx); err != nil {
		r.t.Error(err)
	}
	<-r.end
	r.p.stop() // not Shut, which waits for the files' process: it is a child of this one
	r.p = nil
}

// kill kills the files' process, if there is one.
func (r *rig) kill() {
	b, err := os.ReadFile(filepath.Join(r.dir, files.PIDFile))
	if err != nil {
		return
	}
	_ = os.Remove(filepath.Join(r.dir, files.PIDFile)) // it is killed once
	pid, err := strconv.Atoi(string(b))
	if line, err2 := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err != nil || err2 != nil || !strings.Contains(string(line), r.dir) {
		return // it has ended
	}
	_ = syscall.Kill(pid, syscall.SIGKILL) // it may end at this moment
}

// presented is the attachment v with what is asked for.
func (r *rig) presented(show api.Show) initiator.Presented {
	return initiator.Presented{Name: "v", Namespace: r.ns, Volume: "v", Nexus: "h1", Target: "t", Show: show}
}

func (r *rig) present(show api.Show) api.Shown {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	if err := r.p.Present(ctx, r.presented(show)); err != nil {
		r.t.Fatal(err)
	}
	return r.p.Shown("v")
}

func (r *rig) withdraw(force bool) error {
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	return r.p.Withdraw(ctx, "v", force)
}

// eventually waits for something.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not seen: %s", what)
		}
	}
}
