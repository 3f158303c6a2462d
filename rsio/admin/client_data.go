// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"
	"errors"
	"net/http"

	"rsio/rsio/admin/api"
)

// Import makes the content of a volume that of the image. It returns nil only
// when the daemon has said that all of it is durable. It may return while a
// read of src is still blocked.
func (c *Client) Import(ctx context.Context, namespace, name string, src *Source) (t api.Transfer, err error) {
	v, err := volumeVerb("volume import", http.MethodPut, "", namespace, name)
	if err != nil {
		return t, err
	}
	v.path += "/data"
	// The daemon opens the volume before the first byte of the image is sent.
	header := http.Header{"Expect": {"100-continue"}, "Content-Type": {"application/octet-stream"}}
	resp, err := c.send(ctx, v, src, header)
	if own := src.Err(); own != nil { // the daemon only knows that the stream was cut
		if err == nil {
			_ = resp.Body.Close() // what counts is why the image is not whole
		}
		return t, own
	}
	if err != nil {
		return t, err
	}
	defer func() { _ = resp.Body.Close() }() // only read
	return t, c.decode(ctx, v, resp, &t)
}

// Export writes the content of a volume to sink, whose owner calls Abort
// afterwards in any case. progress may be nil.
func (c *Client) Export(ctx context.Context, namespace, name string, sink *Sink, progress Progress) (t api.Transfer, err error) {
	v, err := volumeVerb("volume export", http.MethodGet, "", namespace, name)
	if err != nil {
		return t, err
	}
	v.path += "/data"
	resp, err := c.send(ctx, v, nil, nil)
	if err != nil {
		return t, err
	}
	defer func() { _ = resp.Body.Close() }() // only read
	s, err := newStreamReader(resp.Body)
	if err == nil {
		t, err = copyImage(s, sink, progress)
	}
	var own *api.Error
	switch {
	case err == nil:
		return t, nil
	case errors.As(err, &own):
		return t, own
	case ctx.Err() != nil:
		return t, c.lost(ctx, v, err)
	}
	return t, api.Errorf(api.Failed, v.op, v.object, err.Error(), "look at rsioctl status, then export again")
}

func copyImage(s *streamReader, sink *Sink, progress Progress) (t api.Transfer, err error) {
	buf := make([]byte, maxData)
	for {
		rec, err := s.next(buf)
		if err != nil {
			return t, err
		}
		switch rec.kind {
		case kindData:
			t.Data += rec.len
			err = sink.data(rec.off, buf[:rec.len])
		case kindZero:
			t.Zeroes += rec.len
			err = sink.hole(rec.len)
		case kindEnd:
			return t, sink.commit(t.Size)
		}
		if err != nil {
			return t, err
		}
		t.Size = s.pos
		if progress != nil {
			progress(s.pos, s.size)
		}
	}
}
