package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

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

// write makes a spec of the given members beside a kernel.
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
		"no such command":       {[]string{"biuld"}, 2, "did you mean \"build\"?"},
		"no command's help":     {[]string{"help", "nope"}, 2, `there is no command "nope"; see: microvm --help`},
		"help on a near one":    {[]string{"help", "biuld"}, 2, `there is no command "biuld" (did you mean "build"?)`},
		"help within a command": {[]string{"help", "build", "nope"}, 2, `there is no command "build nope"; see: microvm build --help`},
		"no shell of ours":      {[]string{"completion", "nope"}, 2, `there is no command "completion nope"; see: microvm completion --help`},
		"a shell, nearly":       {[]string{"completion", "bsh"}, 2, `(did you mean "bash"?)`},
		"help on a wrong shell": {[]string{"help", "completion", "nope"}, 2, `there is no command "completion nope"`},
		"no such flag":          {[]string{"build", "--fast", "web.json"}, 2, "--help"},
		"a word too many":       {[]string{"schema", "please"}, 2, `"please" is one word too many; the command is: microvm schema; see: microvm schema --help`},
		"a word in the list":    {[]string{"list", "web"}, 2, `"web" is one word too many; the command is: microvm list`},
		"three words for two":   {[]string{"balloon", "web", "1", "2"}, 2, `"2" is one word too many`},
		"a word too few":        {[]string{"show"}, 2, "a word is missing; the command is: microvm show DIR|NAME|SPEC"},
		"no VM to start":        {[]string{"start"}, 2, "a word is missing; the command is: microvm start NAME…"},
		"two kinds of analysis": {[]string{"analyze", "--blame", "--svg", "x"}, 2, "--svg excludes"},
		"two ways to print":     {[]string{"analyze", "web", "--svg", "x", "--json"}, 2, "--svg excludes"},
		"a VM that is down":     {[]string{"shutdown", "down"}, 1, "down is not running; start it with: microvm start down"},
		"its balloon":           {[]string{"balloon", "down", "64"}, 1, "down is not running"},
		"its console":           {[]string{"console", "down"}, 1, "down is not running"},
		"nowhere to build to":   {[]string{"build", "web.json"}, 2, "-o DIR"},
		"a spec that is not":    {[]string{"build", "none.json", "-o", "x"}, 1, "none.json"},
		"a bad spec":            {[]string{"build", "bad.json", "-o", "x"}, 1, "hypervisr: unknown option (did you mean \"hypervisor\"?)"},
		"a VM that is not":      {[]string{"show", "nobody"}, 3, "microvm list"},
		"a VM to shut down":     {[]string{"shutdown", "nobody"}, 3, "there is no VM \"nobody\""},
		"a name that is a path": {[]string{"shutdown", "../x"}, 2, "VM name"},
		"over a file":           {[]string{"build", "web.json", "-o", "vmlinuz"}, 1, "is not a runner package"},
		"into nowhere":          {[]string{"build", "web.json", "-o", "no/such/dir"}, 1, "no/such"},
		"a spec as a package":   {[]string{"run", "web.json"}, 1, "web.json"},
		"an empty directory":    {[]string{"show", "run"}, 1, "is not a runner package"},
	}
	h := newHost(t)
	h.write(t, "web.json", "")
	h.write(t, "bad.json", `,"hypervisr":"qemu"`)
	// What lies around under a VM's name does not stand for it.
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
					t.Errorf("line %q does not say who speaks", line)
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

func TestTheVersionIsPrinted(t *testing.T) {
	h := newHost(t)
	if code := h.microvm("--version"); code != 0 || !strings.Contains(h.stdout.String(), "1.2.3") {
		t.Errorf("exit code %d, %q", code, &h.stdout)
	}
}
