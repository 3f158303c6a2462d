// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"strings"
	"testing"
)

// TestEncode: the bytes of every command (native order, here little endian).
func TestEncode(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = r.Close(), w.Close() }()
	fd := func(f *os.File) string { return hex.EncodeToString([]byte{byte(f.Fd()), 0, 0, 0}) }
	for _, row := range []struct {
		desc    string
		cfg     Config
		connect bool
		want    string
	}{
		{"connect with two sockets", Config{Index: -1, Size: 1 << 30, BlockSize: 4096, Flags: 0x10d, Sockets: []*os.File{r, w}, Identifier: "rsio:x"}, true,
			"0c000200 0000004000000000" + // size
				"0c000300 0010000000000000" + // block size
				"0c000500 0d01000000000000" + // server flags
				"0c000400 0000000000000000" + // no timeout
				"0c000800 0075120000000000" + // dead-connection timeout: 14 days
				"1c000780" + "0c000180" + "08000100" + fd(r) + "0c000180" + "08000100" + fd(w) +
				"0b000a00 7273696f3a7800 00"},
		{"reconfigure", Config{Index: 3, Sockets: []*os.File{r}, Identifier: "i"}, false,
			"08000100 03000000" + "10000780" + "0c000180" + "08000100" + fd(r) + "06000a00 69000000"},
		{"resize", Config{Index: 0, Size: 8192, Identifier: "i"}, false, "08000100 00000000" + "0c000200 0020000000000000" + "06000a00 69000000"},
		{"disconnect", Config{Index: 15}, false, "08000100 0f000000"},
	} {
		got, err := encode(row.cfg, row.connect)
		want, err2 := hex.DecodeString(strings.ReplaceAll(row.want, " ", ""))
		if err != nil || err2 != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %v %v\n got %x\nwant %x", row.desc, err, err2, got, want)
		}
	}
}

func TestParseIndex(t *testing.T) {
	for _, row := range []struct {
		desc, in string
		want     int
		ok       bool
	}{
		{"as the kernel says it", "0800010007000000", 7, true},
		{"after another attribute", "0c000200000000000000000008000100ff000000", 255, true},
		{"nothing", "", 0, false},
		{"no index", "0c0002000000000000000000", 0, false},
		{"index of two bytes", "0600010007000000", 0, false},
		{"cut off", "0800010007", 0, false},
		{"length zero", "0000010007000000", 0, false},
		{"longer than there is", "ffff010007000000", 0, false},
	} {
		b, err := hex.DecodeString(row.in)
		if err != nil {
			t.Fatal(err)
		}
		got, err := parseIndex(b)
		if (err == nil) != row.ok || got != row.want {
			t.Errorf("%s: %d, %v", row.desc, got, err)
		}
	}
}

func FuzzParseIndex(f *testing.F) {
	f.Add([]byte{8, 0, 1, 0, 7, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, err := parseIndex(b); err == nil && n < 0 {
			t.Errorf("device %d", n)
		}
	})
}

// TestNoDriver: what there is to say on a kernel without the driver.
func TestNoDriver(t *testing.T) {
	d, err := Open()
	if err == nil {
		_ = d.Close()
		t.Skip("this kernel has the driver; TestReal tests it")
	}
	if !errors.Is(err, ErrNoDriver) {
		t.Errorf("without the driver: %v", err)
	}
	if n, err := Find("rsio:none"); n != -1 || err != nil || Connected(9999) || Size(9999) != 0 {
		t.Errorf("devices that are not there: %d, %v, %v, %d", n, err, Connected(9999), Size(9999))
	}
	if Barrier(9999) == nil {
		t.Error("a barrier of a device that is not there")
	}
}
