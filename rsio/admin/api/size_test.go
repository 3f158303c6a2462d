// SPDX-License-Identifier: Apache-2.0

package api

import (
	"math"
	"strings"
	"testing"
)

func TestParseSize(t *testing.T) {
	for _, row := range []struct {
		desc, in string
		want     uint64
		err      string
	}{
		{"bytes", "4096", 4096, ""},
		{"bytes with B", "10B", 10, ""},
		{"zero", "0", 0, ""},
		{"K", "4K", 4096, ""},
		{"lower case", "4k", 4096, ""},
		{"G", "20G", 20 << 30, ""},
		{"GiB", "20GiB", 20 << 30, ""},
		{"GB is the same: powers of 1024", "20GB", 20 << 30, ""},
		{"fraction", "1.5G", 3 << 29, ""},
		{"the largest", "18446744073709551615", math.MaxUint64, ""},
		{"one more", "18446744073709551616", 0, "too large"},
		{"overflow by unit", "16E", 0, "too large"},
		{"half a byte", "0.5", 0, "whole number"},
		{"third of a unit", "0.3K", 0, "whole number"},
		{"empty", "", 0, "not a size"},
		{"unit only", "G", 0, "not a size"},
		{"negative", "-1G", 0, "not a size"},
		{"sign", "+1G", 0, "not a size"},
		{"exponent", "1e3", 0, "not a size"},
		{"space", "1 G", 0, "not a size"},
		{"iB without unit", "1iB", 0, "not a size"},
		{"two units", "1KG", 0, "not a size"},
		{"endless", strings.Repeat("0", 1000), 0, "not a size"},
		{"fraction without digits", "1.G", 0, "not a size"},
	} {
		got, err := ParseSize(row.in)
		if (err == nil) != (row.err == "") || err != nil && !strings.Contains(err.Error(), row.err) || got != row.want {
			t.Errorf("%s: %q gives %d, %v", row.desc, row.in, got, err)
		}
	}
}

func TestFormatSize(t *testing.T) {
	for _, row := range []struct {
		desc string
		in   uint64
		want string
	}{
		{"zero", 0, "0"}, {"bytes", 1000, "1000"}, {"exact", 20 << 30, "20G"}, {"fraction", 3 << 29, "1.5G"},
		{"nearly exact", 20<<30 + 4096, "20.0G"}, {"carry", 1<<20 - 1, "1.0M"}, {"largest", math.MaxUint64, "16.0E"},
		{"mebibytes", 1536 << 20, "1.5G"}, {"many", 1000 << 30, "1000G"},
	} {
		got := FormatSize(row.in)
		if got != row.want {
			t.Errorf("%s: %d gives %s, want %s", row.desc, row.in, got, row.want)
		}
		if back, err := ParseSize(got); !strings.Contains(got, ".") && (err != nil || back != row.in) {
			t.Errorf("%s: %s parses to %d, %v", row.desc, got, back, err)
		}
	}
}
