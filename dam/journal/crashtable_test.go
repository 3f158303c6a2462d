// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// blob is n bytes that look like nothing.
func blob(n int) []byte {
	rnd := rand.New(rand.NewPCG(uint64(n), 7))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	return b
}

func put(volume string, version uint64, n int) save {
	return save{Record: Record{Volume: volume, Version: version, State: blob(n)}}
}

func gone(volume string, version uint64) save {
	return save{Record: Record{Volume: volume, Version: version, Removed: true}}
}

// anew makes a save a Rewrite.
func anew(s save) save {
	s.rewrite = true
	return s
}

// script is a sequence of saves.
type script struct {
	desc  string
	saves []save
	large bool // too large to do it as often as the others
}

func scripts() []script {
	all := []script{
		{desc: "nothing but the first file"},
		{desc: "one short append", saves: []save{put("a", 1, 10)}},
		{desc: "appends to three volumes", saves: []save{put("a", 1, 10), put("b", 1, 33), put("a", 2, 17), put("c", 1, 0), put("b", 2, 90)}},
		{desc: "a record that ends a sector", saves: []save{put("a", 1, 512-fileHeader-recordHeader-1-sumLen), put("a", 2, 900)}},
		{desc: "long states", saves: []save{put("a", 1, 5000), put("b", 1, 9001), put("a", 2, 30000), put("b", 2, 3)}},
		{desc: "short states behind a long one", saves: []save{put("a", 1, 3000), put("a", 2, 5), put("b", 3, 5)}},
		{desc: "every save a rewrite", saves: []save{anew(put("a", 1, 20)), anew(put("b", 1, 20)), anew(put("a", 2, 20))}},
		{desc: "appends and rewrites in turn", saves: []save{put("a", 1, 20), anew(put("b", 1, 20)), put("a", 2, 20), anew(put("a", 3, 20)), put("b", 2, 20)}},
		{desc: "rewrites of long states", saves: []save{put("a", 1, 4000), anew(put("b", 1, 7000)), put("a", 2, 4100), anew(put("b", 2, 20))}},
		{desc: "a volume is removed", saves: []save{put("a", 1, 20), put("b", 1, 20), gone("a", 2), put("b", 2, 20)}},
		{desc: "a removed volume is left out", saves: []save{put("a", 1, 20), put("b", 1, 20), gone("a", 2), anew(gone("a", 3)), put("b", 2, 20)}},
		{desc: "a rewrite of several writes", saves: []save{put("a", 1, writeChunk), anew(put("b", 1, 20)), put("a", 2, 20)}, large: true},
	}
	for seed := range uint64(6) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		var saves []save
		for version := uint64(1); version <= 9; version++ {
			s := put(string(rune('a'+rnd.IntN(3))), version, rnd.IntN(60)+rnd.IntN(2)*rnd.IntN(1500))
			if rnd.IntN(8) == 0 {
				s = gone(s.Volume, version)
			}
			s.rewrite = rnd.IntN(4) == 0
			saves = append(saves, s)
		}
		all = append(all, script{desc: fmt.Sprintf("at random, seed %d", seed), saves: saves})
	}
	return all
}

// earlier is an earlier file, which blocks may still hold.
func earlier() []byte {
	b, _ := appendHeader(nil, fileID{1})
	for i := range 60 {
		b, _ = appendRecord(b, fileID{1}, uint64(i+1), 5, &Record{Volume: "a", Version: 1 << 50, State: blob(300 + 9*i)})
	}
	return b
}

// TestCrash: wherever power is lost, also when the process was killed before
// and another one went on, each volume has the state before or after the save
// that was interrupted, and nothing that was durable is lost.
func TestCrash(t *testing.T) {
	t.Parallel()
	for _, row := range scripts() {
		kills := []save{put("a", 1, 11), anew(put("b", 1, 12)), put("b", 2, 13)}
		if row.large {
			kills = nil
		}
		c := &crash{rnd: rand.New(rand.NewPCG(1, 1)), old: earlier(), fine: !row.large, large: row.large}
		if err := c.run(newMem(), []states{{}}, row.saves, kills); err != nil {
			t.Errorf("%s: %v", row.desc, err)
		}
		t.Logf("%s: %d files", row.desc, c.count)
	}
}

// TestCrashFindsLies: the test above notices each kind of sync that is missing.
func TestCrashFindsLies(t *testing.T) {
	saves := []save{put("a", 1, 20), anew(put("b", 1, 20)), put("a", 2, 20)}
	for _, lie := range []string{"fdatasync", "fsync", "fsync-dir"} {
		c := &crash{rnd: rand.New(rand.NewPCG(1, 1)), lie: lie}
		err := c.run(newMem(), []states{{}}, saves, nil)
		if err == nil {
			t.Errorf("without %s nothing was found in %d files", lie, c.count)
		}
		t.Logf("without %s: %v", lie, err)
	}
}
