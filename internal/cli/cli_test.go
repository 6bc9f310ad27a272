package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"microvm/internal/statedir"
)

// host runs microvm commands on a host of its own, in a directory of its own.
type host struct {
	dir            string
	stdout, stderr bytes.Buffer
}

func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{dir: t.TempDir()}
	for _, d := range []string{"state", "run"} {
		if err := os.Mkdir(filepath.Join(h.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(h.dir)
	return h
}

func (h *host) microvm(args ...string) int {
	h.stdout.Reset()
	h.stderr.Reset()
	c := &Command{
		Host:   statedir.Host{StateDir: filepath.Join(h.dir, "state"), RuntimeDir: filepath.Join(h.dir, "run"), User: "nobody", Group: "nogroup", LibexecDir: "/usr/lib/microvm"},
		Stdout: &h.stdout, Stderr: &h.stderr,
		BinDir: "/usr/bin", Version: "1.2.3",
	}
	return c.Run(args)
}

// write creates a spec with the given members, and its kernel.
func (h *host) write(t *testing.T, name, members string) {
	t.Helper()
	text := `{"name":"web","arch":"x86_64","kernel":"vmlinuz"` + members + `}`
	for name, data := range map[string]string{name: text, "vmlinuz": "kernel"} {
		if err := os.WriteFile(filepath.Join(h.dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestExitCodesAndLastLines(t *testing.T) {
	tests := map[string]struct {
		args []string
		code int
		want string
	}{
		"no such command":       {[]string{"biuld"}, 2, "microvm: unknown command \"biuld\"\nmicrovm: hint: did you mean \"build\"?\n"},
		"no command's help":     {[]string{"help", "nope"}, 2, "microvm: unknown command \"nope\"\nmicrovm: hint: see: microvm --help\n"},
		"help on a near one":    {[]string{"help", "biuld"}, 2, "microvm: unknown command \"biuld\"\nmicrovm: hint: did you mean \"build\"?\n"},
		"help within a command": {[]string{"help", "build", "nope"}, 2, "microvm: unknown command \"build nope\"\nmicrovm: hint: see: microvm build --help\n"},
		"no shell of ours":      {[]string{"completion", "nope"}, 2, "microvm: unknown command \"completion nope\"\nmicrovm: hint: see: microvm completion --help\n"},
		"a shell, nearly":       {[]string{"completion", "bsh"}, 2, `hint: did you mean "bash"?`},
		"help on a wrong shell": {[]string{"help", "completion", "nope"}, 2, `unknown command "completion nope"`},
		"no such flag":          {[]string{"build", "--fast", "web.json"}, 2, "microvm: unknown flag: --fast\nmicrovm: hint: see: microvm build --help\n"},
		"an argument too many":  {[]string{"schema", "please"}, 2, "microvm: unexpected argument \"please\"\nmicrovm: hint: usage: microvm schema\n"},
		"an argument of list":   {[]string{"list", "web"}, 2, "microvm: unexpected argument \"web\"\nmicrovm: hint: usage: microvm list\n"},
		"three for two":         {[]string{"balloon", "web", "1", "2"}, 2, `unexpected argument "2"`},
		"an argument too few":   {[]string{"show"}, 2, "microvm: missing argument\nmicrovm: hint: usage: microvm show DIR|NAME|SPEC\n"},
		"no VM to start":        {[]string{"start"}, 2, "missing argument\nmicrovm: hint: usage: microvm start NAME…\n"},
		"two kinds of analysis": {[]string{"analyze", "--blame", "--svg", "x"}, 2, "--svg cannot be used with --blame or --json"},
		"two ways to print":     {[]string{"analyze", "web", "--svg", "x", "--json"}, 2, "--svg cannot be used with --blame or --json"},
		"a VM that is down":     {[]string{"shutdown", "down"}, 1, "down is not running\nmicrovm: hint: start it with: microvm start down"},
		"its balloon":           {[]string{"balloon", "down", "64"}, 1, "down is not running"},
		"its console":           {[]string{"console", "down"}, 1, "down is not running"},
		"nowhere to build to":   {[]string{"build", "web.json"}, 2, "microvm: -o DIR is required\n"},
		"an unknown spec":       {[]string{"build", "none.json", "-o", "x"}, 1, "none.json"},
		"a bad spec":            {[]string{"build", "bad.json", "-o", "x"}, 1, "hypervisr: unknown option (did you mean \"hypervisor\"?)"},
		"an unknown VM":         {[]string{"show", "nobody"}, 3, "microvm: VM \"nobody\" not found\nmicrovm: hint: list VMs with: microvm list\n"},
		"a VM to shut down":     {[]string{"shutdown", "nobody"}, 3, "VM \"nobody\" not found\n"},
		"a name that is a path": {[]string{"shutdown", "../x"}, 2, "VM name"},
		"over a file":           {[]string{"build", "web.json", "-o", "vmlinuz"}, 1, "is not a runner package"},
		"into nowhere":          {[]string{"build", "web.json", "-o", "no/such/dir"}, 1, "no/such"},
		"a spec as a package":   {[]string{"run", "web.json"}, 1, "web.json"},
		"an empty directory":    {[]string{"show", "run"}, 1, "is not a runner package"},
	}
	h := newHost(t)
	h.write(t, "web.json", "")
	h.write(t, "bad.json", `,"hypervisr":"qemu"`)
	// A directory with the name of a VM is not used instead of the VM.
	for _, dir := range []string{"state/down", "down"} {
		if err := os.Mkdir(filepath.Join(h.dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			code := h.microvm(test.args...)
			if code != test.code || !strings.Contains(h.stderr.String(), test.want) {
				t.Errorf("microvm %v: exit code %d, %q; want %d and %q", test.args, code, &h.stderr, test.code, test.want)
			}
			for line := range strings.Lines(h.stderr.String()) {
				if !strings.HasPrefix(line, "microvm: ") {
					t.Errorf("line %q does not begin with the program's name", line)
				}
			}
		})
	}
}

func TestHelpNamesTheFlagsOfMicrovmNix(t *testing.T) {
	h := newHost(t)
	if code := h.microvm("--help"); code != 0 {
		t.Fatal(&h.stderr)
	}
	for _, want := range []string{"-c NAME", "-u NAME", "-Ru NAME", "-r NAME", "-s NAME", "-l ", "-f FLAKE"} {
		if !strings.Contains(h.stdout.String(), want) {
			t.Errorf("the help does not name %s:\n%s", want, &h.stdout)
		}
	}
}

// TestHelpFitsATerminal reads the help of every command: docs/style.md allows 100 columns.
func TestHelpFitsATerminal(t *testing.T) {
	h := newHost(t)
	for _, cmd := range newRoot(&Command{}).Commands() {
		if code := h.microvm(cmd.Name(), "--help"); code != 0 || !strings.Contains(h.stdout.String(), cmd.Short) && cmd.Long == "" {
			t.Errorf("%s: exit code %d, %s%s", cmd.Name(), code, &h.stdout, &h.stderr)
		}
		t.Logf("microvm %s --help\n%s", cmd.Name(), &h.stdout)
		for line := range strings.Lines(h.stdout.String()) {
			if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > 100 {
				t.Errorf("%s: %d columns: %s", cmd.Name(), n, line)
			}
		}
	}
}

func TestTheVersionIsPrinted(t *testing.T) {
	h := newHost(t)
	if code := h.microvm("--version"); code != 0 || !strings.Contains(h.stdout.String(), "1.2.3") {
		t.Errorf("exit code %d, %q", code, &h.stdout)
	}
}
