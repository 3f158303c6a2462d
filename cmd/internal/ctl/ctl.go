// SPDX-License-Identifier: Apache-2.0

// Package ctl is rsioctl: one command per verb of the control API, noun then
// verb. It talks to the initiator of this host, else to its target.
package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rsio/rsio/admin"
	"rsio/rsio/admin/api"
	"rsio/rsio/initiator"
	"rsio/rsio/transport"
)

// Env is the world around a run of rsioctl.
type Env struct {
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
	Getenv  func(string) string
	Version string
}

// app is one run.
type app struct {
	Env
	admin   string
	output  string
	timeout time.Duration
	session *initiator.Control // for --admin rsio:...
}

// Run executes the command line args (without the name of the program) and
// returns the exit code. An error is one line on stderr.
func Run(ctx context.Context, env Env, args []string) int {
	a := &app{Env: env}
	root := a.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	var code exitCode
	if errors.As(err, &code) {
		return int(code)
	}
	var e *api.Error
	if !errors.As(err, &e) { // cobra did not understand the command line
		e = usage("command line", err.Error(), "see rsioctl --help")
	}
	line := strings.Join(strings.Fields(e.Error()), " ")
	_, _ = fmt.Fprintf(env.Stderr, "rsioctl: %s\n", line) // nowhere to report that
	return e.Kind.ExitCode()
}

// exitCode is the end of a command that rsioctl has run for somebody: it is
// passed on, and there is nothing to say.
type exitCode int

// Error implements error.
func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

func usage(op, reason, remedy string) *api.Error {
	return api.Errorf(api.Usage, op, "", reason, remedy)
}

// root builds the tree of commands.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "rsioctl",
		Short: "Volumes, attachments and paths of RSIO",
		Long: "rsioctl asks the initiator of this host, else its target. Volume names are [NS/]VOL;\n" +
			"the namespace \"default\" may be left out. Sizes take K, M, G and T, powers of 1024.\n\n" +
			"Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 exists or in use, 5 not permitted,\n" +
			"7 daemon unreachable, 8 timed out, 24 reservation conflict or lock lost; lock\n" +
			"passes on the exit code of its command.",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetIn(a.Stdin)
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usage(name(c), err.Error(), "see "+c.CommandPath()+" --help")
	})
	f := root.PersistentFlags()
	f.StringVar(&a.admin, "admin", "", "control socket, unix:PATH, or from inside a VM rsio:VM@HOST:PORT (default: $RSIO_ADMIN, else the initiator of this host, else its target)")
	f.StringVarP(&a.output, "output", "o", "table", "form of the output: table, json or yaml")
	f.DurationVar(&a.timeout, "timeout", 30*time.Second, "how long to wait for an answer; images and --follow have no limit")
	a.complete(root, "output", []string{"table", "json", "yaml"})
	root.AddCommand(a.volume(), a.target(), a.attach(), a.detach(), a.attachment(), a.path(), a.reservation(), a.lock(),
		a.status(), a.doctor(), a.top(), a.inflight(), a.events(), a.version(), a.man())
	root.InitDefaultCompletionCmd()
	return root
}

// name is what a command is called in errors: "volume create".
func name(c *cobra.Command) string {
	return strings.TrimPrefix(strings.TrimPrefix(c.CommandPath(), "rsioctl"), " ")
}

// noun makes a command that only has verbs.
func noun(use, short string, verbs ...*cobra.Command) *cobra.Command {
	var names []string
	for _, v := range verbs {
		names = append(names, v.Name())
	}
	c := &cobra.Command{Use: use, Short: short, Args: cobra.ArbitraryArgs}
	c.RunE = func(_ *cobra.Command, args []string) error {
		reason := "the verb is missing"
		if len(args) > 0 {
			reason = fmt.Sprintf("there is no verb %.40q", args[0])
		}
		return usage(use, reason, "use one of "+strings.Join(names, ", "))
	}
	c.AddCommand(verbs...)
	return c
}

// args checks the number of arguments; names are those that must be there,
// and "..." as the last one lets more follow.
func args(names ...string) cobra.PositionalArgs {
	more := names[len(names)-1] == "..."
	if more {
		names = names[:len(names)-1]
	}
	return func(c *cobra.Command, got []string) error {
		if len(got) < len(names) {
			return usage(name(c), names[len(got)]+" is missing", "see "+c.CommandPath()+" --help")
		}
		if len(got) > len(names) && !more {
			return usage(name(c), fmt.Sprintf("argument %.40q is one too many", got[len(names)]), "see "+c.CommandPath()+" --help")
		}
		return nil
	}
}

func noArgs(c *cobra.Command, got []string) error {
	if len(got) > 0 {
		return usage(name(c), fmt.Sprintf("argument %.40q is one too many", got[0]), "see "+c.CommandPath()+" --help")
	}
	return nil
}

// run wraps a verb: it checks -o, finds the daemon, and bounds the time.
func (a *app) run(fn func(ctx context.Context, c *admin.Client, args []string) error) func(*cobra.Command, []string) error {
	return a.runLong(func(ctx context.Context, c *admin.Client, args []string) error {
		ctx, cancel := context.WithTimeout(ctx, a.timeout)
		defer cancel()
		return fn(ctx, c, args)
	})
}

// runLong is run without a limit of time.
func (a *app) runLong(fn func(ctx context.Context, c *admin.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		switch a.output {
		case "table", "json", "yaml":
		default:
			return usage(name(cmd), fmt.Sprintf("there is no output %.40q", a.output), "use -o table, json or yaml")
		}
		if a.timeout <= 0 {
			return usage(name(cmd), "the timeout is not positive", "give one like --timeout 30s")
		}
		c, err := a.client(cmd.Context())
		if a.session != nil {
			defer a.session.Close()
		}
		if err == nil {
			err = fn(cmd.Context(), c, args)
		}
		var code exitCode
		if errors.As(err, &code) {
			return code
		}
		return api.Wrap(err, api.Failed, name(cmd), "", "")
	}
}

// client finds the daemon.
func (a *app) client(ctx context.Context) (*admin.Client, error) {
	socket := a.admin
	if socket == "" {
		socket = a.Getenv("RSIO_ADMIN")
	}
	if socket == "" {
		path, err := admin.FindSocket()
		if err != nil {
			return nil, err
		}
		return admin.NewClient(path), nil
	}
	if who, ok := strings.CutPrefix(socket, "rsio:"); ok {
		return a.controlSession(ctx, who)
	}
	path, ok := strings.CutPrefix(socket, "unix:")
	if !ok || path == "" {
		return nil, api.Errorf(api.Usage, "connect to", fmt.Sprintf("%.120q", socket), "this is not an address of a control socket", "give unix:PATH, or rsio:VM@HOST:PORT")
	}
	return admin.NewClient(path), nil
}

// controlSession opens a control session at a target: VM@ADDR or HOST/VM@ADDR.
// It is for VMs, which have no initiator of their own: reservations, locks and
// status, no I/O.
func (a *app) controlSession(ctx context.Context, who string) (*admin.Client, error) {
	nexus, at, ok := strings.Cut(who, "@")
	addr, err := transport.ParseAddr(at)
	if !ok || err != nil {
		return nil, api.Errorf(api.Usage, "connect to", fmt.Sprintf("%.120q", "rsio:"+who), "this names no VM and portal", "give rsio:VM@HOST:PORT or rsio:HOST/VM@HOST:PORT")
	}
	if a.session, err = initiator.DialControl(ctx, addr, nexus); err != nil {
		return nil, err
	}
	return admin.NewClientOver(a.session), nil
}

// volumeArg splits [NS/]VOL.
func volumeArg(s string) (namespace, volume string) {
	if ns, vol, ok := strings.Cut(s, "/"); ok {
		return ns, vol
	}
	return api.DefaultNamespace, s
}

// volumeText is the reverse of volumeArg.
func volumeText(namespace, volume string) string {
	if namespace == api.DefaultNamespace || namespace == "" {
		return volume
	}
	return namespace + "/" + volume
}
