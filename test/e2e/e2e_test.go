// Package e2e tests the whole: real systemd, real kernel, real hypervisor. Its
// test binary runs as root inside a test host; see test/host.
package e2e

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// host is container, vm, or empty outside of a test host.
var host = os.Getenv("MICROVM_TEST_HOST")

func TestMain(m *testing.M) {
	if host == "vm" {
		if err := patientUnits(); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// rounds is how often a test does something that goes wrong rarely: make soak has
// more patience than make test.
func rounds(test, soak int) int {
	if os.Getenv("MICROVM_TEST_SOAK") != "" {
		return soak
	}
	return test
}

// sh runs a script and returns its output; it fails the test on a bad exit.
func sh(t testing.TB, script string) string {
	t.Helper()
	out, err := try(script)
	if err != nil {
		t.Fatalf("%s\n%v\n%s", script, err, out)
	}
	return out
}

// absence are commands for scripts that say what is not there. Each looks at what
// there is: a tool that fails says nothing of what it was asked for.
const absence = `
no_link() { # NAME: there is no such interface
  local all; all=$(ip -oneline link show)
  [[ $all != *": $1"[:@]* ]] || { echo "interface $1 is there"; return 1; }
}
no_process() { # ARGUMENTS OF PGREP: no process matches
  local found code=0; found=$(pgrep -a "$@") || code=$?
  [[ $code = 1 && -z $found ]] || { echo "pgrep $*: code $code: $found"; return 1; }
}
is_down() { # UNIT: it is not active, and not on its way there
  local state; state=$(systemctl show -P ActiveState "$1")
  [[ $state = inactive || $state = failed ]] || { echo "$1 is $state"; return 1; }
}
`

// try runs a script and returns its output, standard error included.
func try(script string) (string, error) {
	out, err := exec.Command("/bin/bash", "-euo", "pipefail", "-c", absence+script).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// patience is how long at least a test waits for what has to happen: the machine
// may be busy with something else, and in the VM host is emulated as well. It
// costs nothing where that happens soon.
var patience = map[string]time.Duration{"container": 5 * time.Minute, "vm": 15 * time.Minute}[host]

// patientUnits gives the VMs of the VM host, whose processors are emulated twice,
// as much time as a test has patience.
func patientUnits() error {
	const dir = "/run/systemd/system/microvm@.service.d"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	text := "[Service]\nTimeoutStartSec=900\nTimeoutStopSec=600\n"
	if err := os.WriteFile(dir+"/00-patience.conf", []byte(text), 0o644); err != nil {
		return err
	}
	return exec.Command("systemctl", "daemon-reload").Run()
}

// eventually waits until a script succeeds, for limit or, where that is longer,
// for patience.
func eventually(t testing.TB, limit time.Duration, script string) {
	t.Helper()
	limit = max(limit, patience)
	var out string
	var err error
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if out, err = try(script); err == nil {
			return
		}
	}
	t.Fatalf("still failing after %s: %s\n%v\n%s", limit, script, err, out)
}

// in skips a test in other hosts than the one that shows best, and soonest,
// what it is about. test/scripts/skips sees to it that it passes in one.
func in(t *testing.T, want string) {
	t.Helper()
	if host != want {
		t.Skipf("this is shown in the %s host", want)
	}
}

func TestSystemdRunsHere(t *testing.T) {
	if host == "" {
		t.Skip("this is shown in the test hosts; run make test-container or make test-vm")
	}
	if got := sh(t, "ps -o comm= 1"); got != "systemd" {
		t.Fatalf("process 1 is %q", got)
	}
	for _, path := range []string{"/usr/lib/microvm-test/vmlinuz", "/usr/lib/microvm-test/initrd", "/dev/net/tun"} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
}
