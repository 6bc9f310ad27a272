package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRootReadsNoPackageThatOthersCanChange: the package decides which process root
// stops, and which requests root sends to it.
func TestRootReadsNoPackageThatOthersCanChange(t *testing.T) {
	h := newHost(t)
	h.write(t, "web.json", "")
	if code := h.microvm("build", "web.json", "-o", "pkg"); code != 0 {
		t.Fatal(&h.stderr)
	}
	vm := filepath.Join(h.dir, "state", "web")
	for _, err := range []error{
		os.Mkdir(vm, 0o755), os.Chmod(filepath.Join(h.dir, "pkg"), 0o777),
		os.Symlink(filepath.Join(h.dir, "pkg"), filepath.Join(vm, "current")),
		os.Symlink(filepath.Join(h.dir, "pkg"), filepath.Join(vm, "booted")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, command := range []string{"shutdown", "balloon"} {
		code := h.microvm(command, "web")
		if trusts := !strings.Contains(h.stderr.String(), "is not trusted"); code == 0 || trusts != (os.Geteuid() != 0) {
			t.Errorf("%s: exit code %d: %s", command, code, &h.stderr)
		}
	}
}
