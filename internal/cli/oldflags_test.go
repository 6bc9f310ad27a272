package cli

import (
	"slices"
	"strings"
	"testing"
)

func TestTheFlagsOfMicrovmNixBecomeWords(t *testing.T) {
	tests := map[string]string{
		"-c web":                         "create web",
		"-c web -f git+file:///x":        "create web --flake git+file:///x",
		"-f git+file:///x -c web":        "create web --flake git+file:///x",
		"-cweb -fgit+file:///x":          "create web --flake git+file:///x",
		"-c web --start --enable":        "create web --start --enable",
		"-c web -s web.json":             "create web --spec web.json",
		"-c web -p ./result --start":     "create web --package ./result --start",
		"-u web":                         "update web",
		"-u web db":                      "update web db",
		"-Ru web db":                     "update web db --restart",
		"-uR web db":                     "update web db --restart",
		"-R -u web db":                   "update web db --restart",
		"-u web -R":                      "update web --restart",
		"-u --all":                       "update --all",
		"-l":                             "list",
		"-l --check":                     "list --check",
		"-r web":                         "run web",
		"-s web":                         "ssh web",
		"-s web uptime -p":               "ssh web uptime -p",
		"-s web -i key -l anna uptime":   "ssh web -i key -l anna uptime",
		"-s web -- -L 8080:localhost:80": "ssh web -- -L 8080:localhost:80",
		"list --json":                    "list --json",
		"create web -f x":                "create web -f x",
		"--help":                         "--help",
		"-h":                             "-h",
		"":                               "",
	}
	for line, want := range tests {
		got, err := fromFlags(strings.Fields(line))
		if err != nil || !slices.Equal(got, strings.Fields(want)) {
			t.Errorf("microvm %s: %q (%v), want %q", line, got, err, want)
		}
	}
}

func TestWrongFlagsAreRefused(t *testing.T) {
	tests := map[string]string{
		"-R web":      "-R requires -u",
		"-f x -u web": "-f requires -c",
		"-c":          "-c requires an argument",
		"-ul":         "-u and -l are mutually exclusive",
		"-c a -r b":   "-c and -r are mutually exclusive",
		"-ux web":     "unknown flag -x",
		"-f x":        "-f requires -c",
		"-u web -p x": "-p requires -c",
	}
	h := newHost(t)
	for line, want := range tests {
		code := h.microvm(strings.Fields(line)...)
		if code != 2 || h.stderr.String() != "microvm: "+want+"\nmicrovm: hint: see: microvm --help\n" {
			t.Errorf("microvm %s: exit code %d, %q; want 2 and %q", line, code, &h.stderr, want)
		}
	}
}

func TestWordsWithAnythingInThemArePassedOnUntouched(t *testing.T) {
	ref := `git+file:///a b?x="$(touch y)'#;|&`
	got, err := fromFlags([]string{"-c", "web", "-f", ref})
	if err != nil || !slices.Equal(got, []string{"create", "web", "--flake", ref}) {
		t.Errorf("%q (%v)", got, err)
	}
}
