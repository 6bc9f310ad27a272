package helper

import (
	"errors"
	"strings"
	"testing"
)

// TestNoErrorSpeaksToATerminal: a hypervisor's own words are part of some.
func TestNoErrorSpeaksToATerminal(t *testing.T) {
	for said, want := range map[string]string{
		"no \x1b]0;owned\x07balloon\x1b[2J\u009b1m":    "p: web: no ]0;ownedballoon1m\n",
		"two faults:\n  mem: too \x1b[31mmuch\n\tvcpu": "p: web: two faults:\np: web:   mem: too much\np: web: \tvcpu\n",
		"of a build:\r\n  a\tb\r\n":                    "p: web: of a build:\np: web:   a\tb\n",
		"hidden\rp: web: all is well":                  "p: web: hidden p: web: all is well\n",
		"ordinary: “café” → 100 %, {a: [1]}":           "p: web: ordinary: “café” → 100 %, {a: [1]}\n",
	} {
		var out strings.Builder
		if code := Report(&out, "p", "web", errors.New(said)); code != ExitFailed || out.String() != want {
			t.Errorf("%q is printed as %q with code %d, want %q", said, out.String(), code, want)
		}
	}
}
