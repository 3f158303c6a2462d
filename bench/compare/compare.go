// SPDX-License-Identifier: Apache-2.0

// Package compare measures block servers against each other on one machine:
// the daemons of RSIO, nbdkit, qemu-nbd and nbd-server, all under the same
// load from the same client (fio with libnbd), on files of the same size in the
// same directory.
//
// The way of a run:
//
//  1. A directory of its own is made; every contender's servers are started in
//     it and its disk is written once, so that the page cache is warm.
//  2. For each round and workload the contenders are measured one after the
//     other, in an order that rotates, so that what else the machine does hits
//     all of them.
//  3. One measurement is one run of fio. What the servers spent is the
//     difference of utime and stime in /proc before and after it.
//  4. /proc/stat says what else the machine did meanwhile; a measurement that was
//     disturbed is repeated, and the disturbance is in the Report.
//  5. Medians over the rounds, their spread, and ratios to nbdkit make the
//     Report.
//
// A contender that is missing or fails is in the Report with the reason. All
// processes are ended by their ID and the directory is removed, also after an
// error or when the context ends.
package compare

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultSize is the size of a contender's disk in bytes.
const DefaultSize = 1 << 30

// Options say what is measured.
type Options struct {
	Rounds    int
	Runtime   time.Duration // of one measurement
	Size      int64         // bytes of a disk; 0 means DefaultSize
	Dir       string        // parent of the run's directory; "" means the system's temporary one
	Bin       string        // directory of the daemons of RSIO; "" means the search path
	Workloads []Workload    // nil means Workloads()
	Log       io.Writer     // progress
}

// limit bounds a run as a whole: preparations, and a multiple of each
// measurement for the flush that follows it.
func (o *Options) limit(contenders int) time.Duration {
	n := o.Rounds * len(o.Workloads) * contenders
	return 5*time.Minute + time.Duration(n*(1+maxRepeats))*(2*o.Runtime+3*time.Second)
}

// Run measures all contenders. The Report is complete as far as the run came,
// also with an error.
func Run(ctx context.Context, opt Options) (rep *Report, err error) {
	if opt.Rounds < 1 || opt.Runtime < 100*time.Millisecond {
		return nil, errors.New("compare: give at least one round and 0.1 s for each measurement")
	}
	if opt.Size == 0 {
		opt.Size = DefaultSize
	}
	if opt.Workloads == nil {
		opt.Workloads = Workloads()
	}
	list := contenders()
	ctx, cancel := context.WithTimeout(ctx, opt.limit(len(list)))
	defer cancel()
	dir, err := os.MkdirTemp(opt.Dir, "rsio-bench.")
	if err != nil {
		return nil, err
	}
	l := &lab{ctx: ctx, opt: opt, dir: dir}
	defer func() { err = errors.Join(err, l.close()) }()
	if l.fio, err = find("", "fio"); err != nil {
		return nil, err
	}
	rep = newReport(opt, dir)
	running := l.startAll(list, rep)
	rep.Versions = versions(ctx, l.paths)
	rep.Machine.LoadBefore = loadAverage()
	err = l.rounds(running, rep)
	rep.Machine.LoadAfter = loadAverage()
	rep.summarise()
	return rep, err
}

// startAll starts every contender and fills its disk. Those that cannot be
// measured are noted.
func (l *lab) startAll(list []contender, rep *Report) []*entrant {
	var out []*entrant
	for _, c := range list {
		e, err := l.enter(c)
		if err != nil {
			l.logf("!!! %s IS NOT MEASURED: %v", c.name, err)
			rep.Missing = append(rep.Missing, Missing{Contender: c.name, Why: err.Error()})
			continue
		}
		l.logf("started %s", c.name)
		out = append(out, e)
	}
	return out
}

// rounds does all measurements.
func (l *lab) rounds(running []*entrant, rep *Report) error {
	for round := range l.opt.Rounds {
		for k, w := range l.opt.Workloads {
			l.logf("round %d of %d: %s", round+1, l.opt.Rounds, w.Name)
			for i := range running {
				e := running[(i+round+k)%len(running)]
				s, err := l.measure(e, w)
				if ctxErr := l.ctx.Err(); ctxErr != nil {
					return ctxErr
				}
				if err != nil {
					l.logf("!!! %s FAILED in %s: %v", e.name, w.Name, err)
					rep.Failures = append(rep.Failures, Missing{Contender: e.name, Why: w.Name + ": " + err.Error()})
					continue
				}
				rep.add(e.contender, w, s)
			}
		}
	}
	return nil
}

// A measurement during which others took more than noisy of all processors is
// repeated up to maxRepeats times; the quietest counts.
const (
	noisy      = 0.1
	maxRepeats = 2
)

// measure measures e, again if something else was running on the machine.
func (l *lab) measure(e *entrant, w Workload) (Sample, error) {
	best, err := l.once(e, w)
	for n := 1; err == nil && best.Other > noisy && n <= maxRepeats; n++ {
		var s Sample
		if s, err = l.once(e, w); s.Other < best.Other {
			best = s
		}
		best.Repeats = n
	}
	return best, err
}

// once is one run of fio against e. What a write has left dirty is written
// back afterwards, so that it does not weigh on the next contender.
func (l *lab) once(e *entrant, w Workload) (Sample, error) {
	all, err := machineCPU()
	if err != nil {
		return Sample{}, err
	}
	start := time.Now()
	before, err := treeCPU(e.pids())
	if err != nil {
		return Sample{}, err
	}
	f, err := l.runFio(e.uri, w)
	if err != nil {
		return Sample{}, err
	}
	time.Sleep(20 * time.Millisecond) // servers notice the end of the client
	after, err := treeCPU(e.pids())
	if err != nil {
		return Sample{}, err
	}
	allAfter, err := machineCPU()
	if err != nil {
		return Sample{}, err
	}
	s := f.sample(after - before)
	s.Other = max(0, float64(allAfter-all-(after-before)-f.client)/float64(time.Since(start))/float64(runtime.NumCPU()))
	if w.changes() {
		if err := syncFS(l.dir); err != nil {
			return Sample{}, err
		}
	}
	return s, nil
}

// syncFS writes back what is dirty in the file system of dir.
func syncFS(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = unix.Syncfs(int(f.Fd()))
	return errors.Join(err, f.Close())
}

func (l *lab) logf(format string, args ...any) {
	if l.opt.Log != nil {
		_, _ = fmt.Fprintf(l.opt.Log, format+"\n", args...) // progress only
	}
}
