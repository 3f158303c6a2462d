// SPDX-License-Identifier: Apache-2.0

// Package soak is a verified load on a block device or a file: it writes
// stamped blocks, reads them back, flushes, and at the end reads everything
// again. It is for hours beside faults, and small enough for a guest with one
// CPU and little memory.
package soak

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// BlockSize is the unit of the load in bytes.
const BlockSize = 4096

// Options say what to do.
type Options struct {
	Path        string
	Offset      int64         // bytes, a multiple of BlockSize
	Size        int64         // bytes from Offset; 0: to the end. A file that is missing or empty is made so long
	Workers     int           // 1..1024, each with blocks of its own
	Blocks      int           // per worker, spread over the range; 0: 64
	Direct      bool          // O_DIRECT
	StopOnError bool          // else errors are counted
	Stall       time.Duration // a request that takes longer is reported
	State       string        // file of what was acknowledged, for a later run; may be empty
	VerifyOnly  bool          // only read back what State says
	Report      func(string)  // takes a line for each stall and error; not nil
}

// Result is what was seen.
type Result struct {
	Ops      uint64  `json:"ops"`
	Errors   uint64  `json:"errors"`
	First    string  `json:"first_error,omitempty"`
	WorstMS  float64 `json:"worst_ms"` // longest request
	Stalls   uint64  `json:"stalls"`   // requests longer than Options.Stall
	Verified uint64  `json:"verified"` // blocks at the end
	Lost     uint64  `json:"lost"`     // blocks that hold something else
}

// Load is a running load.
type Load struct {
	opt   Options
	f     *os.File
	begin time.Time
	id    uint64       // tells this load's blocks from those of others, also of earlier ones
	state []blockState // all workers' blocks

	ops, errs, stalls atomic.Uint64
	worst             atomic.Int64 // ns
	mu                sync.Mutex
	first             string
	failed            atomic.Bool
}

// blockState is what is known of a block.
type blockState struct {
	acked   uint64 // newest sequence that was acknowledged
	tried   uint64 // newest that was sent
	flushed uint64 // newest that was acknowledged when a flush began that succeeded
}

// New opens the device or file.
func New(opt Options) (*Load, error) {
	if opt.Blocks == 0 {
		opt.Blocks = 64
	}
	if opt.Workers < 1 || opt.Workers > 1024 || opt.Blocks < 1 || opt.Offset%BlockSize != 0 || opt.Offset < 0 || opt.Size < 0 {
		return nil, errors.New("soak: give 1 to 1024 workers, and an offset that is a multiple of 4096")
	}
	flag := os.O_RDWR
	if opt.Direct {
		flag |= unix.O_DIRECT
	}
	if st, err := os.Stat(opt.Path); opt.Size > 0 && !opt.VerifyOnly && (errors.Is(err, os.ErrNotExist) || err == nil && st.Mode().IsRegular() && st.Size() == 0) {
		flag |= os.O_CREATE
	}
	f, err := os.OpenFile(opt.Path, flag, 0o600)
	if err != nil {
		return nil, fmt.Errorf("soak: %w", err)
	}
	l := &Load{opt: opt, f: f, begin: time.Now()}
	l.id = uint64(l.begin.UnixNano())
	if err := l.size(flag&os.O_CREATE != 0); err != nil {
		return nil, errors.Join(fmt.Errorf("soak %s: %w", opt.Path, err), f.Close())
	}
	l.state = make([]blockState, l.opt.Workers*l.opt.Blocks)
	if err := l.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("soak %s: %w", opt.State, err), f.Close())
	}
	return l, nil
}

// size finds how much there is, and sees that all blocks have room.
func (l *Load) size(make bool) error {
	if make {
		if err := l.f.Truncate(l.opt.Offset + l.opt.Size); err != nil {
			return err
		}
	}
	end, err := l.f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if l.opt.Size == 0 || l.opt.Size > end-l.opt.Offset {
		l.opt.Size = end - l.opt.Offset
	}
	room := l.opt.Size / BlockSize / int64(l.opt.Workers) // blocks of a worker
	if room < 1 {
		return fmt.Errorf("%d bytes are too few for %d workers", l.opt.Size, l.opt.Workers)
	}
	l.opt.Blocks = int(min(int64(l.opt.Blocks), room))
	return nil
}

// place returns where block n is: the blocks are spread over the whole range.
func (l *Load) place(n int) int64 {
	step := l.opt.Size / BlockSize / int64(len(l.state))
	return l.opt.Offset + int64(n)*step*BlockSize
}

// aligned allocates a block for O_DIRECT.
func aligned() []byte {
	b := make([]byte, 2*BlockSize)
	skip := -uintptr(unsafe.Pointer(unsafe.SliceData(b))) % BlockSize
	return b[skip : skip+BlockSize : skip+BlockSize]
}

// Run loads until ctx ends, reads everything back and closes.
func (l *Load) Run(ctx context.Context) (Result, error) {
	if !l.opt.VerifyOnly {
		var wg sync.WaitGroup
		for w := range l.opt.Workers {
			wg.Go(func() { l.worker(ctx, w) })
		}
		wg.Wait()
	}
	r := Result{}
	l.verify(&r)
	err := l.save()
	err = errors.Join(err, l.f.Close())
	r.Ops, r.Errors, r.Stalls = l.ops.Load(), l.errs.Load(), l.stalls.Load()
	r.WorstMS = float64(l.worst.Load()) / 1e6
	l.mu.Lock()
	r.First = l.first
	l.mu.Unlock()
	return r, err
}

// Ops returns the operations so far, errors and the longest in milliseconds.
func (l *Load) Ops() (ops, errs uint64, worstMS float64) {
	return l.ops.Load(), l.errs.Load(), float64(l.worst.Load()) / 1e6
}

func (l *Load) worker(ctx context.Context, w int) {
	rng := rand.New(rand.NewPCG(uint64(w), uint64(l.begin.UnixNano())))
	mine := l.state[w*l.opt.Blocks : (w+1)*l.opt.Blocks]
	buf := aligned()
	for n := 0; ctx.Err() == nil && !(l.opt.StopOnError && l.failed.Load()); n++ {
		k := rng.IntN(len(mine))
		blk, s := w*l.opt.Blocks+k, &mine[k]
		switch {
		case n%64 == 63:
			l.flush(mine)
		case rng.IntN(2) == 0:
			s.tried++
			stamp(buf, uint64(blk), s.tried, l.id)
			if l.timed("write", blk, func() error { _, err := l.f.WriteAt(buf, l.place(blk)); return err }) {
				s.acked = s.tried
			}
		default:
			if l.timed("read", blk, func() error { _, err := l.f.ReadAt(buf, l.place(blk)); return err }) {
				if err := s.check(buf, uint64(blk), s.acked, l.id); err != nil {
					l.fail(err)
				}
			}
		}
	}
}

// flush makes what was acknowledged durable.
func (l *Load) flush(mine []blockState) {
	if l.timed("flush", -1, l.f.Sync) {
		for i := range mine { // only this worker writes them
			mine[i].flushed = mine[i].acked
		}
	}
}

// timed does one operation and reports whether it succeeded.
func (l *Load) timed(what string, blk int, do func() error) bool {
	start := time.Now()
	err := do()
	took := time.Since(start)
	l.ops.Add(1)
	for {
		old := l.worst.Load()
		if int64(took) <= old || l.worst.CompareAndSwap(old, int64(took)) {
			break
		}
	}
	if l.opt.Stall > 0 && took > l.opt.Stall {
		l.stalls.Add(1)
		l.opt.Report(fmt.Sprintf("%s at %.3f s took %d ms", what, start.Sub(l.begin).Seconds(), took.Milliseconds()))
	}
	if err != nil {
		l.fail(fmt.Errorf("%s of block %d: %w", what, blk, err))
	}
	return err == nil
}

func (l *Load) fail(err error) {
	if l.errs.Add(1) == 1 {
		l.mu.Lock()
		l.first = err.Error()
		l.mu.Unlock()
	}
	l.failed.Store(true)
	l.opt.Report(err.Error())
}

// verify reads everything back. What an earlier run acknowledged and did not
// flush may be gone.
func (l *Load) verify(r *Result) {
	buf := aligned()
	for blk := range l.state {
		s := &l.state[blk]
		least := s.acked
		if l.opt.VerifyOnly {
			least = s.flushed
		}
		if s.tried == 0 {
			continue
		}
		if _, err := l.f.ReadAt(buf, l.place(blk)); err != nil {
			l.fail(fmt.Errorf("read back of block %d: %w", blk, err))
			continue
		}
		if err := s.check(buf, uint64(blk), least, l.id); err != nil {
			r.Lost++
			l.fail(err)
			continue
		}
		r.Verified++
	}
}
