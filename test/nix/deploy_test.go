package nix

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestScriptsParse: bash understands every script that the modules write.
func TestScriptsParse(t *testing.T) {
	scripts := golden[map[string]string](t, "scripts")
	for _, name := range slices.Sorted(maps.Keys(scripts)) {
		cmd := exec.Command("bash", "-n")
		cmd.Stdin = strings.NewReader(scripts[name])
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

// The programs that the scripts call say what they are called with. ssh does
// as sshd: a shell gets all words in one line.
const recorders = `
nix: case "$*" in *--out-link*) ln -s "$STORE/runner" "$(echo "$*" | sed 's/.*--out-link \([^ ]*\) .*/\1/')" ;; esac
nix-store: cat > /dev/null
nix-env:
switch-to-configuration:
install-microvm:
systemctl:
sudo: "$@"
ssh: shift 2; sh -c "$*"
`

// remote is the place that the deploy scripts run in.
type remote struct {
	dir, log string
	scripts  map[string]string
}

const store = "/nix/store/00000000000000000000000000000000-"

func newRemote(t *testing.T) remote {
	t.Helper()
	r := remote{dir: t.TempDir(), scripts: map[string]string{}}
	r.log = filepath.Join(r.dir, "log")
	write(t, r.log, nil)
	for line := range strings.Lines(strings.TrimSpace(recorders)) {
		name, does, _ := strings.Cut(strings.TrimSpace(line), ":")
		r.program(t, "bin/"+name, "echo "+name+` "$@" >> `+r.log+"\n"+does)
	}
	for _, link := range []string{"nix/bin", "nixos-system-web/bin"} {
		mkdir(t, filepath.Dir(filepath.Join(r.dir, link)))
		if err := os.Symlink(filepath.Join(r.dir, "bin"), filepath.Join(r.dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	mkdir(t, filepath.Join(r.dir, "closure-info"))
	write(t, filepath.Join(r.dir, "closure-info/registration"), nil)
	for name, text := range golden[map[string]string](t, "scripts") {
		text = strings.ReplaceAll(text, "/var/lib/microvms", r.dir+"/microvms")
		r.scripts[name] = strings.ReplaceAll(text, store, r.dir+"/")
	}
	r.program(t, "microvm-install-on-host/bin/microvm-install-on-host", r.scripts["installOnHost"])
	r.program(t, "microvm-switch/bin/microvm-switch", r.scripts["sshSwitch"])
	return r
}

func (r remote) program(t *testing.T, path, text string) {
	t.Helper()
	path = filepath.Join(r.dir, path)
	mkdir(t, filepath.Dir(path))
	if err := os.WriteFile(path, []byte("#!/bin/bash\n"+text+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
}

// run runs a script where uname -n says hostname, and returns the calls.
func (r remote) run(t *testing.T, script, hostname string, args ...string) (calls, output string, err error) {
	t.Helper()
	r.program(t, "bin/uname", "echo "+hostname)
	cmd := exec.Command("bash", append([]string{"-c", r.scripts[script], script}, args...)...)
	cmd.Env = append(os.Environ(), "PATH="+r.dir+"/bin:"+os.Getenv("PATH"), "STORE="+r.dir)
	out, err := cmd.CombinedOutput()
	return strings.ReplaceAll(read(t, r.log), r.dir, ""), string(out), err
}

func TestDeploys(t *testing.T) {
	tests := map[string]struct {
		script, hostname string
		args             []string
		// wants are calls, in this order.
		wants []string
	}{
		"installing builds on the host and installs there": {
			"installOnHost", "web", []string{"root@host"},
			[]string{"nix --extra-experimental-features nix-command copy --no-check-sigs --derivation --to ssh-ng://root@host", "ssh root@host -- bash", "nix --extra-experimental-features nix-command build -L --no-link", "install-microvm -p /runner web"},
		},
		"installing as somebody else goes through sudo": {
			"installOnHost", "web", []string{"me@host", "--use-remote-sudo"},
			[]string{"ssh me@host -- sudo bash", "sudo bash", "install-microvm -p /runner web"},
		},
		"switching loads the closure and switches": {
			"sshSwitch", "web", []string{"root@web"},
			[]string{"ssh root@web -- bash", "nix-store --load-db", "nix-env -p /nix/var/nix/profiles/system --set /nixos-system-web", "switch-to-configuration switch"},
		},
		"rebuilding does both": {
			"rebuild", "web", []string{"root@host", "root@web", "boot"},
			[]string{"ssh root@host", "install-microvm -p /runner web", "ssh root@web", "switch-to-configuration boot"},
		},
		"rebuilding restarts a VM that cannot be switched": {
			"rebuildByRestart", "web", []string{"root@host", "root@web", "--use-remote-sudo"},
			[]string{"install-microvm -p /runner web", "ssh root@host -- sudo systemctl restart microvm@web.service", "systemctl restart microvm@web.service"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			calls, out, err := newRemote(t).run(t, tt.script, tt.hostname, tt.args...)
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			rest := calls
			for _, want := range tt.wants {
				_, after, ok := strings.Cut(rest, want)
				if !ok {
					t.Fatalf("%q was not called in its turn; the calls are\n%s\n%s", want, calls, out)
				}
				rest = after
			}
		})
	}
}

func TestDeploysThatAreRefused(t *testing.T) {
	tests := map[string]struct {
		script, hostname string
		args             []string
		says             string
	}{
		"without a host":            {"installOnHost", "web", nil, "usage: "},
		"with an argument too many": {"installOnHost", "web", []string{"root@host", "now"}, "usage: "},
		"with an unknown action":    {"sshSwitch", "web", []string{"root@web", "reboot; true"}, "usage: "},
		"to a machine by the way":   {"sshSwitch", "mail", []string{"root@mail"}, "the system is for web, but this is mail\nhint: check the address"},
		"rebuilding without the VM": {"rebuild", "web", []string{"root@host"}, "usage: "},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			calls, out, err := newRemote(t).run(t, tt.script, tt.hostname, tt.args...)
			if err == nil || !strings.Contains(out, tt.says) {
				t.Errorf("%v, and it says %q", err, out)
			}
			if strings.Contains(calls, "switch-to-configuration") || strings.Contains(calls, "install-microvm") {
				t.Errorf("something was done:\n%s", calls)
			}
		})
	}
}

// TestTapUp: the host's script runs for each tap, and the VM's own commands
// once, after the last.
func TestTapUp(t *testing.T) {
	r := newRemote(t)
	r.program(t, "microvm-tap-script", "echo host $id >> "+r.log)
	r.program(t, "bin/ip", `echo ip "$@" >> `+r.log)
	for _, id := range []string{"vm-web", "vm-ix"} {
		t.Setenv("id", id)
		if _, out, err := r.run(t, "tapUp", "server"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	want := "host vm-web\nhost vm-ix\nip link set vm-ix master peering\n"
	if calls := read(t, r.log); calls != want {
		t.Errorf("the scripts did %q, want %q", calls, want)
	}
}
