// SPDX-License-Identifier: Apache-2.0

// Package files is the process that serves the files of a FUSE mount.
//
// A FUSE mount ends with the process that serves it: the kernel sends the first
// message of a mount once, so a successor cannot take it over. This process is
// therefore not the initiator but a small one that stays when the initiator is
// restarted or upgraded. Each file is an NBD client of the initiator's socket
// (nbd/client), which connects again and sends again what was not answered.
//
// The initiator rules it over a unix socket with HTTP and JSON:
//
//	GET    /v1/files                     []State
//	PUT    /v1/files                     File: adds it, or changes owner and mode
//	DELETE /v1/files?path=P&force=true   removes it
//	POST   /v1/refresh?path=P            looks at the size again
//	POST   /v1/fence?path=P&right=N      what was sent to the file so far is refused
//	POST   /v1/quit                      unmounts and ends the process
//
// What ends the mount: SIGTERM to the process, quit, umount by hand, kill -9
// or a crash of the process. After the last two, who has a file open gets
// ENOTCONN, and the initiator starts a new process and mounts again.
package files

// Names of files in the initiator's RUN folder.
const (
	Socket  = "files.sock" // HTTP
	PIDFile = "files.pid"
	LogFile = "files.log"
)

// File is a file to serve.
type File struct {
	Path     string `json:"path"`   // NAMESPACE/VOLUME[~VM]
	Export   string `json:"export"` // at the initiator's NBD socket
	Volume   string `json:"volume"`
	Nexus    string `json:"nexus"`
	Target   string `json:"target"`
	ReadOnly bool   `json:"read_only,omitempty"`
	UID      uint32 `json:"uid"`
	GID      uint32 `json:"gid"`
	Mode     uint32 `json:"mode"`
	Right    uint64 `json:"right"` // of the nexus, when the file is added; see Client.Fence
}

// State is a file as it is served.
type State struct {
	File
	Size    uint64 `json:"size"` // bytes
	Up      bool   `json:"up"`   // connected with the initiator
	Reason  string `json:"reason,omitempty"`
	Openers []int  `json:"openers,omitempty"` // process ids
}
