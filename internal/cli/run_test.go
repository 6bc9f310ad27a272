package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"microvm/test/need"
)

func TestRunNamesWhatIsMissing(t *testing.T) {
	need.Program(t, "qemu-system-x86_64") // its absence would be named first
	h := newHost(t)
	h.write(t, "web.json", `,"interfaces":[{"type":"tap","id":"vm-no-such-tap","mac":"02:00:00:00:00:01"}],
		"shares":[{"tag":"home","source":"home","proto":"virtiofs"}]`)
	if code := h.microvm("build", "web.json", "-o", "web"); code != 0 {
		t.Fatal(&h.stderr)
	}
	if code := h.microvm("run", "web"); code != 1 {
		t.Errorf("exit code %d", code)
	}
	for _, want := range []string{
		"microvm: tap interface \"vm-no-such-tap\" not found\nmicrovm: hint: create it with: sudo web/bin/tap-up",
		"microvm: socket web-virtiofs-home.sock of share \"home\" not found\nmicrovm: hint: serve it in another terminal with: sudo web/bin/virtiofsd-run",
	} {
		if !strings.Contains(h.stderr.String(), want) {
			t.Errorf("printed %q, without %q", &h.stderr, want)
		}
	}
	for _, script := range []string{"tap-up", "tap-down", "virtiofsd-run", "microvm-run"} {
		if info, err := os.Stat(filepath.Join("web/bin", script)); err != nil || info.Mode()&0o111 != 0o111 {
			t.Errorf("bin/%s cannot be run: %v", script, err)
		}
		if out, err := exec.Command("/bin/sh", "-n", filepath.Join("web/bin", script)).CombinedOutput(); err != nil {
			t.Errorf("bin/%s: %v: %s", script, err, out)
		}
	}
}
