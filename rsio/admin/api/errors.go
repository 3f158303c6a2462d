// SPDX-License-Identifier: Apache-2.0

package api

import (
	"errors"
	"fmt"
	"strings"
)

// Kind sorts errors of the control path; rsioctl's exit code follows from it.
type Kind string

// The kinds, with the exit code of rsioctl.
const (
	Failed      Kind = "failed"      // 1
	Usage       Kind = "usage"       // 2
	NotFound    Kind = "not-found"   // 3
	Exists      Kind = "exists"      // 4, also: in use
	Denied      Kind = "denied"      // 5
	Unreachable Kind = "unreachable" // 7
	Timeout     Kind = "timeout"     // 8
	Conflict    Kind = "conflict"    // 24, as sg_persist
)

// ExitCode returns the exit code of rsioctl for an error of kind k.
func (k Kind) ExitCode() int {
	switch k {
	case Usage:
		return 2
	case NotFound:
		return 3
	case Exists:
		return 4
	case Denied:
		return 5
	case Unreachable:
		return 7
	case Timeout:
		return 8
	case Conflict:
		return 24
	}
	return 1
}

// Error is an error of the control path: what was tried on which object, why
// it failed and what to do.
type Error struct {
	Kind   Kind   `json:"kind"`
	Op     string `json:"op"`               // "volume create"
	Object string `json:"object"`           // "default/v1"
	Reason string `json:"reason"`           // "there is one of that name already"
	Remedy string `json:"remedy,omitempty"` // "choose another name, or delete it first"
}

// Error renders all parts in one line.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Object != "" {
		b.WriteString(" " + e.Object)
	}
	b.WriteString(": " + e.Reason)
	if e.Remedy != "" {
		fmt.Fprintf(&b, " (%s)", e.Remedy)
	}
	return b.String()
}

// Errorf makes an Error; the last argument is the remedy, which may be empty.
func Errorf(k Kind, op, object, reason, remedy string) *Error {
	return &Error{Kind: k, Op: op, Object: object, Reason: reason, Remedy: remedy}
}

// Wrap makes an Error of err, keeping it if it is one already.
func Wrap(err error, k Kind, op, object, remedy string) error {
	var e *Error
	if err == nil || errors.As(err, &e) {
		return err
	}
	return Errorf(k, op, object, err.Error(), remedy)
}
