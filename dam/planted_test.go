// SPDX-License-Identifier: Apache-2.0

package dam_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"rsio/rsio/blocktest"
)

// TestPlantedBugs plants mistakes in the real code and expects TestP4 to find
// each: a test that cannot fail proves nothing. The sources are patched in a
// copy that only the compiler sees (go test -overlay).
func TestPlantedBugs(t *testing.T) {
	if testing.Short() {
		blocktest.NotChecked(t, "it compiles the tests three times; run it without -short")
	}
	type patch struct{ file, good, bad string }
	const seat, client = "../rsio/block/seat.go", "../rsio/session/client_right.go"
	for _, bug := range []struct {
		desc, pkg, run string
		patches        []patch
	}{
		{"answered before what runs has been drained", ".", "^TestP4_PreemptAbort$", []patch{
			{"volume.go", "if !l.seat.Drain(l.what, j.quit, v.d.stop) {", "if l.seat == nil {"}}},
		{"the verdict is looked at before the request counts as running", "../rsio/block", "^TestP4_Seat$", []patch{
			{seat, "	run.n.Add(1)\n	v := s.verdict.Load()\n", "	v := s.verdict.Load()\n	time.Sleep(50 * time.Microsecond)\n	run.n.Add(1)\n"},
			{seat, `import "sync/atomic"`, "import (\n	\"sync/atomic\"\n	\"time\"\n)"}}},
		{"no generations, neither here nor there", ".", "^TestP4_PreemptAbort$", []patch{
			{seat, "(v>>2 == right || !op.Changes())", "true"},
			{client, "if r.Op.Changes() && r.Right != k.number {", "if false {"},
			{client, "if r.Op.Changes() && r.Right != v.rights.number || ", "if "}}},
	} {
		t.Run(bug.desc, func(t *testing.T) {
			dir := t.TempDir()
			text, replace := map[string]string{}, map[string]string{}
			for n, p := range bug.patches {
				path, err := filepath.Abs(p.file)
				if err != nil {
					t.Fatal(err)
				}
				if text[path] == "" {
					src, err := os.ReadFile(path)
					if err != nil {
						t.Fatal(err)
					}
					text[path] = string(src)
				}
				if !strings.Contains(text[path], p.good) {
					t.Fatalf("%s does not hold what is to be replaced: %q", p.file, p.good)
				}
				text[path] = strings.Replace(text[path], p.good, p.bad, 1)
				replace[path] = filepath.Join(dir, fmt.Sprint(n, ".go"))
				if err := os.WriteFile(replace[path], []byte(text[path]), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			overlay, err := json.Marshal(map[string]any{"Replace": replace})
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("go", "test", "-overlay", filepath.Join(dir, "overlay.json"), "-run", bug.run, "-count=1", "-timeout", "120s", bug.pkg)
			cmd.Env = append(os.Environ(), "RSIO_ROUNDS=72")
			out, err := cmd.CombinedOutput()
			if err == nil {
				t.Fatalf("nothing was found:\n%s", out)
			}
			if !strings.Contains(string(out), "P4:") {
				t.Fatalf("it fails for another reason:\n%s", out)
			}
		})
	}
}
