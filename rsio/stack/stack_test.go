// SPDX-License-Identifier: Apache-2.0

package stack

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"rsio/rsio/block"
	"rsio/rsio/blocktest"
)

// TestRandomStacks runs the suite on random stacks of layers over random
// stores. The seed is in the name of a failing test.
func TestRandomStacks(t *testing.T) {
	texts := []string{"check", "check:crc", "fault", "fault:op=write,nth=1000000,do=eio", "fault:do=ignoreflush",
		"fault:op=read,p=0.005,do=delay,ms=0-1", "fault:op=write,p=0.005,do=delay,ms=0-1,at=after"}
	for seed := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, 0))
		spec := Spec{Kind: []string{"mem", "file", "file"}[rng.IntN(3)], Size: 8 << 20, Direct: seed%4 == 3}
		for range rng.IntN(6) {
			spec.Layers = append(spec.Layers, texts[rng.IntN(len(texts))])
		}
		t.Run(fmt.Sprintf("seed %d %s %s", seed, spec.Kind, strings.Join(spec.Layers, " < ")), func(t *testing.T) {
			t.Parallel()
			dir, n := t.TempDir(), 0
			blocktest.Run(t, blocktest.Config{
				Make: func(t *testing.T) block.Device {
					n++
					spec.Path = filepath.Join(dir, fmt.Sprint(n))
					return open(t, spec)
				},
				Ops: 300, Chain: 300, Seed: seed + 1, Shared: true,
			})
		})
	}
}

// open creates and opens spec.
func open(t *testing.T, spec Spec) *Graph {
	t.Helper()
	if err := Create(spec); err != nil {
		t.Fatal(err)
	}
	g, err := Open(spec, Hooks{})
	if err != nil && spec.Direct && strings.Contains(err.Error(), "O_DIRECT") {
		blocktest.NotChecked(t, err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestOpenRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "v")
	rows := []struct {
		desc string
		spec Spec
		want string
	}{
		{"unknown kind", Spec{Kind: "tape"}, `store kind "tape" does not exist: give one of file, mem, null`},
		{"no kind", Spec{}, "give one of file, mem, null"},
		{"unknown layer", Spec{Kind: "mem", Layers: []string{"check", "magic:1"}}, `layer "magic" does not exist: give one of check, fault`},
		{"bad rule", Spec{Kind: "mem", Layers: []string{"fault:do=bad"}}, `do "bad" is unknown`},
		{"bad argument", Spec{Kind: "mem", Layers: []string{"check:all"}}, "give check or check:crc"},
		{"missing file", Spec{Kind: "file", Path: path}, "no such file"},
	}
	before := runtime.NumGoroutine()
	for _, row := range rows {
		if g, err := Open(row.spec, Hooks{}); err == nil || g != nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: error %v does not say %q", row.desc, err, row.want)
		}
	}
	time.Sleep(10 * time.Millisecond)
	if n := runtime.NumGoroutine(); n > before {
		t.Errorf("%d goroutines before, %d after: a graph that was refused was not closed", before, n)
	}
	if err := Create(Spec{Kind: "tape"}); err == nil {
		t.Error("Create of an unknown kind succeeded")
	}
}

func TestGraph(t *testing.T) {
	rows := []struct {
		kind string
		used bool
		grow bool
	}{
		{"file", true, true},
		{"mem", true, true},
		{"null", false, false},
	}
	for _, row := range rows {
		t.Run(row.kind, func(t *testing.T) {
			g := open(t, Spec{Kind: row.kind, Path: filepath.Join(t.TempDir(), "v"), Size: 1 << 20, Layers: []string{"fault", "check"}})
			defer g.Close(t.Context())
			r := block.Request{Op: block.OpWrite, Len: 4096, Buf: make([]byte, 4096)}
			if st := block.Do(g, &r); st != block.StatusOK {
				t.Fatal(st)
			}
			if used := g.Used(); (used > 0) != row.used {
				t.Errorf("used %d", used)
			}
			if err := g.Resize(2 << 20); (err == nil) != row.grow {
				t.Errorf("Resize: %v", err)
			}
			if row.grow && g.Info().Size != 2<<20 {
				t.Errorf("size at the top is %d", g.Info().Size)
			}
			if n := len(g.Faults()); n != 1 {
				t.Errorf("%d fault layers", n)
			}
		})
	}
}

// The lowest layer is named first: the upper fault strikes first, the lower one
// strikes what the upper lets through.
func TestOrder(t *testing.T) {
	g := open(t, Spec{Kind: "mem", Size: 1 << 20, Layers: []string{"fault:op=write,nth=1,do=eio", "fault:op=write,nth=1,do=nospace"}})
	defer g.Close(t.Context())
	for i, want := range []block.Status{block.StatusNoSpace, block.StatusIO, block.StatusOK} {
		if st := block.Do(g, &block.Request{Op: block.OpWrite, Len: 1, Buf: []byte{1}}); st != want {
			t.Errorf("write %d: %v, want %v", i+1, st, want)
		}
	}
}
