// SPDX-License-Identifier: Apache-2.0

package initiator

import (
	"context"
	"errors"

	"rsio/rsio/admin/api"
)

// Headless is a Frontend that shows attachments to nobody, for programs that
// use an Initiator as a library and take its devices with Find.
type Headless struct{}

// Clients implements Frontend: none.
func (Headless) Clients(string) int { return 0 }

// Close implements Frontend.
func (Headless) Close(string) {}

// URI implements Frontend: the name.
func (Headless) URI(name string) string { return name }

// Fence implements Frontend.
func (Headless) Fence(string) {}

// Addresses implements Frontend: none.
func (Headless) Addresses() []string { return nil }

// Present implements Frontend; it refuses devices and files.
func (Headless) Present(_ context.Context, p Presented) error {
	if p.Show.NBD || p.Show.Loop || p.Show.File {
		return errors.New("this initiator has no devices or files")
	}
	return nil
}

// Withdraw implements Frontend.
func (Headless) Withdraw(context.Context, string, bool) error { return nil }

// Shown implements Frontend: nothing.
func (Headless) Shown(string) api.Shown { return api.Shown{} }

// Users implements Frontend: nobody.
func (Headless) Users(string) []string { return nil }

// Resized implements Frontend.
func (Headless) Resized(string) {}

// Checks implements Frontend: none.
func (Headless) Checks() []api.Check { return nil }
