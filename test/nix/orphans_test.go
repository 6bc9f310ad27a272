package nix

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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
	// The test's own programs write down how they are called.
	return program.ReplaceAllString(text, dir+"/bin/microvm")
}

var program = regexp.MustCompile(`/nix/store/[^/]*-microvm/bin/microvm`)

// identity is what the script identifies a directory by.
func identity(t *testing.T, dir string) string {
	t.Helper()
	out, err := exec.Command("stat", "-c", "%i.%W", dir).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// TestOrphans runs the script of a host that declares the VM web, after one
// that declared web, old, gone, whose directory is not there any more, and new,
// whose name somebody has since given to a VM of the microvm command; byhand
// was never declared.
func TestOrphans(t *testing.T) {
	tests := map[string]struct {
		policy, calls string
		remembered    []string
	}{
		"keep leaves the VM and goes on watching it": {"keep", "", []string{"old", "web"}},
		"stop stops it and goes on watching it":      {"stop", "systemctl stop microvm@old.service\n", []string{"old", "web"}},
		"purge stops it and removes it":              {"purge", "systemctl stop microvm@old.service\nmicrovm rm --yes old\n", []string{"web"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for _, vm := range []string{"web", "old", "new", "byhand"} {
				mkdir(t, filepath.Join(dir, vm))
			}
			mkdir(t, filepath.Join(dir, "bin"))
			old, web := "old "+identity(t, filepath.Join(dir, "old")), "web "+identity(t, filepath.Join(dir, "web"))
			write(t, filepath.Join(dir, ".declared"), []byte(web+"\n"+old+"\ngone none\nnew 1.1\n"))
			log := filepath.Join(dir, "log")
			write(t, log, nil)
			for _, name := range []string{"systemctl", "microvm"} {
				text := "#!/bin/sh\necho " + name + " \"$@\" >> " + log + "\n"
				if err := os.WriteFile(filepath.Join(dir, "bin", name), []byte(text), 0o700); err != nil {
					t.Fatal(err)
				}
			}

			cmd := exec.Command("bash", "-c", orphansScript(t, "with-a-vm-of-its-own", "/var/lib/microvms", dir, tt.policy))
			cmd.Env = append(os.Environ(), "PATH="+dir+"/bin:"+os.Getenv("PATH"))
			if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "MicroVM old is no longer declared") {
				t.Fatalf("%v\n%s", err, out)
			}
			if calls := read(t, log); calls != tt.calls {
				t.Errorf("the script called %q, want %q", calls, tt.calls)
			}
			var want []string
			for _, vm := range tt.remembered {
				want = append(want, map[string]string{"old": old, "web": web}[vm])
			}
			got := strings.Split(strings.TrimSpace(read(t, filepath.Join(dir, ".declared"))), "\n")
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("remembered %q, want %q", got, want)
			}
		})
	}
}

// TestOrphansOfANewHost: the first switch of a host knows of no VM before.
func TestOrphansOfANewHost(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command("bash", "-c", orphansScript(t, "with-no-vm", "/var/lib/microvms", dir, "purge"))
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("%v\n%s", err, out)
	}
	if got := strings.TrimSpace(read(t, filepath.Join(dir, ".declared"))); got != "" {
		t.Errorf("remembered %q", got)
	}
}

// TestAVMThatKeepsFailingFailsTheSwitch runs the script that each switch starts.
func TestAVMThatKeepsFailingFailsTheSwitch(t *testing.T) {
	text, ok := golden[map[string]host](t, "hosts")["with-a-vm-of-its-own"].Services["microvm-failing"].Service["ExecStart"].(string)
	if !ok {
		t.Fatal("the host has no such script")
	}
	for _, c := range []struct {
		// What it looks like, one look after the other; the last one stays.
		looks []string
		fails bool
	}{
		{[]string{"active running success 0 9"}, false},
		{[]string{"active running success 0 10"}, false},
		{[]string{"inactive dead success 0 0"}, false},
		{[]string{"failed failed exit-code 1 0"}, true},
		{[]string{"activating start success 0 2"}, true},
		{[]string{"activating start success 0 12"}, true},
		{[]string{"deactivating stop-sigterm success 0 7"}, true},
		// It is tried again for the first time, and that works or not.
		{[]string{"activating auto-restart exit-code 1 0", "activating start success 0 1", "active running success 0 1"}, false},
		{[]string{"activating auto-restart exit-code 1 0", "activating start success 0 1", "activating auto-restart exit-code 1 1"}, true},
		{[]string{"activating start success 0 1", "deactivating stop-sigterm exit-code 1 1", "activating start success 0 2"}, true},
		{[]string{"activating start success 0 0", "active running success 0 0"}, false},
		// A switch has set back what is known of it.
		{[]string{"activating auto-restart success 1 0", "activating auto-restart exit-code 1 1"}, true},
		{[]string{"activating auto-restart success 1 0", "active running success 0 1"}, false},
		// What fails comes before its program.
		{[]string{"activating auto-restart exit-code 0 10"}, true},
		// Its guest reboots.
		{[]string{"activating auto-restart success 0 3"}, false},
		{[]string{"deactivating final-sigterm success 0 0", "activating auto-restart success 0 1"}, false},
	} {
		dir := t.TempDir()
		systemctl := `#!/bin/sh
cd "$LOOKS" || exit 1
[ "$*" = "show -p ActiveState,SubState,Result,ExecMainStatus,NRestarts microvm@web.service" ] || exit 1
read -r state sub result main restarts < looks
[ "$(wc -l < looks)" -eq 1 ] || sed -i 1d looks
printf 'NRestarts=%s\nResult=%s\nExecMainStatus=%s\nActiveState=%s\nSubState=%s\n' $restarts $result $main $state $sub
`
		if err := os.WriteFile(filepath.Join(dir, "systemctl"), []byte(systemctl), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "looks"), []byte(strings.Join(c.looks, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("bash", "-c", text)
		cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "LOOKS="+dir)
		out, err := cmd.CombinedOutput()
		if fails := err != nil; fails != c.fails || c.fails && !strings.Contains(string(out), "MicroVM web keeps failing\nhint: run: microvm status web\n") {
			t.Errorf("%q: %v: %s", c.looks, err, out)
		}
	}
}

func mkdir(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(path, 0o750); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
