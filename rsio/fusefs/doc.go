// SPDX-License-Identifier: Apache-2.0

// Package fusefs presents block devices as regular files of one FUSE mount:
//
//	<mount>/<namespace>/<volume>[~VM]
//
// A file behaves as a regular file of fixed size that is never cached on this
// host: what another host writes to the volume is seen by the next read.
//
// # Reading and writing
//
// Every open file is FOPEN_DIRECT_IO, with or without O_DIRECT: there is no
// page cache. For the same reason shared mappings are refused by the kernel
// (ENODEV); private ones work, and are a snapshot. QEMU and VirtualBox need
// none. Any offset and length is allowed. What is no whole number of the
// device's blocks is read, changed and written back under a lock of the range,
// so that writers through one FS never undo each other; nothing keeps writers
// on other hosts away meanwhile, so whoever shares a volume writes whole
// blocks. Requests above Info.MaxLen are split and their pieces run at once.
//
// Reads end at the end of the volume. A write that begins there ends in
// ENOSPC, as that of a block device does; one that crosses it is short.
//
// # Durability
//
// fsync and fdatasync are OpFlush; a device without CanFlush has nothing to
// flush, and they succeed. close does not flush. With O_SYNC, O_DSYNC or
// RWF_DSYNC a write is FUA, or is followed by a flush where the device has no
// CanFUA.
//
// # Space
//
// fallocate knows PUNCH_HOLE (OpDiscard, which zeroes by contract, else
// OpWriteZeroes) and ZERO_RANGE (OpWriteZeroes that keeps the space); edges
// that are no whole blocks are written. Without a mode it succeeds within the
// size and does nothing. Other modes, or a device that can do neither, are
// EOPNOTSUPP. What lies beyond the end is ignored with KEEP_SIZE and ENOSPC
// without. SEEK_DATA and SEEK_HOLE ask OpBlockStatus; without it all is data.
//
// # What is refused
//
// The size is the device's: truncate to another one, also by O_TRUNC, is
// EPERM and logged (dd needs conv=notrunc). Nothing can be created, removed or
// renamed, and owner and mode cannot be changed (EPERM); setting times is
// accepted and ignored. A file of a read-only device or attachment cannot be
// opened for writing (EROFS). flock and fcntl locks are of this host.
//
// # Errors
//
// StatusNoSpace is ENOSPC, StatusReadOnly EROFS, StatusTimeout ETIMEDOUT,
// StatusConflict EBADE: the kernel's block layer uses it for reservation
// conflicts, loop devices and QEMU's SCSI disks turn it into one. All others
// are EIO, except those of a request that is wrong in itself (EINVAL,
// EOPNOTSUPP, EACCES).
//
// # Signals
//
// A request that reached a device is not interrupted, because the device owns
// its buffer until the completion (rule 7 of package block): a process that is
// killed meanwhile ends when its requests have ended.
//
// # Rights
//
// A request carries the right (block.Request.Right) that the nexus had when the
// kernel queued it; whoever learns that it is another one calls FS.Fence.
//
// # Goroutines and locks
//
// go-fuse runs one goroutine for each request in flight; it waits for the
// device's completion. Mount starts the one that serves, Unmount, or the end
// of the mount, joins it. FS.mu guards names, nodes and handles, and is held
// neither for a device nor for the kernel. A hung device holds up its own file
// and, once Options.MaxBackground requests wait for it, asynchronous requests
// to others: the kernel counts them for the whole mount. go-fuse takes a buffer
// of 1 MiB for each write in flight, of which only what is used is resident.
package fusefs
