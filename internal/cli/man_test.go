package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"microvm/test/need"
)

func TestManualHasEveryCommandAndFlag(t *testing.T) {
	h := newHost(t)
	if code := h.microvm("man", "man"); code != 0 {
		t.Fatal(&h.stderr)
	}
	page := func(name string) string {
		data, err := os.ReadFile(filepath.Join(h.dir, "man", name+".1"))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	whole := page("microvm")
	for _, cmd := range newRoot(&Command{}).Commands() {
		if !documented(cmd) {
			continue
		}
		text := page("microvm-" + cmd.Name())
		if !strings.Contains(whole, `\fB`+roff(cmd.Name())+`\fR(1)`) {
			t.Errorf("microvm(1) does not name %s", cmd.Name())
		}
		cmd.NonInheritedFlags().VisitAll(func(f *pflag.Flag) {
			if f.Name != "help" && !f.Hidden && !strings.Contains(text, roff("--"+f.Name)) {
				t.Errorf("microvm-%s(1) has no --%s", cmd.Name(), f.Name)
			}
		})
	}
	for _, want := range []string{".SH EXIT STATUS", "NO_COLOR", `MICROVM_STATE_DIR`, `MICROVM_UNIT_DIR`, `MICROVM_STOP_TIMEOUT`, `MICROVM_WAIT`} {
		if !strings.Contains(whole, want) {
			t.Errorf("microvm(1) has no %q", want)
		}
	}
	// What troff would take for a request is escaped, whatever a help text says.
	if got := roff(".SH a-b \\x"); got != `\&.SH a\-b \ex` {
		t.Errorf("%s", got)
	}
	t.Run("groff", func(t *testing.T) {
		groff := need.Program(t, "groff")
		pages, _ := filepath.Glob(filepath.Join(h.dir, "man", "*.1"))
		if out, err := exec.Command(groff, append([]string{"-man", "-ww", "-Tutf8", "-z"}, pages...)...).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("groff says %v: %s", err, out)
		}
	})
}

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
		{[]string{"status", "w"}, "db\nweb\n", noFiles}, // the shell picks those that begin so
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
				t.Errorf("it does not take its script: %v\n%s", err, out)
			}
		})
	}
}
