// Package need is how a test asks for what it cannot make itself: a program, the
// rights of root, a test host. What is not there is never passed over in silence:
//
//   - a program that the unit tests outside of the test hosts need is installed by
//     test/scripts/packages, and a test fails where it is missing;
//   - a program that the test hosts have is asked for there, and a test fails where
//     it is missing. Outside the test is skipped, whether or not the machine
//     happens to have the program, so that no machine sees more than another; and
//     test/scripts/skips fails where it has passed in no host.
package need

import (
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The test hosts, and the variable that holds the one that a test runs in.
const (
	Container = "container"
	VM        = "vm"
	variable  = "MICROVM_TEST_HOST"
)

//go:embed programs
var list string

// Entry is a program and the Debian package that has it.
type Entry struct {
	Program, Package string
	// Host: the test hosts have it. Outside: the unit tests outside of them need
	// it. Tool: the test hosts are made with it.
	Host, Outside, Tool bool
}

// Programs are all that tests may ask for.
func Programs() ([]Entry, error) {
	var entries []Entry
	for line := range strings.Lines(list) {
		f := strings.Fields(line)
		if len(f) == 0 || strings.HasPrefix(f[0], "#") {
			continue
		}
		if len(f) != 3 {
			return nil, fmt.Errorf("test/need/programs: %q is not PROGRAM PACKAGE PLACES", strings.TrimSpace(line))
		}
		e := Entry{Program: f[0], Package: f[1]}
		for place := range strings.SplitSeq(f[2], ",") {
			switch place {
			case "host":
				e.Host = true
			case "outside":
				e.Outside = true
			case "tool":
				e.Tool = true
			default:
				return nil, fmt.Errorf("test/need/programs: %s is in no place %q", e.Program, place)
			}
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// Host is the test host that the test runs in, empty outside of them.
func Host() string { return os.Getenv(variable) }

// InHost skips a test that another test host shows better, and one that none
// shows outside.
func InHost(t testing.TB, want string) {
	t.Helper()
	if Host() != want {
		t.Skipf("this is shown in the %s host", want)
	}
}

// Root skips a test that only root can run. test/scripts/skips fails where it has
// passed in no stage.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root; run it with sudo")
	}
}

// Program returns the path of a program. See the package.
func Program(t testing.TB, name string) string {
	t.Helper()
	entries, err := Programs()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(entries, func(e Entry) bool { return e.Program == name })
	if i < 0 {
		t.Fatalf("%s is not in test/need/programs\nhint: add it, with its Debian package", name)
	}
	e := entries[i]
	switch {
	case Host() == "" && !e.Outside:
		t.Skipf("%s is asked for in the test hosts, which have Debian's %s", name, e.Package)
	case Host() != "" && !e.Host:
		t.Skipf("%s is asked for outside of the test hosts, which do without %s", name, e.Package)
	}
	path, err := find(name)
	if err != nil {
		t.Fatalf("%v\nhint: apt-get install %s", err, e.Package)
	}
	return path
}

// find looks in PATH, and where the administrator's programs are, which is not in
// every user's PATH.
func find(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/libexec", "/usr/lib/qemu"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", err
}
