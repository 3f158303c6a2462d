// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"rsio/rsio/block"
)

// MaxMemory is the number of entries that a log in memory keeps.
const MaxMemory = 1 << 20

// ErrCut says that a file has bytes that are no entry, as after a write that
// ended early. All entries around them are returned with it.
var ErrCut = errors.New("not all of the log is whole entries")

// Log takes entries, in a file or in memory. Open and NewMemory make one.
// Several devices may share it; all methods may be called from any goroutine.
type Log struct {
	pid uint32

	mu     sync.Mutex
	file   *os.File // nil: in memory
	id     uint64   // of the last begin
	buf    [EntryLen]byte
	lost   uint64 // entries that could not be written
	err    error  // why the first of them was not
	closed bool

	// In memory: a ring once it has limit entries.
	limit int
	kept  []Entry
	next  uint64 // Seq of the next
}

// Open opens a file for appending, and makes it, readable for its owner only,
// if there is none: it will hold the first bytes of what is written. Close
// closes it.
func Open(path string) (*Log, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("trace log: %w", err)
	}
	return &Log{pid: uint32(os.Getpid()), file: f}, nil
}

// NewMemory returns a log that keeps the last MaxMemory entries.
func NewMemory() *Log { return newMemory(MaxMemory) }

func newMemory(limit int) *Log { return &Log{pid: uint32(os.Getpid()), limit: limit} }

// begin logs that r is about to go down and returns its ID.
func (l *Log) begin(r *block.Request) uint64 {
	e := entry(r)
	e.Phase = Begin
	l.mu.Lock()
	defer l.mu.Unlock()
	l.id++
	e.ID = l.id
	l.add(&e)
	return e.ID
}

// end logs that r has completed. Its buffer may still be looked at, because the
// caller's request has not completed.
func (l *Log) end(r *block.Request, id uint64) {
	e := entry(r)
	e.Phase, e.Status, e.ID = End, r.Status, id
	l.mu.Lock()
	defer l.mu.Unlock()
	l.add(&e)
}

func entry(r *block.Request) Entry {
	e := Entry{Op: r.Op, Flags: r.Flags, Off: r.Off, Len: r.Len, Nexus: r.Nexus[:min(len(r.Nexus), MaxNexus)]}
	switch {
	case r.Op == block.OpWrite:
		copy(e.Head[:], r.Buf)
	case r.Op == block.OpCompareAndWrite && len(r.Buf) >= int(r.Len):
		copy(e.Head[:], r.Buf[r.Len:])
	}
	return e
}

// add takes the time and appends e; l.mu is held, so that the times of a
// process are in the order of its entries.
func (l *Log) add(e *Entry) {
	e.Mono, e.PID = monotonic(), l.pid
	switch {
	case l.closed:
		l.fail(os.ErrClosed)
	case l.file != nil:
		e.put(&l.buf)
		if _, err := l.file.Write(l.buf[:]); err != nil {
			l.fail(err)
		}
	case len(l.kept) < l.limit:
		e.Seq = l.next
		l.next++
		l.kept = append(l.kept, *e)
	default:
		e.Seq = l.next
		l.kept[l.next%uint64(l.limit)] = *e
		l.next++
	}
}

// fail remembers the first error; l.mu is held.
func (l *Log) fail(err error) {
	l.lost++
	if l.err == nil {
		l.err = err
	}
}

// problem returns what went wrong so far; l.mu is held.
func (l *Log) problem() error {
	if l.err == nil {
		return nil
	}
	return fmt.Errorf("trace log: %d entries could not be written, the first because: %w", l.lost, l.err)
}

// monotonic returns CLOCK_MONOTONIC, which all processes of a host share.
func monotonic() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0 // it cannot fail with this clock and a valid address
	}
	return time.Duration(ts.Nano())
}

// Entries returns all entries up to now, oldest first, in a slice of the
// caller's: of a file also those of other processes. The error says which
// entries are missing: those that could not be written, or ErrCut, or those
// that could not be read. A file cannot be read after Close; see ReadFile.
func (l *Log) Entries() ([]Entry, error) {
	l.mu.Lock()
	problem, file, old := l.problem(), l.file, 0
	var all []Entry
	if file == nil {
		if len(l.kept) == l.limit {
			old = int(l.next % uint64(l.limit)) // where the oldest is
		}
		all = slices.Concat(l.kept[old:], l.kept[:old])
	}
	l.mu.Unlock()
	if file == nil {
		return all, problem
	}
	// Others go on logging while the file is read.
	info, err := file.Stat()
	if err == nil {
		all, err = read(io.NewSectionReader(file, 0, info.Size()))
	}
	if err != nil {
		err = fmt.Errorf("trace log %s: %w", file.Name(), err)
	}
	return all, errors.Join(problem, err)
}

// Close closes the file, and returns the error of the entries that could not
// be written. What is logged later is lost.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.problem()
	if l.file != nil && !l.closed {
		if cerr := l.file.Close(); cerr != nil {
			err = errors.Join(err, fmt.Errorf("trace log: %w", cerr))
		}
	}
	l.closed = true
	return err
}

// String names the log.
func (l *Log) String() string {
	if l.file == nil {
		return "in memory"
	}
	return l.file.Name()
}

// ReadFile returns the entries of a file, also while others append to it.
// Bytes that are no entry, at the end or between, are left out and the error is
// ErrCut then.
func ReadFile(path string) ([]Entry, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("trace log: %w", err)
	}
	defer f.Close() // it was only read
	all, err := read(f)
	if err != nil {
		err = fmt.Errorf("trace log %s: %w", path, err)
	}
	return all, err
}

// read decodes entries. Where there is none it goes on byte by byte, because
// entries are not aligned any more behind a part of one.
func read(from io.Reader) (all []Entry, err error) {
	in := bufio.NewReaderSize(from, 256<<10)
	junk := 0
	for {
		p, err := in.Peek(EntryLen)
		if len(p) < EntryLen {
			junk += len(p)
			switch {
			case !errors.Is(err, io.EOF):
				return all, err
			case junk > 0:
				return all, fmt.Errorf("%w: %d bytes are none", ErrCut, junk)
			}
			return all, nil
		}
		step := 1
		if e, ok := get(p); ok {
			e.Seq = uint64(len(all))
			all = append(all, e)
			step = EntryLen
		} else {
			junk++
		}
		if _, err := in.Discard(step); err != nil {
			return all, err // it cannot fail: that much was peeked
		}
	}
}
