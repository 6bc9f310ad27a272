package need

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// essential are packages that every Debian has, deb-control(5).
var essential = []string{"bash", "coreutils", "gzip", "util-linux"}

// TestTheHostsHaveWhatTheListSays compares the list with what test/host installs.
func TestTheHostsHaveWhatTheListSays(t *testing.T) {
	entries, err := Programs()
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("../host/root.go")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)var packages = strings.Fields\\(`(.*?)`\\)").FindSubmatch(source)
	if m == nil {
		t.Fatal("test/host/root.go has no list of packages")
	}
	packages := append(strings.Fields(string(m[1])), essential...)
	for i, e := range entries {
		if e.Host && !slices.Contains(packages, e.Package) {
			t.Errorf("%s: %s is not among the packages of test/host/root.go", e.Program, e.Package)
		}
		if i > 0 && entries[i-1].Program >= e.Program {
			t.Errorf("%s is out of order, or twice", e.Program)
		}
		// What is needed outside is there: make test has installed it.
		if e.Outside && Host() == "" {
			Program(t, e.Program)
		}
	}
	if len(entries) < 20 {
		t.Errorf("the list has only %d programs", len(entries))
	}
}

func TestEveryProgramOfTheListIsFoundInAHost(t *testing.T) {
	if Host() == "" {
		t.Skip("this is shown in the container host")
	}
	entries, err := Programs()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Host {
			t.Run(e.Program, func(t *testing.T) { Program(t, e.Program) })
		}
	}
}

// TestPackagesReadsTheListAsThisPackageDoes runs test/scripts/packages where nothing is
// installed: it names all that is missing.
func TestPackagesReadsTheListAsThisPackageDoes(t *testing.T) {
	if Host() != "" {
		t.Skip("this is shown outside of the hosts, where the sources are")
	}
	shell, err := os.ReadFile("../scripts/packages")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, sub := range []string{"/need", "/scripts"} {
		if err := os.Mkdir(dir+sub, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// The same script without apt-get and with no program in its PATH.
	script := strings.Replace(string(shell), "PATH=$PATH:/usr/sbin:/sbin", "PATH="+dir+"/none", 1)
	script = strings.Replace(script, `cd "$(dirname "$0")"`, "cd "+dir+"/scripts", 1)
	for path, data := range map[string]string{dir + "/scripts/packages": script, dir + "/need/programs": list} {
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command("/bin/sh", dir+"/scripts/packages").CombinedOutput()
	if err == nil {
		t.Errorf("it found everything: %s", out)
	}
	entries, err := Programs()
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	_, line, _ = strings.Cut(line, "not found:")
	var want []string
	for _, e := range entries {
		if e.Outside || e.Tool {
			want = append(want, e.Package)
		}
	}
	got := strings.Fields(line)
	for _, of := range []*[]string{&got, &want} {
		slices.Sort(*of)
		*of = slices.Compact(*of)
	}
	got = slices.DeleteFunc(got, func(p string) bool { return p == "debian-archive-keyring" })
	if !slices.Equal(got, want) {
		t.Errorf("it names %q, want %q", got, want)
	}
}
