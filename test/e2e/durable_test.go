package e2e

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// call is a system call that matters for what a loss of power leaves.
type call struct {
	what     string // "sync", "rename"
	from, to string // "sync" has only from
}

var (
	syncs   = regexp.MustCompile(`^(?:fsync|fdatasync)\(\d+<([^>]*)>`)
	renames = regexp.MustCompile(`^rename\w*\((?:AT_FDCWD(?:<[^>]*>)?, |\d+<[^>]*>, )?"([^"]*)", (?:AT_FDCWD(?:<[^>]*>)?, |\d+<[^>]*>, )?"([^"]*)"`)
	pidText = regexp.MustCompile(`^(\d+) +(.*)$`)
)

// traced runs a command and returns its calls in order. A synchronization counts
// when it is over, a rename when it begins.
func traced(t *testing.T, command string) []call {
	t.Helper()
	file := filepath.Join(t.TempDir(), "trace")
	sh(t, fmt.Sprintf("strace -f -y -s 4096 -o %s -e trace=fsync,fdatasync,rename,renameat,renameat2 %s >&2", file, command))
	var calls []call
	begun := map[string]string{}
	for _, line := range strings.Split(sh(t, "cat "+file), "\n") {
		m := pidText.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		pid, text := m[1], m[2]
		if strings.Contains(text, "<unfinished ...>") {
			begun[pid] = text
			if !renames.MatchString(text) {
				continue
			}
		} else if strings.HasPrefix(text, "<... ") {
			text = begun[pid] + text
			if renames.MatchString(text) {
				continue // when it began
			}
		}
		if m := syncs.FindStringSubmatch(text); m != nil {
			calls = append(calls, call{what: "sync", from: m[1]})
		} else if m := renames.FindStringSubmatch(text); m != nil {
			calls = append(calls, call{what: "rename", from: m[1], to: m[2]})
		}
	}
	return calls
}

// The names in a VM's directory that nothing depends on.
var copies = regexp.MustCompile(`^/var/lib/microvms/[^./][^/]*/(flake|spec|toplevel|old|booted)$`)

// lasting fails where a rename is a commit that a loss of power can tear: its
// source was not on the disk before, or its directory is not after it and before
// the next. A link has no content of its own. It returns what was committed.
func lasting(t *testing.T, calls []call) (committed []string) {
	t.Helper()
	for i, c := range calls {
		if c.what != "rename" || strings.HasPrefix(c.to, "/run/") || copies.MatchString(c.to) {
			continue
		}
		committed = append(committed, c.to)
		isFile := strings.HasSuffix(c.to, ".conf") || strings.HasSuffix(c.to, "/from") || strings.HasSuffix(c.to, "/volumes")
		// What is renamed to be removed has no content that matters.
		isPackage := !strings.Contains(c.to, "/.microvm-new-") && (strings.Contains(c.to, "/.store/") || strings.HasSuffix(c.to, "/package"))
		synced := func(path string) bool {
			return slices.Contains(calls[:i], call{what: "sync", from: path})
		}
		switch {
		case isFile && !synced(c.from):
			t.Errorf("%s is renamed to %s and may be empty after a loss of power", c.from, c.to)
		case isPackage:
			for _, part := range []string{"", "/share/microvm", "/share/microvm/runner.json", "/bin", "/bin/microvm-run"} {
				if !synced(c.from + part) {
					t.Errorf("%s is renamed to %s and may be without %s after a loss of power", c.from, c.to, part)
				}
			}
		}
		after := calls[i+1:]
		if next := slices.IndexFunc(after, func(c call) bool { return c.what == "rename" }); next >= 0 {
			after = after[:next]
		}
		if !slices.Contains(after, call{what: "sync", from: filepath.Dir(c.to)}) {
			t.Errorf("the next step after %s is renamed to %s does not wait for %s", c.from, c.to, filepath.Dir(c.to))
		}
	}
	return committed
}

// TestAChangeIsSafeAgainstALossOfPower looks at the order of the calls, of which
// the kernel promises what is left: fsync(2).
func TestAChangeIsSafeAgainstALossOfPower(t *testing.T) {
	in(t, "container")
	const name = "power"
	file := "/root/power.json"
	sh(t, "sed s/hello/power/ /usr/lib/microvm-test/examples/hello.json > "+file)
	b := build(t, spec(name, func(s map[string]any) { s["mem"] = 300 }))
	cleanUp(t, name)
	state := "/var/lib/microvms/" + name
	record := "/var/lib/microvms/.origin/" + name
	for _, step := range []struct {
		command string
		// The commits that it has at least, in this order.
		want []string
	}{
		{"microvm create " + name + " -s " + file, []string{"/.store/", record + "/from", state + "/current"}},
		{"install-microvm -p " + b + " " + name, []string{"/.store/", record + "/old", record + "/current", state + "/current"}},
		{"microvm rollback " + name, []string{record + "/current", state + "/current"}},
		{"microvm rm --yes " + name, []string{"/var/lib/microvms/.microvm-new-" + name}},
		{"microvm gc", []string{"/.store/.microvm-new-"}},
	} {
		committed := lasting(t, traced(t, step.command))
		rest := committed
		for _, want := range step.want {
			i := slices.IndexFunc(rest, func(path string) bool { return strings.Contains(path, want) })
			if i < 0 {
				t.Errorf("%s: %s is not among what was committed, in this order: %q", step.command, want, committed)
				break
			}
			rest = rest[i+1:]
		}
	}
	out := filepath.Join(t.TempDir(), "package")
	if committed := lasting(t, traced(t, "microvm build "+file+" -o "+out)); !slices.Contains(committed, out) {
		t.Errorf("a build commits %q", committed)
	}
}
