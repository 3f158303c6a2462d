// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"rsio/rsio/block"
)

var seedCorpus = flag.Bool("update-corpus", false, "write the seeds of testdata/fuzz anew")

// seeds are the frames on record, and all of their payloads.
func seeds(f *testing.F, name string, like body) {
	for _, g := range goldens() {
		b := g.encode()
		if like != nil {
			if reflect.TypeOf(g.body) != reflect.TypeOf(like) {
				continue
			}
			b = b[HeaderLen:]
		} else {
			b = b[:HeaderLen]
		}
		if *seedCorpus {
			dir := filepath.Join("testdata", "fuzz", name)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				f.Fatal(err)
			}
			text := fmt.Sprintf("go test fuzz v1\n[]byte(%q)\n", b)
			if err := os.WriteFile(filepath.Join(dir, g.file), []byte(text), 0o644); err != nil {
				f.Fatal(err)
			}
		}
		f.Add(b)
	}
}

// FuzzHeader: what parses keeps to the limits, and comes out again as it went
// in, byte by byte.
func FuzzHeader(f *testing.F) {
	seeds(f, "FuzzHeader", nil)
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, digest := range []bool{false, true} {
			var h Header
			if len(b) >= HeaderLen { // let the fuzzer get past the digest
				b = append([]byte(nil), b...)
				copy(b[60:64], make([]byte, 4))
				if digest {
					sum := Digest(b[:60])
					copy(b[60:64], []byte{byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)})
				}
			}
			if err := h.Parse(b, digest); err != nil {
				continue
			}
			checkLimits(t, &h)
			var out [HeaderLen]byte
			h.Put(out[:], digest)
			if !bytes.Equal(out[:], b[:HeaderLen]) {
				t.Fatalf("in\n%x\nout\n%x", b[:HeaderLen], out)
			}
			var again Header
			if err := again.Parse(out[:], digest); err != nil || again != h {
				t.Fatalf("again: %v\n%+v\n%+v", err, h, again)
			}
		}
	})
}

// checkLimits states the limits on their own terms.
func checkLimits(t *testing.T, h *Header) {
	t.Helper()
	most := 0
	switch h.Kind {
	case KindLogin, KindLoginResponse:
		most = 512
	case KindRequest, KindResponse:
		switch {
		case IsControl(h.Op):
			most = 256 << 10
		case h.Kind == KindRequest && h.Op == block.OpCompareAndWrite:
			most = 8192
		case h.Kind == KindRequest && h.Op == block.OpWrite, h.Kind == KindResponse && h.Op == block.OpRead:
			most = 1 << 20
		case h.Kind == KindResponse && h.Op == block.OpBlockStatus:
			most = 4096 * block.ExtentLen
		}
	}
	if int(h.PayloadLen) > most || h.Len > 1<<30 || h.Slot >= 4096 || !h.Status.Known() {
		t.Fatalf("beyond the limits: %+v", h)
	}
	if h.Kind == KindRequest && (h.Slot < 16) != IsControl(h.Op) {
		t.Fatalf("wrong slot: %+v", h)
	}
}

// fuzzBody: parse, append and parse again is identity, and what is appended
// is no longer than what was parsed.
func fuzzBody(f *testing.F, name string, fresh func() body, check func(body) error) {
	seeds(f, name, fresh())
	f.Fuzz(func(t *testing.T, b []byte) {
		v := fresh()
		if v.Parse(b) != nil {
			return
		}
		if err := check(v); err != nil {
			t.Fatal(err)
		}
		out := v.Append(nil)
		if len(out) > len(b) || !bytes.Equal(out, b[:len(out)]) {
			t.Fatalf("in\n%x\nout\n%x", b, out)
		}
		again := fresh()
		if err := again.Parse(out); err != nil || !reflect.DeepEqual(v, again) {
			t.Fatalf("again: %v\n%+v\n%+v", err, v, again)
		}
	})
}

func FuzzLogin(f *testing.F) {
	fuzzBody(f, "FuzzLogin", func() body { return new(Login) }, func(v body) error {
		if l := v.(*Login); len(l.Nexus) == 0 || len(l.Nexus) > 127 || l.VersionMin > l.VersionMax || l.Mode < 1 || l.Mode > 3 {
			return fmt.Errorf("beyond the limits: %+v", l)
		}
		return nil
	})
}

func FuzzLoginResponse(f *testing.F) {
	fuzzBody(f, "FuzzLoginResponse", func() body { return new(LoginResponse) }, func(v body) error {
		if r := v.(*LoginResponse); r.Slots > 4096 || r.MaxPayload > 1<<20 {
			return fmt.Errorf("beyond the limits: %+v", r)
		}
		return nil
	})
}

func FuzzOpen(f *testing.F) {
	fuzzBody(f, "FuzzOpen", func() body { return new(Open) }, func(v body) error {
		if o := v.(*Open); len(o.Namespace) > 63 || len(o.Volume) > 63 || o.Flags > 3 {
			return fmt.Errorf("beyond the limits: %+v", o)
		}
		return nil
	})
}

func FuzzOpenResponse(f *testing.F) {
	fuzzBody(f, "FuzzOpenResponse", func() body { return new(OpenResponse) }, func(v body) error {
		i := v.(*OpenResponse).Info
		if i.BlockSize == 0 || i.Size%uint64(i.BlockSize) != 0 || i.MaxLen > 1<<20 || i.MaxZero > 1<<30 || i.MaxLen == 0 {
			return fmt.Errorf("beyond the limits: %+v", i)
		}
		return nil
	})
}

func FuzzReserveOut(f *testing.F) {
	fuzzBody(f, "FuzzReserveOut", func() body { return new(ReserveOut) }, func(v body) error {
		if r := v.(*ReserveOut); len(r.Namespace) > 63 || len(r.Volume) > 63 || len(r.As) > 127 || len(r.To) > 127 {
			return fmt.Errorf("beyond the limits: %+v", r)
		}
		return nil
	})
}

func FuzzReserveIn(f *testing.F) {
	fuzzBody(f, "FuzzReserveIn", func() body { return new(ReserveIn) }, func(v body) error {
		if r := v.(*ReserveIn); len(r.Namespace) > 63 || len(r.Volume) > 63 || len(r.As) > 127 {
			return fmt.Errorf("beyond the limits: %+v", r)
		}
		return nil
	})
}

func FuzzReserveOutResponse(f *testing.F) {
	fuzzBody(f, "FuzzReserveOutResponse", func() body { return new(ReserveOutResponse) }, func(body) error { return nil })
}

func FuzzReserveInResponse(f *testing.F) {
	fuzzBody(f, "FuzzReserveInResponse", func() body { return new(ReserveInResponse) }, func(v body) error {
		for _, x := range v.(*ReserveInResponse).Registrants {
			if len(x.Nexus) > 127 {
				return fmt.Errorf("beyond the limits: %+v", x)
			}
		}
		return nil
	})
}
