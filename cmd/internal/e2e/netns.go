// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"strings"
)

// Net is two hosts as network namespaces, joined by links of their own subnets.
// Link n joins I, interface in, address 10.77.n.1, with T, interface tn,
// 10.77.n.2.
type Net struct {
	l     *Lab
	I, T  string // names of the namespaces: initiator's side, target's side
	Links int
}

// NewNet makes the namespaces; they go with the test.
func (l *Lab) NewNet(links int) *Net {
	l.T.Helper()
	n := &Net{l: l, I: fmt.Sprintf("rsio-i%d", os.Getpid()), T: fmt.Sprintf("rsio-t%d", os.Getpid()), Links: links}
	for _, ns := range []string{n.I, n.T} {
		l.Run("ip", "netns", "add", ns)
		l.T.Cleanup(func() { _, _ = l.Try("ip", "netns", "delete", ns) }) // its interfaces go with it
		l.Run("ip", "-n", ns, "link", "set", "lo", "up")
	}
	for k := range links {
		in, tn := fmt.Sprintf("i%d", k), fmt.Sprintf("t%d", k)
		l.Run("ip", "-n", n.I, "link", "add", in, "type", "veth", "peer", "name", tn, "netns", n.T)
		l.Run("ip", "-n", n.I, "addr", "add", n.Local(k)+"/24", "dev", in)
		l.Run("ip", "-n", n.T, "addr", "add", n.Remote(k)+"/24", "dev", tn)
		l.Run("ip", "-n", n.I, "link", "set", in, "up")
		l.Run("ip", "-n", n.T, "link", "set", tn, "up")
	}
	return n
}

// Local is the initiator's address on a link.
func (n *Net) Local(k int) string { return fmt.Sprintf("10.77.%d.1", k) }

// Remote is the target's address on a link.
func (n *Net) Remote(k int) string { return fmt.Sprintf("10.77.%d.2", k) }

// In runs a command in a namespace.
func (n *Net) In(ns string, argv ...string) string {
	n.l.T.Helper()
	return n.l.Run(append([]string{"nsenter", "--net=/run/netns/" + ns}, argv...)...)
}

// Nft loads rules into a namespace, replacing those that were there.
func (n *Net) Nft(ns string, rules ...string) {
	n.l.T.Helper()
	script := "flush ruleset\n"
	if len(rules) > 0 {
		script += "table inet rsio {\n"
		for _, hook := range []string{"input", "output"} {
			script += " chain " + hook + " {\n  type filter hook " + hook + " priority 0;\n"
			for _, r := range rules {
				if h, rule, _ := strings.Cut(r, ":"); h == hook {
					script += "  " + rule + "\n"
				}
			}
			script += " }\n"
		}
		script += "}\n"
	}
	file := n.l.Path("nft." + ns)
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		n.l.T.Fatal(err)
	}
	n.In(ns, "nft", "-f", file)
}

// NetPair starts a target and an initiator in the two namespaces, with one
// path per link.
func (n *Net) NetPair() *Pair {
	n.l.T.Helper()
	var portals, addrs []string
	for k := range n.Links {
		portals = append(portals, n.Remote(k)+":8861")
		addrs = append(addrs, n.Remote(k)+":8861%"+n.Local(k))
	}
	return n.l.NewPair(PairOptions{Portals: portals, Addresses: addrs, TargetNetns: n.T, InitiatorNetns: n.I, TargetArgs: []string{"--insecure"}, InMemory: true})
}
