// SPDX-License-Identifier: Apache-2.0

package compare

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// tick is the unit of times in /proc/PID/stat: USER_HZ is 100 in the interface
// of Linux, whatever the kernel was built with.
const tick = 10 * time.Millisecond

// procStat is what is used of /proc/PID/stat.
type procStat struct {
	pid, parent int
	cpu         time.Duration // of all its threads, those that have ended included
	children    time.Duration // of children that were waited for
}

// parseStat parses a line of /proc/PID/stat. The name of the program is in
// parentheses and may contain anything.
func parseStat(line string) (procStat, error) {
	open, end := strings.IndexByte(line, '('), strings.LastIndexByte(line, ')')
	if open < 0 || end < open {
		return procStat{}, fmt.Errorf("no program name in %q", line)
	}
	rest := strings.Fields(line[end+1:]) // from field 3 on
	if len(rest) < 15 {
		return procStat{}, fmt.Errorf("%d fields in %q", len(rest), line)
	}
	var errs []error
	num := func(s string) int {
		n, err := strconv.Atoi(s)
		errs = append(errs, err)
		return n
	}
	s := procStat{pid: num(strings.TrimSpace(line[:open])), parent: num(rest[1])}
	s.cpu = time.Duration(num(rest[11])+num(rest[12])) * tick
	s.children = time.Duration(num(rest[13])+num(rest[14])) * tick
	return s, errors.Join(errs...)
}

// treeCPU returns the CPU time of processes and of all they have forked,
// including what has ended and was waited for.
func treeCPU(roots []int) (time.Duration, error) {
	all, err := processes()
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, pid := range roots {
		s, ok := all[pid]
		if !ok {
			return 0, fmt.Errorf("server process %d has ended", pid)
		}
		sum += s.cpu + s.children
	}
	for _, s := range all {
		if descends(all, s, roots) {
			sum += s.cpu + s.children
		}
	}
	return sum, nil
}

// descends reports whether s is a true descendant of a root.
func descends(all map[int]procStat, s procStat, roots []int) bool {
	for range 10 { // generations
		for _, root := range roots {
			if s.parent == root {
				return true
			}
		}
		parent, ok := all[s.parent]
		if !ok {
			return false
		}
		s = parent
	}
	return false
}

// machineCPU returns the time that all processors together were busy.
func machineCPU() (time.Duration, error) {
	f := strings.Fields(firstLine("/proc/stat")) // cpu user nice system idle iowait irq softirq steal ...
	if len(f) < 9 {
		return 0, errors.New("/proc/stat: not understood")
	}
	var sum time.Duration
	for _, k := range []int{1, 2, 3, 6, 7, 8} {
		n, err := strconv.ParseInt(f[k], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		sum += time.Duration(n) * tick
	}
	return sum, nil
}

// processes returns all processes of the machine.
func processes() (map[int]procStat, error) {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	out := make(map[int]procStat, len(files))
	for _, name := range files {
		b, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // it has ended in between
		}
		if err != nil {
			return nil, err
		}
		s, err := parseStat(strings.TrimSpace(string(b)))
		if err != nil {
			return nil, err
		}
		out[s.pid] = s
	}
	return out, nil
}
