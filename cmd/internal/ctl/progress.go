// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"rsio/rsio/admin/api"
)

const (
	barWidth = 30
	barEvery = 200 * time.Millisecond
	lineStep = 10 // percent between plain lines
	lineSize = 1 << 30
)

// progress shows how far a transfer is: a bar on a terminal, else a line for
// every tenth (or every GiB if the size is not known).
type progress struct {
	w     io.Writer
	tty   bool
	label string
	start time.Time

	mu    sync.Mutex // the transfer may report once more after its end
	shown time.Time
	next  uint64 // percent, or bytes, of the next line
	ended bool
}

func (a *app) progress(label string) *progress {
	return &progress{w: a.Stderr, tty: isTerminal(a.Stderr), label: label, start: time.Now(), next: lineStep}
}

// step is an admin.Progress.
func (p *progress) step(done, total uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.ended:
	case p.tty:
		if now := time.Now(); now.Sub(p.shown) >= barEvery {
			p.shown = now
			p.print("\r\x1b[K%s", p.text(done, total))
		}
	case total == 0:
		if done/lineSize >= max(p.next, 1) {
			p.next = done/lineSize + 1
			p.print("%s\n", p.text(done, total))
		}
	default:
		if pct := percent(done, total); pct >= p.next {
			p.next = pct/lineStep*lineStep + lineStep
			p.print("%s\n", p.text(done, total))
		}
	}
}

// end clears the bar; nothing is shown afterwards.
func (p *progress) end(done uint64, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	switch {
	case p.tty && ok:
		p.print("\r\x1b[K%s\n", p.text(done, done))
	case p.tty:
		p.print("\r\x1b[K")
	}
}

func (p *progress) print(format string, args ...any) {
	_, _ = fmt.Fprintf(p.w, format, args...) // progress is not worth an error
}

func percent(done, total uint64) uint64 {
	if total == 0 {
		return 100
	}
	return uint64(float64(min(done, total)) / float64(total) * 100)
}

// text is "import v1: 40% of 20G, 512.0M/s, 24s left", with a bar on a
// terminal.
func (p *progress) text(done, total uint64) string {
	seconds := max(time.Since(p.start).Seconds(), 1e-3)
	rate := float64(done) / seconds
	if total == 0 {
		return fmt.Sprintf("%s: %s, %s/s", p.label, api.FormatSize(done), api.FormatSize(uint64(rate)))
	}
	pct := percent(done, total)
	var b strings.Builder
	fmt.Fprintf(&b, "%s: ", p.label)
	if p.tty {
		full := int(pct) * barWidth / 100
		fmt.Fprintf(&b, "[%s%s] ", strings.Repeat("#", full), strings.Repeat(".", barWidth-full))
	}
	fmt.Fprintf(&b, "%d%% of %s, %s/s", pct, api.FormatSize(total), api.FormatSize(uint64(rate)))
	if rate > 0 && done < total {
		left := time.Duration(float64(total-done) / rate * float64(time.Second))
		fmt.Fprintf(&b, ", %s left", left.Round(time.Second))
	}
	return b.String()
}
