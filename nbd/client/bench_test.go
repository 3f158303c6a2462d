// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"testing"

	"rsio/nbd"
	"rsio/rsio/block"
	"rsio/rsio/store/mem"
)

// only is a server's one export.
type only struct{ dev block.Device }

func (o only) List() []nbd.ExportInfo { return nil }

func (o only) Open(name string) (*nbd.Export, error) {
	return &nbd.Export{Name: name, Device: o.dev}, nil
}

// BenchmarkDevice measures a device of our server, in this process, over a unix
// socket and with all data in memory: what the way to it costs.
func BenchmarkDevice(b *testing.B) {
	const size = 64 << 20
	m, err := mem.New(mem.Options{Size: size})
	if err != nil {
		b.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(b.TempDir(), "s"))
	if err != nil {
		b.Fatal(err)
	}
	srv, end := nbd.NewServer(nbd.Options{Exports: only{m}}), make(chan error, 1)
	go func() { end <- srv.Serve(l) }()
	d, err := Open(b.Context(), Options{Socket: l.Addr().String(), Export: "v"})
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := errors.Join(d.Close(context.Background()), srv.Close(context.Background()), m.Close(context.Background())); err != nil {
			b.Error(err)
		}
		<-end
	}()
	for off := uint64(0); off < size; off += 1 << 20 { // reads find data
		if st := block.Do(d, &block.Request{Op: block.OpWrite, Off: off, Len: 1 << 20, Buf: make([]byte, 1<<20)}); st != block.StatusOK {
			b.Fatal(st)
		}
	}
	for _, row := range []struct {
		op       block.Op
		n, depth int
	}{
		{block.OpRead, 4096, 1}, {block.OpRead, 4096, 16}, {block.OpRead, 4096, 32},
		{block.OpWrite, 4096, 1}, {block.OpWrite, 4096, 16}, {block.OpWrite, 4096, 32},
		{block.OpRead, 1 << 20, 1}, {block.OpRead, 1 << 20, 8},
	} {
		b.Run(fmt.Sprintf("%v/%dKiB/depth=%d", row.op, row.n>>10, row.depth), func(b *testing.B) {
			free := make(lanes, row.depth)
			for range row.depth {
				free <- &block.Request{Op: row.op, Len: uint32(row.n), Buf: make([]byte, row.n), Done: free}
			}
			b.SetBytes(int64(row.n))
			b.ReportAllocs()
			off := uint64(0)
			for b.Loop() {
				r := <-free
				if r.Status != block.StatusOK {
					b.Fatal(r.Status)
				}
				off = (off + 7919*uint64(row.n)) % size
				r.Off = off
				d.Submit(r)
			}
			for range row.depth {
				<-free
			}
		})
	}
}

// lanes are requests that are not in flight.
type lanes chan *block.Request

// Complete implements block.Completer.
func (l lanes) Complete(r *block.Request) { l <- r }
