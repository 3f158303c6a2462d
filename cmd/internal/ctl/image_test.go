// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rsio/rsio/admin"
	"rsio/rsio/admin/admintest"
	"rsio/rsio/block"
)

func TestImages(t *testing.T) {
	t1 := admintest.NewTarget("t1")
	h := serve(t, admin.NewInitiatorHandler(admintest.NewInitiator(t1)))
	dir := t.TempDir()
	img := bytes.Repeat([]byte("0123456789abcdef"), 20<<10)
	copy(img[100<<10:], make([]byte, 150<<10))
	img = append(img, "the end"...)
	file, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
	if err := os.WriteFile(file, img, 0o600); err != nil {
		t.Fatal(err)
	}
	code, stdout, errs := h.run("volume import v1 " + file)
	if code != 0 || !strings.Contains(stdout, "volume v1: 320.0K imported") || !strings.Contains(errs, "import v1: 100% of 320.0K, ") {
		t.Fatalf("import: %d %q %q", code, stdout, errs)
	}
	code, stdout, errs = h.run("volume export v1 " + out)
	if code != 0 || !strings.Contains(stdout, "exported") || !strings.Contains(errs, "export v1: ") {
		t.Fatalf("export: %d %q %q", code, stdout, errs)
	}
	want := append(bytes.Clone(img), make([]byte, (4096-len(img)%4096)%4096)...)
	if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("exported %d bytes, %v", len(got), err)
	}
	for _, row := range []struct {
		desc, line string
		stdin      string
		code       int
		text       string
	}{
		{"over data", "volume import v1 " + file, "", 2, "volume import v1: the volume has data, 176K, which this destroys (repeat it with --yes"},
		{"over data, sure", "volume import v1 --yes " + file, "", 0, ""},
		{"stdin without size", "volume import v2 -", "x", 2, "give --size"},
		{"stdin", "volume import v2 - --size 1M", "hello", 0, ""},
		{"stdin over data", "volume import v2 - --yes", "bye", 0, ""},
		{"too small", "volume import v3 --size 4K " + file, "", 2, "larger than --size (give at least its 324K)"},
		{"empty", "volume import v3 /dev/null --size 4K", "", 0, ""},
		{"stdin too large", "volume import v4 - --size 4K", strings.Repeat("x", 5000), 2, "the new volume was removed"},
		{"a directory", "volume import v5 " + dir, "", 1, "directory"},
	} {
		code, _, errs := h.runIn(t.Context(), strings.NewReader(row.stdin), strings.Fields(row.line)...)
		if code != row.code || !strings.Contains(errs, row.text) {
			t.Errorf("%s: %d %q", row.desc, code, errs)
		}
	}
	if got := t1.Device("default", "v2").Content(); string(got[:5]) != "bye\x00\x00" {
		t.Errorf("v2 has %q", got[:5])
	}
	if code, stdout, _ := h.run("volume export v1 -"); code != 0 || stdout != string(want) {
		t.Errorf("to stdout: %d, %d bytes", code, len(stdout))
	}
	if t1.Device("default", "v4") != nil {
		t.Error("the volume of a failed import is still there")
	}
	t1.Device("default", "v1").Fault = func(r *block.Request) block.Status {
		if r.Op == block.OpRead && r.Off >= 64<<10 || r.Op == block.OpFlush {
			return block.StatusIO
		}
		return block.StatusOK
	}
	code, _, errs = h.run("volume export v1 " + filepath.Join(dir, "cut"))
	if _, err := os.Stat(filepath.Join(dir, "cut")); code != 1 || !strings.Contains(errs, "input/output error") || !os.IsNotExist(err) {
		t.Errorf("cut export: %d %q %v", code, errs, err)
	}
	code, _, errs = h.run("volume import v1 --yes " + file)
	if code != 1 || !strings.Contains(errs, "flush: input/output error (import again: the volume holds an incomplete image)") {
		t.Errorf("failed flush: %d %q", code, errs)
	}
}

func TestProgress(t *testing.T) {
	var b bytes.Buffer
	p := (&app{Env: Env{Stderr: &b}}).progress("import v1")
	for i := range uint64(1000) {
		p.step(i+1, 1000)
	}
	p.end(1000, true)
	p.step(1000, 1000)
	if got := strings.Count(b.String(), "\n"); got != 10 || !strings.Contains(b.String(), "import v1: 50% of 1000, ") {
		t.Errorf("%d lines\n%s", got, b.String())
	}
	b.Reset()
	p = &progress{w: &b, tty: true, label: "x", start: time.Now().Add(-time.Second)}
	p.step(512, 1024)
	p.end(0, false)
	if got := b.String(); !strings.Contains(got, "[###############...............] 50% of 1K") || !strings.Contains(got, "1s left") {
		t.Errorf("bar %q", got)
	}
}
