// SPDX-License-Identifier: Apache-2.0

package check

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	"rsio/rsio/block"
	"rsio/rsio/blocktest"
	"rsio/rsio/store/mem"
)

func newMem(t testing.TB) *mem.Device {
	t.Helper()
	d, err := mem.New(mem.Options{Size: 8 << 20, BlockSize: 512})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDevice(t *testing.T) {
	for _, crc := range []bool{false, true} {
		blocktest.Run(t, blocktest.Config{
			Make:      func(t *testing.T) block.Device { return New(newMem(t), Options{CRC: crc}) },
			ZeroAlloc: true,
			Chain:     20_000,
		})
	}
}

// broken is a device that breaks rules: do gets each request and completes
// it, or not.
type broken struct {
	block.Device
	do      func(below block.Device, r *block.Request)
	noClose bool
}

func (b *broken) Submit(r *block.Request) { b.do(b.Device, r) }

func (b *broken) Close(ctx context.Context) error {
	if b.noClose {
		return nil
	}
	return b.Device.Close(ctx)
}

// report collects what Fail is told.
type report struct {
	mu   sync.Mutex
	said []string
}

func (r *report) fail(msg string) {
	r.mu.Lock()
	r.said = append(r.said, msg)
	r.mu.Unlock()
}

// nobody is a Completer that counts.
type nobody struct{ n int }

func (c *nobody) Complete(*block.Request) { c.n++ }

func request(op block.Op, depth uint8) *block.Request {
	r := &block.Request{Op: op, Depth: depth, Done: &nobody{}}
	if op != block.OpFlush {
		r.Len, r.Buf = 4096, make([]byte, 4096)
	}
	return r
}

// mistake is a device that breaks one rule.
type mistake struct {
	desc    string
	do      func(block.Device, *block.Request)
	noClose bool
	after   func(d block.Device)
	want    string // empty: nothing is reported
}

func pass(d block.Device, r *block.Request) { d.Submit(r) }

// on applies do to one operation.
func on(op block.Op, do func(block.Device, *block.Request)) func(block.Device, *block.Request) {
	return func(d block.Device, r *block.Request) {
		if r.Op == op {
			do(d, r)
			return
		}
		d.Submit(r)
	}
}

// drive submits some of each kind, more than the quarantine holds, so that
// completed requests are looked at again.
func drive(d block.Device) {
	for range 2 * Quarantine {
		d.Submit(request(block.OpRead, 0))
	}
	d.Submit(request(block.OpWrite, 0))
	d.Submit(request(block.OpFlush, 0))
	d.Submit(request(block.OpBlockStatus, 0))
	d.Submit(request(block.OpRead, block.MaxInline))
}

func completions() []mistake {
	var kept *block.Request
	return []mistake{
		{desc: "a device that keeps the rules", do: pass},
		{desc: "second completion", want: "rule 2: flush", do: on(block.OpFlush, func(d block.Device, r *block.Request) {
			d.Submit(r)
			r.Done.Complete(r)
		})},
		{desc: "completion of another request", want: "rule 2: flush", do: on(block.OpFlush, func(_ block.Device, r *block.Request) {
			other := *r
			r.Done.Complete(&other)
		})},
		{desc: "late second completion", want: "rule 2: read", do: func(d block.Device, r *block.Request) {
			if kept == nil {
				kept = r
				done := r.Done
				d.Submit(r)
				for range 20 {
					d.Submit(&block.Request{Op: block.OpFlush, Done: &nobody{}})
				}
				done.Complete(r)
				return
			}
			d.Submit(r)
		}},
		{desc: "request touched after completion", want: "rule 2: read at 0 length 4096 flags 0 was touched", do: on(block.OpRead, func(d block.Device, r *block.Request) {
			inline := r.Depth < block.MaxInline // else it completes elsewhere, and touching it is a data race too
			d.Submit(r)
			if inline {
				r.Status = block.StatusIO
			}
		})},
		{desc: "unknown status", want: "rule 2: flush at 0 length 0 flags 0 ended with the unknown status 777", do: on(block.OpFlush, func(_ block.Device, r *block.Request) {
			block.Finish(r, 777)
		})},
	}
}

func answers() []mistake {
	return []mistake{
		{desc: "no extents", want: "rule 2: block-status", do: on(block.OpBlockStatus, func(_ block.Device, r *block.Request) {
			r.N = 0
			block.Finish(r, block.StatusOK)
		})},
		{desc: "half an extent", want: "rule 2: block-status", do: on(block.OpBlockStatus, func(_ block.Device, r *block.Request) {
			r.N = 8
			block.Finish(r, block.StatusOK)
		})},
		{desc: "more extents than buffer", want: "rule 2: block-status", do: on(block.OpBlockStatus, func(_ block.Device, r *block.Request) {
			r.N = uint32(len(r.Buf)) + block.ExtentLen
			block.Finish(r, block.StatusOK)
		})},
		{desc: "extent past the range", want: "rule 2: block-status", do: on(block.OpBlockStatus, func(_ block.Device, r *block.Request) {
			r.N = 0
			block.AppendExtent(r, block.Extent{Len: 4097})
			block.Finish(r, block.StatusOK)
		})},
	}
}

func forwards() []mistake {
	return []mistake{
		{desc: "payload changed", want: "rule 4: write", do: on(block.OpWrite, func(d block.Device, r *block.Request) {
			r.Buf[17] ^= 1
			d.Submit(r)
		})},
		{desc: "inline past MaxInline", want: "rule 5: read", do: func(_ block.Device, r *block.Request) {
			r.N = 0
			if r.Op == block.OpBlockStatus {
				block.AppendExtent(r, block.Extent{Len: uint64(r.Len)})
			}
			block.Finish(r, block.StatusOK)
		}},
		{desc: "Close that does not drain", want: "rule 6: Close has returned and 1", do: on(block.OpFlush, func(block.Device, *block.Request) {})},
		{desc: "open after Close", want: "rule 6: read", do: pass, noClose: true,
			after: func(d block.Device) { d.Submit(request(block.OpRead, 0)) }},
		{desc: "offset edited", want: "rule 8: read", do: on(block.OpRead, func(d block.Device, r *block.Request) {
			r.Off += 4096
			d.Submit(r)
		})},
		{desc: "FUA dropped by editing", want: "rule 8: write", do: on(block.OpWrite, func(d block.Device, r *block.Request) {
			r.Flags ^= block.FlagFUA
			d.Submit(r)
		})},
		{desc: "buffer exchanged", want: "rule 8: write", do: on(block.OpWrite, func(d block.Device, r *block.Request) {
			r.Buf = make([]byte, len(r.Buf))
			d.Submit(r)
		})},
		{desc: "past the end", want: "rule 9: read", do: pass,
			after: func(d block.Device) {
				r := request(block.OpRead, 0)
				r.Off = 8 << 20
				d.Submit(r)
				if r.Status != block.StatusInvalid {
					panic("a request that breaks rule 9 was let through")
				}
			}},
		{desc: "off the grid", want: "rule 9: read", do: pass,
			after: func(d block.Device) {
				r := request(block.OpRead, 0)
				r.Off = 1
				d.Submit(r)
			}},
	}
}

func TestCatches(t *testing.T) {
	rows := slices.Concat(completions(), answers(), forwards())
	for _, row := range rows {
		t.Run(row.desc, func(t *testing.T) {
			var rep report
			m := newMem(t)
			d := New(&broken{Device: m, do: row.do, noClose: row.noClose}, Options{CRC: true, Fail: rep.fail})
			drive(d)
			d.Close(t.Context())
			if row.after != nil {
				row.after(d)
			}
			m.Close(t.Context())
			if row.want == "" {
				if len(rep.said) != 0 {
					t.Errorf("reported without reason: %v", rep.said)
				}
				return
			}
			if !strings.Contains(strings.Join(rep.said, "\n"), row.want) {
				t.Errorf("reported %q, want %q", rep.said, row.want)
			}
		})
	}
}

func TestPanicsByDefault(t *testing.T) {
	d := New(newMem(t), Options{})
	defer func() {
		if v := recover(); v == nil || !strings.Contains(v.(string), "rule 9") {
			t.Errorf("recovered %v", v)
		}
	}()
	d.Submit(&block.Request{Op: block.OpRead, Off: 1, Len: 1, Done: &nobody{}})
}

// A broken rule does not hide the outcome from the caller.
func TestPassesOutcome(t *testing.T) {
	d := New(&broken{Device: newMem(t), do: func(_ block.Device, r *block.Request) {
		block.Finish(r, block.StatusNoSpace)
	}}, Options{})
	c := &nobody{}
	r := request(block.OpWrite, 0)
	r.Done = c
	d.Submit(r)
	if r.Status != block.StatusNoSpace || c.n != 1 {
		t.Errorf("status %v, %d completions", r.Status, c.n)
	}
}
