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
		"-R web":      "-R goes with -u",
		"-f x -u web": "-f goes with -c",
		"-c":          "-c needs a word after it",
		"-ul":         "exclude each other",
		"-c a -r b":   "exclude each other",
		"-ux web":     "there is no flag -x; there are -c, -u, -R, -r, -s, -l, -f and -p",
		"-f x":        "-f goes with -c",
		"-u web -p x": "-p goes with -c",
	}
	h := newHost(t)
	for line, want := range tests {
		code := h.microvm(strings.Fields(line)...)
		if code != 2 || !strings.Contains(h.stderr.String(), want) || !strings.Contains(h.stderr.String(), "microvm --help") {
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
