// SPDX-License-Identifier: Apache-2.0

package api

import "context"

// Caller is the session through which a call of the control API came to a
// target. Calls at the target's own socket have none: they are an
// administrator's.
type Caller struct {
	Nexus   string // of the session: HOST, HOST/VM, or the claim of a control session
	Control bool   // a control session: reservations, locks and status only
}

type callerKey struct{}

// WithCaller returns a context that carries c.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// CallerOf returns the caller that ctx carries, if any.
func CallerOf(ctx context.Context) (c Caller, ok bool) {
	c, ok = ctx.Value(callerKey{}).(Caller)
	return c, ok
}
