package nix

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"microvm/test/need"
)

// TestTheScriptOfVolumesMakesThem: what lib/volumes.nix gives a runner of one's own,
// run twice, as at two starts.
func TestTheScriptOfVolumesMakesThem(t *testing.T) {
	for _, program := range []string{"bash", "mkfs.ext2", "mkfs.ext4"} {
		need.Program(t, program)
	}
	functions := golden[map[string]any](t, "functions")
	script, _ := functions["volumes"].(string)
	if none, ok := functions["noVolumes"].(string); !ok || none != "" {
		t.Errorf("without volumes it is %q", none)
	}
	dir := t.TempDir()
	run := func() {
		t.Helper()
		cmd := exec.Command("bash", "-euo", "pipefail", "-c", script)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s\n%s", err, out, script)
		}
	}
	// What a crash left is not an image.
	if err := os.WriteFile(filepath.Join(dir, "small.img.new"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	run()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("it made %v (%v)", entries, err)
	}
	image := filepath.Join(dir, "data 1.img")
	data, err := os.ReadFile(image)
	// The label is 16 bytes at 120 of the superblock at 1024, Documentation/filesystems/ext4.
	if err != nil || len(data) != 8<<20 || strings.TrimRight(string(data[1024+120:1024+136]), "\x00") != "it's data" {
		t.Errorf("the image has %d bytes and not its label (%v)", len(data), err)
	}
	if err := os.WriteFile(image, []byte("used"), 0o600); err != nil {
		t.Fatal(err)
	}
	run()
	if data, err := os.ReadFile(image); err != nil || string(data) != "used" {
		t.Errorf("an existing image was created again (%v)", err)
	}
}
