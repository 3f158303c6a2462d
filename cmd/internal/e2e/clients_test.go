// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestForeignClients runs stock NBD clients against target and initiator.
func TestForeignClients(t *testing.T) {
	need(t, "nbdinfo", "nbdcopy", "qemu-img", "qemu-io", "fio", "nbd-client")
	l := NewLab(t, binDir)
	p := l.NewPair(PairOptions{Portals: []string{"127.0.0.1:0", "unix:" + l.Path("t.portal")}, Addresses: []string{"unix:" + l.Path("t.portal")},
		TargetArgs: []string{"--nbd", "127.0.0.1:0"}})
	image := l.Path("image")
	writeImage(t, image, 64<<20)
	for _, tc := range []struct{ desc, vol, uri string }{
		{"two hops: initiator", "v1", p.URI("v1")},
		{"one hop: target", "v2", "nbd+unix:///v2?socket=" + l.Path("tnbd.sock")},
	} {
		t.Run(tc.desc, func(t *testing.T) {
			l := &Lab{T: t, Dir: l.Dir, bin: l.bin}
			l.Ctl(p.Sock, "volume", "create", tc.vol, "--size", "64M")
			l.Ctl(p.Sock, "attach", tc.vol)
			if out := l.Run("nbdinfo", "--list", strings.Replace(tc.uri, "/"+tc.vol, "/", 1)); !strings.Contains(out, `export="`+tc.vol+`"`) {
				t.Errorf("nbdinfo --list does not show %s:\n%s", tc.vol, out)
			}
			l.Run("nbdcopy", image, tc.uri)
			l.Run("nbdcopy", tc.uri, l.Path("back"))
			same(t, image, l.Path("back"))
			l.Run("qemu-img", "compare", "-f", "raw", "-F", "raw", image, tc.uri)
			l.Run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", tc.uri, l.Path("q.qcow2"))
			l.Run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", l.Path("q.qcow2"), tc.uri)
			if out := l.Run("qemu-img", "map", "-f", "raw", "--output=json", tc.uri); !strings.Contains(out, `"zero": true`) {
				t.Errorf("qemu-img map shows no zeroes in a sparse image: %s", out)
			}
			if out := l.Run("nbdinfo", "--map", tc.uri); !strings.Contains(out, "hole") {
				t.Errorf("nbdinfo --map shows no hole: %s", out)
			}
			l.Run("qemu-img", "info", "-f", "raw", tc.uri)
			l.Run("qemu-img", "bench", "-f", "raw", "-c", "2000", "-d", "32", "-w", "--flush-interval", "100", tc.uri)
			l.Run("qemu-io", "-f", "raw", "-c", "write -P 0x5a 4k 1M", "-c", "flush", "-c", "read -P 0x5a 4k 1M",
				"-c", "write -z 64k 128k", "-c", "read -P 0 64k 128k", "-c", "discard 512k 256k", "-c", "read -P 0 512k 256k",
				"-c", "write -f -P 0x33 1M 64k", "-c", "aio_write -P 1 2M 1M", "-c", "aio_write -P 2 3M 1M", "-c", "aio_flush",
				"-c", "read -P 1 2M 1M", "-c", "read -P 2 3M 1M", tc.uri)
			l.Run("fio", "--name=verify", "--ioengine=nbd", "--uri="+tc.uri, "--rw=randwrite", "--bsrange=4k-256k", "--iodepth=32", "--size=64M",
				"--io_size=128M", "--verify=crc32c", "--verify_fatal=1", "--trim_percentage=0", "--fsync=64")
			l.Ctl(p.Sock, "detach", tc.vol)
		})
	}
	for _, portal := range nbdTCP(t, p) {
		host, port, _ := strings.Cut(portal, ":")
		if out := l.Run("nbd-client", "-l", host, port); !strings.Contains(out, "v1") {
			t.Errorf("nbd-client -l shows no v1: %s", out)
		}
	}
	for _, d := range []*Daemon{p.Initiator, p.Target} {
		if err := d.Stop(); err != nil {
			t.Errorf("%s ends with %v", d.name, err)
		}
	}
}

// nbdTCP finds the TCP port that the target's NBD got, in its log.
func nbdTCP(t *testing.T, p *Pair) []string {
	b, err := os.ReadFile(p.Target.log)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if _, after, ok := strings.Cut(line, "NBD on "); ok {
			for _, a := range strings.FieldsFunc(after, func(r rune) bool { return r == ',' || r == ' ' || r == '"' }) {
				if strings.HasPrefix(a, "127.") {
					return []string{a}
				}
			}
		}
	}
	t.Fatalf("the target does not say where its NBD is:\n%s", b)
	return nil
}

// writeImage makes a file with data and holes.
func writeImage(t *testing.T, path string, size int64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	buf := make([]byte, 256<<10)
	for off := int64(0); off < size; off += int64(len(buf)) {
		if rng.IntN(3) == 0 {
			continue
		}
		for i := range buf {
			buf[i] = byte(rng.Uint32())
		}
		if _, err := f.WriteAt(buf, off); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func same(t *testing.T, a, b string) {
	t.Helper()
	x, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := os.ReadFile(b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(x, y) {
		t.Fatalf("%s and %s differ", filepath.Base(a), filepath.Base(b))
	}
}

// TestImportExport carries an image through rsioctl, by way of both daemons.
func TestImportExport(t *testing.T) {
	l := NewLab(t, binDir)
	p := l.NewPair(PairOptions{Portals: []string{"127.0.0.1:0"}, Addresses: []string{"unix:" + l.Path("t.portal")},
		TargetArgs: []string{"--listen", "unix:" + l.Path("t.portal")}})
	image := l.Path("image")
	writeImage(t, image, 32<<20)
	for i, sock := range []string{p.Sock, p.TargetSock} {
		vol := []string{"a", "b"}[i]
		l.Ctl(sock, "volume", "import", vol, image)
		l.Ctl(sock, "volume", "export", vol, l.Path("out"+vol))
		same(t, image, l.Path("out"+vol))
	}
	l.Ctl(p.Sock, "volume", "resize", "a", "--size", "+4M")
	if _, err := l.CtlTry(p.Sock, "volume", "resize", "a", "--size", "8M"); err == nil {
		t.Error("a volume was shrunk without --yes")
	}
	l.Ctl(p.Sock, "volume", "delete", "a", "--yes")
	if out, err := l.CtlTry(p.Sock, "volume", "show", "a"); err == nil {
		t.Errorf("a deleted volume is shown: %s", out)
	}
}
