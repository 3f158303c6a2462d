// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"bufio"
	"context"
	"fmt"
	"net/http"

	"rsio/rsio/admin/api"
	"rsio/rsio/block"
	"rsio/rsio/buf"
)

// serveExport sends a volume as an image stream.
func serveExport(svc api.Common, w http.ResponseWriter, r *http.Request) {
	fail := func(err error) { writeError(w, toError(err, "volume export", object(r))) }
	if err := streamAllowed(r); err != nil {
		fail(err)
		return
	}
	dev, done, err := svc.OpenDevice(r.Context(), r.PathValue("ns"), r.PathValue("vol"), false)
	if err != nil {
		fail(err)
		return
	}
	defer done()
	w.Header().Set("Content-Type", "application/octet-stream")
	out := bufio.NewWriterSize(w, 64<<10)
	s, err := newStreamWriter(out, dev.Info().Size)
	if err == nil {
		err = exportStream(r.Context(), dev, s)
	}
	if err != nil { // the reader learns of it inside the stream, or by its cut
		_ = s.fail(toError(err, "volume export", object(r)))
	}
	_ = out.Flush() // likewise
}

// exportStream sends all of dev.
func exportStream(ctx context.Context, dev block.Device, s *streamWriter) error {
	x := &exporter{dev: dev, size: dev.Info().Size, pool: buf.New(window * maxData)}
	for range window {
		back := make(chan *slot, 1)
		x.spare = append(x.spare, &part{slot: slot{mem: x.pool.TryGet(maxData), back: back}, done: back})
	}
	err := x.run(ctx, s)
	for _, p := range x.line { // after an error: nothing may stay in flight
		if !p.zero {
			<-p.done
		}
	}
	if err != nil {
		return err
	}
	return s.end()
}

// part is a piece of the image: a hole, or a read.
type part struct {
	slot
	done <-chan *slot
	zero bool
	n    uint64
}

// exporter reads a device in order with up to window reads in flight. It
// belongs to one goroutine.
type exporter struct {
	dev     block.Device
	pool    *buf.Pool
	size    uint64
	pos     uint64         // of the next part, a multiple of streamUnit
	extents []block.Extent // from pos on, as the device told
	line    []*part        // in order
	spare   []*part
}

func (x *exporter) run(ctx context.Context, s *streamWriter) error {
	for {
		for x.pos < x.size && len(x.spare) > 0 {
			if err := x.start(); err != nil {
				return err
			}
		}
		if len(x.line) == 0 {
			return ctx.Err()
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		p := x.line[0]
		if !p.zero {
			<-p.done
		}
		x.line = x.line[1:]
		x.spare = append(x.spare, p)
		if err := p.send(s); err != nil {
			return err
		}
	}
}

// send writes a part that has completed.
func (p *part) send(s *streamWriter) error {
	if p.zero {
		s.zero(p.n)
		return nil
	}
	if p.req.Status != block.StatusOK {
		return opError(&p.req, p.req.Status)
	}
	return s.image(p.mem[:p.n])
}

// start puts the next part in line.
func (x *exporter) start() error {
	zero, n, err := x.next()
	if err != nil {
		return err
	}
	p := x.spare[len(x.spare)-1]
	x.spare = x.spare[:len(x.spare)-1]
	x.line = append(x.line, p)
	p.zero, p.n = zero, n
	off := x.pos
	x.skip(n)
	if zero {
		return nil
	}
	p.req = block.Request{Op: block.OpRead, Off: off, Len: uint32(n), Buf: p.mem[:n], Done: &p.slot}
	if st := block.Check(x.dev.Info(), &p.req); st != block.StatusOK {
		block.Finish(&p.req, st)
		return nil
	}
	x.dev.Submit(&p.req)
	return nil
}

// next returns the kind and length of the part at x.pos.
func (x *exporter) next() (zero bool, n uint64, err error) {
	if len(x.extents) == 0 {
		if err := x.ask(); err != nil {
			return false, 0, err
		}
	}
	e, left := x.extents[0], x.size-x.pos
	n = min(e.Len, left)
	if e.Flags&block.ExtentZero != 0 {
		if n < left {
			n &^= streamUnit - 1
		}
		if n > 0 {
			return true, n, nil
		}
	}
	most := uint64(max(min(x.dev.Info().MaxLen, maxData), streamUnit)) &^ (streamUnit - 1)
	return false, min(roundUp(max(n, 1)), most, left), nil
}

// skip moves on by n bytes.
func (x *exporter) skip(n uint64) {
	x.pos += n
	for len(x.extents) > 0 && n >= x.extents[0].Len {
		n -= x.extents[0].Len
		x.extents = x.extents[1:]
	}
	if len(x.extents) > 0 {
		x.extents[0].Len -= n
	}
}

// ask fills x.extents: what the device says, or data as far as it goes.
func (x *exporter) ask() error {
	left := x.size - x.pos
	x.extents = []block.Extent{{Len: left}}
	if !x.dev.Info().Has(block.CanBlockStatus) {
		return nil
	}
	r := block.Request{Op: block.OpBlockStatus, Off: x.pos, Buf: make([]byte, 256*block.ExtentLen)}
	r.Len = uint32(min(left, uint64(x.dev.Info().MaxZero)))
	st := block.Check(x.dev.Info(), &r)
	if st == block.StatusOK {
		st = block.Do(x.dev, &r)
	}
	if st == block.StatusUnsupported {
		return nil
	}
	if st != block.StatusOK {
		return opError(&r, st)
	}
	var got []block.Extent
	for b := r.Buf[:r.N]; len(b) >= block.ExtentLen; b = b[block.ExtentLen:] {
		if e := block.GetExtent(b); e.Len > 0 {
			got = append(got, e)
		}
	}
	if len(got) == 0 {
		return fmt.Errorf("block-status at byte %d: no answer: %w", r.Off, block.StatusProtocol)
	}
	x.extents = got
	return nil
}
