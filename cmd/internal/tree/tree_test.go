// SPDX-License-Identifier: Apache-2.0

// Package tree tests the source tree itself: who imports whom, and the rules
// of style that a program can check.
package tree

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "rsio/"

// Limits of style.
const (
	maxFile = 700 // lines
	maxFunc = 70  // lines, from func to the closing brace
)

// longFuncs are functions that may be longer, each a plain table or switch.
var longFuncs = map[string]bool{}

// rule allows packages (named without the module) to import others of ours. A
// name may end in /*: everything below. The first rule for a package counts.
type rule struct {
	from string
	to   string
}

// below is what lies below rsio/target and is no daemon.
const below = "rsio/block rsio/buf rsio/netio rsio/wire rsio/session rsio/transport rsio/store/* rsio/layer/* rsio/volume/*"

// daemon is what target and initiator are made of.
const daemon = "rsio/block rsio/buf rsio/netio rsio/wire rsio/session rsio/transport rsio/stack rsio/registry rsio/audit rsio/auth rsio/metrics rsio/admin/api"

// rules is the list of docs: whatever is not here is forbidden.
var rules = []rule{
	{"rsio/block", ""},
	{"rsio/buf", ""},
	{"rsio/netio", ""},
	{"rsio/wire", "rsio/block"},
	{"rsio/store/*", "rsio/block rsio/buf"},
	{"rsio/layer/*", "rsio/block rsio/buf"},
	{"rsio/volume/*", "rsio/block rsio/buf"},
	{"rsio/fusefs", "rsio/block rsio/buf"},
	{"rsio/session", "rsio/wire rsio/block rsio/netio"},
	{"rsio/transport", "rsio/wire rsio/block rsio/netio"},
	{"rsio/registry", "rsio/block rsio/admin/api"},
	{"rsio/auth", "rsio/block rsio/admin/api"},
	{"rsio/audit", "rsio/block rsio/admin/api"},
	{"rsio/metrics", "rsio/block rsio/admin/api"},
	{"rsio/stack", "rsio/block rsio/buf rsio/store/* rsio/layer/* rsio/volume/* rsio/initiator"},
	{"rsio/target", daemon},
	{"rsio/initiator", daemon},
	{"rsio/admin/api", "rsio/block"},
	{"rsio/admin/admintest", "rsio/admin rsio/admin/api rsio/audit rsio/block dam"}, // a double that only tests import
	{"rsio/admin", "rsio/stack rsio/target rsio/initiator rsio/registry rsio/audit rsio/block rsio/buf rsio/admin/api"},
	{"rsio/sim", below},
	{"rsio/blocktest", below},
	{"nbd", "nbd/* rsio/block rsio/buf rsio/netio"},
	{"nbd/*", "nbd nbd/* rsio/block rsio/buf rsio/netio"},
	{"dam", "dam/* rsio/block"},
	{"dam/*", "dam dam/* rsio/block"},
	{"vboxglue", "vboxglue/* rsio/admin rsio/admin/api"},
	{"vboxglue/*", "vboxglue vboxglue/* rsio/admin rsio/admin/api"},
	{"bench", "bench/* rsio/block rsio/buf rsio/wire rsio/initiator nbd rsio/netio"},
	{"bench/*", "bench bench/* rsio/block rsio/buf rsio/wire rsio/initiator nbd rsio/netio"},
	{"cmd/*", "cmd/* rsio/* nbd nbd/* dam dam/* vboxglue vboxglue/* bench bench/*"},
}

// matches reports whether a package is meant by a name of a rule.
func matches(name, pkg string) bool {
	if dir, ok := strings.CutSuffix(name, "/*"); ok {
		return strings.HasPrefix(pkg, dir+"/")
	}
	return name == pkg
}

// allowed reports whether an edge is on the list.
func allowed(from, to string) bool {
	for _, r := range rules {
		if matches(r.from, from) {
			return slices.ContainsFunc(strings.Fields(r.to), func(name string) bool { return matches(name, to) })
		}
	}
	return false
}

func TestAllowed(t *testing.T) {
	for _, row := range []struct {
		desc     string
		from, to string
		want     bool
	}{
		{"a layer on the contract", "rsio/layer/qos", "rsio/block", true},
		{"a layer on a layer", "rsio/layer/qos", "rsio/layer/check", false},
		{"rsio on a frontend", "rsio/target", "nbd", false},
		{"the codec on the session", "rsio/wire", "rsio/session", false},
		{"netio on the contract", "rsio/netio", "rsio/block", false},
		{"a command on everything", "cmd/rsioctl", "dam/journal", true},
		{"somebody on a command", "nbd", "cmd/internal/daemon", false},
		{"the control types on the daemon", "rsio/admin/api", "rsio/target", false},
		{"the daemon on its control types", "rsio/target", "rsio/admin/api", true},
		{"the daemon on the control API", "rsio/target", "rsio/admin", false},
		{"a package that nobody knows", "rsio/other", "rsio/block", false},
	} {
		if allowed(row.from, row.to) != row.want {
			t.Errorf("%s: %s imports %s: want %v", row.desc, row.from, row.to, row.want)
		}
	}
}

// pkg is what go list says of a package.
type pkg struct {
	ImportPath, Dir, Doc               string
	Imports, TestImports, XTestImports []string
	GoFiles                            []string
}

// root is the directory of the module.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("..", "..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,Doc,Imports,TestImports,XTestImports,GoFiles", "./...")
	cmd.Dir = root(t)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var list []pkg
	dec := json.NewDecoder(bytes.NewReader(out))
	for {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return list
		} else if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
}

func TestImports(t *testing.T) {
	edges := 0
	for _, p := range packages(t) {
		from := strings.TrimPrefix(p.ImportPath, module)
		if !slices.ContainsFunc(rules, func(r rule) bool { return matches(r.from, from) }) {
			t.Errorf("package %s is on no rule of the list", from)
		}
		for _, imp := range p.Imports {
			if to, ours := strings.CutPrefix(imp, module); ours {
				edges++
				if !allowed(from, to) {
					t.Errorf("%s must not import %s", from, to)
				}
			}
		}
		// Tests may reach sideways and down, but not into products above.
		for _, imp := range slices.Concat(p.TestImports, p.XTestImports) {
			top, _, _ := strings.Cut(strings.TrimPrefix(imp, module), "/")
			if strings.HasPrefix(from, "rsio/") && strings.HasPrefix(imp, module) && top != "rsio" {
				t.Errorf("a test of %s must not import %s", from, imp)
			}
		}
		if len(p.GoFiles) > 0 && p.Doc == "" {
			t.Errorf("package %s has no package comment", from)
		}
	}
	if edges < 20 {
		t.Errorf("only %d imports were seen", edges)
	}
}

// files returns the paths of all files that match one of the patterns,
// relative to the root.
func files(t *testing.T, patterns ...string) []string {
	t.Helper()
	top := root(t)
	var out []string
	err := filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(top, p)
		if err != nil {
			return err
		}
		if d.IsDir() && (rel == "bin" || rel == "tmp" || d.Name() == ".git") {
			return fs.SkipDir
		}
		for _, pat := range patterns {
			if ok, _ := path.Match(pat, d.Name()); ok && d.Type().IsRegular() {
				out = append(out, rel)
				break
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) == 0 {
		t.Fatalf("no file matches %v", patterns)
	}
	return out
}

func read(t *testing.T, rel string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root(t), rel))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestForeignPaths: nothing refers to the machine it was written on.
func TestForeignPaths(t *testing.T) {
	words := []string{"/wo" + "rk/", "../sha" + "red"}
	for _, f := range files(t, "*.go", "*.md", "*.json", "*.y*ml", "*.sh", "*.hex", "*.txt", "*.service", "*.1", "*.8", "Makefile", "go.mod") {
		for n, line := range strings.Split(string(read(t, f)), "\n") {
			for _, w := range words {
				if strings.Contains(line, w) {
					t.Errorf("%s:%d has a path of somebody's machine: %s", f, n+1, strings.TrimSpace(line))
				}
			}
		}
	}
}

// TestSources checks every Go file.
func TestSources(t *testing.T) {
	unused := maps.Clone(longFuncs)
	for _, f := range files(t, "*.go") {
		src := read(t, f)
		for _, complaint := range check(f, src, unused) {
			t.Error(complaint)
		}
	}
	for name := range unused {
		t.Errorf("%s is on the list of long functions and is none", name)
	}
}

// check returns what is wrong with a file; functions that are long and may be
// are taken off unused.
func check(name string, src []byte, unused map[string]bool) (bad []string) {
	say := func(parts ...string) { bad = append(bad, name+": "+strings.Join(parts, " ")) }
	if !bytes.HasPrefix(src, []byte("// SPDX-License-Identifier: Apache-2.0\n")) {
		say("the first line is not the SPDX line")
	}
	if formatted, err := format.Source(src); err != nil {
		say(err.Error())
		return bad
	} else if !bytes.Equal(formatted, src) {
		say("is not formatted by gofmt")
	}
	if n := bytes.Count(src, []byte("\n")); n > maxFile {
		say("is longer than 700 lines")
	}
	if bytes.Contains(src, []byte(`panic("TO`+`DO`)) {
		say("has a panic in the place of code")
	}
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, name, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		say(err.Error())
		return bad
	}
	test := strings.HasSuffix(name, "_test.go")
	for _, d := range file.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if ok && fn.Recv == nil && fn.Name.Name == "init" {
			say("has an init function")
		}
		if test {
			continue
		}
		for _, id := range undocumented(d) {
			say(id, "has no comment")
		}
		if ok && set.Position(fn.End()).Line-set.Position(fn.Pos()).Line+1 > maxFunc {
			full := path.Dir(filepath.ToSlash(name)) + "." + fn.Name.Name
			delete(unused, full)
			if !longFuncs[full] {
				say("function", full, "is longer than 70 lines")
			}
		}
	}
	return bad
}

// undocumented returns the exported names of a declaration without a comment.
func undocumented(d ast.Decl) (names []string) {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Name.IsExported() && d.Doc == nil && (d.Recv == nil || ast.IsExported(receiver(d.Recv.List[0].Type))) {
			names = append(names, d.Name.Name)
		}
	case *ast.GenDecl:
		for _, s := range d.Specs {
			switch s := s.(type) {
			case *ast.TypeSpec:
				if s.Name.IsExported() && d.Doc == nil && s.Doc == nil && s.Comment == nil {
					names = append(names, s.Name.Name)
				}
			case *ast.ValueSpec:
				for _, n := range s.Names {
					if n.IsExported() && d.Doc == nil && s.Doc == nil && s.Comment == nil {
						names = append(names, n.Name)
					}
				}
			}
		}
	}
	return names
}

// receiver is the name of a method's type.
func receiver(x ast.Expr) string {
	switch x := x.(type) {
	case *ast.StarExpr:
		return receiver(x.X)
	case *ast.IndexExpr:
		return receiver(x.X)
	case *ast.IndexListExpr:
		return receiver(x.X)
	case *ast.Ident:
		return x.Name
	}
	return ""
}

// TestCheck shows that check finds what it is there for.
func TestCheck(t *testing.T) {
	const head = "// SPDX-License-Identifier: Apache-2.0\n\npackage x\n"
	rows := []struct {
		desc string
		name string
		src  string
		want string
	}{
		{"good", "a.go", head + "\n// F does.\nfunc F() {}\n", ""},
		{"no licence", "a.go", "package x\n", "SPDX"},
		{"not formatted", "a.go", head + "\nvar  x = 1\n", "gofmt"},
		{"does not parse", "a.go", head + "\nfunc\n", "expected"},
		{"too long", "a.go", head + strings.Repeat("\n// x\n", 400), "700"},
		{"long test", "a_test.go", head + strings.Repeat("\n// x\n", 400), "700"},
		{"todo", "a.go", head + "\nfunc f() { panic(\"TO" + "DO\") }\n", "panic"},
		{"init", "a_test.go", head + "\nfunc init() {}\n", "init"},
		{"a method init", "a.go", head + "\ntype t int\n\nfunc (t) init() {}\n", ""},
		{"function", "a.go", head + "\nfunc F() {}\n", "F has no comment"},
		{"function in a test", "a_test.go", head + "\nfunc F() {}\n", ""},
		{"method", "a.go", head + "\n// T is.\ntype T[K any] int\n\nfunc (*T[K]) M() {}\n", "M has no comment"},
		{"method of a hidden type", "a.go", head + "\ntype t int\n\nfunc (t) M() {}\n", ""},
		{"type", "a.go", head + "\ntype T int\n", "T has no comment"},
		{"constant", "a.go", head + "\nconst C = 1\n", "C has no comment"},
		{"constant in a group with a comment", "a.go", head + "\n// All.\nconst (\n\tC = 1\n)\n", ""},
		{"variable with a comment behind", "a.go", head + "\nvar (\n\tV = 1 // is\n)\n", ""},
		{"long function", "a.go", head + "\nfunc f() {\n" + strings.Repeat("\tf()\n", 69) + "}\n", "longer than 70"},
		{"just short enough", "a.go", head + "\nfunc f() {\n" + strings.Repeat("\tf()\n", 68) + "}\n", ""},
	}
	for _, row := range rows {
		t.Run(row.desc, func(t *testing.T) {
			got := strings.Join(check(row.name, []byte(row.src), map[string]bool{}), "\n")
			if (got == "") != (row.want == "") || !strings.Contains(got, row.want) {
				t.Errorf("%q, want %q", got, row.want)
			}
		})
	}
}
