package cli

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"microvm/internal/vm"
)

func TestBuildSaysWhatItChose(t *testing.T) {
	h := newHost(t)
	h.write(t, "web.json", `,"vsock":{"cid":7},"mem":2048`)
	if code := h.microvm("build", "web.json", "-o", "web"); code != 0 {
		t.Fatalf("exit code %d: %s", code, &h.stderr)
	}
	for _, want := range []string{"built web", "guest (vsock.cid is set", "shut down by: ctrl-alt-del ("} {
		if !strings.Contains(h.stdout.String(), want) {
			t.Errorf("printed %q, without %q", &h.stdout, want)
		}
	}
	if !strings.Contains(h.stderr.String(), "warning: mem: QEMU may hang with exactly 2048 MiB") {
		t.Errorf("no warning of 2048 MiB: %q", &h.stderr)
	}
}

// TestAFileThatIsNotThereIsNamedAndNotPartOfThePackage: another host may have it.
func TestAFileThatIsNotThereIsNamedAndNotPartOfThePackage(t *testing.T) {
	h := newHost(t)
	h.write(t, "web.json", `,"initrdPath":"initrd"`)
	packages := map[string]string{}
	for _, there := range []string{"none", "all"} {
		if there == "all" {
			h.write(t, "initrd", "")
		}
		if code := h.microvm("build", "web.json", "-o", "web"); code != 0 {
			t.Fatalf("exit code %d: %s", code, &h.stderr)
		}
		warned := strings.Contains(h.stderr.String(), "microvm: warning: initrdPath "+filepath.Join(h.dir, "initrd")+" not found on this host\n")
		if warned != (there == "none") || strings.Contains(h.stderr.String(), "warning: kernel") {
			t.Errorf("with %s there: %q", there, &h.stderr)
		}
		plan, ok := vm.PlanAt("web")
		if !ok {
			t.Fatal("no package")
		}
		text, err := json.Marshal(plan)
		if err != nil {
			t.Fatal(err)
		}
		packages[there] = string(text)
	}
	if packages["none"] != packages["all"] {
		t.Errorf("the package depends on the host that it was built on:\n%s\n%s", packages["none"], packages["all"])
	}
}
