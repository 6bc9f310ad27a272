package statedir

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAFailedStartIsRecordedForEverybody(t *testing.T) {
	old := unix.Umask(0o027) // as in microvm@.service
	defer unix.Umask(old)
	vm := VM{Name: "web", Host: Host{RuntimeDir: filepath.Join(t.TempDir(), "run")}}
	if _, found, err := vm.LastAttempt(); found || err != nil {
		t.Fatalf("found one before there was any: %v", err)
	}
	for job := uint32(7); job < 9; job++ {
		want := Attempt{Job: job, Result: "exit-code", Status: "1"}
		if err := vm.WriteAttempt(want); err != nil {
			t.Fatal(err)
		}
		if got, found, err := vm.LastAttempt(); !found || err != nil || got != want {
			t.Fatalf("read %+v, %v, %v; wrote %+v", got, found, err, want)
		}
	}
	for path, want := range map[string]os.FileMode{vm.Host.RuntimeDir: 0o755, vm.attemptFile(): 0o644} {
		if info, err := os.Lstat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want mode %o", path, info.Mode(), err, want)
		}
	}
	if err := vm.forgetAttempt(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(vm.Host.RuntimeDir); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
