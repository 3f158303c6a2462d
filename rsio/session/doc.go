// SPDX-License-Identifier: Apache-2.0

// Package session is the session layer of RSIO as a state machine: it does no
// I/O, starts no goroutine and reads no clock. Connections reach it as Ports,
// time as an argument, so that the simulation (rsio/sim) and the daemons run
// the same code.
//
// The target's side:
//   - Slots: the slot table; decides for every copy of a request whether it is
//     executed, attached, answered again or refused.
//   - Sessions: who may log in, and when a nexus is free again.
//   - Window, Budget: credit.
//   - Grace: who may send writes again after a restart.
//
// The initiator's side is Client: slots, paths, credit, parking, replay. The
// way of a request through it:
//
//  1. Volume.Submit queues it or starts it in a free slot.
//  2. A path is chosen by least outstanding bytes times measured service time.
//  3. The frame is built and given to the path's Port without c.mu.
//  4. Reply (or BeginReply and EndReply) accepts the first answer with the
//     slot's sequence number, from whichever path.
//  5. A path that is silent is suspect: Tick sends its requests again on
//     others at once. The target's slot table makes that safe.
//  6. The request completes when every connection has let go of its buffer.
//
// Locks: Client.mu guards everything of the initiator's side. Under it no
// Port is flushed and no request completed; both are collected in effects and
// done after it is released. Ports may be unlinked and closed under it.
package session
