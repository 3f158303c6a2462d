// SPDX-License-Identifier: Apache-2.0

package tree

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"rsio/rsio/blocktest"
)

// TestUnits has systemd read the units, and looks at what it cannot know: that
// the programs have the flags, and that what makes a mount for others has no
// mount namespace of its own.
func TestUnits(t *testing.T) {
	units, err := filepath.Glob(filepath.Join(root(t), "packaging", "systemd", "*.service"))
	if err != nil || len(units) < 3 {
		t.Fatalf("units: %v, %v", units, err)
	}
	dir := t.TempDir()
	programs := buildPrograms(t, dir)
	exe := regexp.MustCompile(`(?m)^ExecStart=/usr/bin/(\S+)(.*)$`)
	for _, u := range units {
		b, err := os.ReadFile(u)
		if err != nil {
			t.Fatal(err)
		}
		m := exe.FindStringSubmatch(string(b))
		if m == nil || !slices.Contains(programs, m[1]) {
			t.Errorf("%s starts no program of ours", u)
			continue
		}
		args := strings.Fields(m[2])
		help := []string{"--help"}
		if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
			help = []string{args[0], "--help"}
		}
		out, err := exec.Command(filepath.Join(dir, m[1]), help...).CombinedOutput()
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range args {
			if strings.HasPrefix(a, "--") && !strings.Contains(string(out), a+" ") {
				t.Errorf("%s: %s has no flag %s", u, m[1], a)
			}
		}
		if strings.Contains(u, "files") {
			if x := regexp.MustCompile(`(?m)^(Protect(System|Home|KernelTunables|KernelModules|KernelLogs|ControlGroups|Proc)|Private\w+|ReadOnlyPaths|ReadWritePaths|InaccessiblePaths|RootDirectory)=`).FindString(string(b)); x != "" {
				t.Errorf("%s: %s gives the process a mount namespace of its own: nobody else would see its mount", u, x)
			}
		}
		b = exe.ReplaceAll(b, []byte("ExecStart="+filepath.Join(dir, m[1])+"$2"))
		b = regexp.MustCompile(`(?m)^Documentation=.*\n`).ReplaceAll(b, nil) // the pages are not installed here
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(u)), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		blocktest.NotChecked(t, "systemd-analyze is missing: whether systemd can read the units")
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*.service"))
	out, err := exec.Command("systemd-analyze", append([]string{"verify", "--man=no"}, files...)...).CombinedOutput()
	if err != nil || strings.Contains(string(out), dir) || strings.Contains(string(out), "rsio-") {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}

func buildPrograms(t *testing.T, dir string) []string {
	t.Helper()
	names := []string{"rsio-target", "rsio-initiator"}
	for _, n := range names {
		cmd := exec.Command("go", "build", "-o", dir, "rsio/cmd/"+n)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build: %v\n%s", err, out)
		}
	}
	return names
}
