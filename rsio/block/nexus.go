// SPDX-License-Identifier: Apache-2.0

package block

import (
	"fmt"
	"strings"
)

// MaxName is the longest name of a host, VM, volume, pool or namespace, bytes.
const MaxName = 63

// CheckName returns nil if s matches [A-Za-z0-9][A-Za-z0-9._-]{0,62}; what
// names the kind of object in the error.
func CheckName(what, s string) error {
	if s == "" {
		return fmt.Errorf("%s name is empty: give 1 to %d letters, digits, '.', '_' or '-'", what, MaxName)
	}
	if len(s) > MaxName {
		return fmt.Errorf("%s name %.20q... has %d bytes: at most %d are allowed", what, s, len(s), MaxName)
	}
	for i := range len(s) {
		c := s[i]
		alnum := c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !alnum && (i == 0 || c != '.' && c != '_' && c != '-') {
			return fmt.Errorf("%s name %q: character %d is not allowed: use letters, digits, '.', '_', '-', and start with a letter or digit", what, s, i+1)
		}
	}
	return nil
}

// CheckNexus returns nil if s is HOST or HOST/VM.
func CheckNexus(s string) error {
	host, vm, isVM := strings.Cut(s, "/")
	if err := CheckName("host", host); err != nil {
		return fmt.Errorf("nexus %.80q: %w", s, err)
	}
	if isVM {
		if err := CheckName("VM", vm); err != nil {
			return fmt.Errorf("nexus %.80q: %w", s, err)
		}
	}
	return nil
}
