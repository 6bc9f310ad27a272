package hypervisor

import (
	"errors"
	"strings"
	"testing"
)

func TestPlaceholdersAreExpanded(t *testing.T) {
	value := func(name string) (string, error) { return "<" + name + ">", nil }
	for arg, want := range map[string]string{
		"plain": "plain",
		"fds=" + MacvtapFD("vm-a", 0) + ":" + MacvtapFD("vm-a", 1): "fds=<macvtap:vm-a:0>:<macvtap:vm-a:1>",
		"x" + NotifyPort + "y":    "x<notify-port>y",
		Literal("@{notify-port}"): "@{notify-port}",
		Literal("@{{") + TSCKHz:   "@{{<tsc-khz>",
		"a@b{c}":                  "a@b{c}",
	} {
		got, err := Expand(arg, value)
		if err != nil || got != want {
			t.Errorf("Expand(%q) is %q, %v; want %q", arg, got, err, want)
		}
	}
}

func TestBadPlaceholdersAreErrors(t *testing.T) {
	unknown := errors.New("unknown")
	value := func(string) (string, error) { return "", unknown }
	if _, err := Expand("@{what}", value); !errors.Is(err, unknown) {
		t.Errorf("got %v", err)
	}
	if _, err := Expand("x@{what", value); err == nil || !strings.Contains(err.Error(), "is not closed") {
		t.Errorf("got %v", err)
	}
}

// FuzzLiteral: a literal is expanded to itself, and has no placeholder.
func FuzzLiteral(f *testing.F) {
	for _, s := range []string{"", "@{", "@{{", "@{x}", "@@{{}", "@{@{"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, arg string) {
		got, err := Expand(Literal(arg), func(name string) (string, error) {
			return "", errors.New("asked for " + name)
		})
		if err != nil || got != arg {
			t.Errorf("Expand(Literal(%q)) is %q, %v", arg, got, err)
		}
	})
}
