// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"rsio/rsio/block"
)

func example() Entry {
	return Entry{Phase: End, Op: block.OpWrite, Flags: block.FlagFUA, Status: block.StatusConflict, Mono: 0x0102030405060708,
		PID: 0x0a0b0c0d, ID: 0x1112131415161718, Off: 0x2122232425262728, Len: 0x31323334, Nexus: "host/vm",
		Head: [HeadLen]byte{0xc0, 0xc1, 31: 0xdf}}
}

// TestGolden: the format does not change unnoticed.
func TestGolden(t *testing.T) {
	const want = "52545243" + "01" + "02" + "02" + "01" + "0102030405060708" + "1112131415161718" + "0a0b0c0d" + "31323334" +
		"2122232425262728" + "0006" + "07" + "0000000000" + "c0c1"
	e := example()
	var p [EntryLen]byte
	e.put(&p)
	if got := hex.EncodeToString(p[:len(want)/2]); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if p[79] != 0xdf || string(p[80:87]) != "host/vm" || !bytes.Equal(p[87:252], make([]byte, 165)) {
		t.Errorf("%x", p[50:])
	}
	if got := hex.EncodeToString(p[252:]); got != "b42c6adf" {
		t.Errorf("checksum %s", got)
	}
	if got, ok := get(p[:]); !ok || got != e {
		t.Errorf("%v, want %v", got, e)
	}
	for i := range p {
		for _, bit := range []byte{1, 0x80} {
			p[i] ^= bit
			if e, ok := get(p[:]); ok {
				t.Errorf("with byte %d wrong it is %v", i, e)
			}
			p[i] ^= bit
		}
	}
	if s := e.String(); !strings.Contains(s, "end write") || !strings.Contains(s, "reservation conflict") {
		t.Error(s)
	}
	if s := (Entry{Phase: Begin}).String() + Phase(9).String(); !strings.Contains(s, "begin") || !strings.Contains(s, "phase?") {
		t.Error(s)
	}
}

// encoded returns n entries as in a file.
func encoded(n int) (b []byte) {
	for i := range n {
		e := example()
		e.ID = uint64(i)
		var p [EntryLen]byte
		e.put(&p)
		b = append(b, p[:]...)
	}
	return b
}

// TestDamage: what is no entry is left out and said, at every place.
func TestDamage(t *testing.T) {
	good := encoded(4)
	rows := []struct {
		desc string
		file []byte
		want []uint64
		junk int
	}{
		{"empty", nil, nil, 0},
		{"whole", good, []uint64{0, 1, 2, 3}, 0},
		{"one byte is missing", good[:4*EntryLen-1], []uint64{0, 1, 2}, EntryLen - 1},
		{"one byte more", append(slices.Clone(good), 'R'), []uint64{0, 1, 2, 3}, 1},
		{"cut, then more", slices.Concat(good[:EntryLen+100], good[2*EntryLen:]), []uint64{0, 2, 3}, 100},
		{"cut at the start of a magic", slices.Concat(good[:EntryLen+3], good[2*EntryLen:]), []uint64{0, 2, 3}, 3},
		{"one entry damaged", slices.Concat(good[:EntryLen+100], []byte("x"), good[EntryLen+101:]), []uint64{0, 2, 3}, EntryLen},
		{"zeroes", make([]byte, 1000), nil, 1000},
		{"text", []byte("hello"), nil, 5},
	}
	path := filepath.Join(t.TempDir(), "log")
	for _, row := range rows {
		if err := os.WriteFile(path, row.file, 0o600); err != nil {
			t.Fatal(err)
		}
		all, err := ReadFile(path)
		var got []uint64
		for i, e := range all {
			if got = append(got, e.ID); e.Seq != uint64(i) {
				t.Errorf("%s: entry %d has number %d", row.desc, i, e.Seq)
			}
		}
		if !slices.Equal(got, row.want) {
			t.Errorf("%s: entries %v, want %v", row.desc, got, row.want)
		}
		if errors.Is(err, ErrCut) != (row.junk > 0) || err != nil && !strings.Contains(err.Error(), fmt.Sprintf("%d bytes", row.junk)) {
			t.Errorf("%s: %v, want %d bytes", row.desc, err, row.junk)
		}
		// One that is opened again goes on behind that.
		l := openLog(t, path)
		l.begin(&block.Request{Op: block.OpFlush})
		again, err := l.Entries()
		if len(again) != len(all)+1 || errors.Is(err, ErrCut) != (row.junk > 0) {
			t.Errorf("%s: %d entries after one more, %v", row.desc, len(again), err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestErrors: a log that cannot be written fails no request and says so.
func TestErrors(t *testing.T) {
	if _, err := Open(filepath.Join(t.TempDir(), "no", "log")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Open: %v", err)
	}
	if _, err := ReadFile(filepath.Join(t.TempDir(), "no")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("ReadFile: %v", err)
	}
	path := filepath.Join(t.TempDir(), "log")
	l := openLog(t, path)
	d := New(newMem(t), l)
	defer d.Close(t.Context())
	flush := func() {
		t.Helper()
		if st := block.Do(d, &block.Request{Op: block.OpFlush}); st != block.StatusOK {
			t.Error(st)
		}
	}
	flush()
	file := l.file
	if l.file, _ = os.Open(path); l.file == nil { // it cannot be written through that
		t.Fatal("the log cannot be opened")
	}
	flush()
	flush()
	const want = "4 entries could not be written"
	all, err := l.Entries()
	if len(all) != 2 || err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%d entries, %v", len(all), err)
	}
	if err := l.file.Close(); err != nil {
		t.Error(err)
	}
	l.file = file
	flush()
	if err := l.Close(); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("Close: %v", err)
	}
	flush()
	if _, err := l.Entries(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Entries after Close: %v", err)
	}
	if err := l.Close(); err == nil || !strings.Contains(err.Error(), "6 entries") {
		t.Errorf("Close again: %v", err)
	}
	if all, err := ReadFile(path); len(all) != 4 || err != nil {
		t.Errorf("%d entries, %v", len(all), err)
	}
}

// TestMemoryAfterClose: a log in memory can be read after Close; what comes
// later is lost and said.
func TestMemoryAfterClose(t *testing.T) {
	l := NewMemory()
	l.begin(&block.Request{Op: block.OpFlush})
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if all := entries(t, l); len(all) != 1 {
		t.Errorf("%v", all)
	}
	l.begin(&block.Request{Op: block.OpFlush})
	if all, err := l.Entries(); len(all) != 1 || !errors.Is(err, os.ErrClosed) {
		t.Errorf("%v, %v", all, err)
	}
}

// TestMono: the clock is one that other processes read too.
func TestMono(t *testing.T) {
	a := monotonic()
	time.Sleep(2 * time.Millisecond)
	if b := monotonic(); a <= 0 || b-a < 2*time.Millisecond {
		t.Errorf("%v, then %v", a, b)
	}
}

const childEnv = "RSIO_TRACE_CHILD"

// TestKill kills two processes that log to one file: all that their callers
// were told of is in it, whole, and of one clock.
func TestKill(t *testing.T) {
	if path := os.Getenv(childEnv); path != "" {
		child(t, path)
		return
	}
	path := filepath.Join(t.TempDir(), "log")
	start := monotonic()
	for round := range 5 {
		type run struct {
			cmd   *exec.Cmd
			acked *bufio.Scanner
		}
		var runs []run
		for range 2 {
			cmd := exec.Command(os.Args[0], "-test.run=^TestKill$")
			cmd.Env = append(os.Environ(), childEnv+"="+path)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			runs = append(runs, run{cmd, bufio.NewScanner(out)})
		}
		acked := make(map[uint32]string)
		for _, r := range runs {
			r.acked.Scan()
			timer := time.AfterFunc(time.Duration(round)*3*time.Millisecond, func() { _ = r.cmd.Process.Kill() })
			for line := r.acked.Text(); ; line = r.acked.Text() {
				acked[uint32(r.cmd.Process.Pid)] = line
				if !r.acked.Scan() {
					break
				}
			}
			_ = r.cmd.Wait() // it was killed
			timer.Stop()
		}
		killed(t, path, start, acked)
	}
}

// killed looks at the log of processes that were killed after they had
// acknowledged the writes with these numbers.
func killed(t *testing.T, path string, start time.Duration, acked map[uint32]string) {
	t.Helper()
	all, err := ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	ends, last := make(map[uint32]int), make(map[uint32]time.Duration)
	for _, e := range all {
		if e.Mono < max(start, last[e.PID]) || e.Mono > monotonic() {
			t.Fatalf("%v at the wrong time", e)
		}
		last[e.PID] = e.Mono
		if e.Phase == End {
			ends[e.PID]++
			if stamp := fmt.Sprint(ends[e.PID], " of ", e.PID); string(e.Head[:len(stamp)]) != stamp {
				t.Fatalf("%v has the stamp %q, want %q", e, e.Head, stamp)
			}
		}
	}
	for pid, line := range acked {
		var n int
		if _, err := fmt.Sscan(line, &n); err != nil || n == 0 || ends[pid] < n || ends[pid] > n+1 {
			t.Fatalf("process %d acknowledged %q, the log has %d, %v", pid, line, ends[pid], err)
		}
	}
}

// child writes for ever and tells of each write.
func child(t *testing.T, path string) {
	d := New(newMem(t), openLog(t, path))
	for n := 1; ; n++ {
		buf := make([]byte, 512)
		copy(buf, fmt.Sprint(n, " of ", os.Getpid()))
		if st := block.Do(d, &block.Request{Op: block.OpWrite, Len: 512, Buf: buf}); st != block.StatusOK {
			t.Fatal(st)
		}
		if _, err := fmt.Println(n); err != nil {
			t.Fatal(err)
		}
	}
}
