// SPDX-License-Identifier: Apache-2.0

// Package nbd serves block devices to NBD clients: fixed newstyle handshake,
// simple, structured and extended replies, over unix and TCP sockets.
//
// # Life of a connection
//
//  1. Serve accepts it and starts its one goroutine, the reader.
//  2. handshake.go haggles under a deadline and with little memory.
//  3. loop (request.go) parses requests in batches and submits them. Whatever
//     the device completes while a batch is parsed is only queued; the end of
//     the batch sends it with one writev.
//  4. reply.go answers from whatever goroutine the device completes on.
//  5. At the end the connection drains: every request is finished and its
//     reply sent or thrown away before the goroutine ends.
//
// # Memory
//
// A request takes a slot. Slots belong to a connection, are made when first
// needed, up to Options.MaxInflight, and used again; nothing is allocated per
// request. Payload lives in buffers of one pool (Options.Pool). The reader
// reads no further request until it has a slot, room under Options.ConnBytes
// and its buffers. It holds no buffer while it waits for one, except for a
// reply that must be gathered: those wait one at a time (Server.gather).
//
// # Large requests
//
// Reads and writes longer than Info.MaxLen are split into pieces, each a slot
// of its own under the slot of the whole. Discard, zeroes and cache go in
// steps, one after the other. A large read is answered piece by piece where
// structured replies allow it; else it is gathered.
//
// # Orphans
//
// A changing request that is in flight when its connection closes is an
// orphan (orphan.go). A changing request of another connection that overlaps
// it is held back until the orphan has completed: a client that gave up, came
// back and wrote again never finds its old write on top of the new one.
//
// # Locks
//
// Order: Server.mu, volume.mu, conn.mu. conn.sendMu stands alone. None is held
// while a device, a completion or a socket is called, but for sendMu around
// netio's Queue.
package nbd
