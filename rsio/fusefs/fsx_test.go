// SPDX-License-Identifier: Apache-2.0

package fusefs

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"rsio/rsio/block"
	"rsio/rsio/layer/fault"
)

// fsx is one goroutine with random operations on its part of a file, and what
// should be there. Parts have odd borders: neighbours share blocks.
type fsx struct {
	t     *testing.T
	rng   *rand.Rand
	path  string
	fd    int
	off   int // of the part
	model []byte
	mem   []byte // aligned
	last  bool   // the part ends with the file
	done  []string
}

const fsxMax = 160 << 10 // bytes; of one operation

// TestRandom runs random operations on devices of all kinds.
func TestRandom(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("RSIO_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("seed %d (RSIO_SEED)", seed)
	rows := []struct {
		desc    string
		bs      uint32
		workers int
		maxLen  uint32
		maxZero uint32
		without block.Features
		delay   bool
	}{
		{desc: "bytes", bs: 1, workers: 1},
		{desc: "bytes, many", bs: 1, workers: 4, delay: true},
		{desc: "512", bs: 512, workers: 1},
		{desc: "512, many", bs: 512, workers: 6, delay: true},
		{desc: "4096", bs: 4096, workers: 1},
		{desc: "4096, many", bs: 4096, workers: 6},
		{desc: "4096, many, slow", bs: 4096, workers: 6, delay: true},
		{desc: "small pieces", bs: 512, workers: 3, maxLen: 10000, maxZero: 5000, delay: true},
		{desc: "bare", bs: 512, workers: 2, without: block.CanFUA | block.CanDiscard | block.CanBlockStatus | block.CanFlush},
	}
	r := newRig(t, Options{})
	for n, row := range rows {
		t.Run(row.desc, func(t *testing.T) {
			const size = 1 << 20
			var d block.Device = memory(t, size, row.bs)
			if row.delay {
				d = slow(t, d, fault.Rule{P: 0.3, Seed: seed, Do: fault.Delay, MaxMS: 2, After: true})
			}
			d = &counter{Device: d, maxLen: row.maxLen, maxZero: row.maxZero, without: row.without}
			name := fmt.Sprint("vol", n)
			path := r.add(name, d)
			var wg sync.WaitGroup
			for w := range row.workers {
				from, to := w*size/row.workers, (w+1)*size/row.workers
				if w > 0 {
					from += 37
				}
				if w < row.workers-1 {
					to += 37
				}
				x := &fsx{t: t, rng: rand.New(rand.NewPCG(seed, uint64(w))), path: path, off: from, model: make([]byte, to-from),
					mem: aligned(fsxMax + 4096), last: to == size}
				wg.Go(func() { x.run(500) })
			}
			within(t, "the run", wg.Wait)
			r.remove(name)
		})
	}
}

func aligned(n int) []byte {
	raw := make([]byte, n+4096)
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(raw)))) & 4095
	return raw[skip : skip+n]
}

func (x *fsx) run(ops int) {
	defer func() { _ = unix.Close(x.fd) }() // of a test that failed
	x.reopen()
	for i := range ops {
		if !x.step() {
			x.t.Errorf("operation %d of the part at %d; the last ones:", i, x.off)
			for _, line := range x.done[max(0, len(x.done)-20):] {
				x.t.Log(line)
			}
			return
		}
	}
	if !x.read(0, len(x.model), false) {
		x.t.Errorf("the part at %d is wrong at the end", x.off)
	}
}

func (x *fsx) reopen() {
	if x.fd != 0 {
		_ = unix.Close(x.fd)
	}
	flags := unix.O_RDWR | unix.O_CLOEXEC
	switch x.rng.IntN(4) {
	case 0:
		flags |= unix.O_DIRECT
	case 1:
		flags |= unix.O_SYNC
	case 2:
		flags |= unix.O_DIRECT | unix.O_DSYNC
	}
	var err error
	if x.fd, err = unix.Open(x.path, flags, 0); err != nil {
		x.t.Error(err)
	}
}

// span chooses a range of the part: small, aligned or any.
func (x *fsx) span() (at, n int) {
	most := min(fsxMax, len(x.model))
	switch x.rng.IntN(4) {
	case 3: // at a border, where neighbours write to the same block
		n = 1 + x.rng.IntN(300)
		if x.rng.IntN(2) == 0 {
			return 0, n
		}
		return len(x.model) - n, n
	case 0:
		n = 1 + x.rng.IntN(700)
	case 1:
		n = 1 + x.rng.IntN(most)
	default: // whole blocks of the file
		at = (x.off+x.rng.IntN(len(x.model)))&^4095 - x.off
		n = (1 + x.rng.IntN(8)) * 4096
		if at >= 0 && at+n <= len(x.model) {
			return at, n
		}
		n = 512
	}
	return x.rng.IntN(len(x.model) - n + 1), n
}

func (x *fsx) step() bool {
	at, n := x.span()
	switch k := x.rng.IntN(100); {
	case k < 35:
		return x.read(at, n, true)
	case k < 75:
		return x.write(at, n)
	case k < 82:
		return x.fallocate("punch", unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, n)
	case k < 89:
		return x.fallocate("zero", unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, at, n)
	case k < 91:
		err := unix.Fallocate(x.fd, 0, int64(x.off+at), int64(n))
		return x.note(err == nil, "preallocate [%d,%d): %v", at, at+n, err)
	case k < 94:
		err := unix.Fsync(x.fd)
		return x.note(err == nil, "fsync: %v", err)
	case k < 97:
		x.reopen()
		return x.note(true, "reopen")
	}
	return x.seek(at)
}

func (x *fsx) note(ok bool, format string, args ...any) bool {
	x.done = append(x.done, fmt.Sprintf(format, args...))
	return ok
}

func (x *fsx) read(at, n int, behind bool) bool {
	want := x.model[at : at+n]
	ask := n
	if x.last && behind && at+n == len(x.model) {
		ask += 4096
	}
	p := aligned(ask)
	if x.rng.IntN(2) == 0 {
		p = make([]byte, ask)
	}
	got, err := unix.Pread(x.fd, p, int64(x.off+at))
	if err != nil || got != n {
		return x.note(false, "read [%d,%d): %d, %v", at, at+n, got, err)
	}
	for i := range want {
		if p[i] != want[i] {
			return x.note(false, "read [%d,%d): byte %d is %d, not %d", at, at+n, at+i, p[i], want[i])
		}
	}
	return x.note(true, "read [%d,%d)", at, at+n)
}

func (x *fsx) write(at, n int) bool {
	p := x.mem[:n]
	if x.rng.IntN(2) == 0 {
		p = x.mem[13 : 13+n]
	}
	b := byte(x.rng.Uint32())
	for i := range p {
		p[i] = b + byte(i*7)
	}
	got, err := unix.Pwrite(x.fd, p, int64(x.off+at))
	copy(x.model[at:], p)
	return x.note(err == nil && got == n, "write [%d,%d): %d, %v", at, at+n, got, err)
}

func (x *fsx) fallocate(what string, mode uint32, at, n int) bool {
	err := unix.Fallocate(x.fd, mode, int64(x.off+at), int64(n))
	clear(x.model[at : at+n])
	return x.note(err == nil, "%s [%d,%d): %v", what, at, at+n, err)
}

// seek looks for data: what is skipped must be zeroes. Others may write behind
// the part.
func (x *fsx) seek(at int) bool {
	to, err := unix.Seek(x.fd, int64(x.off+at), unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		to, err = int64(x.off+len(x.model)), nil
	}
	if err != nil {
		return x.note(false, "seek %d: %v", at, err)
	}
	for i := at; i < min(int(to)-x.off, len(x.model)); i++ {
		if x.model[i] != 0 {
			return x.note(false, "seek %d: to %d, but byte %d is %d", at, int(to)-x.off, i, x.model[i])
		}
	}
	hole, err := unix.Seek(x.fd, int64(x.off+at), unix.SEEK_HOLE)
	return x.note(err == nil && hole >= int64(x.off+at), "seek %d: data %d, hole %d, %v", at, int(to)-x.off, int(hole)-x.off, err)
}
