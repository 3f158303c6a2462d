// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"rsio/rsio/admin"
	"rsio/rsio/admin/admintest"
	"rsio/rsio/admin/api"
)

// step is a command line, its exit code and a part of what it says: on stdout
// if the code is 0, else on stderr.
type step struct {
	desc, line string
	code       int
	text       string
}

func (h *host) steps(l []step) {
	h.t.Helper()
	for _, row := range l {
		code, out, errs := h.run(row.line)
		said := squeeze(out)
		if row.code != 0 {
			if said = errs; out != "" || strings.Count(errs, "\n") != 1 {
				h.t.Errorf("%s: not one line: %q %q", row.desc, out, errs)
			}
		}
		if code != row.code || !strings.Contains(said, row.text) {
			h.t.Errorf("%s: %s: code %d, stdout\n%s\nstderr %q", row.desc, row.line, code, out, errs)
		}
	}
}

func TestReservationAtInitiator(t *testing.T) {
	t1, t2 := admintest.NewTarget("t1"), admintest.NewTarget("t2")
	h := serve(t, admin.NewInitiatorHandler(admintest.NewInitiator(t1, t2)))
	h.ok("volume create v1 --size 1M --target t2")
	key := keyText(hashKey("h1"))
	h.steps([]step{
		{"nobody yet", "pr show v1", 0, "VOLUME v1\nTYPE none\nGENERATION 0\nHOLDER -\nCONFLICTS 0\nYOUR NEXUS h1\nYOUR ACCESS rw\nYOUR ATTENTIONS -\n"},
		{"no keys yet", "pr keys v1 -o json", 0, `"keys": []`},
		{"reserve without a registration", "reservation reserve v1", 24, "reservation reserve v1: reservation conflict"},
		{"release without one", "reservation release v1", 24, "conflict"},
		{"register", "reservation register v1", 0, "v1: register by h1, generation 1\n"},
		{"register again", "pr register v1 --target t2", 0, "register by h1"},
		{"register a VM with a key", "pr register v1 --as vm1 --new-key 0x12", 0, "register by h1/vm1"},
		{"register the VM again", "pr register v1 --as h1/vm1 --new-key 18", 0, "register by h1/vm1"},
		{"the wrong key", "pr register v1 --as vm1 --key 5 --new-key 6", 24, "conflict"},
		{"reserve", "pr reserve v1", 0, "v1: reserve by h1"},
		{"reserve another type", "pr reserve v1 --type ea", 24, "conflict"},
		{"keys", "pr keys v1", 0, "\n" + key + "\n0x12\n"},
		{"status", "pr status v1", 0, "type wero\nNEXUS KEY HOLDER\nh1 " + key + " yes\nh1/vm1 0x12 no\n"},
		{"show", "pr show v1 --as vm1", 0, "HOLDER h1\nCONFLICTS 0\nYOUR NEXUS h1/vm1\nYOUR ACCESS rw\n"},
		{"show of a volume", "volume show v1", 0, "RESERVED wero h1\n"},
		{"list", "volume list", 0, "wero h1"},
		{"capabilities", "pr capabilities v1", 0, "PTPL_A"},
		{"an unknown victim", "pr preempt v1 --victim h9", 3, `"h9" is not registered; these are: h1, h1/vm1`},
		{"no victim", "pr preempt v1", 2, "--victim"},
		{"preempt a nexus", "pr preempt-abort v1 --as vm1 --key 0x12 --victim h1", 0, "preempt-abort by h1/vm1"},
		{"it has the reservation", "pr status v1", 0, "type wero\nNEXUS KEY HOLDER\nh1/vm1 0x12 yes\n"},
		{"attention", "pr show v1", 0, "YOUR ACCESS r\nYOUR ATTENTIONS registrations preempted\n"},
		{"reported once", "pr show v1", 0, "YOUR ATTENTIONS -\n"},
		{"resize of a reserved one", "volume resize v1 --size 2M", 24, "it is reserved: wero h1/vm1"},
		{"by force", "volume resize v1 --size 2M --force", 0, "has 2M now"},
		{"delete of a reserved one", "volume delete v1 --yes", 24, "it is reserved"},
		{"move to nobody", "pr move v1 --as vm1", 2, "--to"},
		{"move to no nexus", "pr move v1 --as vm1 --to a/b/c", 2, "nexus"},
		{"move", "pr move v1 --as vm1 --key 18 --to h1 --unregister", 0, "move by h1/vm1"},
		{"moved", "pr status v1", 0, "NEXUS KEY HOLDER\nh1 " + key + " yes\n"},
		{"release by type in force", "pr release v1", 0, "release by h1"},
		{"unregister", "pr register v1 --new-key 0", 0, "register by h1"},
		{"nobody is left", "pr preempt v1 --victim x", 3, "nobody is"},
		{"ignore what is there", "pr register-ignore v1 --new-key 7", 0, "register-ignore by h1"},
		{"clear", "pr clear v1 --key 7", 0, "clear by h1"},
		{"unknown volume", "pr register none", 3, "none"},
		{"bad type", "pr reserve v1 --type rw", 2, `no type "rw"`},
		{"bad key", "pr reserve v1 --key -1", 2, "0x12"},
		{"bad request", "pr reserve v1 --request 12", 2, "32 hex digits"},
		{"no verb", "pr", 2, "reservation: the verb is missing (use one of register"},
		{"no volume", "pr keys", 2, "reservation keys: VOL is missing"},
		{"delete by force", "volume delete v1 --yes --force", 0, "deleted"},
	})
}

func TestReservationAtTarget(t *testing.T) {
	t1 := admintest.NewTarget("t1")
	h := serve(t, admin.NewTargetHandler(t1))
	h.ok("volume create v1 --size 1M")
	h.steps([]step{
		{"nobody acts", "pr register v1", 2, "name the nexus with --as HOST"},
		{"register", "pr register v1 --as h1", 0, "register by h1"},
		{"register another", "pr register v1 --as h2/vm1", 0, "register by h2/vm1"},
		{"reserve", "pr reserve v1 --as h1 --type ea", 0, "reserve by h1"},
		{"show to nobody", "pr show v1", 0, "HOLDER h1\nCONFLICTS 0\n\nNEXUS KEY HOLDER\n"},
		{"preempt by key", "pr preempt v1 --as h1 --victim " + keyText(hashKey("h2/vm1")), 0, "preempt by h1"},
		{"as JSON", "pr show v1 -o json", 0, `"type": "ea"`},
		{"as YAML", "pr status v1 -o yaml", 0, "type: ea\n"},
	})
	var r api.Reservation
	if err := json.Unmarshal([]byte(h.ok("pr show v1 --as h2/vm1 -o json")), &r); err != nil || r.Nexus != "h2/vm1" || r.Access != "-" ||
		len(r.Attentions) != 1 || len(r.Registrants) != 1 || r.Registrants[0].Key != hashKey("h1") || !r.Registrants[0].Holder {
		t.Errorf("show: %v %+v", err, r)
	}
	const request = "pr register-ignore v1 --as h3 --request 000102030405060708090a0b0c0d0e0f"
	once := h.ok(request)
	if again := h.ok(request); once != again {
		t.Errorf("repeated: %q, then %q", once, again)
	}
	t1.Hold(10 * time.Second)
	code, _, errs := h.run("pr register v1 --as h4 --timeout 200ms")
	if code != 8 || !strings.Contains(errs, "repeating it with --request ") || !strings.Contains(errs, " is safe") {
		t.Errorf("timeout: %d %q", code, errs)
	}
	t1.Hold(0)
	if out := h.ok("pr keys v1"); strings.Contains(out, keyText(hashKey("h4"))) {
		t.Errorf("it happened after the caller had left: %s", out)
	}
}

func TestKeys(t *testing.T) {
	for _, row := range []struct {
		desc, text string
		want       uint64
		ok         bool
	}{
		{"decimal", "18", 18, true},
		{"hex", "0x12", 18, true},
		{"capitals", "0XFF", 255, true},
		{"largest", "0xffffffffffffffff", 1<<64 - 1, true},
		{"leading zero", "010", 10, true},
		{"too large", "18446744073709551616", 0, false},
		{"a name", "h1", 0, false},
		{"empty", "", 0, false},
	} {
		if n, err := parseKey(row.text); (err == nil) != row.ok || row.ok && n != row.want {
			t.Errorf("%s: %d %v", row.desc, n, err)
		}
	}
	if k := hashKey("h1"); k == 0 || k != hashKey("h1") || k == hashKey("h2") {
		t.Errorf("hash %#x", k)
	}
	if w := capabilityWords(0x0181ea01); len(w) != 9 {
		t.Errorf("capabilities %q", w)
	}
}
