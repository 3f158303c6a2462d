// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
)

// strictJSON decodes b and refuses unknown fields and anything behind the
// value.
func strictJSON(b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		if errors.Is(err, io.EOF) {
			return usage("the body is empty")
		}
		return usage("the body is not understood: " + err.Error())
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return usage("there is something behind the end of the body")
	}
	return nil
}
