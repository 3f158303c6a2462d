// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

const childEnv = "RSIO_JOURNAL_CHILD"

// killRounds is how often TestKill kills; RSIO_ROUNDS says more.
const killRounds = 20

// stateOf is the state of a version in TestKill.
func stateOf(version uint64) []byte { return blob(int(version*7919) % 3000) }

// TestKill kills a process that appends all the time: what it had acknowledged
// is there afterwards, and at most one save more.
func TestKill(t *testing.T) {
	if path := os.Getenv(childEnv); path != "" {
		child(t, path)
		return
	}
	rounds := killRounds
	if n, err := strconv.Atoi(os.Getenv("RSIO_ROUNDS")); err == nil && n > 0 {
		rounds = n
	}
	path := filepath.Join(t.TempDir(), "j")
	rnd := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	acked, torn := uint64(0), 0
	for round := range rounds {
		acked = max(acked, killOnce(t, path, time.Duration(rnd.IntN(int(40*time.Millisecond)))))
		j, found, err := Open(path)
		must(t, "open", err)
		last := uint64(0)
		for id, r := range found.Records {
			if last = max(last, r.Version); !bytes.Equal(r.State, stateOf(r.Version)) || id != volumeOf(r.Version) {
				t.Fatalf("round %d: version %d has another state than was saved", round, r.Version)
			}
		}
		if last < acked || last > acked+1 || found.Damaged || found.Missing && acked > 0 {
			t.Fatalf("round %d: found version %d, acknowledged %d, %+v", round, last, acked, found)
		}
		for v := range min(last, 3) { // no volume was left behind
			if r := found.Records[volumeOf(last-v)]; r.Version != last-v {
				t.Fatalf("round %d: volume %q has version %d, not %d", round, r.Volume, r.Version, last-v)
			}
		}
		if acked = last; found.Torn {
			torn++
		}
		must(t, "close", j.Close())
	}
	if acked < uint64(rounds) {
		t.Fatalf("only %d saves in %d rounds: the test tested nothing", acked, rounds)
	}
	t.Logf("%d kills, %d saves, torn %d times", rounds, acked, torn)
}

// killOnce runs a child until some time after its first save, and returns what
// it has acknowledged last.
func killOnce(t *testing.T, path string, after time.Duration) (acked uint64) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestKill$")
	cmd.Env = append(os.Environ(), childEnv+"="+path)
	out, err := cmd.StdoutPipe()
	must(t, "pipe", err)
	must(t, "start", cmd.Start())
	var timer *time.Timer
	for s := bufio.NewScanner(out); s.Scan(); {
		n, ok := strings.CutPrefix(s.Text(), "acked ")
		if !ok {
			t.Errorf("the child says %q", s.Text())
			continue
		}
		acked, err = strconv.ParseUint(n, 10, 64)
		must(t, "number", err)
		if timer == nil {
			timer = time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
		}
	}
	_ = cmd.Wait() // it was killed
	if timer != nil {
		timer.Stop()
	}
	return acked
}

// volumeOf spreads the versions over three volumes.
func volumeOf(version uint64) string { return fmt.Sprint("v", version%3) }

// child appends for ever, with a Rewrite now and then.
func child(t *testing.T, path string) {
	j, found, err := Open(path)
	must(t, "open", err)
	now, version := states(found.Records), uint64(0)
	for _, r := range now {
		version = max(version, r.Version)
	}
	for {
		version++
		r := Record{Volume: volumeOf(version), Version: version, State: stateOf(version)}
		now[r.Volume] = r
		if j.Usable() && version%8 != 0 {
			must(t, "append", j.Append(r))
		} else {
			must(t, "rewrite", j.Rewrite(now.list()))
		}
		fmt.Printf("acked %d\n", version)
	}
}
