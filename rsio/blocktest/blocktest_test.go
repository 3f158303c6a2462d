// SPDX-License-Identifier: Apache-2.0

package blocktest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"rsio/rsio/block"
)

// toy is the simplest device that passes: bytes and a lock.
type toy struct {
	in    block.Inflight
	fin   block.Finisher
	mu    sync.Mutex
	bytes []byte
	bs    uint32
}

func (d *toy) Info() block.Info {
	return block.Info{Size: uint64(len(d.bytes)), BlockSize: d.bs, MaxLen: block.MaxLen, MaxZero: block.MaxZero,
		Features: block.CanFlush | block.CanFUA | block.CanDiscard | block.CanZero | block.CanBlockStatus | block.CanCompareAndWrite}
}

func (d *toy) Submit(r *block.Request) {
	if !d.in.Enter() {
		d.fin.Finish(r, block.StatusClosed)
		return
	}
	d.fin.Finish(r, d.serve(r))
	d.in.Leave()
}

func (d *toy) serve(r *block.Request) block.Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch r.Op {
	case block.OpRead:
		copy(r.Buf, d.bytes[r.Off:])
	case block.OpWrite:
		copy(d.bytes[r.Off:], r.Buf)
	case block.OpCompareAndWrite:
		if i := block.Differs(d.bytes[r.Off:r.End()], r.Buf[:r.Len]); i >= 0 {
			r.N = uint32(i)
			return block.StatusMiscompare
		}
		copy(d.bytes[r.Off:], r.Buf[r.Len:])
	case block.OpFlush:
	case block.OpDiscard, block.OpWriteZeroes:
		clear(d.bytes[r.Off:r.End()])
	case block.OpBlockStatus:
		r.N = 0
		block.AppendExtent(r, block.Extent{Len: uint64(r.Len)})
	default:
		return block.StatusUnsupported
	}
	return block.StatusOK
}

func (d *toy) Close(ctx context.Context) error {
	return d.in.Close(ctx, func() error {
		d.fin.Close()
		return nil
	})
}

func newToy(bs uint32) *toy { return &toy{bytes: make([]byte, 8<<20), bs: bs} }

func TestGoodDevices(t *testing.T) {
	for _, bs := range []uint32{1, 512, 4096} {
		t.Run(fmt.Sprint(bs), func(t *testing.T) {
			Run(t, Config{Make: func(*testing.T) block.Device { return newToy(bs) }, ZeroAlloc: true, Chain: 20_000})
		})
	}
	t.Run("workers", func(t *testing.T) {
		Run(t, Config{Make: func(*testing.T) block.Device {
			d := newToy(1)
			return block.Serve(d.Info(), 4, d.serve)
		}, ZeroAlloc: true, Chain: 20_000})
	})
	t.Run("stack", func(t *testing.T) {
		nothing := Layer{"nothing", func(below block.Device) block.Device { return &bad{toy: below.(interface{ self() *toy }).self()} }}
		d, names := RandomStack(rand.New(rand.NewPCG(4, 0)), &bad{toy: newToy(1)}, []Layer{nothing}, 3)
		if !strings.HasPrefix(names, "leaf") || d == nil {
			t.Errorf("stack %q", names)
		}
	})
}

// recorder is a tester that remembers what was reported.
type recorder struct {
	mu   sync.Mutex
	said []string
}

func (r *recorder) Helper() {}

func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	r.said = append(r.said, fmt.Sprintf(format, args...))
	r.mu.Unlock()
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}

// bad is a toy with one mistake.
type bad struct {
	*toy
	submit func(d *toy, r *block.Request)
	close  func(d *toy, ctx context.Context) error
	info   func(i *block.Info)
}

func (b *bad) self() *toy { return b.toy }

func (b *bad) Info() block.Info {
	i := b.toy.Info()
	if b.info != nil {
		b.info(&i)
	}
	return i
}

func (b *bad) Submit(r *block.Request) {
	if b.submit == nil {
		b.toy.Submit(r)
		return
	}
	b.submit(b.toy, r)
}

func (b *bad) Close(ctx context.Context) error {
	if b.close == nil {
		return b.toy.Close(ctx)
	}
	return b.close(b.toy, ctx)
}

// verdict runs one part of the suite on d and returns what it reported.
func verdict(t *testing.T, name string, cfg Config, d block.Device) string {
	t.Helper()
	cfg.Ops, cfg.Chain, cfg.Timeout = 300, 20_000, 500*time.Millisecond
	cfg.defaults()
	for _, p := range parts() {
		if p.name != name {
			continue
		}
		rec := &recorder{}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			s := newSuite(rec, cfg, d)
			p.run(s)
			s.finish()
		}()
		<-ended
		rec.mu.Lock()
		defer rec.mu.Unlock()
		return strings.Join(rec.said, "\n")
	}
	t.Fatalf("the suite has no part %q", name)
	return ""
}

// on applies do to one operation.
func on(op block.Op, do func(d *toy, r *block.Request)) func(*toy, *block.Request) {
	return func(d *toy, r *block.Request) {
		if r.Op == op {
			do(d, r)
			return
		}
		d.Submit(r)
	}
}

// mistake is a toy that breaks one rule, and what the suite says of it.
type mistake struct {
	desc, part, want string
	dev              bad
	cfg              Config
}

func basicMistakes() []mistake {
	return []mistake{
		{desc: "block size 3", part: "info", want: "power of two", dev: bad{info: func(i *block.Info) { i.BlockSize = 3 }}},
		{desc: "fast zero alone", part: "info", want: "CanFastZero", dev: bad{info: func(i *block.Info) { i.Features = block.CanFastZero }}},
		{desc: "writes dropped", part: "read-write", want: "is wrong", dev: bad{submit: on(block.OpWrite, func(d *toy, r *block.Request) { d.fin.Finish(r, 0) })}},
		{desc: "never completes", part: "read-write", want: "has not completed", dev: bad{submit: func(*toy, *block.Request) {}}},
		{desc: "largest read refused", part: "edges", want: "invalid request", dev: bad{submit: on(block.OpRead, func(d *toy, r *block.Request) {
			if r.Len == block.MaxLen {
				d.fin.Finish(r, block.StatusInvalid)
				return
			}
			d.Submit(r)
		})}},
		{desc: "unknown operation succeeds", part: "unknown-op", want: "rule 10", dev: bad{submit: on(99, func(d *toy, r *block.Request) { d.fin.Finish(r, 0) })}},
		{desc: "flush refused", part: "flush-fua", want: "not supported", dev: bad{submit: on(block.OpFlush, func(d *toy, r *block.Request) { d.fin.Finish(r, block.StatusUnsupported) })}},
		{desc: "payload changed", part: "payload", want: "rule 4", dev: bad{submit: on(block.OpWrite, func(d *toy, r *block.Request) { r.Buf[9]++; d.Submit(r) })}},
		{desc: "request edited", part: "read-write", want: "rule 8", dev: bad{submit: on(block.OpRead, func(d *toy, r *block.Request) { r.Off ^= 4096; d.Submit(r) })}},
		{desc: "completed twice", part: "flush-fua", want: "rule 2", dev: bad{submit: func(d *toy, r *block.Request) { d.Submit(r); r.Done.Complete(r) }}},
		{desc: "completed twice at random", part: "random", want: "rule 2", dev: bad{submit: on(block.OpRead, func(d *toy, r *block.Request) { d.Submit(r); r.Done.Complete(r) })}},
		{desc: "buffer touched later", part: "payload", want: "rule 2", dev: bad{submit: later()}},
	}
}

func laterMistakes() []mistake {
	return []mistake{
		{desc: "discard does nothing", part: "zeroes", want: "discard", dev: bad{submit: on(block.OpDiscard, func(d *toy, r *block.Request) { d.fin.Finish(r, 0) })}},
		{desc: "zeroes one byte too many", part: "zeroes", want: "is wrong", dev: bad{submit: on(block.OpWriteZeroes, func(d *toy, r *block.Request) {
			if end := r.End(); end < uint64(len(d.bytes)) {
				d.bytes[end] = 0
			}
			d.Submit(r)
		})}},
		{desc: "NoHole takes no space", part: "no-hole", want: "NoHole", cfg: Config{Used: func(block.Device) uint64 { return 0 }}},
		{desc: "data called zero", part: "block-status", want: "called zero", dev: bad{submit: on(block.OpBlockStatus, func(d *toy, r *block.Request) {
			r.N = 0
			block.AppendExtent(r, block.Extent{Len: uint64(r.Len), Flags: block.ExtentZero})
			d.fin.Finish(r, 0)
		})}},
		{desc: "N left alone", part: "block-status", want: "bytes of answer", dev: bad{submit: on(block.OpBlockStatus, func(d *toy, r *block.Request) { d.fin.Finish(r, 0) })}},
		{desc: "compare-and-write that does not compare", part: "compare-and-write", want: "first difference", dev: bad{submit: on(block.OpCompareAndWrite, func(d *toy, r *block.Request) {
			d.mu.Lock()
			copy(d.bytes[r.Off:], r.Buf[r.Len:])
			d.mu.Unlock()
			d.fin.Finish(r, 0)
		})}},
		{desc: "compare-and-write in two steps", part: "compare-and-write", want: "not atomic", dev: bad{submit: on(block.OpCompareAndWrite, func(d *toy, r *block.Request) {
			go func() { // joined by the request's end
				q := *r
				q.Op, q.Buf, q.Done = block.OpRead, make([]byte, r.Len), nil
				d.serve(&q)
				time.Sleep(100 * time.Microsecond)
				i := block.Differs(q.Buf, r.Buf[:r.Len])
				if i < 0 {
					q.Op, q.Buf = block.OpWrite, r.Buf[r.Len:]
					block.Finish(r, d.serve(&q))
					return
				}
				r.N = uint32(i)
				block.Finish(r, block.StatusMiscompare)
			}()
		})}},
		{desc: "a write in a hundred is lost", part: "random", want: "is wrong", dev: bad{submit: nthLost()}},
		{desc: "no Finisher", part: "resubmit", want: "rule 5", dev: bad{submit: func(d *toy, r *block.Request) { r.Status = d.serve(r); r.Done.Complete(r) }}},
		{desc: "allocates", part: "allocations", want: "1 allocations", cfg: Config{ZeroAlloc: true}, dev: bad{submit: leak()}},
		{desc: "open after Close", part: "close", want: "rule 6", dev: bad{close: func(*toy, context.Context) error { return nil }}},
		{desc: "Close does not drain", part: "close-drains", want: "rule 6", dev: bad{
			submit: func(d *toy, r *block.Request) { time.AfterFunc(50*time.Millisecond, func() { d.Submit(r) }) },
			close:  func(*toy, context.Context) error { return nil }}},
		{desc: "Close breaks writes", part: "close-under-load", want: "rule 6", dev: bad{submit: func(d *toy, r *block.Request) {
			if !d.in.Enter() {
				d.fin.Finish(r, block.StatusIO)
				return
			}
			d.in.Leave()
			d.Submit(r)
		}}},
		{desc: "Close with an odd error", part: "close-context", want: "ended context", dev: bad{close: func(d *toy, ctx context.Context) error {
			if ctx.Err() != nil {
				return block.StatusTimeout
			}
			return d.Close(ctx)
		}}},
	}
}

// TestCatches proves that each part of the suite can fail.
func TestCatches(t *testing.T) {
	for _, row := range slices.Concat(basicMistakes(), laterMistakes()) {
		t.Run(row.desc, func(t *testing.T) {
			if raceEnabled && row.part == "allocations" || row.desc == "buffer touched later" && raceEnabled {
				NotChecked(t, "allocations are not counted under the race detector; make test counts them without it")
			}
			row.dev.toy = newToy(1)
			if got := verdict(t, row.part, row.cfg, &row.dev); !strings.Contains(got, row.want) {
				t.Errorf("the suite says %q, want %q", got, row.want)
			}
			if got := verdict(t, row.part, Config{}, newToy(1)); got != "" {
				t.Errorf("of a good device the suite says %q", got)
			}
		})
	}
}

// later touches the buffer of a read when the next one comes.
func later() func(*toy, *block.Request) {
	var last []byte
	return on(block.OpRead, func(d *toy, r *block.Request) {
		if last != nil {
			last[0]++
		}
		last = r.Buf
		d.Submit(r)
	})
}

func nthLost() func(*toy, *block.Request) {
	n := 0
	return on(block.OpWrite, func(d *toy, r *block.Request) {
		if n++; n%100 == 50 {
			d.fin.Finish(r, 0)
			return
		}
		d.Submit(r)
	})
}

func leak() func(*toy, *block.Request) {
	var keep []byte
	return func(d *toy, r *block.Request) {
		keep = make([]byte, 100)
		if len(keep) != 100 { // so that the compiler keeps it
			panic("leak")
		}
		d.Submit(r)
	}
}
