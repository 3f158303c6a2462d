// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"math/big"
	"strconv"
	"strings"
)

// sizeUnits are the units of a size, each 1024 times the one before.
const sizeUnits = "KMGTPE"

// ParseSize reads a size in bytes: a whole number or a decimal fraction, then
// nothing (bytes) or K, M, G, T, P or E, powers of 1024; "iB" or "B" may
// follow. A fraction of a byte is refused.
func ParseSize(s string) (uint64, error) {
	wrong := func(why string) (uint64, error) {
		return 0, fmt.Errorf("size %.40q %s: give a number and K, M, G or T, like 20G", s, why)
	}
	num, binary := strings.CutSuffix(strings.ToUpper(s), "IB")
	if !binary {
		num = strings.TrimSuffix(num, "B")
	}
	shift := uint(0)
	if n := len(num); n > 0 {
		if i := strings.IndexByte(sizeUnits, num[n-1]); i >= 0 {
			shift, num = uint(10*(i+1)), num[:n-1]
		}
	}
	whole, frac, isFrac := strings.Cut(num, ".")
	if !digits(whole) || isFrac && !digits(frac) || len(num) > 40 || binary && shift == 0 {
		return wrong("is not a size")
	}
	r, ok := new(big.Rat).SetString(num)
	if !ok {
		return wrong("is not a size")
	}
	r.Mul(r, new(big.Rat).SetInt(new(big.Int).Lsh(big.NewInt(1), shift)))
	if !r.IsInt() {
		return wrong("is not a whole number of bytes")
	}
	if !r.Num().IsUint64() {
		return wrong("is too large")
	}
	return r.Num().Uint64(), nil
}

func digits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// FormatSize writes n bytes as a human reads them. Without a decimal point it
// is exact, and ParseSize gives n again; with one it is rounded.
func FormatSize(n uint64) string {
	if n < 1<<10 {
		return strconv.FormatUint(n, 10)
	}
	i := 0
	for i+1 < len(sizeUnits) && n>>(10*(i+2)) > 0 {
		i++
	}
	unit := uint64(1) << (10 * (i + 1))
	if n%unit == 0 {
		return strconv.FormatUint(n/unit, 10) + sizeUnits[i:i+1]
	}
	f := float64(n) / float64(unit)
	if f >= 1023.95 && i+1 < len(sizeUnits) {
		f, i = f/1024, i+1
	}
	return strconv.FormatFloat(f, 'f', 1, 64) + sizeUnits[i:i+1]
}
