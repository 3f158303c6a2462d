// SPDX-License-Identifier: Apache-2.0

package fusefs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"rsio/rsio/block"
	"rsio/rsio/layer/fault"
)

// TestPartialWrites: writers of parts of one block lose nothing of each other,
// and nothing of one who writes the whole block.
func TestPartialWrites(t *testing.T) {
	r := newRig(t, Options{})
	for _, bs := range []uint32{512, 4096} {
		name := fmt.Sprint("vol", bs)
		// Time passes between what a read found and that somebody knows it.
		d := slow(t, memory(t, 1<<20, bs), fault.Rule{Op: block.OpRead, P: 0.5, Seed: 1, Do: fault.Delay, MaxMS: 1, After: true})
		path := r.add(name, d)
		const parts, width, rounds = 6, 40, 200
		var wg sync.WaitGroup
		for w := range parts { // bytes [8+40w, 48+40w), across the first two blocks
			fd := open(t, path, unix.O_RDWR)
			wg.Go(func() {
				at := int64(int(bs) - 80 + w*width)
				p, got := make([]byte, width), make([]byte, width)
				for i := range rounds {
					for j := range p {
						p[j] = byte(i + w)
					}
					if _, err := unix.Pwrite(fd, p, at); err != nil {
						t.Error(err)
						return
					}
					if _, err := unix.Pread(fd, got, at); err != nil || !bytes.Equal(p, got) {
						t.Errorf("part %d of %d-byte blocks, round %d: lost: %v", w, bs, i, err)
						return
					}
				}
			})
		}
		// The whole block behind them, of which another one changes the first bytes.
		whole, part := open(t, path, unix.O_RDWR), open(t, path, unix.O_RDWR)
		at := int64(bs) * 8
		wg.Go(func() {
			p, got := make([]byte, bs), make([]byte, 8)
			for i := range uint64(rounds) {
				binary.LittleEndian.PutUint64(p[bs-8:], i)
				if _, err := unix.Pwrite(whole, p, at); err != nil {
					t.Error(err)
					return
				}
				if _, err := unix.Pread(whole, got, at+int64(bs)-8); err != nil || binary.LittleEndian.Uint64(got) != i {
					t.Errorf("a write of a whole block was undone by that of a part: %x, %v", got, err)
					return
				}
			}
		})
		wg.Go(func() {
			for i := range rounds {
				if _, err := unix.Pwrite(part, []byte{byte(i)}, at+1); err != nil {
					t.Error(err)
					return
				}
			}
		})
		within(t, "the writers", wg.Wait)
	}
}

// TestEnd: what happens at the end of the volume.
func TestEnd(t *testing.T) {
	r := newRig(t, Options{})
	const size = 1 << 20
	fd := open(t, r.add("vol", memory(t, size, 512)), unix.O_RDWR)
	p := make([]byte, 8192)
	for _, row := range []struct {
		desc string
		do   func() (int, error)
		n    int
		err  error
	}{
		{"read across", func() (int, error) { return unix.Pread(fd, p, size-100) }, 100, nil},
		{"read at", func() (int, error) { return unix.Pread(fd, p, size) }, 0, nil},
		{"read behind", func() (int, error) { return unix.Pread(fd, p, size+5000) }, 0, nil},
		{"write across", func() (int, error) { return unix.Pwrite(fd, p, size-4096) }, 4096, nil},
		{"write across, parts", func() (int, error) { return unix.Pwrite(fd, p, size-100) }, 100, nil},
		{"write at", func() (int, error) { return unix.Pwrite(fd, p, size) }, 0, unix.ENOSPC},
		{"write behind", func() (int, error) { return unix.Pwrite(fd, p, size+1) }, 0, unix.ENOSPC},
		{"truncate to the size", func() (int, error) { return 0, unix.Ftruncate(fd, size) }, 0, nil},
		{"truncate below", func() (int, error) { return 0, unix.Ftruncate(fd, 0) }, 0, unix.EPERM},
		{"truncate above", func() (int, error) { return 0, unix.Ftruncate(fd, size+512) }, 0, unix.EPERM},
		{"preallocate above", func() (int, error) { return 0, unix.Fallocate(fd, 0, size, 512) }, 0, unix.ENOSPC},
		{"preallocate above, keep", func() (int, error) { return 0, unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, size, 512) }, 0, nil},
		{"collapse", func() (int, error) { return 0, unix.Fallocate(fd, unix.FALLOC_FL_COLLAPSE_RANGE, 0, 512) }, 0, unix.EOPNOTSUPP},
		{"data at", func() (int, error) { _, err := unix.Seek(fd, size, unix.SEEK_DATA); return 0, err }, 0, unix.ENXIO},
		{"shared mapping", func() (int, error) {
			_, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
			return 0, err
		}, 0, unix.ENODEV},
	} {
		n, err := row.do()
		if !errors.Is(err, row.err) || err == nil && n != row.n {
			t.Errorf("%s: %d, %v; want %d, %v", row.desc, n, err, row.n, row.err)
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Size != size || st.Blocks != size/512 {
		t.Errorf("%+v %v", st, err)
	}
}

// failing ends every request in a status.
type failing struct {
	block.Device
	st atomic.Uint32
}

func (f *failing) Submit(r *block.Request) { block.Finish(r, block.Status(f.st.Load())) }

// TestErrno: what a status is to a process.
func TestErrno(t *testing.T) {
	r := newRig(t, Options{})
	d := &failing{Device: memory(t, 1<<20, 512)}
	fd := open(t, r.add("vol", d), unix.O_RDWR)
	for _, row := range []struct {
		st   block.Status
		want error
	}{
		{block.StatusIO, unix.EIO},
		{block.StatusNoSpace, unix.ENOSPC},
		{block.StatusReadOnly, unix.EROFS},
		{block.StatusConflict, unix.EBADE},
		{block.StatusTimeout, unix.ETIMEDOUT},
		{block.StatusUnsupported, unix.EOPNOTSUPP},
		{block.StatusUnknown, unix.EIO},
		{block.StatusClosed, unix.EIO},
		{block.StatusBusy, unix.EIO},
	} {
		d.st.Store(uint32(row.st))
		p := make([]byte, 512)
		for what, do := range map[string]func() error{
			"read":          func() error { _, err := unix.Pread(fd, p, 0); return err },
			"write":         func() error { _, err := unix.Pwrite(fd, p, 0); return err },
			"partial read":  func() error { _, err := unix.Pread(fd, p[:10], 5); return err },
			"partial write": func() error { _, err := unix.Pwrite(fd, p[:10], 5); return err },
			"fsync":         func() error { return unix.Fsync(fd) },
			"punch": func() error {
				return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 512)
			},
			"seek": func() error { _, err := unix.Seek(fd, 0, unix.SEEK_DATA); return err },
		} {
			if err := do(); !errors.Is(err, row.want) {
				t.Errorf("%s of a device that says %q: %v, want %v", what, row.st, err, row.want)
			}
		}
	}
	if _, err := unix.Pread(fd, make([]byte, 512), 0); err == nil {
		t.Error("no error")
	}
}
