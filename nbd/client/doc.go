// SPDX-License-Identifier: Apache-2.0

// Package client is an NBD client of a server on a local unix socket: it hands
// negotiated connections to the kernel (Dial), and is a block device that
// outlives the server (Open).
//
// # A device that outlives its server
//
// When the connection breaks, the Device connects again, negotiates again, and
// sends again what has not been answered, in the order of submission. Callers
// see a delay. That a write may be executed twice is safe with our own server:
//
//   - The server lives, only the connection broke. The first copy may still be
//     in flight in it; it holds overlapping changes of other connections back
//     until the requests of the broken one have completed (package nbd,
//     orphans). So the second copy, and every later write of the block, comes
//     after the first.
//   - The server died. Its successor takes the session at the target over, and
//     the target lets nothing of the predecessor execute from then on, before
//     the successor's first request executes (docs/protocol.md, login).
//
// Both need the server to see that the old connection has ended when the new
// one begins. On a unix socket the close of either end is seen by the other at
// once, also before what is still in the socket is read; with a proxy between
// them, or TCP, an old write could be read after a newer one was answered. So
// this is for unix sockets of this host only.
//
// A request that was answered is never sent again: a copy of it could undo a
// write that was answered later. A frame of which a part was sent is sent
// whole again: the rest of it went with the connection. An answer belongs to
// the connection it came on: only its reader takes it, and all of that has
// ended before the next connection is used. ESHUTDOWN is no answer: the server
// is going away and has not executed the request, or will not have.
//
// A Flush covers the writes that were answered before it, whichever server
// answered them: the flush's answer comes from a server that flushes the same
// session, and one that cannot vouch for what its predecessor acknowledged
// fails it (block.StatusLost becomes EIO).
//
// # Goroutines and locks
//
// Open starts one goroutine, which connects, reads answers and completes
// requests; Close joins it. Device.mu is held for no I/O but netio's queue, and
// for no callback.
package client
