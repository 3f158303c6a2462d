// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/goccy/go-yaml"
	"golang.org/x/sys/unix"
)

// table is a head and rows; empty cells are shown as "-".
type table struct {
	head []string
	rows [][]string
}

func newTable(head ...string) *table { return &table{head: head} }

func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) write(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, row := range append([][]string{t.head}, t.rows...) {
		line := make([]string, len(row))
		for i, cell := range row {
			if line[i] = clean(cell); line[i] == "" {
				line[i] = "-"
			}
		}
		if _, err := fmt.Fprintln(tw, strings.TrimRight(strings.Join(line, "\t"), " ")); err != nil {
			return err
		}
	}
	return tw.Flush()
}

// clean keeps what came from elsewhere from breaking lines or the terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}

// show prints v as JSON or YAML, or what human prints.
func (a *app) show(v any, human func(w io.Writer) error) error {
	if a.output == "table" {
		return human(a.Stdout)
	}
	js, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if a.output == "yaml" {
		if js, err = yaml.JSONToYAML(js); err != nil {
			return err
		}
	} else {
		js = append(js, '\n')
	}
	_, err = a.Stdout.Write(js)
	return err
}

// say is a human form that is one line.
func say(format string, args ...any) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := fmt.Fprintln(w, clean(fmt.Sprintf(format, args...)))
		return err
	}
}

// note tells a human something beside the output.
func (a *app) note(format string, args ...any) {
	_, _ = fmt.Fprintf(a.Stderr, "rsioctl: %s\n", clean(fmt.Sprintf(format, args...))) // nowhere to report that
}

// isTerminal reports whether w is a terminal.
func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
