package statedir

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
)

func noReload(context.Context) error { return nil }

// moved moves the state directory, and leaves a link in its place.
func moved(t *testing.T, h Host) string {
	t.Helper()
	to := filepath.Dir(h.StateDir) + "/elsewhere"
	if err := errors.Join(os.Rename(h.StateDir, to), os.Symlink("elsewhere", h.StateDir)); err != nil {
		t.Fatal(err)
	}
	return to
}

func TestAStateDirectoryThatIsALinkOfRootsWorks(t *testing.T) {
	h, vm := installed(t)
	before, err := os.Readlink(filepath.Join(vm.Dir(), "current"))
	if err != nil {
		t.Fatal(err)
	}
	to := moved(t, h)
	if names, err := h.Names(); err != nil || len(names) != 1 {
		t.Fatalf("%v, %v", names, err)
	}
	if err := vm.SetBooted(); err != nil {
		t.Fatal(err)
	}
	p, err := vm.Booted()
	if err != nil {
		t.Fatal(err)
	}
	_ = p.Close()
	if p.Dir() != before {
		t.Errorf("booted is %s, and what was installed %s", p.Dir(), before)
	}
	// Packages that are linked by the earlier path are still in use.
	if removed, err := h.CollectGarbage(); err != nil || len(removed) > 0 {
		t.Errorf("collected %v, %v", removed, err)
	}
	if err := vm.Install(context.Background(), build(t, h, "b", strings.Replace(plain, `"/k"`, `"/k2"`, 1)), Origin{}, nil); err != nil {
		t.Fatal(err)
	}
	if err := vm.Rollback(context.Background(), noReload); err != nil {
		t.Fatal(err)
	}
	if now, err := os.Readlink(filepath.Join(vm.Dir(), "current")); err != nil || now != before {
		t.Errorf("rolled back to %s (%v), want %s", now, err, before)
	}
	if err := vm.ClearBooted(); err != nil {
		t.Fatal(err)
	}
	if err := vm.Remove(context.Background(), noReload); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(to, "web")); err == nil {
		t.Error("it is still there")
	}
	if info, err := os.Lstat(h.StateDir); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is gone: %v", err)
	}
}

func TestALinkOfSomebodyElseIsNoStateDirectory(t *testing.T) {
	h, vm := installed(t)
	moved(t, h)
	if err := os.Lchown(h.StateDir, attacker, attacker); err != nil {
		t.Fatal(err)
	}
	const want = ", not by root\nhint: move the directory itself there"
	if names, err := h.Names(); err == nil || !strings.Contains(exit.Text(err), want) {
		t.Errorf("%v, %v", names, err)
	}
	if _, err := h.VM("web"); err == nil || !strings.Contains(exit.Text(err), want) {
		t.Errorf("%v", err)
	}
	if _, err := vm.Current(); err == nil || !strings.Contains(exit.Text(err), want) {
		t.Errorf("%v", err)
	}
	if err := vm.Remove(context.Background(), noReload); err == nil || !strings.Contains(exit.Text(err), want) {
		t.Errorf("%v", err)
	}
	// Other users can write in the directory above.
	if err := errors.Join(os.Lchown(h.StateDir, 0, 0), os.Chmod(filepath.Dir(h.StateDir), 0o777)); err != nil {
		t.Fatal(err)
	}
	if _, err := h.VM("web"); err == nil || !strings.Contains(err.Error(), "non-root users can replace the link in ") {
		t.Errorf("%v", err)
	}
}

func TestADirectoryThatIsAMountIsEmptiedAndStays(t *testing.T) {
	h, vm := installed(t)
	if err := vm.Remove(context.Background(), noReload); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(vm.Dir(), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", vm.Dir(), "tmpfs", 0, "mode=755"); err != nil {
		t.Skipf("cannot mount: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(vm.Dir(), unix.MNT_DETACH) })
	if names, err := h.Names(); err != nil || len(names) != 0 || vm.Exists() {
		t.Errorf("an empty mount is a VM: %v, %v", names, err)
	}
	install := func() {
		t.Helper()
		if err := vm.Install(context.Background(), build(t, h, "a", plain), Origin{Spec: "/etc/web.json", New: true}, nil); err != nil {
			t.Fatal(err)
		}
	}
	install()
	if err := errors.Join(os.WriteFile(vm.Dir()+"/data.img", []byte("x"), 0o600), os.MkdirAll(vm.Dir()+"/a/b/c", 0o700), os.Mkdir(vm.Dir()+"/lost+found", 0o700)); err != nil {
		t.Fatal(err)
	}
	inner := vm.Dir() + "/a/b"
	if err := unix.Mount("tmpfs", inner, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	err := vm.Remove(context.Background(), noReload)
	if err == nil || !strings.Contains(exit.Text(err), "nothing was removed\nhint: run: umount "+inner) {
		t.Errorf("with a mount in it: %v", err)
	}
	if p, err := vm.Current(); err != nil {
		t.Errorf("something was removed: %v", err)
	} else {
		_ = p.Close()
	}
	if err := unix.Unmount(inner, 0); err != nil {
		t.Fatal(err)
	}
	// A removal that was killed halfway.
	if err := os.MkdirAll(vm.Dir()+"/"+tempPrefix+"removed-0123/x", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := vm.Remove(context.Background(), noReload); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(vm.Dir())
	if err != nil || len(entries) != 1 || entries[0].Name() != lostAndFound {
		t.Errorf("left: %v, %v", entries, err)
	}
	if vm.Exists() || !vm.Mounted() {
		t.Errorf("exists: %t, mounted: %t", vm.Exists(), vm.Mounted())
	}
	install()
	if err := vm.RemoveKeepingData(context.Background(), noReload); err != nil {
		t.Errorf("keeping its data: %v", err)
	}
}
