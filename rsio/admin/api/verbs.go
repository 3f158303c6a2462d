// SPDX-License-Identifier: Apache-2.0

package api

// VolumeList is the answer to a list of volumes. An initiator merges those of
// its targets; Missing names targets that could not be asked, with the reason.
type VolumeList struct {
	Volumes []Volume `json:"volumes"`
	Missing []string `json:"missing,omitempty"`
}

// ResizeSpec asks for another size of a volume.
type ResizeSpec struct {
	Size   uint64 `json:"size"`             // bytes
	Shrink bool   `json:"shrink,omitempty"` // needed if it is less than before
	Force  bool   `json:"force,omitempty"`  // also if others have reserved the volume
}

// DetachSpec asks for the end of an attachment, by name or URI.
type DetachSpec struct {
	Name  string `json:"name"`
	Force bool   `json:"force,omitempty"`
}

// PathSpec enables or disables a path, by ID or address.
type PathSpec struct {
	ID      string `json:"id"`
	Enabled bool   `json:"enabled"`
}

// Transfer says what an import has written or an export has read.
type Transfer struct {
	Size   uint64 `json:"size"`   // bytes of the image
	Data   uint64 `json:"data"`   // bytes that came as data
	Zeroes uint64 `json:"zeroes"` // bytes that came as holes
}
