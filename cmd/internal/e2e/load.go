// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

const stampLen = 4096

// stamp fills a block with what tells whose it is: block, sequence, writer.
func stamp(b []byte, blk, seq, writer uint64) {
	rng := rand.NewPCG(blk, seq)
	for i := 32; i+8 <= len(b); i += 8 {
		binary.BigEndian.PutUint64(b[i:], rng.Uint64())
	}
	binary.BigEndian.PutUint64(b[8:], blk)
	binary.BigEndian.PutUint64(b[16:], seq)
	binary.BigEndian.PutUint64(b[24:], writer)
	binary.BigEndian.PutUint32(b[4:], 0)
	binary.BigEndian.PutUint32(b, crc32.ChecksumIEEE(b[4:]))
}

// checkStamp returns the sequence number of a block; a block of zeroes has 0.
func checkStamp(b []byte, blk uint64) (uint64, error) {
	zero := true
	for _, x := range b {
		if x != 0 {
			zero = false
			break
		}
	}
	if zero {
		return 0, nil
	}
	if binary.BigEndian.Uint32(b) != crc32.ChecksumIEEE(b[4:]) {
		return 0, fmt.Errorf("block %d is torn or damaged", blk)
	}
	if got := binary.BigEndian.Uint64(b[8:]); got != blk {
		return 0, fmt.Errorf("block %d holds what was written to %d", blk, got)
	}
	return binary.BigEndian.Uint64(b[16:]), nil
}

// Load writes, flushes, reads back and compares, with many requests in flight,
// until it is stopped. Each worker has blocks of its own.
type Load struct {
	Network, Addr, Export string
	Workers               int
	Blocks                int           // per worker
	Pause                 time.Duration // between two requests of a worker
	Reconnect             bool          // a lost connection is no error: the NBD server was killed

	mu       sync.Mutex
	stop     chan struct{}
	wg       sync.WaitGroup
	errs     []error
	worst    atomic.Int64 // longest request since ResetWorst, ns
	ops      atomic.Uint64
	state    []workerState
	inflight []atomic.Int64 // start of each worker's request, ns since begin; 0: none
	begin    time.Time
}

type workerState struct {
	acked   []uint64 // newest acknowledged sequence per block
	tried   []uint64 // newest submitted
	flushed []uint64
}

// Start starts the workers.
func (l *Load) Start() {
	l.stop, l.begin = make(chan struct{}), time.Now()
	if l.state == nil {
		l.state = make([]workerState, l.Workers)
		for w := range l.state {
			l.state[w] = workerState{make([]uint64, l.Blocks), make([]uint64, l.Blocks), make([]uint64, l.Blocks)}
		}
	}
	l.inflight = make([]atomic.Int64, l.Workers)
	for w := range l.Workers {
		l.wg.Go(func() { l.worker(w) })
	}
}

// Stop ends the load and returns the errors it met.
func (l *Load) Stop() error {
	close(l.stop)
	l.wg.Wait()
	return errors.Join(l.errs...)
}

// Failed returns the first error so far.
func (l *Load) Failed() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.errs) > 0 {
		return l.errs[0]
	}
	return nil
}

func (l *Load) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.errs) < 10 {
		l.errs = append(l.errs, fmt.Errorf("at %v: %w", time.Since(l.begin).Round(time.Millisecond), err))
	}
}

// ResetWorst starts a new measurement of the longest request.
func (l *Load) ResetWorst() { l.worst.Store(0) }

// Worst returns the longest request since ResetWorst, one that is still in
// flight included.
func (l *Load) Worst() time.Duration {
	worst := l.worst.Load()
	now := int64(time.Since(l.begin))
	for w := range l.inflight {
		if s := l.inflight[w].Load(); s != 0 {
			worst = max(worst, now-s)
		}
	}
	return time.Duration(worst)
}

// Ops returns how many requests have ended.
func (l *Load) Ops() uint64 { return l.ops.Load() }

func (l *Load) ended() bool {
	select {
	case <-l.stop:
		return true
	default:
		return false
	}
}

// connect connects, again and again if the server may be away.
func (l *Load) connect() *Client {
	for {
		c, err := Dial(l.Network, l.Addr, l.Export)
		if err == nil {
			return c
		}
		if !l.Reconnect || l.ended() {
			if !l.Reconnect {
				l.fail(err)
			}
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (l *Load) worker(w int) {
	c := l.connect()
	defer func() {
		if c != nil {
			c.Close()
		}
	}()
	rng := rand.New(rand.NewPCG(uint64(w), 7))
	st := &l.state[w]
	buf := make([]byte, stampLen)
	for c != nil && !l.ended() {
		k := rng.IntN(l.Blocks)
		blk := uint64(w*l.Blocks + k)
		var err error
		switch n := rng.IntN(20); {
		case n < 10:
			st.tried[k]++
			stamp(buf, blk, st.tried[k], uint64(w))
			if err = l.do(w, c, cmdWrite, 0, blk*stampLen, buf); err == nil {
				st.acked[k] = st.tried[k]
			}
		case n < 19:
			if err = l.do(w, c, cmdRead, 0, blk*stampLen, buf); err == nil {
				l.compare(st, k, blk, buf)
			}
		default:
			before := append([]uint64(nil), st.acked...)
			if err = l.do(w, c, cmdFlush, 0, 0, nil); err == nil {
				copy(st.flushed, before)
			}
		}
		if err != nil {
			c = l.afterError(c, err)
		}
		if l.Pause > 0 {
			time.Sleep(l.Pause)
		}
	}
}

// afterError reconnects if that is allowed, else notes the error and ends.
func (l *Load) afterError(c *Client, err error) *Client {
	if l.Reconnect && !errors.As(err, new(ErrNBD)) {
		c.Close()
		return l.connect()
	}
	l.fail(err)
	c.Close()
	return nil
}

// compare checks what a read returned: the newest acknowledged write, or a
// newer one that was submitted and whose outcome is not known.
func (l *Load) compare(st *workerState, k int, blk uint64, buf []byte) {
	seq, err := checkStamp(buf, blk)
	if err != nil {
		l.fail(err)
		return
	}
	if seq < st.acked[k] || seq > st.tried[k] {
		l.fail(fmt.Errorf("block %d holds write %d, but %d was acknowledged (%d submitted)", blk, seq, st.acked[k], st.tried[k]))
	}
	// An unacknowledged write may appear once, but then it stays.
	st.acked[k] = max(st.acked[k], seq)
}

func (l *Load) do(w int, c *Client, cmd, flags uint16, off uint64, buf []byte) error {
	start := time.Since(l.begin)
	l.inflight[w].Store(int64(start))
	err := c.Start(cmd, flags, off, buf).Wait()
	l.inflight[w].Store(0)
	took := int64(time.Since(l.begin) - start)
	for {
		old := l.worst.Load()
		if took <= old || l.worst.CompareAndSwap(old, took) {
			break
		}
	}
	l.ops.Add(1)
	return err
}

// Verify reads every block back and compares it.
func (l *Load) Verify() error {
	c, err := Dial(l.Network, l.Addr, l.Export)
	if err != nil {
		return err
	}
	defer c.Close()
	buf := make([]byte, stampLen)
	for w := range l.state {
		for k := range l.Blocks {
			blk := uint64(w*l.Blocks + k)
			if err := c.Start(cmdRead, 0, blk*stampLen, buf).Wait(); err != nil {
				return fmt.Errorf("read block %d: %w", blk, err)
			}
			l.compare(&l.state[w], k, blk, buf)
		}
	}
	return l.Failed()
}
