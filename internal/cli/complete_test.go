package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"microvm/test/need"
)

func TestShellsAreOfferedTheVMs(t *testing.T) {
	h := newHost(t)
	for _, name := range []string{"web", "db", ".store"} {
		if err := os.Mkdir(filepath.Join(h.dir, "state", name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	const none, noFiles, files, extension = "", ":4\n", ":0\n", ":8\n"
	for _, test := range []struct {
		words     []string
		offers    string
		directive string
	}{
		{[]string{"status", ""}, "db\nweb\n", noFiles},
		{[]string{"status", "w"}, "db\nweb\n", noFiles}, // the shell filters by prefix
		{[]string{"status", "web", ""}, none, noFiles},
		{[]string{"stop", "web", ""}, "db\n", noFiles},
		{[]string{"run", ""}, "db\nweb\n", files},
		{[]string{"build", ""}, "json\n", extension},
		{[]string{"list", ""}, none, noFiles},
		{[]string{"rm", "web", ""}, none, noFiles}, // which takes one
		{[]string{"-u", ""}, "db\nweb\n", noFiles},
		{[]string{"-Ru", "web", ""}, "db\n", noFiles},
		{[]string{"-s", "w"}, "db\nweb\n", noFiles},
		{[]string{"-r", ""}, "db\nweb\n", files},
		{[]string{"create", "x", "--spec", ""}, none, files},
	} {
		if code := h.microvm(append([]string{"__complete"}, test.words...)...); code != 0 {
			t.Fatalf("%q: exit code %d, %s", test.words, code, &h.stderr)
		}
		got := h.stdout.String()
		if got != test.offers+test.directive {
			t.Errorf("%q: offered %q, want %q", test.words, got, test.offers+test.directive)
		}
	}
}

func TestEachShellHasItsScript(t *testing.T) {
	h := newHost(t)
	for _, shell := range []string{"bash", "zsh", "fish"} {
		t.Run(shell, func(t *testing.T) {
			if code := h.microvm("completion", shell); code != 0 || !strings.Contains(h.stdout.String(), "microvm") {
				t.Errorf("exit code %d, %s", code, &h.stderr)
			}
			check := exec.Command(need.Program(t, shell), "-n")
			check.Stdin = strings.NewReader(h.stdout.String())
			if out, err := check.CombinedOutput(); err != nil {
				t.Errorf("the shell rejects its script: %v\n%s", err, out)
			}
		})
	}
}
