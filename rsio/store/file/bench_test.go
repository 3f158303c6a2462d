// SPDX-License-Identifier: Apache-2.0

package file

import (
	"testing"

	"rsio/rsio/block"
	"rsio/rsio/blocktest"
)

// BenchmarkDevice compares O_DIRECT with the page cache on the file system of
// TMPDIR, and with tmpfs.
func BenchmarkDevice(b *testing.B) {
	for _, row := range []struct {
		desc string
		opt  Options
		shm  bool
	}{
		{"cache", Options{}, false},
		{"direct", Options{Direct: true}, false},
		{"tmpfs", Options{}, true},
	} {
		b.Run(row.desc, func(b *testing.B) {
			dir := b.TempDir()
			if row.shm {
				dir = tmpfsDir(b)
			}
			blocktest.Bench(b, func(b *testing.B) block.Device {
				return make1(b, dir, 1<<30, row.opt, realCalls())
			})
		})
	}
}

// BenchmarkDurable measures writes of 4 KiB with FUA, alone and 32 together,
// which share an fdatasync.
func BenchmarkDurable(b *testing.B) {
	for _, opt := range []Options{{}, {Direct: true}} {
		for _, depth := range []int{1, 32} {
			b.Run(map[bool]string{false: "cache", true: "direct"}[opt.Direct]+map[int]string{1: "/depth=1", 32: "/depth=32"}[depth], func(b *testing.B) {
				d := make1(b, b.TempDir(), 64<<20, opt, realCalls())
				defer d.Close(b.Context())
				free := make(inlineDone, depth)
				p := make([]byte, 4096)
				for range depth {
					free <- struct{}{}
				}
				i := 0
				for b.Loop() {
					<-free
					i++
					d.Submit(&block.Request{Op: block.OpWrite, Flags: block.FlagFUA, Off: uint64(i%16384) * 4096, Len: 4096, Buf: p, Done: free})
				}
				for range depth {
					<-free
				}
			})
		}
	}
}
