// SPDX-License-Identifier: Apache-2.0

package fault

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"rsio/rsio/block"
)

// Verb is what a rule does to a request.
type Verb uint8

// The verbs. Which operations take which is in verbs.
const (
	None        Verb = iota
	EIO              // StatusIO, nothing is done
	NoSpace          // StatusNoSpace, nothing is done
	Short            // the first half is done, then StatusIO
	Torn             // the first half is done, success is reported
	Lost             // nothing is done, success is reported
	Misdirect        // it goes to another offset, success is reported
	Bitflip          // one bit of what is read or written is wrong
	IgnoreFlush      // a flush, or the FUA of a write, does nothing
	Delay            // it waits, then goes on
	Hang             // it waits until it is released, then goes on
)

type verbInfo struct {
	name string
	ops  []block.Op // nil: all
}

func verbs() []verbInfo {
	changes := []block.Op{block.OpWrite, block.OpDiscard, block.OpWriteZeroes}
	return []verbInfo{
		None:        {name: "none"},
		EIO:         {name: "eio"},
		NoSpace:     {name: "nospace", ops: changes},
		Short:       {name: "short", ops: append([]block.Op{block.OpRead}, changes...)},
		Torn:        {name: "torn", ops: changes},
		Lost:        {name: "lost", ops: append([]block.Op{block.OpFlush}, changes...)},
		Misdirect:   {name: "misdirect", ops: append([]block.Op{block.OpRead}, changes...)},
		Bitflip:     {name: "bitflip", ops: []block.Op{block.OpRead, block.OpWrite}},
		IgnoreFlush: {name: "ignoreflush", ops: append([]block.Op{block.OpFlush}, changes...)},
		Delay:       {name: "delay"},
		Hang:        {name: "hang"},
	}
}

// String returns the name of v in a rule.
func (v Verb) String() string {
	if all := verbs(); int(v) < len(all) {
		return all[v].name
	}
	return "verb?"
}

// takes reports whether v can be done to op.
func (v Verb) takes(op block.Op) bool {
	ops := verbs()[v].ops
	return ops == nil || slices.Contains(ops, op)
}

// Rule selects requests and says what happens to them. Parse makes one of
// text; the zero value of a selector selects everything.
type Rule struct {
	Op    block.Op // 0: every operation that Do can be done to
	From  uint64   // bytes; requests that touch [From, To)
	To    uint64   // bytes; 0: any range, and flushes
	Nth   uint64   // only this one of the selected, counted from 1
	Start uint64   // this one and all after it
	Every uint64   // each so-many-th
	P     float64  // with this probability; 0: always
	Seed  uint64   // of P, Bitflip, Misdirect and Delay
	Do    Verb     // what happens
	MinMS int      // Delay: milliseconds at least
	MaxMS int      // Delay: milliseconds at most
	Shift uint64   // Misdirect: bytes; 0: a random place
	Until string   // Hang: released when this file exists
	After bool     // Delay, Hang: the request executes first, its completion waits
}

// Syntax describes a rule for people.
const Syntax = "op=read|write|flush|discard|zeroes|block-status, range=FROM-TO (bytes), nth=N, from=N, every=N, " +
	"p=0..1, seed=N, do=eio|nospace|short|torn|lost|misdirect|bitflip|ignoreflush|delay|hang, " +
	"ms=N or ms=MIN-MAX (delay), shift=BYTES (misdirect), until=FILE (hang), at=before|after (delay, hang)"

// Parse reads a rule such as "op=write,nth=3,do=hang". Keys are separated by
// commas; Syntax lists them.
func Parse(s string) (Rule, error) {
	var r Rule
	seen := make(map[string]bool)
	for item := range strings.SplitSeq(s, ",") {
		key, val, ok := strings.Cut(strings.TrimSpace(item), "=")
		if !ok || val == "" {
			return Rule{}, fmt.Errorf("fault rule %q: %q is not KEY=VALUE: known are %s", s, item, Syntax)
		}
		if seen[key] {
			return Rule{}, fmt.Errorf("fault rule %q: %s is given twice: give it once, or write two rules", s, key)
		}
		seen[key] = true
		if err := r.set(key, val); err != nil {
			return Rule{}, fmt.Errorf("fault rule %q: %w", s, err)
		}
	}
	if err := r.check(); err != nil {
		return Rule{}, fmt.Errorf("fault rule %q: %w", s, err)
	}
	return r, nil
}

// ParseAll reads rules separated by semicolons.
func ParseAll(s string) ([]Rule, error) {
	var all []Rule
	for one := range strings.SplitSeq(s, ";") {
		r, err := Parse(one)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

func (r *Rule) set(key, val string) (err error) {
	switch key {
	case "op":
		op, ok := block.ParseOp(val)
		if !ok {
			return fmt.Errorf("op %q is unknown: give read, write, flush, discard, zeroes or block-status", val)
		}
		r.Op = op
	case "do":
		i := slices.IndexFunc(verbs(), func(v verbInfo) bool { return v.name == val })
		if i <= 0 {
			return fmt.Errorf("do %q is unknown: known are %s", val, Syntax)
		}
		r.Do = Verb(i)
	case "range":
		r.From, r.To, err = span(key, val, false)
	case "ms":
		var lo, hi uint64
		lo, hi, err = span(key, val, true)
		if err == nil && hi > math.MaxInt32 {
			return fmt.Errorf("ms %q is too long: give at most %d", val, math.MaxInt32)
		}
		r.MinMS, r.MaxMS = int(lo), int(hi)
	case "p":
		r.P, err = strconv.ParseFloat(val, 64)
		if err != nil || !(r.P > 0 && r.P <= 1) {
			return fmt.Errorf("p %q is no probability: give a number above 0 and up to 1", val)
		}
	case "nth":
		r.Nth, err = number(key, val, 1)
	case "from":
		r.Start, err = number(key, val, 1)
	case "every":
		r.Every, err = number(key, val, 1)
	case "seed":
		r.Seed, err = number(key, val, 0)
	case "shift":
		r.Shift, err = number(key, val, 1)
	case "until":
		r.Until = val
	case "at":
		if val != "before" && val != "after" {
			return fmt.Errorf("at %q is unknown: give before or after", val)
		}
		r.After = val == "after"
	default:
		return fmt.Errorf("key %q is unknown: known are %s", key, Syntax)
	}
	return err
}

// check finds combinations that make no sense.
func (r *Rule) check() error {
	switch {
	case r.Do == None:
		return fmt.Errorf("do is missing: say what happens, %s", Syntax)
	case r.Op != 0 && !r.Do.takes(r.Op):
		return fmt.Errorf("do=%v has no meaning for op=%v: choose another op or verb", r.Do, r.Op)
	case r.Op == block.OpFlush && r.To != 0:
		return fmt.Errorf("op=flush has no range: leave range out")
	case (r.MaxMS > 0) != (r.Do == Delay):
		return fmt.Errorf("ms goes with do=delay and only with it: give both, as in do=delay,ms=50-500")
	case r.Shift != 0 && r.Do != Misdirect:
		return fmt.Errorf("shift goes with do=misdirect only: leave it out")
	case r.Until != "" && r.Do != Hang:
		return fmt.Errorf("until goes with do=hang only: leave it out")
	case r.After && r.Do != Hang && r.Do != Delay:
		return fmt.Errorf("at goes with do=delay and do=hang only: leave it out")
	case r.Nth != 0 && (r.Start != 0 || r.Every != 0):
		return fmt.Errorf("nth names one request: leave from and every out, or nth")
	}
	return nil
}

func number(key, val string, least uint64) (uint64, error) {
	n, err := strconv.ParseUint(val, 10, 64)
	if err != nil || n < least {
		return 0, fmt.Errorf("%s %q is no number: give a whole number from %d", key, val, least)
	}
	return n, nil
}

// span reads "A-B" with A below B, or, if single, also "A" and A equal to B.
func span(key, val string, single bool) (lo, hi uint64, err error) {
	a, b, two := strings.Cut(val, "-")
	if !two && single {
		b = a
	}
	lo, errLo := strconv.ParseUint(a, 10, 64)
	hi, errHi := strconv.ParseUint(b, 10, 64)
	if errLo != nil || errHi != nil || lo > hi || !single && lo == hi || hi == 0 {
		return 0, 0, fmt.Errorf("%s %q is no range: give FROM-TO in whole numbers, as in %s=0-4096", key, val, key)
	}
	return lo, hi, nil
}
