package statedir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// vmOfMicrovmNix creates a VM as microvm.nix does: the hypervisors' user owns all of it.
func vmOfMicrovmNix(t *testing.T) (Host, VM, string) {
	t.Helper()
	h := host(t)
	vm, err := h.VM("web")
	if err != nil {
		t.Fatal(err)
	}
	pkg := build(t, h, "a", tapped)
	script := fmt.Sprintf("mkdir -p %[1]s && cd %[1]s && ln -s %[2]s current && ln -s %[2]s booted && echo git+file:///etc/vms >flake && touch disk.img && chown -h -R nobody %[3]s", vm.Dir(), pkg, h.StateDir)
	if out, err := exec.Command("/bin/sh", "-ec", script).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return h, vm, pkg
}

func TestAVMOfMicrovmNixIsTakenOver(t *testing.T) {
	h, vm, pkg := vmOfMicrovmNix(t)
	if p, err := vm.Booted(); err != nil || p.Dir() != pkg || !vm.StartedByAnother() {
		t.Errorf("before, it runs %v (%v)", p, err)
	}
	if _, err := vm.Pinned(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a start uses a link of the hypervisors' user: %v", err)
	}
	reloads := 0
	if err := h.Relink(context.Background(), func(context.Context) error { reloads++; return nil }); err != nil {
		t.Fatal(err)
	}
	if !vm.Adopted() || vm.Created() || !vm.StartedByAnother() || reloads != 1 {
		t.Errorf("adopted %v, created %v, started by another %v, %d reloads", vm.Adopted(), vm.Created(), vm.StartedByAnother(), reloads)
	}
	for _, link := range []string{"current", "booted"} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(vm.Dir(), link), &st); err != nil || st.Uid != 0 {
			t.Errorf("%s is user %d's (%v)", link, st.Uid, err)
		}
	}
	if got := current(t, vm); got != vm.BootedTarget() && !strings.HasPrefix(got, filepath.Join(h.StateDir, storeName)) {
		t.Errorf("the next start takes %s", got)
	}
	if from, err := vm.Origin(); err != nil || from != (Origin{TakenOver: true, Claimed: "git+file:///etc/vms"}) {
		t.Errorf("it comes from %+v (%v)", from, err)
	}
	if _, err := os.Stat(filepath.Join(vm.Dir(), "disk.img")); err != nil {
		t.Error(err)
	}
	unit, err := os.ReadFile(filepath.Join(h.UnitDir, "microvm@web.service.d", "50-helpers.conf"))
	if err != nil || !strings.Contains(string(unit), "microvm-tap-interfaces@web.service") {
		t.Errorf("its unit wants %q (%v)", unit, err)
	}
	// Its next start is one of ours.
	if err := errors.Join(vm.ClearBooted(), vm.SetBooted()); err != nil || vm.StartedByAnother() {
		t.Errorf("after a start: %v", err)
	}
	// An installation with an origin makes it a VM of this program.
	if err := vm.Install(context.Background(), build(t, h, "b", plain), Origin{Spec: "/etc/web.json", New: true}, nil); err != nil || !vm.Created() {
		t.Errorf("it cannot be created: %v", err)
	}
}

func TestWhatCannotBeTakenOverStaysAsItIs(t *testing.T) {
	h, vm, pkg := vmOfMicrovmNix(t)
	if err := os.Chmod(pkg, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := h.Relink(context.Background(), nil); err == nil || !strings.Contains(err.Error(), "web: ") {
		t.Errorf("a package that others can write to: %v", err)
	}
	if vm.Adopted() || current(t, vm) != pkg {
		t.Error("it was changed")
	}
	// A link from before the boot was left by a power failure.
	if err := os.Chmod(pkg, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("touch", "-h", "-d", "2001-01-01", vm.copyOfBooted()).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := h.Relink(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	if vm.BootedTarget() != "" || vm.StartedByAnother() || exists(vm.copyOfBooted()) {
		t.Error("a VM that does not run counts as started")
	}
}

// TestWhatAnotherStartedMeanwhileIsBelieved: a host goes back to microvm.nix, which
// starts a VM again, and then returns to this program.
func TestWhatAnotherStartedMeanwhileIsBelieved(t *testing.T) {
	h, vm, before := vmOfMicrovmNix(t)
	if err := h.Relink(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	other := build(t, h, "b", plain)
	again := func(target, began string) error {
		t.Helper()
		script := fmt.Sprintf("rm -f %[1]s && ln -s %[2]s %[1]s && chown -h nobody %[1]s && touch -h -d '1 hour ago' %[3]s", vm.copyOfBooted(), target, vm.runtimeBooted())
		if out, err := exec.Command("/bin/sh", "-ec", script).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		offset, err := time.ParseDuration(began)
		if err != nil {
			t.Fatal(err)
		}
		return vm.BelieveAnother(time.Now().Add(offset))
	}
	for _, c := range []struct{ name, target, began, want string }{
		{"our own unit was the last", other, "-61m", before},
		{"our own unit has written a little before its time", other, "-3599500ms", before},
		{"it is no package of root's", "/tmp", "-1m", before},
		{"it is no absolute path", "../b", "-1m", before},
		{"another's was the last", other, "-1m", other},
	} {
		if err := again(c.target, c.began); err != nil || vm.BootedTarget() != c.want {
			t.Errorf("%s: it runs %s (%v), want %s", c.name, vm.BootedTarget(), err, c.want)
		}
	}
	// The pin is that of the current run.
	if err := vm.BelieveAnother(time.Now().Add(-time.Minute)); err != nil || vm.BootedTarget() != other || !vm.StartedByAnother() {
		t.Errorf("it runs %s (%v)", vm.BootedTarget(), err)
	}
	if err := errors.Join(vm.ClearBooted(), vm.BelieveAnother(time.Now())); err != nil || vm.BootedTarget() != "" {
		t.Errorf("what is not up runs %s (%v)", vm.BootedTarget(), err)
	}
}
