package statedir

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"microvm/internal/hypervisor"
	"microvm/internal/runner"
	"microvm/internal/spec"
	"microvm/test/need"
)

// attacker is the uid of a hypervisor that was broken out of.
const attacker = 12345

// host is a host below a directory of root's, with the account of this machine
// that is nobody's.
func host(t *testing.T) Host {
	t.Helper()
	need.Root(t)
	dir, err := os.MkdirTemp("/var/lib", "microvm-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return Host{StateDir: dir + "/vms", RuntimeDir: dir + "/run", UnitDir: dir + "/units", GCRoots: dir + "/none", User: "nobody", Group: "nogroup"}
}

func build(t *testing.T, h Host, name, document string) string {
	t.Helper()
	s, err := spec.Parse([]byte(document))
	if err != nil {
		t.Fatal(err)
	}
	dst := filepath.Join(filepath.Dir(h.StateDir), name)
	if _, err := runner.Build(&hypervisor.Builder{}, s, dst, runner.Options{}); err != nil {
		t.Fatal(err)
	}
	return dst
}

const plain = `{"name":"web","arch":"x86_64","kernel":"/k"}`

const tapped = `{"name":"web","arch":"x86_64","kernel":"/k","interfaces":[{"type":"tap","id":"vm-web","mac":"02:00:00:00:00:01"}]}`

func installed(t *testing.T) (Host, VM) {
	t.Helper()
	h := host(t)
	vm, err := h.VM("web")
	if err != nil {
		t.Fatal(err)
	}
	if err := vm.Install(context.Background(), build(t, h, "a", plain), Origin{Spec: "/etc/web.json"}, nil); err != nil {
		t.Fatal(err)
	}
	return h, vm
}

// as runs a script as the attacker, in the VM's group.
func as(t *testing.T, dir, script string) error {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", script)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: attacker, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return errors.New(strings.TrimSpace(string(out)))
	}
	return nil
}

func TestInstallMakesAStickyDirectoryOfRootsAndKeepsThePackage(t *testing.T) {
	h, vm := installed(t)
	info, err := os.Stat(vm.Dir())
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode(); got.Perm() != 0o775 || got&os.ModeSticky == 0 {
		t.Errorf("mode is %v", got)
	}
	target, err := os.Readlink(filepath.Join(vm.Dir(), "current"))
	if err != nil || !strings.HasPrefix(target, filepath.Join(h.StateDir, storeName)) {
		t.Errorf("current is %s (%v)", target, err)
	}
	if got, err := os.ReadFile(filepath.Join(vm.Dir(), "spec")); err != nil || string(got) != "/etc/web.json\n" {
		t.Errorf("spec is %q (%v)", got, err)
	}
}

func TestPathsMayBeRelative(t *testing.T) {
	h := host(t)
	vm, err := h.VM("web")
	if err != nil {
		t.Fatal(err)
	}
	pkg := build(t, h, "a", plain)
	t.Chdir(filepath.Dir(pkg))
	if err := vm.Install(context.Background(), "./no-such", Origin{}, nil); err == nil || !strings.Contains(err.Error(), "no-such: no such file or directory; name a runner package") {
		t.Errorf("a package that is not there: %v", err)
	}
	if err := vm.Install(context.Background(), "./a", Origin{Spec: "web.json"}, nil); err != nil {
		t.Fatal(err)
	}
	if from, err := vm.Origin(); err != nil || from.Spec != filepath.Join(filepath.Dir(pkg), "web.json") {
		t.Errorf("%+v, %v", from, err)
	}
}

func TestTheLastOriginIsTheOnlyOne(t *testing.T) {
	_, vm := installed(t)
	pkg, err := os.Readlink(filepath.Join(vm.Dir(), "current"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []Origin{{Toplevel: "/nix/store/system"}, {Flake: "git+file:///x"}, {Toplevel: "/nix/store/other"}, {Spec: "/etc/web.json"}} {
		if err := vm.Install(context.Background(), pkg, want, nil); err != nil {
			t.Fatal(err)
		}
		if got, err := vm.Origin(); err != nil || got != want {
			t.Errorf("the origin is %+v (%v), want %+v", got, err, want)
		}
	}
	// Without an origin the one that is there stays.
	if err := vm.Install(context.Background(), pkg, Origin{}, nil); err != nil {
		t.Fatal(err)
	}
	if got, err := vm.Origin(); err != nil || got.Spec == "" {
		t.Errorf("the origin is %+v (%v)", got, err)
	}
}

func TestInstallLinksTheHelpersAndKeepsTheFormerPackage(t *testing.T) {
	h, vm := installed(t)
	before, err := os.Readlink(filepath.Join(vm.Dir(), "current"))
	if err != nil {
		t.Fatal(err)
	}
	reloads := 0
	reload := func(context.Context) error { reloads++; return nil }
	next := build(t, h, "b", tapped)
	for range 2 {
		if err := vm.Install(context.Background(), next, Origin{Flake: "git+file:///x"}, reload); err != nil {
			t.Fatal(err)
		}
	}
	if reloads != 1 {
		t.Errorf("systemd was told %d times, want once", reloads)
	}
	const dropIn = "# Made by install-microvm: the helpers that this VM needs.\n[Unit]\n" +
		"Wants=microvm-tap-interfaces@web.service\nPartOf=microvm-tap-interfaces@web.service\n"
	if text, err := os.ReadFile(h.UnitDir + "/microvm@web.service.d/50-helpers.conf"); err != nil || string(text) != dropIn {
		t.Errorf("the drop-in is %q (%v)", text, err)
	}
	if old, err := os.Readlink(filepath.Join(vm.Dir(), "old")); err != nil || old != before {
		t.Errorf("old is %s (%v), want %s", old, err, before)
	}
	if _, err := os.Stat(filepath.Join(vm.Dir(), "spec")); err == nil {
		t.Error("the former origin is still recorded")
	}
	if err := vm.Install(context.Background(), build(t, h, "a", plain), Origin{}, reload); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(h.UnitDir + "/*.requires"); len(left) != 0 {
		t.Errorf("unit links are left: %v", left)
	}
}

func TestGarbageIsWhatNoLinkLeadsTo(t *testing.T) {
	h, vm := installed(t)
	for _, document := range []string{tapped, `{"name":"web","arch":"x86_64","kernel":"/k","mem":300}`} {
		if err := vm.Install(context.Background(), build(t, h, "n", document), Origin{}, nil); err != nil {
			t.Fatal(err)
		}
	}
	removed, err := h.CollectGarbage()
	if err != nil || len(removed) != 1 {
		t.Fatalf("removed %v (%v), want one package", removed, err)
	}
	if err := vm.SetBooted(); err != nil {
		t.Error(err)
	}
}

func TestABrokenOutHypervisorCannotPointRootElsewhere(t *testing.T) {
	_, vm := installed(t)
	for name, attack := range map[string]string{
		"replaces current":          "ln -sfn /tmp current",
		"removes current":           "rm -f current",
		"renames over current":      "ln -s /tmp x && mv -T x current",
		"writes into the package":   "echo x > current/share/microvm/runner.json",
		"writes into the store":     "touch ../.store/x",
		"makes a VM of its own":     "mkdir ../mine",
		"moves the state directory": "mv ../web ../web2",
	} {
		t.Run(name, func(t *testing.T) {
			before, err := os.Readlink(filepath.Join(vm.Dir(), "current"))
			if err != nil {
				t.Fatal(err)
			}
			if err := as(t, vm.Dir(), attack); err == nil {
				t.Error("it could")
			}
			if after, err := os.Readlink(filepath.Join(vm.Dir(), "current")); err != nil || after != before {
				t.Errorf("current is %s (%v)", after, err)
			}
		})
	}
	if err := as(t, vm.Dir(), "ln -s /tmp booted"); err != nil {
		t.Fatal(err)
	}
	if _, err := vm.Booted(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a link of the attacker's was followed: %v", err)
	}
	// Root's own pin replaces it.
	if err := vm.SetBooted(); err != nil {
		t.Fatal(err)
	}
	p, err := vm.Booted()
	if err != nil {
		t.Fatal(err)
	}
	_ = p.Close()
}

func TestADirectoryFromMicrovmNixIsTakenOver(t *testing.T) {
	h := host(t)
	vm, err := h.VM("web")
	if err != nil {
		t.Fatal(err)
	}
	pkg := build(t, h, "a", plain)
	if err := os.MkdirAll(vm.Dir(), 0o775); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"current", "booted"} {
		if err := os.Symlink("/tmp", filepath.Join(vm.Dir(), name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(vm.Dir(), "data.img"), []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("chown", "-hR", "12345:65534", h.StateDir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := vm.Install(context.Background(), pkg, Origin{}, nil); err != nil {
		t.Fatal(err)
	}
	p, err := vm.Current()
	if err != nil {
		t.Fatal(err)
	}
	_ = p.Close()
	if _, err := os.Lstat(filepath.Join(vm.Dir(), "booted")); err == nil {
		t.Error("a pin that was not root's is still there")
	}
	if data, err := os.ReadFile(filepath.Join(vm.Dir(), "data.img")); err != nil || string(data) != "data" {
		t.Errorf("the volume is %q (%v)", data, err)
	}
}

func TestPackagesThatOthersCanChangeAreRefused(t *testing.T) {
	h := host(t)
	vm, err := h.VM("web")
	if err != nil {
		t.Fatal(err)
	}
	pkg := build(t, h, "a", plain)
	for name, harm := range map[string]string{
		"a package of another user":             "chown 12345 " + pkg,
		"a package that others can write to":    "chmod 777 " + pkg,
		"a plan of another user":                "chown 12345 " + pkg + "/share/microvm/runner.json",
		"a directory in it that others own":     "chown 12345 " + pkg + "/share",
		"a directory above that others own":     "chown 12345 " + filepath.Dir(pkg),
		"a directory above that others write":   "chmod 777 " + filepath.Dir(pkg),
		"a plan that is a link out of the tree": "cd " + pkg + "/share/microvm && cp runner.json /run/x.json && ln -sfn /run/x.json runner.json",
	} {
		t.Run(name, func(t *testing.T) {
			out, err := exec.Command("/bin/sh", "-c", "rm -rf /run/save && cp -a "+pkg+" /run/save && "+harm).CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			err = vm.Install(context.Background(), pkg, Origin{}, nil)
			if err == nil {
				t.Error("it was installed")
			}
			if vm.Exists() {
				t.Error("a directory was left behind")
			}
			out, err = exec.Command("/bin/sh", "-c", "chown root "+filepath.Dir(pkg)+" && chmod 755 "+filepath.Dir(pkg)+" && rm -rf "+pkg+" && mv /run/save "+pkg+" && rm -f /run/x.json").CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		})
	}
}

func TestRecordsGoWithTheirDirectory(t *testing.T) {
	h := host(t)
	vm, err := h.VM("web")
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]int
	if found, err := vm.ReadRecord("a", &got); found || err != nil {
		t.Errorf("%v, %v", found, err)
	}
	if err := errors.Join(vm.WriteRecord("a", map[string]int{"x": 1}), vm.WriteRecord("b", 2)); err != nil {
		t.Fatal(err)
	}
	if found, err := vm.ReadRecord("a", &got); !found || err != nil || got["x"] != 1 {
		t.Errorf("%v, %v, %v", found, err, got)
	}
	if err := errors.Join(vm.RemoveRecord("a"), vm.RemoveRecord("b"), vm.RemoveRecord("b")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(vm.RuntimeDir()); err == nil {
		t.Error("the directory is still there")
	}
}

// TestARecordIsKeptWhileAnotherGoes is a start on the heels of a stop: systemctl
// stop does not wait for the helpers.
func TestARecordIsKeptWhileAnotherGoes(t *testing.T) {
	h := host(t)
	vm, err := h.VM("web")
	if err != nil {
		t.Fatal(err)
	}
	end := make(chan error)
	go func() {
		var err error
		for began := time.Now(); time.Since(began) < 2*time.Second; {
			err = errors.Join(err, vm.WriteRecord("b", 2), vm.RemoveRecord("b"))
		}
		end <- err
	}()
	for {
		if err := errors.Join(vm.WriteRecord("a", 1), vm.RemoveRecord("a")); err != nil {
			t.Error(err)
		}
		select {
		case err := <-end:
			if err != nil {
				t.Error(err)
			}
			return
		default:
		}
	}
}

func TestWhatAKilledHelperLeftGoesWithWhatItMade(t *testing.T) {
	_, vm := installed(t)
	if err := errors.Join(vm.WriteRecord("a", 1), vm.SetBooted()); err != nil {
		t.Fatal(err)
	}
	mine, other := tempName(vm.RuntimeDir()+"/a.json"), tempName(vm.RuntimeDir()+"/b.json")
	booted, copied := tempName(vm.runtimeBooted()), tempName(vm.copyOfBooted())
	if err := errors.Join(os.WriteFile(mine, nil, 0o600), os.WriteFile(other, nil, 0o600), os.Symlink("/nowhere", booted), os.Symlink("/nowhere", copied)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(vm.RemoveRecord("a"), vm.ClearBooted()); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{mine, booted, copied, vm.runtimeBooted(), vm.copyOfBooted()} {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s is still there", path)
		}
	}
	// Another helper may write it just now.
	if _, err := os.Lstat(other); err != nil {
		t.Errorf("what is not this helper's is gone: %v", err)
	}
	if err := vm.RemoveRecord("b"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(vm.RuntimeDir()); err == nil {
		t.Error("the directory is still there")
	}
}
