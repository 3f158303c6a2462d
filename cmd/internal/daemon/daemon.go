// SPDX-License-Identifier: Apache-2.0

// Package daemon holds what rsio-target and rsio-initiator do alike: flags and
// configuration file, logging, listeners and an orderly end.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"rsio/rsio/block"
	"rsio/rsio/transport"
)

// DrainTimeout is how long an orderly end may take.
const DrainTimeout = 20 * time.Second

// Version is what the Go tool has noted in the binary.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "unknown"
	}
	return info.Main.Version
}

// Main runs a daemon's command with signals turned into the end of its
// context, and returns the exit code.
func Main(name string, cmd *cobra.Command, args []string, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	_, _ = fmt.Fprintf(stderr, "%s: %v\n", name, err) // nowhere else to say it
	if errors.As(err, new(*UsageError)) {
		return 2
	}
	return 1
}

// UsageError is an error of flags or configuration.
type UsageError struct{ Err error }

// Error returns the text.
func (e *UsageError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *UsageError) Unwrap() error { return e.Err }

// Logger returns the log of a daemon: text lines on stderr.
func Logger(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

// LoadConfig reads a YAML file into v strictly: an unknown field is an error
// with its line and column.
func LoadConfig(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return &UsageError{fmt.Errorf("configuration: %w", err)}
	}
	if err := yaml.UnmarshalWithOptions(b, v, yaml.Strict()); err != nil {
		return &UsageError{fmt.Errorf("configuration %s: %s", path, strings.TrimSpace(yaml.FormatError(err, false, true)))}
	}
	return nil
}

// Merge reads a configuration file into a copy of what the flags said: each
// flag that was given counts, for all others the file does.
func Merge[T any](cmd *cobra.Command, file string, c *T, fields func(*T) map[string]any) error {
	var f T
	if err := LoadConfig(file, &f); err != nil {
		return err
	}
	given, read := fields(c), fields(&f)
	for name, dst := range given {
		if cmd.Flags().Changed(name) {
			continue
		}
		switch d := dst.(type) {
		case *string:
			*d = *read[name].(*string)
		case *[]string:
			*d = *read[name].(*[]string)
		case *bool:
			*d = *read[name].(*bool)
		case *time.Duration:
			*d = *read[name].(*time.Duration)
		default:
			panic("daemon: a kind of field that Merge does not know")
		}
	}
	return nil
}

// CheckNBD refuses addresses of NBD that others can reach, unless that is
// meant: NBD has no identities, whoever connects may read and write.
func CheckNBD(addrs []string, insecure bool) error {
	for _, s := range addrs {
		a, err := transport.ParseAddr(s)
		if err == nil && !a.Trusted() && !insecure {
			err = fmt.Errorf("--nbd %s: whoever reaches it over the network could read and write: use loopback or a unix socket, or give --insecure", s)
		}
		if err != nil {
			return &UsageError{err}
		}
	}
	return nil
}

// HostName returns name, or what can be made of the system's host name.
func HostName(name string) (string, error) {
	if name == "" {
		h, err := os.Hostname()
		if err != nil {
			return "", err
		}
		name, _, _ = strings.Cut(h, ".")
	}
	if err := block.CheckName("host", name); err != nil {
		return "", &UsageError{fmt.Errorf("%w: give another with --name", err)}
	}
	return name, nil
}

// Listen opens a listener for each address.
func Listen(addrs []string) ([]Listener, error) {
	var out []Listener
	for _, s := range addrs {
		a, err := transport.ParseAddr(s)
		if err == nil && a.Local != "" {
			err = fmt.Errorf("address %q: %%LOCAL is for those who connect", s)
		}
		if err != nil {
			return out, &UsageError{err}
		}
		l, err := transport.Listen(a)
		if err != nil {
			return out, err
		}
		if t, ok := l.Addr().(*net.TCPAddr); ok {
			a.Address = t.String() // the port that :0 got
		}
		out = append(out, Listener{l, a})
	}
	return out, nil
}

// Listener is a listener and where it is.
type Listener struct {
	net.Listener
	Addr transport.Addr
}

// Group runs the serving goroutines of a daemon; the first that fails ends the
// daemon.
type Group struct {
	wg   sync.WaitGroup
	errs chan error
}

// NewGroup returns an empty group.
func NewGroup() *Group { return &Group{errs: make(chan error, 1)} }

// Go runs fn; an error of it ends Wait.
func (g *Group) Go(fn func() error) {
	g.wg.Go(func() {
		if err := fn(); err != nil {
			select {
			case g.errs <- err:
			default: // the first one counts
			}
		}
	})
}

// Wait returns when ctx ends or a goroutine has failed.
func (g *Group) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-g.errs:
		return err
	}
}

// Join waits for all goroutines.
func (g *Group) Join() { g.wg.Wait() }

// Where lists where listeners listen.
func Where(ls []Listener) string {
	if len(ls) == 0 {
		return "nothing"
	}
	var out []string
	for _, l := range ls {
		out = append(out, l.Addr.String())
	}
	return strings.Join(out, ", ")
}
