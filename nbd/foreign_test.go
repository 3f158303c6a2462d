// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rsio/rsio/blocktest"
)

// need ends the test if a program is missing.
func need(t *testing.T, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err == nil {
		return
	}
	blocktest.Missing(t, "program "+program+" (make deps installs it)")
}

// run runs a program and returns what it printed.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	need(t, name)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = t.TempDir()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func has(t *testing.T, out string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(out, w) {
			t.Errorf("%q is missing in:\n%s", w, out)
		}
	}
}

// export starts a server and returns the URI of its export.
func export(t *testing.T, d *memory) (*bench, string) {
	t.Helper()
	t.Cleanup(func() { closeDevice(t, d) })
	b := serve(t, one(d), Options{})
	return b, "nbd+unix:///vol?socket=" + b.addr.String()
}

func TestForeignNbdinfo(t *testing.T) {
	d := newMemory(16<<20, 2)
	_, uri := export(t, d)
	d.set(1<<20, []byte("data"))
	has(t, run(t, "nbdinfo", uri), "export-size: 16777216", "description: a volume", "can_fua: true", "can_flush: true",
		"can_trim: true", "can_zero: true", "can_fast_zero: true", "can_multi_conn: true", "can_cache: true", "can_df: true",
		"base:allocation", "block_size_minimum: 1", "block_size_maximum: 33554432", "structured packets")
	has(t, run(t, "nbdinfo", "--list", strings.Replace(uri, "/vol", "/", 1)), `export="vol"`)
	out := strings.Fields(run(t, "nbdinfo", "--map", uri))
	if got := strings.Join(out, " "); got != "0 1048576 3 hole,zero 1048576 4096 0 data 1052672 15724544 3 hole,zero" {
		t.Errorf("map: %s", got)
	}
}

func TestForeignNbdcopy(t *testing.T) {
	src, dst := newMemory(64<<20, 3), newMemory(64<<20, 0)
	src.set(5<<20, pattern(20<<20+100, 1))
	dst.set(40<<20, []byte{1}) // has to be zeroed
	_, from := export(t, src)
	b, to := export(t, dst)
	run(t, "nbdcopy", "--flush", from, to)
	if !bytes.Equal(src.content(), dst.content()) || dst.flushes.Load() == 0 {
		t.Error("the copy differs, or was not flushed")
	}
	if b.srv.Stats().Accepted < 2 {
		t.Error("nbdcopy did not use several connections")
	}
	run(t, "nbdcopy", "--synchronous", "--request-size=33554432", from, filepath.Join(t.TempDir(), "f"))
}

func TestForeignQemu(t *testing.T) {
	d := newMemory(64<<20, 2)
	_, uri := export(t, d)
	has(t, run(t, "qemu-img", "info", uri), "64 MiB")
	raw := filepath.Join(t.TempDir(), "raw")
	image := make([]byte, 64<<20)
	copy(image[3<<20:], pattern(9<<20+5, 2))
	if err := os.WriteFile(raw, image, 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", raw, uri)
	if !bytes.Equal(d.content(), image) || d.flushes.Load() == 0 {
		t.Error("convert made something else, or did not flush")
	}
	has(t, run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", raw, uri), "identical")
	has(t, run(t, "qemu-img", "map", "-f", "raw", "--output=json", uri), `"data": true`)
	run(t, "qemu-img", "bench", "-f", "raw", "-c", "2000", "-d", "32", "-w", "--flush-interval=100", uri)
	out := run(t, "qemu-io", "-f", "raw", uri, "-c", "write -f -P 7 4096 65536", "-c", "read -P 7 4096 65536",
		"-c", "discard 1M 1M", "-c", "write -z -u 2M 3M", "-c", "read -P 0 2M 3M", "-c", "write -P 9 32M 20M",
		"-c", "read -P 9 32M 20M", "-c", "flush", "-c", "map")
	if strings.Contains(out, "failed") || strings.Contains(out, "error") {
		t.Error(out)
	}
}

func TestForeignFio(t *testing.T) {
	for _, bs := range []string{"4k", "1m"} {
		for _, workers := range []int{0, 3} {
			d := newMemory(64<<20, workers)
			_, uri := export(t, d)
			run(t, "fio", "--name=j", "--ioengine=nbd", "--uri="+uri, "--rw=randwrite", "--bs="+bs, "--iodepth=16",
				"--size=32m", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--fsync=100")
			run(t, "fio", "--name=j", "--ioengine=nbd", "--uri="+uri, "--rw=randrw", "--bsrange=4k-"+bs, "--iodepth=16", "--size=32m")
		}
	}
}

func TestForeignNbdClientList(t *testing.T) {
	need(t, "nbd-client")
	d := newMemory(1<<20, 0)
	b, _ := export(t, d)
	has(t, run(t, "nbd-client", "-l", "-u", b.addr.String()), "vol")
}

const libnbd = `
import nbd, os, sys
h = nbd.NBD()
h.set_opt_mode(True)
h.set_full_info(True)
h.connect_uri(sys.argv[1])
names = []
h.opt_list(lambda name, desc: names.append((name, desc)))
assert names == [("vol", "a volume")], names
ctx = []
h.opt_list_meta_context(lambda name: ctx.append(name))
assert ctx == ["base:allocation"], ctx
h.add_meta_context("base:allocation")
h.opt_go()
assert h.get_structured_replies_negotiated()
data = os.urandom(5 << 20)
h.pwrite(data, 777, nbd.CMD_FLAG_FUA)
assert h.pread(len(data), 777) == data
chunks = []
def chunk(buf, off, status, err):
    chunks.append((off, len(buf)))
h.pread_structured(len(data), 777, chunk)
assert len(chunks) == 5, chunks
chunks = []
assert h.pread_structured(len(data), 777, chunk, nbd.CMD_FLAG_DF) == data
assert len(chunks) == 1, chunks
h.trim(1 << 20, 8 << 20)
h.zero(1 << 20, 0, nbd.CMD_FLAG_NO_HOLE)
h.zero(1 << 20, 1 << 20, nbd.CMD_FLAG_FAST_ZERO)
h.cache(4 << 20, 0)
h.flush()
ext = []
h.block_status(16 << 20, 0, lambda c, off, e, err: ext.append((c, off, list(e))))
assert ext[0][0] == "base:allocation" and sum(ext[0][2][::2]) == 16 << 20, ext
h.set_strict_mode(0)
for bad in (lambda: h.pread(512, 1 << 40), lambda: h.pwrite(b"x", 1 << 40), lambda: h.zero(1, 1 << 40)):
    try:
        bad()
        assert False
    except nbd.Error:
        pass
assert h.pread(512, 0) == bytes(512)
h.shutdown()
print("all well")
`

func TestForeignPythonLibnbd(t *testing.T) {
	python := "/usr/bin/python3" // the system's: that one has the bindings
	if err := exec.Command(python, "-c", "import nbd").Run(); err != nil {
		python = "python3-libnbd"
	}
	d := newMemory(16<<20, 2)
	_, uri := export(t, d)
	has(t, run(t, python, "-c", libnbd, uri), "all well")
}

// TestForeignTCP uses TCP and several listeners of one server.
func TestForeignTCP(t *testing.T) {
	d := newMemory(16<<20, 2)
	b, _ := export(t, d)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- b.srv.Serve(l) }()
	uri := "nbd://" + l.Addr().String() + "/vol"
	has(t, run(t, "nbdinfo", "--size", uri), "16777216")
	run(t, "fio", "--name=j", "--ioengine=nbd", "--uri="+uri, "--rw=randwrite", "--bsrange=4k-1m", "--iodepth=16",
		"--size=16m", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1")
	if err := b.srv.Close(context.Background()); err != nil {
		t.Error(err)
	}
	if err := <-done; err != ErrServerClosed {
		t.Errorf("Serve: %v", err)
	}
}
