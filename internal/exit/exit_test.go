package exit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"strings"
	"testing"
)

// TestNoErrorSpeaksToATerminal: errors can contain a hypervisor's output.
func TestNoErrorSpeaksToATerminal(t *testing.T) {
	for said, want := range map[string]string{
		"no \x1b]0;owned\x07balloon\x1b[2J\u009b1m":    "p: web: no ]0;ownedballoon1m\n",
		"two faults:\n  mem: too \x1b[31mmuch\n\tvcpu": "p: web: two faults:\np: web:   mem: too much\np: web: \tvcpu\n",
		"of a build:\r\n  a\tb\r\n":                    "p: web: of a build:\np: web:   a\tb\n",
		"hidden\rp: web: all is well":                  "p: web: hidden p: web: all is well\n",
		"ordinary: “café” → 100 %, {a: [1]}":           "p: web: ordinary: “café” → 100 %, {a: [1]}\n",
	} {
		var out strings.Builder
		if code := Report(&out, "p", "web", errors.New(said)); code != CodeFailed || out.String() != want {
			t.Errorf("%q is printed as %q with code %d, want %q", said, out.String(), code, want)
		}
	}
	var out strings.Builder
	err := WithHint(errors.New("no balloon"), "run: \x1b[2Jfree")
	if code := Report(&out, "p", "", err); code != CodeFailed || out.String() != "p: no balloon\np: hint: run: free\n" {
		t.Errorf("printed as %q, with code %d", out.String(), code)
	}
	out.Reset()
	if code := Report(&out, "p", "web", nil); code != CodeOK || out.String() != "" {
		t.Errorf("no error is printed as %q, with code %d", out.String(), code)
	}
}

// lasting is an error of another package that no retry can help.
type lasting bool

func (lasting) Error() string     { return "broken" }
func (l lasting) Permanent() bool { return bool(l) }

func TestTheCodeOfAnErrorIsThatOfWhatItWraps(t *testing.T) {
	cause := errors.New("cause")
	// A program that was run exits with a code of its own, which is not ours.
	theirs := exec.Command("sh", "-c", "exit 78").Run()
	for name, c := range map[string]struct {
		err  error
		want int
	}{
		"nothing":                        {nil, CodeOK},
		"an error":                       {cause, CodeFailed},
		"a wrong command line":           {Usage(cause), CodeUsage},
		"one made of a format":           {Usagef("%d", 1), CodeUsage},
		"a fault of the package":         {Config(cause), CodeConfig},
		"one of a format":                {fmt.Errorf("web: %w", Configf("%w of it", fs.ErrExist)), CodeConfig},
		"one of another package":         {fmt.Errorf("web: %w", lasting(true)), CodeConfig},
		"one that says it is none":       {lasting(false), CodeFailed},
		"one of several":                 {errors.Join(cause, fmt.Errorf("x: %w", Config(cause))), CodeConfig},
		"one that a person can mend":     {Retry(fmt.Errorf("volume: %w", Config(cause))), CodeFailed},
		"one that may be mended and not": {Config(Retry(cause)), CodeFailed},
		"a wait ended by a signal":       {Interrupted(context.Canceled), CodeInterrupted},
		"one with a remedy":              {WithHint(Config(cause), "mend it"), CodeConfig},
		"one marked after its remedy":    {Config(WithHint(cause, "mend it")), CodeConfig},
		"a program of somebody else":     {fmt.Errorf("run it: %w", theirs), CodeFailed},
	} {
		if got := Code(c.err); got != c.want {
			t.Errorf("%s: exit code %d, want %d", name, got, c.want)
		}
		if c.want == CodeConfig && !IsConfig(c.err) {
			t.Errorf("%s: IsConfig is false", name)
		}
		if IsUsage(c.err) != (c.want == CodeUsage) {
			t.Errorf("%s: IsUsage is %v", name, IsUsage(c.err))
		}
	}
}

func TestWhatNoRetryHelpsIsKnownByItsMark(t *testing.T) {
	cause := errors.New("cause")
	for err, want := range map[error]bool{
		cause: false, Usage(cause): false, Interrupted(cause): false, lasting(false): false,
		Config(cause): true, Retry(Config(cause)): true, lasting(true): true,
	} {
		if IsConfig(err) != want {
			t.Errorf("%#v: %v, want %v", err, !want, want)
		}
	}
}

func TestAMarkHidesNothing(t *testing.T) {
	for _, mark := range []func(error) error{
		Usage, Config, Retry, Interrupted,
		func(err error) error { return WithHint(err, "run it with sudo") },
	} {
		err := mark(fs.ErrPermission)
		if err.Error() != fs.ErrPermission.Error() || !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%v, which is a permission: %v", err, errors.Is(err, fs.ErrPermission))
		}
		if mark(nil) != nil {
			t.Error("no error became one")
		}
	}
}

func TestARemedyIsALineBelowItsCause(t *testing.T) {
	gone := WithHint(errors.New("kernel not found"), "build it with: %s", "make kernel")
	full := WithHint(errors.New("disk full"), "make room")
	for name, c := range map[string]struct {
		err        error
		text, hint string
	}{
		"none":       {errors.New("disk full"), "disk full", ""},
		"one":        {gone, "kernel not found\nhint: build it with: make kernel", "build it with: make kernel"},
		"wrapped":    {fmt.Errorf("web: %w; nothing was started", gone), "web: kernel not found; nothing was started\nhint: build it with: make kernel", "build it with: make kernel"},
		"two of one": {WithHint(full, "or move it"), "disk full\nhint: make room\nhint: or move it", "make room\nor move it"},
		"of each of several": {
			fmt.Errorf("start: %w", errors.Join(gone, errors.New("no tap"), fmt.Errorf("volume: %w", full))),
			"start: kernel not found\nhint: build it with: make kernel\nno tap\nvolume: disk full\nhint: make room",
			"build it with: make kernel\nmake room",
		},
		"of two in one line":    {fmt.Errorf("%w, and %w", gone, full), "kernel not found, and disk full\nhint: build it with: make kernel\nhint: make room", "build it with: make kernel\nmake room"},
		"marked":                {Config(fmt.Errorf("web: %w", full)), "web: disk full\nhint: make room", "make room"},
		"of a cause with lines": {fmt.Errorf("x: %w", WithHint(errors.New("two faults:\n  a\n  b"), "mend both")), "x: two faults:\n  a\n  b\nhint: mend both", "mend both"},
		"reworded":              {reworded{full}, "no space\nhint: make room", "make room"},
		"joined, one reworded":  {errors.Join(reworded{full}, gone), "no space\nkernel not found\nhint: make room\nhint: build it with: make kernel", "make room\nbuild it with: make kernel"},
		"nothing":               {nil, "", ""},
	} {
		if got := Text(c.err); got != c.text {
			t.Errorf("%s: %q, want %q", name, got, c.text)
		}
		if got := Hint(c.err); got != c.hint {
			t.Errorf("%s: hint %q, want %q", name, got, c.hint)
		}
	}
}

// reworded does not contain the text of its cause.
type reworded struct{ error }

func (reworded) Error() string   { return "no space" }
func (r reworded) Unwrap() error { return r.error }
