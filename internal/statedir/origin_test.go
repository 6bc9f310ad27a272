package statedir

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"microvm/internal/runner"
)

// plant creates a file that root owns in the VM's directory, as a guest and its
// hypervisor can do together: the guest's root writes into a share, and the hypervisor
// moves the file to a name that is free.
func plant(t *testing.T, vm VM, name string, write func(path string) error) {
	t.Helper()
	if err := as(t, vm.Dir(), "mkdir -p home && chmod 777 home"); err != nil {
		t.Fatal(err)
	}
	if err := write(filepath.Join(vm.Dir(), "home/x")); err != nil {
		t.Fatal(err)
	}
	if err := as(t, vm.Dir(), "mv -T home/x "+name); err != nil {
		t.Fatalf("a hypervisor cannot do that any more: %v", err)
	}
}

func text(text string) func(string) error {
	return func(path string) error { return os.WriteFile(path, []byte(text), 0o644) }
}

func link(target string) func(string) error {
	return func(path string) error { return os.Symlink(target, path) }
}

func TestWhatAGuestsRootWroteIsNotRootsWord(t *testing.T) {
	for _, from := range []Origin{{}, {Spec: "/etc/web.json"}, {Flake: "git+file:///x"}, {Toplevel: "/nix/store/system"}} {
		h, vm := installed(t)
		if err := vm.Remove(context.Background(), reloads(new(int))); err != nil {
			t.Fatal(err)
		}
		if err := vm.Install(context.Background(), build(t, h, "a", plain), from, nil); err != nil {
			t.Fatal(err)
		}
		evil := build(t, h, "evil", tapped)
		for name, write := range map[string]func(string) error{
			"spec": text(vm.Dir() + "/home/evil.json\n"), "flake": text("git+https://evil.example.org\n"), "toplevel": link("/var"), "old": link(evil),
		} {
			if !exists(filepath.Join(vm.Dir(), name)) {
				plant(t, vm, name, write)
			}
		}
		if got, err := vm.Origin(); err != nil || got != from {
			t.Errorf("the origin is %+v (%v), want %+v", got, err, from)
		}
		if err := vm.Rollback(context.Background(), reloads(new(int))); !errors.Is(err, ErrNoOld) {
			t.Errorf("a rollback to what was planted: %v", err)
		}
		if _, err := os.Lstat(filepath.Join(vm.Dir(), "current")); err != nil {
			t.Error(err)
		}
		if err := vm.Install(context.Background(), evil, Origin{}, nil); err != nil {
			t.Fatal(err)
		}
		if got, err := vm.Origin(); err != nil || got != from {
			t.Errorf("after an update the origin is %+v (%v), want %+v", got, err, from)
		}
	}
}

func TestNothingInADirectoryOfMicrovmNixIsBelieved(t *testing.T) {
	h := host(t)
	vm, err := h.VM("web")
	if err != nil {
		t.Fatal(err)
	}
	good, evil := build(t, h, "a", plain), build(t, h, "evil", tapped)
	if err := errors.Join(os.MkdirAll(vm.Dir(), 0o755), os.Chmod(vm.Dir(), 0o777)); err != nil {
		t.Fatal(err)
	}
	plant(t, vm, "flake", text("git+https://evil.example.org"))
	plant(t, vm, "current", link(evil))
	plant(t, vm, "old", link(evil))
	if from, err := vm.Origin(); err != nil || from != (Origin{}) || vm.Adopted() {
		t.Errorf("before it is taken over: %+v (%v), adopted: %v", from, err, vm.Adopted())
	}
	if err := vm.Install(context.Background(), good, Origin{Flake: "git+file:///x", New: true}, nil); err != nil {
		t.Fatal(err)
	}
	if from, err := vm.Origin(); err != nil || from != (Origin{Flake: "git+file:///x"}) || !vm.Adopted() {
		t.Errorf("after it was taken over: %+v (%v), adopted: %v", from, err, vm.Adopted())
	}
	if err := vm.Rollback(context.Background(), reloads(new(int))); !errors.Is(err, ErrNoOld) {
		t.Errorf("a rollback: %v", err)
	}
}

func TestARecordThatOthersCouldHaveMadeIsRefused(t *testing.T) {
	h, vm := installed(t)
	refused := func(err error) bool {
		return errors.As(err, new(*runner.UntrustedError)) || err != nil && strings.Contains(err.Error(), "so "+h.StateDir+"/"+originName+" may have been planted")
	}
	for _, dir := range []string{h.StateDir, filepath.Join(h.StateDir, originName), vm.recordDir()} {
		if err := os.Chown(dir, attacker, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := vm.Origin(); !refused(err) {
			t.Errorf("%s of another user: %v", dir, err)
		}
		if err := vm.Rollback(context.Background(), nil); !refused(err) {
			t.Errorf("rollback with %s of another user: %v", dir, err)
		}
		if err := vm.Install(context.Background(), build(t, h, filepath.Base(dir)+"2", tapped), Origin{}, nil); !refused(err) {
			t.Errorf("install with %s of another user: %v", dir, err)
		}
		if err := os.Chown(dir, 0, 0); err != nil {
			t.Fatal(err)
		}
	}
}

func TestASpecThatGuestsCanWriteIsRefused(t *testing.T) {
	h, vm := installed(t)
	dir := filepath.Dir(h.StateDir)
	inside := filepath.Join(vm.Dir(), "home/web.json")
	if err := errors.Join(os.Mkdir(filepath.Dir(inside), 0o755), os.WriteFile(inside, nil, 0o600), os.Symlink(inside, dir+"/link.json")); err != nil {
		t.Fatal(err)
	}
	for path, refused := range map[string]bool{
		inside: true, dir + "/link.json": true, vm.Dir() + "/no-such": true, dir + "/vms/../vms/web/home/web.json": true,
		dir + "/vms.json": false, "/etc/web.json": false,
	} {
		err := vm.Install(context.Background(), build(t, h, fmt.Sprintf("p%d", len(path)), plain), Origin{Spec: path}, nil)
		if refused != (err != nil && strings.Contains(err.Error(), "where guests write")) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestAVMWhoseDirectoryWasRemovedByHandIsForgotten(t *testing.T) {
	h, vm := installed(t)
	if err := vm.Install(context.Background(), build(t, h, "b", tapped), Origin{}, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(vm.Dir()); err != nil {
		t.Fatal(err)
	}
	if err := vm.Install(context.Background(), build(t, h, "c", plain), Origin{New: true}, nil); err != nil {
		t.Fatal(err)
	}
	if from, err := vm.Origin(); err != nil || from != (Origin{}) {
		t.Errorf("the origin is %+v (%v)", from, err)
	}
	if err := vm.Rollback(context.Background(), nil); !errors.Is(err, ErrNoOld) {
		t.Errorf("a rollback: %v", err)
	}
}
