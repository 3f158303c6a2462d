// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"rsio/rsio/admin/api"
	"rsio/rsio/block"
)

// lateTime is how long the rest of a refused stream is still read, so that its
// sender gets to see the answer.
const lateTime = 10 * time.Second

// serveImport writes an image stream into a volume.
func serveImport(svc api.Common, w http.ResponseWriter, r *http.Request) {
	t, err := receive(svc, w, r)
	if err == nil {
		writeJSON(w, http.StatusOK, t)
		return
	}
	writeError(w, toError(err, "volume import", object(r)))
	if isForwarded(r) {
		return
	}
	rc := http.NewResponseController(w)
	if rc.Flush() != nil || rc.SetReadDeadline(time.Now().Add(lateTime)) != nil {
		return
	}
	_, _ = io.Copy(io.Discard, r.Body) // until the sender has seen the answer
}

func streamAllowed(r *http.Request) error {
	if isForwarded(r) {
		return usage("images cannot be passed on through a session: the initiator serves them itself")
	}
	_, err := checked(nil, func(*http.Request) (any, error) { return nil, nil }, r)
	return err
}

func receive(svc api.Common, w http.ResponseWriter, r *http.Request) (api.Transfer, error) {
	if err := streamAllowed(r); err != nil {
		return api.Transfer{}, err
	}
	if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
		return api.Transfer{}, err
	}
	dev, done, err := svc.OpenDevice(r.Context(), r.PathValue("ns"), r.PathValue("vol"), true)
	if err != nil {
		return api.Transfer{}, err
	}
	defer done()
	return importStream(r.Context(), dev, r.Body)
}

// importStream makes the content of dev exactly that of the image: its data,
// zeroes where it has none, and zeroes behind its end. It returns nil only if
// the stream was whole and all of it is durable.
func importStream(ctx context.Context, dev block.Device, body io.Reader) (api.Transfer, error) {
	if dev.Info().ReadOnly {
		return api.Transfer{}, block.StatusReadOnly
	}
	s, err := newStreamReader(body)
	if err != nil {
		return api.Transfer{}, incomplete(err)
	}
	size := dev.Info().Size
	if s.size != unknownSize && s.size > size {
		return api.Transfer{}, tooLarge(s.size, size)
	}
	f := newFlight(dev)
	t, err := f.receive(ctx, s, size)
	if drainErr := f.drain(); err == nil {
		err = drainErr
	}
	if err == nil && dev.Info().Has(block.CanFlush) {
		r := block.Request{Op: block.OpFlush}
		if st := block.Do(dev, &r); st != block.StatusOK {
			err = fmt.Errorf("flush: %w", st)
		}
	}
	if err != nil {
		return t, incomplete(err)
	}
	return t, nil
}

func tooLarge(image, volume uint64) error {
	return api.Errorf(api.Usage, "", "", fmt.Sprintf("the image is larger than the volume (%d bytes)", volume),
		fmt.Sprintf("resize the volume to at least %d bytes first", image))
}

// incomplete tells what a failed import leaves behind.
func incomplete(err error) error {
	var e *api.Error
	if errors.As(err, &e) {
		return err
	}
	kind, remedy := kindOf(err)
	if remedy != "" {
		remedy += ", then "
	}
	return api.Errorf(kind, "", "", err.Error(), remedy+"import again: the volume holds an incomplete image")
}

// receive starts all writes of the stream; drain must follow.
func (f *flight) receive(ctx context.Context, s *streamReader, size uint64) (api.Transfer, error) {
	var t api.Transfer
	for {
		if err := f.check(ctx); err != nil {
			return t, err
		}
		slot := f.take()
		rec, err := s.next(slot.mem)
		if err == nil && rec.len > size-min(rec.off, size) {
			err = tooLarge(rec.off+rec.len, size)
		}
		if err != nil || rec.kind != kindData {
			f.giveBack(slot)
		}
		if err != nil {
			return t, err
		}
		t.Size = s.pos
		switch rec.kind {
		case kindData:
			t.Data += rec.len
			err = f.writeData(ctx, slot, rec, size)
		case kindZero:
			t.Zeroes += rec.len
			err = f.zero(ctx, rec.off, min(roundUp(rec.len), size-rec.off))
		case kindEnd:
			end := min(roundUp(rec.off), size)
			return t, f.zero(ctx, end, size-end)
		}
		if err != nil {
			return t, err
		}
	}
}

// writeData starts writing the data in the slot, padded with zeroes to the
// unit of the stream (volumes are made of those) or the end of the volume.
func (f *flight) writeData(ctx context.Context, s *slot, rec record, size uint64) error {
	n := min(roundUp(rec.len), size-rec.off)
	clear(s.mem[rec.len:n])
	most := f.maxLen()
	if n <= most {
		f.submit(s, block.Request{Op: block.OpWrite, Off: rec.off, Len: uint32(n), Buf: s.mem[:n]})
		return nil
	}
	defer f.giveBack(s)
	for at := uint64(0); at < n; at += most { // a device with a low limit
		if err := f.check(ctx); err != nil {
			return err
		}
		r := block.Request{Op: block.OpWrite, Off: rec.off + at, Len: uint32(min(most, n-at)), Buf: s.mem[at:min(at+most, n)]}
		if st := f.do(&r); st != block.StatusOK {
			return opError(&r, st)
		}
	}
	return nil
}

func roundUp(n uint64) uint64 { return (n + streamUnit - 1) &^ (streamUnit - 1) }
