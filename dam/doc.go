// SPDX-License-Identifier: Apache-2.0

// Package dam is the disk access manager: who may read and write a shared
// volume, with the semantics of SCSI-3 persistent reservations (SPC-4, 5.12).
//
//   - State and Apply are the reservation of one volume as a pure function:
//     no clock, no I/O, nothing random. State is immutable.
//   - DAM keeps the states of all volumes of a pool, durably, and is what a
//     target asks. It is in force in block.Seat, which the data path enters.
//
// The way of a change (volume.go):
//
//  1. It waits for its turn: the changes of a volume are made one by one.
//  2. Apply says what becomes of the state.
//  3. The seats get what both the old and the new state allow.
//  4. Preempt-and-abort waits until nothing runs any more that somebody has
//     lost the right to.
//  5. The journal gets the new state, durably, then the audit log a line, then
//     the registry the second copy.
//  6. The seats get what the new state allows, and the caller his answer.
//
// What is refused or fails before the journal had it leaves the old state in
// force. Nobody is shown a state that is not durable: the interleaving would be
// a reader who sees a reservation that is gone after a crash.
//
// Goroutines: one per volume while changes wait for their turn; Close joins
// them. Lock order: DAM.mu, then volume.mu; neither is held for I/O or a
// callback.
package dam
