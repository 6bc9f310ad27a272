package nix

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// host is what the tests want of golden/hosts.json.
type host struct {
	Services map[string]struct{ Service map[string]any }
}

// orphansScript is the host's script, with its state directory in dir.
func orphansScript(t *testing.T, name, stateDir, dir, policy string) string {
	t.Helper()
	text, ok := golden[map[string]host](t, "hosts")[name].Services["microvm-orphans"].Service["ExecStart"].(string)
	if !ok {
		t.Fatalf("%s has no script for orphans", name)
	}
	for _, old := range []string{"case keep in", "case purge in"} {
		text = strings.ReplaceAll(text, old, "case "+policy+" in")
	}
	text = strings.ReplaceAll(text, stateDir, dir)
	// This machine's own directories stay out of it.
	text = strings.ReplaceAll(text, "/etc/systemd/system.control", dir+"/units")
	return strings.ReplaceAll(text, "/nix/var/nix/gcroots", dir+"/gcroots")
}

// TestOrphans runs the script of a host that declares the VM web, after one
// that declared web and old; byhand was never declared.
func TestOrphans(t *testing.T) {
	tests := map[string]struct {
		policy, stopped string
		kept            bool
		record          string
	}{
		"keep leaves the VM and goes on watching it": {"keep", "", true, "old web"},
		"stop stops it and keeps its data":           {"stop", "stop microvm@old.service\n", true, "old web"},
		"purge stops it and removes all that is its": {"purge", "stop microvm@old.service\n", false, "web"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for _, vm := range []string{"web", "old", "byhand"} {
				mkdir(t, filepath.Join(dir, vm))
			}
			mkdir(t, filepath.Join(dir, "units/microvm@old.service.requires"))
			mkdir(t, filepath.Join(dir, "bin"))
			write(t, filepath.Join(dir, ".declared"), []byte("web\nold\ngone\n"))
			log := filepath.Join(dir, "log")
			program := "#!/bin/sh\necho \"$@\" >> " + log + "\n"
			if err := os.WriteFile(filepath.Join(dir, "bin/systemctl"), []byte(program), 0o700); err != nil { //nolint:gosec // a program
				t.Fatal(err)
			}
			write(t, log, nil)

			cmd := exec.Command("bash", "-c", orphansScript(t, "with-a-vm-of-its-own", "/var/lib/microvms", dir, tt.policy)) //nolint:gosec // the script under test
			cmd.Env = append(os.Environ(), "PATH="+dir+"/bin:"+os.Getenv("PATH"))
			if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "MicroVM old is no longer declared") {
				t.Fatalf("%v\n%s", err, out)
			}
			if calls := read(t, log); calls != tt.stopped {
				t.Errorf("systemctl was called with %q, want %q", calls, tt.stopped)
			}
			if _, err := os.Stat(filepath.Join(dir, "old")); (err == nil) != tt.kept {
				t.Errorf("the orphan's directory: %v, want kept %v", err, tt.kept)
			}
			if _, err := os.Stat(filepath.Join(dir, "units/microvm@old.service.requires")); (err == nil) != tt.kept {
				t.Errorf("the orphan's unit links: %v, want kept %v", err, tt.kept)
			}
			for _, vm := range []string{"web", "byhand"} {
				if _, err := os.Stat(filepath.Join(dir, vm)); err != nil {
					t.Errorf("%s was touched: %v", vm, err)
				}
			}
			if got := sortedWords(read(t, filepath.Join(dir, ".declared"))); got != tt.record {
				t.Errorf("remembered %q, want %q", got, tt.record)
			}
		})
	}
}

// TestOrphansOfANewHost: the first switch of a host knows of no VM before.
func TestOrphansOfANewHost(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command("bash", "-c", orphansScript(t, "with-no-vm", "/var/lib/microvms", dir, "purge")) //nolint:gosec // the script under test
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("%v\n%s", err, out)
	}
	if got := strings.TrimSpace(read(t, filepath.Join(dir, ".declared"))); got != "" {
		t.Errorf("remembered %q", got)
	}
}

func sortedWords(text string) string {
	words := strings.Fields(text)
	slices.Sort(words)
	return strings.Join(words, " ")
}

func mkdir(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(path, 0o750); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path) //nolint:gosec // the test's own file
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
