// SPDX-License-Identifier: Apache-2.0

package blocktest

import (
	"math/rand/v2"
	"strings"

	"rsio/rsio/block"
)

// Layer is a named way to put a layer over a device.
type Layer struct {
	Name string
	Over func(below block.Device) block.Device
}

// RandomStack puts up to most layers over leaf, each chosen by rng from
// layers, and returns the top and the names from the lowest up. A suite that
// passes on each layer alone may still fail on a stack of them.
func RandomStack(rng *rand.Rand, leaf block.Device, layers []Layer, most int) (block.Device, string) {
	top, names := leaf, []string{"leaf"}
	for range rng.IntN(most + 1) {
		l := layers[rng.IntN(len(layers))]
		top = l.Over(top)
		names = append(names, l.Name)
	}
	return top, strings.Join(names, " < ")
}
