package rules

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestAGoThatCannotFetchANewerOneIsNamed at once, by make and by .ci/run.
func TestAGoThatCannotFetchANewerOneIsNamed(t *testing.T) {
	for version, good := range map[string]bool{
		"go1.19.8": false, "go1.20": false, "go1.21": true, "go1.21rc2": true, "go1.24.4": true, "go1.25.0": true, "go2.0": true,
	} {
		fake := filepath.Join(t.TempDir(), "go")
		if err := os.WriteFile(fake, []byte("#!/bin/sh\necho "+version+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("/bin/sh", "../scripts/go-version", fake).CombinedOutput()
		if (err == nil) != good {
			t.Errorf("%s: %v: %s", version, err, out)
		}
		if !good && !(strings.Contains(string(out), version+" is too old") && strings.Contains(string(out), "\nhint: ")) {
			t.Errorf("%s: it says %q", version, out)
		}
	}
	if out, err := exec.Command("/bin/sh", "../scripts/go-version", "/nonexistent/go").CombinedOutput(); err == nil || !strings.Contains(string(out), "go not found\nhint: ") {
		t.Errorf("without a Go: %v: %s", err, out)
	}
}
