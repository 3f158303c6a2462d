// SPDX-License-Identifier: Apache-2.0

// Package journal is the append-only checksummed file that makes the
// reservation states of a pool durable. It knows volumes, versions and bytes;
// what a state means is the business of package dam.
//
// # Format
//
// Everything is big-endian. The file is a header and then records, each a
// multiple of 8 bytes long, without anything between them.
//
//	file header   offset  length
//	                   0       8  magic "RSIOPRJ1"
//	                   8       4  format, 1
//	                  12      16  file ID: 8 bytes that grow with each Rewrite, 8 at random
//	                  28      32  zeroes
//	                  60       4  CRC32C of bytes 0..59
//
//	record        offset  length
//	                   0       4  magic "RPJR"
//	                   4       4  length of the whole record
//	                   8      16  file ID
//	                  24       8  sequence number, 1 for the first of the file
//	                  32       4  chain: last CRC of the record before, of the file header for the first
//	                  36       1  flags: 1 = removed
//	                  37       1  length of the volume's UUID, 1..64
//	                  38       2  zeroes
//	                  40       8  version of the state
//	                  48       4  length of the state, 0..1 MiB
//	                  52       4  CRC32C of bytes 0..51
//	                  56       v  UUID
//	                56+v       s  state
//	              56+v+s    0..7  zeroes
//	            length-4       4  CRC32C of all bytes before
//
// The file ID in each record tells it from one of an earlier file that lies in
// a reused block, and from what a state is made to look like; and it tells
// which file this is when the file header is gone. The CRC of a record's header
// makes its lengths and the ID worth believing before the rest is read. CRCs
// detect accidents; against people who can write the file there is no
// protection here.
//
// # Order of writes
//
// Append: check that the file is as it was left; one write at the end;
// fdatasync. Rewrite: remove what an earlier one left of path.new; create it;
// write; fsync; rename over path; fsync of the directory.
//
// Open: fdatasync and fsync of the directory, before it reads, for a process
// that was killed in between: what Open finds was perhaps not durable yet, and
// its caller acts on it.
//
// There is never more than one record that is not durable. A write or sync
// that failed is never tried again on the same file, because the kernel
// forgets what it could not write: from then on only Rewrite helps.
//
// # Failure matrix
//
//	what happened                          Open finds            Records have
//	crash in Append before fdatasync       all well, or Torn     the state before or after it
//	crash in Rewrite before the rename     what was there        the states before it
//	crash in Rewrite after the rename      what was there, or    the states before or after it
//	                                       the new file
//	the last record is damaged             Torn                  the state before it: the second copy tells
//	a record before is damaged             Damaged               all but that record
//	file header damaged, cut or empty      Damaged               all records that are whole
//	start replaced by an earlier file's    Damaged               what that start has: the second copy tells
//	records missing between or exchanged   Damaged               all records that are whole
//	bytes behind the end                   Torn, or Damaged if   everything
//	                                       no append wrote them
//	sectors that cannot be read            Damaged               all records that are whole
//	cut at the end of a record             all well              what is left: the second copy tells
//	replaced by an earlier copy of itself  all well              what it has: the second copy tells
//	file deleted                           Missing               nothing
//	no space, I/O error in Append          (as after a crash)    the state before or after it
//
// So after Torn, Damaged and Missing the caller compares with his second copy,
// and calls Rewrite, before which Append is refused. All that is returned was
// once given to Append or Rewrite, but for one chance in 2^32 per damaged
// record.
//
// # Goroutines and memory
//
// There are none, and no locks: one goroutine at a time uses a Journal. Open
// holds the whole file in memory while it runs. Its time is linear in the
// length of the file, whatever the content (scan.go).
package journal
