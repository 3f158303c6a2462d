// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// damage returns a damaged form of b and what was done. It differs from b.
func damage(rnd *rand.Rand, b []byte) ([]byte, string) {
	for {
		c := slices.Clone(b)
		desc := ""
		page := rnd.IntN((len(c) + boltPage - 1) / boltPage)
		at := page*boltPage + rnd.IntN(boltPage)
		if rnd.IntN(2) == 0 { // headers and element tables deserve more
			at = page*boltPage + rnd.IntN(128)
		}
		at = min(at, len(c)-1)
		end := min(len(c), at+1+rnd.IntN(64))
		switch rnd.IntN(7) {
		case 0, 1:
			c[at] ^= 1 << rnd.IntN(8)
			desc = fmt.Sprintf("flip at %d", at)
		case 2:
			clear(c[page*boltPage : min(len(c), (page+1)*boltPage)])
			desc = fmt.Sprintf("page %d zeroed", page)
		case 3:
			c = c[:rnd.IntN(len(c))]
			desc = fmt.Sprintf("cut to %d", len(c))
		case 4:
			for i := at; i < end; i++ {
				c[i] = byte(rnd.Uint32())
			}
			desc = fmt.Sprintf("noise %d..%d", at, end)
		case 5: // a page in the place of another
			from := rnd.IntN((len(c)+boltPage-1)/boltPage) * boltPage
			copy(c[page*boltPage:], slices.Clone(c[from:min(len(c), from+boltPage)]))
			desc = fmt.Sprintf("page %d from %d", page, from/boltPage)
		case 6:
			clear(c[at:end])
			desc = fmt.Sprintf("zeroes %d..%d", at, end)
		}
		if !slices.Equal(b, c) {
			return c, desc
		}
	}
}

// variants is how many damaged forms each test tries.
func variants() int {
	if testing.Short() {
		return 150
	}
	return 1200
}

func put(t *testing.T, dir, name string, b []byte) {
	t.Helper()
	path := filepath.Join(dir, name)
	_ = os.Remove(path) // it may be linked to the kept one
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// pair returns the two files of a closed registry and the registry.
func pair(t *testing.T, n int) (dir string, want *Registry, b, c []byte) {
	t.Helper()
	dir = t.TempDir()
	want = filled(t, dir, n, options{noSync: true})
	if err := want.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, boltName))
	if err != nil {
		t.Fatal(err)
	}
	c, err = os.ReadFile(filepath.Join(dir, copyName))
	if err != nil {
		t.Fatal(err)
	}
	return dir, want, b, c
}

// TestDamageOfOne: whatever happens to one copy, the content is right; what is
// repaired is whole again.
func TestDamageOfOne(t *testing.T) {
	for _, n := range []int{2, 60} {
		dir, want, b, c := pair(t, n)
		rnd := rand.New(rand.NewPCG(1, uint64(n)))
		for i := range variants() {
			put(t, dir, boltName, b)
			put(t, dir, copyName, c)
			name, content := boltName, b
			if i%4 == 0 {
				name, content = copyName, c
			}
			bad, desc := damage(rnd, content)
			put(t, dir, name, bad)
			desc = fmt.Sprintf("%d volumes, variant %d, %s: %s", n, i, name, desc)
			r, err := open(dir, options{noSync: true})
			if err != nil {
				t.Fatalf("%s: %v", desc, err)
			}
			same(t, desc, r, want)
			if i%8 == 0 {
				again, err := open(dir, options{noSync: true})
				if err != nil || len(again.Notes()) != 0 {
					t.Fatalf("%s: repaired but %v %q", desc, err, again.Notes())
				}
			}
			if i%16 == 0 {
				if err := r.Create(Volume{Namespace: "x", Name: "x"}); err != nil {
					t.Fatalf("%s: then create: %v", desc, err)
				}
				again, err := open(dir, options{noSync: true})
				if err != nil {
					t.Fatalf("%s: then open: %v", desc, err)
				}
				same(t, desc, again, r)
			}
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestDamageOfBoth: right or refused, and the refusal is clear.
func TestDamageOfBoth(t *testing.T) {
	dir, want, b, c := pair(t, 60)
	rnd := rand.New(rand.NewPCG(2, 2))
	refused := 0
	for i := range variants() {
		badB, descB := damage(rnd, b)
		badC, descC := damage(rnd, c)
		put(t, dir, boltName, badB)
		put(t, dir, copyName, badC)
		desc := fmt.Sprintf("variant %d: %s, %s", i, descB, descC)
		r, err := open(dir, options{noSync: true})
		if err != nil {
			refused++
			for _, part := range []string{dir, boltName, copyName, "backup"} {
				if !strings.Contains(err.Error(), part) {
					t.Fatalf("%s: %q lacks %q", desc, err, part)
				}
			}
			continue
		}
		same(t, desc, r, want) // the damage hit what is not used
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if refused < variants()/2 {
		t.Fatalf("only %d refused", refused)
	}
}

// TestEveryPrefix: the second copy as a write that was cut short at any byte.
func TestEveryPrefix(t *testing.T) {
	dir, want, b, c := pair(t, 4)
	for n := range c {
		put(t, dir, boltName, b)
		put(t, dir, copyName, c[:n])
		put(t, dir, copyName+tmpSuffix, c[:n])
		r, err := open(dir, options{noSync: true})
		if err != nil {
			t.Fatalf("prefix %d: %v", n, err)
		}
		same(t, fmt.Sprint("prefix ", n), r, want)
		if len(r.Notes()) != 1 || !strings.Contains(r.Notes()[0], "kept as") {
			t.Fatalf("prefix %d: notes %q", n, r.Notes())
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		if _, s := decodeCopy(c[:n]); s == nil {
			t.Fatalf("prefix %d was taken for whole", n)
		}
	}
}

// TestOldAndNew: after a crash between the copies the newer one wins; a first
// copy that fell back to a former state never does.
func TestOldAndNew(t *testing.T) {
	dir := t.TempDir()
	r := filled(t, dir, 10, options{noSync: true})
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	oldB, oldC := read(boltName), read(copyName)
	if err := r.Create(Volume{Namespace: "x", Name: "x"}); err != nil {
		t.Fatal(err)
	}
	newB, newC := read(boltName), read(copyName)
	torn := func(b []byte) []byte { // without the newer meta page
		m0, _ := readMeta(b, 0)
		m1, _ := readMeta(b, 1)
		c, at := slices.Clone(b), 0
		if m1.txid > m0.txid {
			at = boltPage
		}
		clear(c[at : at+boltPage])
		return c
	}
	for _, row := range []struct {
		desc string
		b, c []byte
		ok   bool
	}{
		{"first copy only", newB, oldC, true},
		{"second copy only", oldB, newC, true},
		{"newer meta page lost", torn(newB), newC, true},
		{"newer meta page lost, second copy cut", torn(newB), newC[:50], false},
		{"newer meta page lost, second copy gone", torn(newB), nil, false},
	} {
		put(t, dir, boltName, row.b)
		put(t, dir, copyName, row.c)
		if row.c == nil {
			_ = os.Remove(filepath.Join(dir, copyName))
		}
		got, err := open(dir, options{noSync: true})
		if (err == nil) != row.ok {
			t.Fatalf("%s: %v", row.desc, err)
		}
		if err == nil {
			same(t, row.desc, got, r)
			if len(got.Notes()) == 0 {
				t.Errorf("%s: no note", row.desc)
			}
		}
	}
}

// TestDamageWhileOpen: the file under bbolt's mapping is cut or overwritten
// while the registry runs. A change may fail, nothing hangs or dies, and the
// next one makes it good.
func TestDamageWhileOpen(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 3))
	for i := range 30 {
		dir := t.TempDir()
		r := filled(t, dir, 24, options{noSync: true})
		path := filepath.Join(dir, boltName)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		bad, desc := damage(rnd, b)
		if i%6 == 0 {
			bad, desc = nil, "cut to nothing"
		}
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC*(i%2), 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(int64(len(bad))); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(bad, 0); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if err := r.Create(Volume{Namespace: "x", Name: "x"}); err != nil {
			if err := r.Create(Volume{Namespace: "x", Name: "x"}); err != nil {
				t.Fatalf("%s: second change: %v", desc, err)
			}
		}
		again, err := open(dir, options{noSync: true})
		if err != nil {
			t.Fatalf("%s: %v", desc, err)
		}
		same(t, desc, again, r)
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
