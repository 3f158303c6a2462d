// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"rsio/rsio/admin"
	"rsio/rsio/admin/api"
)

// parseKey reads 0x12 or 18.
func parseKey(text string) (uint64, error) {
	if digits, ok := strings.CutPrefix(strings.ToLower(text), "0x"); ok {
		return strconv.ParseUint(digits, 16, 64)
	}
	return strconv.ParseUint(text, 10, 64)
}

func keyText(key uint64) string { return fmt.Sprintf("%#x", key) }

// hashKey is the key of a nexus that was given none: the start of the SHA-256
// of its name, never 0.
func hashKey(nexus string) uint64 {
	sum := sha256.Sum256([]byte(nexus))
	return max(binary.BigEndian.Uint64(sum[:8]), 1)
}

// actingNexus returns the nexus that as means: at an initiator a VM of its
// host or the host, at a target the nexus itself.
func actingNexus(ctx context.Context, c *admin.Client, op, volume, as string) (string, error) {
	s, err := daemonStatus(ctx, c, op, volume)
	if err != nil {
		return "", err
	}
	if s.Role == "initiator" {
		if as == "" || as == s.Name {
			return s.Name, nil
		}
		return s.Name + "/" + strings.TrimPrefix(as, s.Name+"/"), nil
	}
	if as == "" { // a control session says who it acts for
		ns, vol := volumeArg(volume)
		if x, err := c.Reservation(ctx, "", ns, vol, ""); err != nil || x.Nexus != "" {
			return x.Nexus, err
		}
		return "", api.Errorf(api.Usage, op, volume, "a target does not know who acts", "name the nexus with --as HOST or --as HOST/VM, or ask the initiator of that host")
	}
	return as, nil
}

// daemonStatus is the status of the daemon, asked for as a part of op.
func daemonStatus(ctx context.Context, c *admin.Client, op, volume string) (api.Status, error) {
	s, err := c.Status(ctx, "")
	var e *api.Error
	if errors.As(err, &e) {
		return s, api.Errorf(e.Kind, op, volume, e.Reason, e.Remedy)
	}
	return s, err
}

// attentions prints unit attentions, one a line.
func attentions(w io.Writer, l []string) error {
	for _, x := range l {
		if err := say("unit attention: %s", x)(w); err != nil {
			return err
		}
	}
	return nil
}

// reserveLook is a command that reads a reservation, and reports unit
// attentions only if as is given.
func (a *app) reserveLook(c *cobra.Command, as *string, fn func(volume string, r api.Reservation) error) *cobra.Command {
	var target string
	c.Use, c.Args, c.ValidArgsFunction = c.Use+" [NS/]VOL", args("VOL"), a.completeArgs(1, false, volumeNames)
	c.RunE = a.run(func(ctx context.Context, c *admin.Client, args []string) error {
		ns, name := volumeArg(args[0])
		who := ""
		if as != nil {
			if who = *as; who == "" {
				s, err := daemonStatus(ctx, c, "reservation show", args[0])
				if err != nil {
					return err
				}
				if s.Role == "initiator" {
					who = s.Name
				}
			}
		}
		r, err := c.Reservation(ctx, target, ns, name, who)
		if err != nil {
			return err
		}
		return fn(volumeText(ns, name), r)
	})
	a.targetFlag(c, &target, targetHelp)
	return c
}

func (a *app) reserveShow() *cobra.Command {
	var as string
	c := &cobra.Command{Use: "show", Short: "Show the reservation, who is registered, and what it means for you"}
	c.Flags().StringVar(&as, "as", "", "for whom: "+strings.TrimPrefix(asHelp, "who acts: ")+"; its unit attentions are shown, once")
	return a.reserveLook(c, &as, func(volume string, r api.Reservation) error {
		return a.show(r, func(w io.Writer) error {
			if err := reservationTable(volume, r).write(w); err != nil {
				return err
			}
			if len(r.Registrants) == 0 {
				return nil
			}
			if _, err := fmt.Fprintln(w); err != nil {
				return err
			}
			return registrantTable(r.Registrants).write(w)
		})
	})
}

func reservationTable(volume string, r api.Reservation) *table {
	t := newTable("VOLUME", volume)
	t.row("TYPE", r.Type)
	t.row("GENERATION", fmt.Sprint(r.Generation))
	var holders []string
	for _, x := range r.Registrants {
		if x.Holder {
			holders = append(holders, x.Nexus)
		}
	}
	t.row("HOLDER", strings.Join(holders, " "))
	t.row("CONFLICTS", fmt.Sprint(r.Conflicts))
	if r.Nexus != "" {
		t.row("YOUR NEXUS", r.Nexus)
		t.row("YOUR ACCESS", r.Access)
		t.row("YOUR ATTENTIONS", strings.Join(r.Attentions, ", "))
	}
	return t
}

func registrantTable(l []api.Registrant) *table {
	t := newTable("NEXUS", "KEY", "HOLDER")
	for _, x := range l {
		t.row(x.Nexus, keyText(x.Key), yes(x.Holder))
	}
	return t
}

// Keys is the answer to READ KEYS.
type Keys struct {
	Generation uint32   `json:"generation"`
	Keys       []string `json:"keys"` // as text: other languages round large numbers
}

func (a *app) reserveKeys() *cobra.Command {
	c := &cobra.Command{Use: "keys", Short: "List the registered keys (READ KEYS)"}
	return a.reserveLook(c, nil, func(_ string, r api.Reservation) error {
		k := Keys{Generation: r.Generation, Keys: []string{}}
		for _, x := range r.Registrants {
			k.Keys = append(k.Keys, keyText(x.Key))
		}
		return a.show(k, func(w io.Writer) error {
			return sayLines(w, append([]string{fmt.Sprintf("generation %d", k.Generation)}, k.Keys...))
		})
	})
}

// sayLines prints lines.
func sayLines(w io.Writer, lines []string) error {
	for _, l := range lines {
		if err := say("%s", l)(w); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) reserveStatus() *cobra.Command {
	c := &cobra.Command{Use: "status", Short: "List the registrants (READ FULL STATUS)"}
	return a.reserveLook(c, nil, func(_ string, r api.Reservation) error {
		return a.show(r, func(w io.Writer) error {
			if err := say("generation %d, type %s", r.Generation, r.Type)(w); err != nil {
				return err
			}
			return registrantTable(r.Registrants).write(w)
		})
	})
}

// Capabilities is the answer to REPORT CAPABILITIES.
type Capabilities struct {
	Raw   string   `json:"raw"`   // bytes 2 to 5, hex
	Words []string `json:"words"` // the bits that are set
}

func (a *app) reserveCapabilities() *cobra.Command {
	c := &cobra.Command{Use: "capabilities", Short: "Say what reservations can do here (REPORT CAPABILITIES)"}
	return a.reserveLook(c, nil, func(volume string, r api.Reservation) error {
		raw, err := strconv.ParseUint(r.Capabilities, 16, 32)
		if err != nil {
			return api.Errorf(api.Failed, "reservation capabilities", volume, "the answer is not understood: "+err.Error(), "")
		}
		x := Capabilities{Raw: r.Capabilities, Words: capabilityWords(uint32(raw))}
		return a.show(x, func(w io.Writer) error { return sayLines(w, x.Words) })
	})
}

// capabilityWords explains bytes 2 to 5 of REPORT CAPABILITIES (SPC-4,
// 6.15.4).
func capabilityWords(raw uint32) []string {
	words := []string{}
	for _, b := range []struct {
		bit  uint32
		text string
	}{
		{1 << 28, "CRH: compatible with RESERVE(6) and RELEASE(6)"},
		{1 << 27, "SIP_C: a registration may name other initiator ports"},
		{1 << 26, "ATP_C: a registration may be for all target ports"},
		{1 << 24, "PTPL_C: reservations can survive a loss of power"},
		{1 << 23, "TMV: the mask of types is valid"},
		{1 << 16, "PTPL_A: reservations do survive a loss of power"},
		{1 << 9, "type we: write exclusive"},
		{1 << 11, "type ea: exclusive access"},
		{1 << 13, "type wero: write exclusive, registrants only"},
		{1 << 14, "type earo: exclusive access, registrants only"},
		{1 << 15, "type wear: write exclusive, all registrants"},
		{1 << 0, "type eaar: exclusive access, all registrants"},
	} {
		if raw&b.bit != 0 {
			words = append(words, b.text)
		}
	}
	return words
}
