package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"microvm/internal/hypervisor"
	"microvm/test/need"
)

// TestAVMThatCannotStartIsNotCreatedToBeStarted, and leaves nothing.
func TestAVMThatCannotStartIsNotCreatedToBeStarted(t *testing.T) {
	need.Root(t) // only root creates VMs
	h := newHost(t)
	h.write(t, "web.json", `,"initrdPath":"initrd"`)
	for _, flag := range []string{"--start", "--enable"} {
		code := h.microvm("create", "web", "-s", "web.json", flag)
		if code != 1 || !strings.Contains(h.stderr.String(), "microvm: web was not created, because it could not start: initrdPath "+filepath.Join(h.dir, "initrd")+" not found\nmicrovm: hint: create the file or correct the spec") {
			t.Errorf("%s: exit code %d: %s", flag, code, &h.stderr)
		}
		if _, err := os.Lstat(filepath.Join(h.dir, "state/web")); err == nil {
			t.Errorf("%s: the VM is there", flag)
		}
	}
	s := source{absent: []hypervisor.File{{Role: "credentialFiles.key", Path: "/run/key"}}}
	if err := s.startable("web"); err != nil {
		t.Errorf("a credential that is made at boot: %v", err)
	}
}
