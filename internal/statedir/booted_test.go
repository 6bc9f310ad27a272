package statedir

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// current returns the package that the VM's next start uses.
func current(t *testing.T, vm VM) string {
	t.Helper()
	target, err := os.Readlink(filepath.Join(vm.Dir(), "current"))
	if err != nil {
		t.Fatal(err)
	}
	return target
}

func TestWhatIsPinnedStaysUntilItIsCleared(t *testing.T) {
	h, vm := installed(t)
	if _, err := vm.Booted(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a VM that was not started: %v", err)
	}
	if err := vm.SetBooted(); err != nil {
		t.Fatal(err)
	}
	before := current(t, vm)
	if err := vm.Install(context.Background(), build(t, h, "b", tapped), Origin{}, nil); err != nil {
		t.Fatal(err)
	}
	if got := vm.BootedTarget(); got != before || got == current(t, vm) {
		t.Errorf("an installation changed what is pinned from %s to %s", before, got)
	}
	// The copy, for a host that goes back to microvm.nix.
	if got, err := os.Readlink(vm.copyOfBooted()); err != nil || got != before {
		t.Errorf("the copy leads to %s (%v)", got, err)
	}
	if kept, err := h.CollectGarbage(); err != nil || len(kept) != 0 {
		t.Errorf("a package in use was collected: %v (%v)", kept, err)
	}
	if err := vm.ClearBooted(); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{vm.RuntimeDir(), vm.copyOfBooted()} {
		if exists(path) {
			t.Errorf("%s is still there", path)
		}
	}
}

// TestAVMOfAnEarlierVersion: the link is only in the VM's directory. The VM is stopped
// according to it, but no start uses it.
func TestAVMOfAnEarlierVersion(t *testing.T) {
	h, vm := installed(t)
	first := current(t, vm)
	if err := os.Symlink(first, vm.copyOfBooted()); err != nil {
		t.Fatal(err)
	}
	if err := vm.Install(context.Background(), build(t, h, "b", tapped), Origin{}, nil); err != nil {
		t.Fatal(err)
	}
	p, err := vm.Booted()
	if err != nil || p.Dir() != first {
		t.Fatalf("it was started with %s: %v", first, err)
	}
	_ = p.Close()
	if err := vm.SetBooted(); err != nil {
		t.Fatal(err)
	}
	if got := vm.BootedTarget(); got != current(t, vm) {
		t.Errorf("the next start takes %s", got)
	}
}

func TestALinkOfBeforeTheBootIsNone(t *testing.T) {
	_, vm := installed(t)
	if err := os.Symlink(current(t, vm), vm.copyOfBooted()); err != nil {
		t.Fatal(err)
	}
	old := unix.NsecToTimespec(upSince().Add(-time.Second).UnixNano())
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, vm.copyOfBooted(), []unix.Timespec{old, old}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		t.Fatal(err)
	}
	if got := vm.BootedTarget(); got != "" {
		t.Errorf("a link of before the host lost its power leads to %s", got)
	}
}

func TestRelinkingMendsWhatAnEarlierVersionMade(t *testing.T) {
	h, vm := installed(t)
	told := 0
	if err := vm.Install(context.Background(), build(t, h, "b", tapped), Origin{}, reloads(&told)); err != nil {
		t.Fatal(err)
	}
	dropIn := h.UnitDir + "/microvm@web.service.d/50-helpers.conf"
	links := h.UnitDir + "/microvm@web.service.requires"
	err := errors.Join(os.Remove(dropIn), os.Mkdir(links, 0o755),
		os.Symlink("../microvm-tap-interfaces@.service", links+"/microvm-tap-interfaces@web.service"),
		os.Symlink("../own.service", links+"/own.service"))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := h.Relink(context.Background(), reloads(&told)); err != nil {
			t.Fatal(err)
		}
	}
	if !exists(dropIn) || exists(links+"/microvm-tap-interfaces@web.service") || !exists(links+"/own.service") {
		t.Error("the units were not relinked")
	}
	if told != 2 {
		t.Errorf("systemd was reloaded %d times, want 2", told)
	}
}

func TestAnInstallationKeepsTheHelpersOfARunningVM(t *testing.T) {
	h, vm := installed(t)
	dropIn := h.UnitDir + "/microvm@web.service.d/50-helpers.conf"
	install := func(name, document string) string {
		t.Helper()
		if err := vm.Install(context.Background(), build(t, h, name, document), Origin{}, nil); err != nil {
			t.Fatal(err)
		}
		text, _ := os.ReadFile(dropIn)
		return string(text)
	}
	before := install("b", tapped)
	if err := vm.SetBooted(); err != nil {
		t.Fatal(err)
	}
	if got := install("c", plain); got != before {
		t.Errorf("the tap's helper is not wanted any more: %q", got)
	}
	if err := vm.ClearBooted(); err != nil {
		t.Fatal(err)
	}
	if got := install("c", plain); got != "" {
		t.Errorf("a helper is wanted that nothing needs: %q", got)
	}
}
