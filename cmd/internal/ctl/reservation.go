// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"rsio/rsio/admin"
	"rsio/rsio/admin/api"
	"rsio/rsio/block"
)

const (
	asHelp   = "who acts: a VM of this host (default: the host); at the socket of a target a nexus, HOST or HOST/VM"
	typeHelp = "we, ea (exclusive for one), wero, earo (registrants only), wear or eaar (all registrants hold it)"
)

// reservation is the noun; its verbs have the words of sg_persist.
func (a *app) reservation() *cobra.Command {
	c := noun("reservation", "Who may read and write a volume: SCSI-3 persistent reservations",
		a.reserveVerb("register", "Register a key, change it, or remove it with --new-key 0"),
		a.reserveVerb("register-ignore", "Register whatever key is there already"),
		a.reserveVerb("reserve", "Take the reservation"),
		a.reserveVerb("release", "Give the reservation back, and stay registered"),
		a.reserveVerb("clear", "Drop the reservation and all registrations"),
		a.reserveVerb("preempt", "Remove another registrant, and take the reservation if it had it"),
		a.reserveVerb("preempt-abort", "The same, answered when nothing of it can change data any more"),
		a.reserveVerb("move", "Register another nexus and make it the holder"),
		a.reserveKeys(), a.reserveShow(), a.reserveStatus(), a.reserveCapabilities())
	c.Aliases = []string{"pr"}
	c.Long = "The commands of PERSISTENT RESERVE IN and OUT (SPC-4), for those who have no SCSI at hand.\n" +
		"A key is a number, 0x12 or 18; without one it is made of the name of who acts. What is\n" +
		"refused ends with exit code 24."
	c.Example = "  rsioctl pr register v1 && rsioctl pr reserve v1\n  rsioctl pr preempt-abort v1 --victim host2\n  rsioctl pr show v1"
	return c
}

// reserveFlags are those of a change, as they were given.
type reserveFlags struct {
	as, key, newKey, victim, to, kind, request, target string
	unregister                                         bool
}

// reserveVerb is a command that changes a reservation.
func (a *app) reserveVerb(action, short string) *cobra.Command {
	var f reserveFlags
	c := &cobra.Command{Use: action + " [NS/]VOL", Short: short, Args: args("VOL"), ValidArgsFunction: a.completeArgs(1, false, volumeNames)}
	c.RunE = a.run(func(ctx context.Context, c *admin.Client, args []string) error {
		r := &reserving{c: c, f: f, op: "reservation " + action, volume: args[0]}
		spec, err := r.spec(ctx, action)
		if err != nil {
			return err
		}
		out, err := c.Reserve(ctx, f.target, r.namespace, r.name, spec)
		if err != nil {
			return repeatable(err, spec.Request)
		}
		return a.show(out, func(w io.Writer) error {
			if err := say("%s: %s by %s, generation %d", args[0], action, out.Nexus, out.Generation)(w); err != nil {
				return err
			}
			return attentions(w, out.Attentions)
		})
	})
	f.add(a, c, action)
	return c
}

// add gives c the flags that action understands.
func (f *reserveFlags) add(a *app, c *cobra.Command, action string) {
	flags := c.Flags()
	flags.StringVar(&f.as, "as", "", asHelp)
	flags.StringVar(&f.request, "request", "", "ID of the request, 32 hex digits (default: random); the same one again changes nothing twice")
	a.targetFlag(c, &f.target, targetHelp)
	keyHelp := "the registered key (default: made of the name of who acts)"
	switch action {
	case "register":
		keyHelp = "the registered key, 0 if there is none (default: what is registered)"
		fallthrough
	case "register-ignore":
		flags.StringVar(&f.newKey, "new-key", "", "the key from now on, 0 to unregister (default: made of the name of who acts)")
	case "move":
		flags.StringVar(&f.to, "to", "", "the nexus that becomes the holder")
		flags.StringVar(&f.newKey, "new-key", "", "its key (default: made of its name)")
		flags.BoolVar(&f.unregister, "unregister", false, "remove the own registration")
	case "preempt", "preempt-abort":
		flags.StringVar(&f.victim, "victim", "", "whom to remove: a nexus, or a key")
		fallthrough
	case "reserve", "release":
		def := "the one in force, else wero"
		if action == "reserve" {
			def = "wero"
		}
		flags.StringVar(&f.kind, "type", "", typeHelp+"; default: "+def)
		var words []string
		for _, t := range block.ReserveTypes() {
			words = append(words, t.String())
		}
		a.complete(c, "type", words)
	}
	if action != "register-ignore" {
		flags.StringVar(&f.key, "key", "", keyHelp)
	}
}

// reserving makes the spec of one change.
type reserving struct {
	c      *admin.Client
	f      reserveFlags
	op     string
	volume string // as given

	namespace, name string
	nexus           string           // who acts
	state           *api.Reservation // looked at once, if it is needed
}

// spec fills in what was not given.
func (r *reserving) spec(ctx context.Context, action string) (s api.ReserveSpec, err error) {
	r.namespace, r.name = volumeArg(r.volume)
	s = api.ReserveSpec{As: r.f.as, Action: action, To: r.f.to, Unregister: r.f.unregister, Type: r.f.kind, Request: r.f.request}
	if _, err := api.ParseReserve(s); err != nil {
		return s, r.usage(err.Error(), "")
	}
	if s.Request == "" {
		var id [16]byte
		_, _ = rand.Read(id[:]) // never fails, by its documentation
		s.Request = hex.EncodeToString(id[:])
	}
	if r.nexus, err = actingNexus(ctx, r.c, r.op, r.volume, r.f.as); err != nil {
		return s, err
	}
	if s.Key, err = r.key(ctx, action); err != nil {
		return s, err
	}
	if s.NewKey, err = r.other(ctx, action); err != nil {
		return s, err
	}
	if s.Type == "" {
		s.Type, err = r.kind(ctx, action)
	}
	return s, err
}

func (r *reserving) usage(reason, remedy string) error {
	return api.Errorf(api.Usage, r.op, r.volume, reason, remedy)
}

// look returns the reservation as it is, and reports no unit attentions.
func (r *reserving) look(ctx context.Context) (*api.Reservation, error) {
	if r.state != nil {
		return r.state, nil
	}
	s, err := r.c.Reservation(ctx, r.f.target, r.namespace, r.name, "")
	if err == nil {
		r.state = &s
	}
	return r.state, err
}

// key is the registered key of who acts.
func (r *reserving) key(ctx context.Context, action string) (uint64, error) {
	switch {
	case r.f.key != "":
		return r.number("key", r.f.key)
	case action == "register-ignore":
		return 0, nil
	case action != "register":
		return hashKey(r.nexus), nil
	}
	s, err := r.look(ctx)
	if err != nil {
		return 0, err
	}
	for _, x := range s.Registrants {
		if x.Nexus == r.nexus {
			return x.Key, nil
		}
	}
	return 0, nil
}

// other is the second key: the new one, the victim's, or that of the next
// holder.
func (r *reserving) other(ctx context.Context, action string) (uint64, error) {
	switch action {
	case "preempt", "preempt-abort":
		return r.victimKey(ctx)
	case "register", "register-ignore", "move":
	default:
		return 0, nil
	}
	nexus := r.nexus
	if action == "move" {
		if nexus = r.f.to; nexus == "" {
			return 0, r.usage("who becomes the holder is missing", "name the nexus with --to HOST or --to HOST/VM")
		}
		if err := block.CheckNexus(nexus); err != nil {
			return 0, r.usage(err.Error(), "")
		}
	}
	if r.f.newKey != "" {
		return r.number("new-key", r.f.newKey)
	}
	return hashKey(nexus), nil
}

// victimKey is the key of --victim. Who is registered comes before a number.
func (r *reserving) victimKey(ctx context.Context) (uint64, error) {
	if r.f.victim == "" {
		return 0, r.usage("whom to remove is missing", "name a nexus or a key with --victim")
	}
	s, err := r.look(ctx)
	if err != nil {
		return 0, err
	}
	var there []string
	for _, x := range s.Registrants {
		if x.Nexus == r.f.victim {
			return x.Key, nil
		}
		there = append(there, x.Nexus)
	}
	if key, err := parseKey(r.f.victim); err == nil {
		return key, nil
	}
	who := "nobody is"
	if len(there) > 0 {
		who = "these are: " + strings.Join(there, ", ")
	}
	return 0, api.Errorf(api.NotFound, r.op, r.volume, fmt.Sprintf("%.140q is not registered; %s", r.f.victim, who), "give a nexus of these, or a key like 0x12")
}

// kind is the type that is meant when none is given.
func (r *reserving) kind(ctx context.Context, action string) (string, error) {
	switch action {
	case "reserve":
		return block.ReserveWERO.String(), nil
	case "release", "preempt", "preempt-abort":
	default:
		return "", nil
	}
	s, err := r.look(ctx)
	if err != nil {
		return "", err
	}
	if s.Type == block.ReserveNone.String() {
		return block.ReserveWERO.String(), nil
	}
	return s.Type, nil
}

func (r *reserving) number(flag, text string) (uint64, error) {
	n, err := parseKey(text)
	if err != nil {
		return 0, r.usage(fmt.Sprintf("--%s %.40q is not a number of 64 bits", flag, text), "give one like 0x12 or 18")
	}
	return n, nil
}

// repeatable tells how to ask again when the outcome is not known.
func repeatable(err error, request string) error {
	var e *api.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Kind {
	case api.Timeout, api.Unreachable, api.Failed:
		again := *e
		again.Remedy = strings.TrimPrefix(e.Remedy+"; ", "; ") + "repeating it with --request " + request + " is safe: it is not made twice"
		return &again
	}
	return err
}
