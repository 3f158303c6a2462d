// SPDX-License-Identifier: Apache-2.0

package fault

import (
	"strings"
	"testing"

	"rsio/rsio/block"
)

func TestParse(t *testing.T) {
	rows := []struct {
		text string
		want Rule
	}{
		{"op=write,nth=3,do=hang", Rule{Op: block.OpWrite, Nth: 3, Do: Hang}},
		{"op=read,range=0-4096,p=0.01,seed=7,do=bitflip", Rule{Op: block.OpRead, To: 4096, P: 0.01, Seed: 7, Do: Bitflip}},
		{"op=write,do=delay,ms=50-500", Rule{Op: block.OpWrite, Do: Delay, MinMS: 50, MaxMS: 500}},
		{"do=delay,ms=7, at=after", Rule{Do: Delay, MinMS: 7, MaxMS: 7, After: true}},
		{"do=hang,until=go.txt", Rule{Do: Hang, Until: "go.txt"}},
		{"do=misdirect,shift=4096,from=2,every=5", Rule{Do: Misdirect, Shift: 4096, Start: 2, Every: 5}},
		{"op=block-status,do=eio", Rule{Op: block.OpBlockStatus, Do: EIO}},
	}
	for _, row := range rows {
		if got, err := Parse(row.text); err != nil || got != row.want {
			t.Errorf("%s: %+v, %v", row.text, got, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	rows := []struct{ text, want string }{
		{"", "not KEY=VALUE"},
		{"op", "not KEY=VALUE"},
		{"op=", "not KEY=VALUE"},
		{"op=write", "do is missing"},
		{"op=scrub,do=eio", `op "scrub" is unknown: give read`},
		{"do=explode", `do "explode" is unknown`},
		{"do=none", `do "none" is unknown`},
		{"do=eio,color=red", `key "color" is unknown`},
		{"do=eio,do=lost", "do is given twice"},
		{"do=eio,p=0", "no probability"},
		{"do=eio,p=1.1", "no probability"},
		{"do=eio,p=NaN", "no probability"},
		{"do=eio,nth=0", "whole number from 1"},
		{"do=eio,nth=-1", "whole number from 1"},
		{"do=eio,range=5", "no range"},
		{"do=eio,range=5-5", "no range"},
		{"do=eio,range=9-5", "no range"},
		{"do=eio,nth=1,from=2", "nth names one request"},
		{"do=delay", "ms goes with"},
		{"do=delay,ms=9-1", "no range"},
		{"do=delay,ms=99999999999", "too long"},
		{"do=eio,ms=5", "ms goes with"},
		{"do=eio,at=after", "at goes with"},
		{"do=delay,ms=5,at=never", "before or after"},
		{"do=eio,until=x", "until goes with"},
		{"do=eio,shift=5", "shift goes with"},
		{"op=read,do=lost", "no meaning for op=read"},
		{"op=flush,do=torn", "no meaning for op=flush"},
		{"op=flush,range=0-5,do=eio", "flush has no range"},
	}
	for _, row := range rows {
		_, err := Parse(row.text)
		if err == nil || !strings.Contains(err.Error(), row.want) || !strings.Contains(err.Error(), "fault rule") {
			t.Errorf("%s: error %v does not say %q", row.text, err, row.want)
		}
	}
	if _, err := ParseAll("do=eio;do=bad"); err == nil {
		t.Error("a bad rule among good ones passed")
	}
}
