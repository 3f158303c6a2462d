// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"context"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"rsio/rsio/block"
	"rsio/rsio/netio"
)

// FuzzHandshake: what is made of any replies can be a device, and no more is
// read than a server may say.
func FuzzHandshake(f *testing.F) {
	ack := reply(repAck, nil)
	for _, b := range [][]byte{
		nil, ack,
		bytes.Join([][]byte{reply(repInfo, export(1<<30, fakeFlags)), ack}, nil),
		bytes.Join([][]byte{reply(repInfo, sizes(512, 4096, 1<<25)), reply(repInfo, export(1<<62, 0xffff)), ack}, nil),
		bytes.Join([][]byte{reply(repInfo, export(7, 0)), reply(repInfo, sizes(4096, 1, 4096)), ack}, nil),
		reply(repErrUnknown, []byte("no")), reply(repErr|9, nil),
		be(uint64(magicReply), uint32(optGo), uint32(repInfo), uint32(1<<32-1)),
		bytes.Repeat(reply(repInfo, nil), 70),
	} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		in := bytes.NewReader(b)
		info, err := readInfo(in)
		if err == nil {
			sane(t, info)
		}
		if n := len(b) - in.Len(); n > 64*(20+maxReply) {
			t.Errorf("%d bytes were read", n)
		}
	})
}

// FuzzReply: a device with requests in flight gets any bytes for answers. Each
// request ends once, and only the data of reads that succeeded was touched.
func FuzzReply(f *testing.F) {
	ok := func(slot uint64) []byte { return simple(0, 1<<32|slot) }
	for _, b := range [][]byte{
		nil, ok(1), ok(9), simple(errShutdown, 0), simple(5, 1<<32), simple(5, 2<<32),
		append(ok(0), data(512)...), append(ok(0), data(511)...),
		bytes.Join([][]byte{ok(1), ok(2), ok(3), simple(22, 1<<32), ok(1)}, nil),
		bytes.Join([][]byte{simple(1, 1<<32|3), ok(0), data(512), ok(2), ok(1), ok(3)}, nil),
		bytes.Join([][]byte{ok(1), simple(0, 2<<32|1), data(512)}, nil),
	} {
		f.Add(b)
	}
	f.Fuzz(fuzzReply)
}

func fuzzReply(t *testing.T, b []byte) {
	if len(b) > 64<<10 {
		return // more than one socket takes
	}
	conn, peer := socketPair(t)
	d := &Device{opt: Options{Socket: "/", MaxInflight: 4}, slots: make([]slot, 4)} // nobody is there later
	for i := range d.slots {
		d.slots[i].d, d.slots[i].out.Owner = d, &d.slots[i]
		d.free = append(d.free, uint32(len(d.slots)-1-i))
	}
	d.learn(Info{Size: 1 << 30, Flags: fakeFlags, MinBlock: 1, MaxPayload: 1 << 20})
	d.ctx, d.stop = context.WithCancel(t.Context())
	calls := []*call{newCall(block.OpRead, 0, 512), newCall(block.OpWrite, 0, 512), newCall(block.OpFlush, 0, 0),
		newCall(block.OpDiscard, 0, 512), newCall(block.OpRead, 0, 512)} // the last one waits for a slot
	for _, c := range calls {
		d.Submit(&c.Request)
	}
	if _, err := peer.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := peer.(*net.UnixConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	d.opt.State = func(up bool, _ error) {
		if !up {
			close(ended)
		}
	}
	d.done.Add(1)
	go d.run(conn)
	<-ended
	d.Abandon()
	for _, c := range calls {
		st := c.wait(t)
		if !st.Known() {
			t.Errorf("%v ends with %d", c.Op, st)
		}
		if st == block.StatusOK && c.Op == block.OpRead && !bytes.Contains(b, c.Buf) {
			t.Errorf("a read brought what was never sent: %x", c.Buf[:8])
		}
	}
	closeDevice(t, d)
	for _, c := range calls {
		if !c.open() {
			t.Errorf("%v completed twice", c.Op)
		}
	}
}

// socketPair returns a connection and its peer.
func socketPair(t *testing.T) (*netio.Conn, net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "pair")
		if ends[i], err = net.FileConn(file); err != nil {
			t.Fatal(err)
		}
		_ = file.Close() // FileConn has its own
	}
	t.Cleanup(func() { _ = ends[1].Close() })
	conn, err := netio.New(ends[0].(netio.StreamConn), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	return conn, ends[1]
}
