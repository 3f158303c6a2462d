// SPDX-License-Identifier: Apache-2.0

package fusefs

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSmoke(t *testing.T) {
	r := newRig(t, Options{})
	path := r.add("vol", memory(t, 1<<20, 512))
	fd := open(t, path, unix.O_RDWR)
	want := []byte("across a block")
	if n, err := unix.Pwrite(fd, want, 505); n != len(want) || err != nil {
		t.Fatal(n, err)
	}
	got := make([]byte, len(want))
	if n, err := unix.Pread(fd, got, 505); n != len(want) || err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%q %d %v", got, n, err)
	}
	err := r.fs.Remove(ctx(t), "default", "vol", false)
	if !errors.Is(err, ErrInUse) {
		t.Fatal(err)
	}
	t.Log(err)
	if o := r.fs.Openers("default", "vol"); len(o) != 1 || o[0].PID != uint32(os.Getpid()) {
		t.Fatal(o)
	}
	if err := unix.Close(fd); err != nil {
		t.Fatal(err)
	}
	r.remove("vol")
	if err := r.fs.Unmount(ctx(t), false); err != nil {
		t.Fatal(err)
	}
}
