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
		if code != 1 || !strings.Contains(h.stderr.String(), "web cannot start, so it was not created: initrdPath: "+filepath.Join(h.dir, "initrd")+" is not there") {
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
