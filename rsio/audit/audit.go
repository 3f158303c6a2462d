// SPDX-License-Identifier: Apache-2.0

// Package audit keeps what happened and what somebody may have to know: the
// last events of a daemon, in memory, for `rsioctl events`; and all of them in
// the daemon's log.
//
// The memory is bounded. When it is full, the oldest event of level info goes
// first, so that a flood of small news does not wash a failure away; if there
// are only warnings and errors, the oldest of those goes. There are no
// goroutines.
package audit

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"rsio/rsio/admin/api"
)

// Max is the number of events kept.
const Max = 1000

// The levels of an event.
const (
	Info    = "info"
	Warning = "warning"
	Error   = "error"
)

// Log holds the last events. The zero value is ready and logs nowhere else;
// its methods may be called from any goroutine.
type Log struct {
	logger *slog.Logger // may be nil

	mu     sync.Mutex
	events []api.Event // by ID, at most Max
	last   uint64      // ID of the newest
	more   chan struct{}
}

// New returns a Log that also writes to logger, which may be nil.
func New(logger *slog.Logger) *Log { return &Log{logger: logger} }

// Add records an event. An unknown level counts as an error: better seen than
// lost.
func (l *Log) Add(level, object, text string) {
	if level != Info && level != Warning {
		level = Error
	}
	l.mu.Lock()
	l.last++
	l.events = append(l.events, api.Event{ID: l.last, Time: time.Now(), Level: level, Object: object, Text: text})
	l.trim()
	if l.more != nil {
		close(l.more)
		l.more = nil
	}
	l.mu.Unlock()
	if l.logger != nil {
		l.logger.Log(context.Background(), slogLevel(level), text, "object", object)
	}
}

func slogLevel(level string) slog.Level {
	switch level {
	case Info:
		return slog.LevelInfo
	case Warning:
		return slog.LevelWarn
	}
	return slog.LevelError
}

// trim makes room; the newest event always stays.
func (l *Log) trim() {
	if len(l.events) <= Max {
		return
	}
	old := l.events[:len(l.events)-1]
	i := max(0, slices.IndexFunc(old, func(e api.Event) bool { return e.Level == Info }))
	l.events = slices.Delete(l.events, i, i+1)
}

// Since returns the events with an ID above after, oldest first. If there are
// none it waits for one until ctx ends, and then returns none. An after that
// is ahead of every ID comes from before a restart: all events are returned.
func (l *Log) Since(ctx context.Context, after uint64) []api.Event {
	for {
		events, more := l.above(after)
		if len(events) > 0 {
			return events
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil
		}
	}
}

func (l *Log) above(after uint64) ([]api.Event, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if after > l.last {
		after = 0
	}
	i, _ := slices.BinarySearchFunc(l.events, after+1, func(e api.Event, id uint64) int {
		if e.ID < id {
			return -1
		}
		return int(min(e.ID-id, 1))
	})
	if i == len(l.events) && l.more == nil {
		l.more = make(chan struct{})
	}
	return slices.Clone(l.events[i:]), l.more
}
