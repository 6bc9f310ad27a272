package statedir

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"microvm/internal/hypervisor"
)

const jailed = `{"name":"web","arch":"x86_64","kernel":"/k","initrdPath":"/i","hypervisor":"firecracker","firecracker":{"jailer":true}}`

func TestAJailedVMHasItsDropInsAsLongAsItWantsThem(t *testing.T) {
	h, vm := installed(t)
	dir := h.UnitDir + "/microvm@web.service.d"
	reloads := 0
	reload := func(context.Context) error { reloads++; return nil }
	in, out := build(t, h, "jailed", jailed), build(t, h, "plain", plain)
	install := func(path string) {
		t.Helper()
		if err := vm.Install(context.Background(), path, Origin{}, reload); err != nil {
			t.Fatal(err)
		}
	}
	there := func(when string, want bool) {
		t.Helper()
		for _, name := range []string{"50-jail.conf", "zz-jail-root.conf"} {
			text, err := os.ReadFile(filepath.Join(dir, name))
			if (err == nil) != want {
				t.Errorf("%s: %s: %v", when, name, err)
			}
			if want && !strings.Contains(string(text), "\n[Service]\n") {
				t.Errorf("%s: %s is\n%s", when, name, text)
			}
		}
	}
	there("a VM that wants none", false)
	install(in)
	install(in)
	there("installed twice", true)
	if reloads != 1 {
		t.Errorf("systemd was told %d times, want once", reloads)
	}
	install(out)
	there("the option is gone", false)
	if err := vm.Rollback(context.Background(), reload); err != nil {
		t.Fatal(err)
	}
	there("rolled back", true)
	if err := vm.Remove(context.Background(), reload); err != nil {
		t.Fatal(err)
	}
	there("removed", false)
	if _, err := os.Stat(dir); err == nil {
		t.Error("the directory of drop-ins is left")
	}
}

// jailOf are the lines of the drop-in for the root of a plan's jail.
func jailOf(t *testing.T, vm VM, jail *hypervisor.Jail) (root, devices string, err error) {
	t.Helper()
	texts, err := vm.dropIns(&hypervisor.Plan{Arch: "x86_64", Jail: jail})
	dir := "microvm@" + vm.Name + ".service.d/"
	return texts[dir+"zz-jail-root.conf"], texts[dir+"50-jail.conf"], err
}

func TestAJailHoldsFilesThatOnlyRootCanReplace(t *testing.T) {
	h, vm := installed(t)
	dir := filepath.Dir(h.StateDir)
	for _, script := range []string{"mkdir safe theirs shared && echo x | tee safe/image theirs/image shared/image", "chown nobody theirs safe/image && chmod 1777 shared",
		"ln -s ../theirs/image safe/to-theirs && ln -s ../safe/image safe/to-safe && ln -s loop safe/loop && ln -s " + dir + "/safe/dir safe/to-dir && mkdir safe/dir"} {
		if err := asRoot(dir, script); err != nil {
			t.Fatal(err)
		}
	}
	good := []string{dir + "/safe/image", dir + "/safe/to-safe", dir + "/safe/not-yet", "/dev/null"}
	root, devices, err := jailOf(t, vm, &hypervisor.Jail{ReadOnly: good, Writable: []string{vm.Dir() + "/own.img", dir + "/safe/rw"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range good {
		if !strings.Contains(root, "\nBindReadOnlyPaths=-"+path+"\n") {
			t.Errorf("%s is not in\n%s", path, root)
		}
	}
	if !strings.Contains(root, "\nBindPaths=-"+dir+"/safe/rw\n") || strings.Contains(root, "own.img") {
		t.Errorf("the writable files are not as they should be in\n%s", root)
	}
	if !strings.HasSuffix(devices, "\nDeviceAllow=/dev/null r\n") {
		t.Errorf("the device is not allowed in\n%s", devices)
	}
	bad := map[string]string{
		dir + "/theirs/image":         "belongs to user",
		dir + "/safe/to-theirs":       "belongs to user",
		dir + "/shared/image":         "can write to directory",
		dir + "/shared/not-yet":       "can write to directory",
		h.StateDir + "/web/../web/x":  "must be written as",
		dir + "/safe/loop":            "more than 40 links",
		dir + "/safe/dir":             "has files only",
		dir + "/safe/to-dir":          "has files only",
		dir + "/safe/image/x":         "belongs to user",
		dir + "/safe/a\nUser=root":    "for a jailed VM",
		dir + "/safe/%h":              "for a jailed VM",
		dir + "/safe/a b":             "for a jailed VM",
		dir + "/safe/a:/etc/shadow":   "for a jailed VM",
		dir + "/safe/\"a":             "for a jailed VM",
		dir + "/safe/a\\\nUser=root":  "for a jailed VM",
		"safe/image":                  "for a jailed VM",
		"/":                           "for a jailed VM",
		"/sys/kernel/uevent_seqnum":   "has no files of /proc and /sys",
		"/proc/self/root/etc/shadow":  "has no files of /proc and /sys",
		h.StateDir + "/db/of-another": "can write to directory",
	}
	if err := os.MkdirAll(h.StateDir+"/db", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(h.StateDir+"/db", 0o1775); err != nil {
		t.Fatal(err)
	}
	for path, want := range bad {
		if _, _, err := jailOf(t, vm, &hypervisor.Jail{Writable: []string{path}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", path, err, want)
		}
	}
}

func asRoot(dir, script string) error {
	cmd := exec.Command("/bin/sh", "-ec", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", script, err, out)
	}
	return nil
}

// TestAPackageThatWantsMoreThanItsJailIsRefused has a plan that no build makes.
func TestAPackageThatWantsMoreThanItsJailIsRefused(t *testing.T) {
	h, vm := installed(t)
	before := state(t, h)
	for _, path := range []string{`/x\nUser=root`, `/srv/%h`, `/etc/../x`, "/proc/kcore", "relative", filepath.Dir(h.StateDir) + "/open/x"} {
		pkg := build(t, h, "forged", jailed)
		file := filepath.Join(pkg, "share/microvm/runner.json")
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		forged := strings.Replace(string(text), `"/i",`, `"/i", "`+path+`",`, 1)
		if forged == string(text) {
			t.Fatal("the plan lists no file /i")
		}
		if err := asRoot(filepath.Dir(h.StateDir), "mkdir -p open && chmod 777 open && chmod u+w "+file); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(forged), 0o444); err != nil {
			t.Fatal(err)
		}
		if err := vm.Install(context.Background(), pkg, Origin{}, nil); err == nil {
			t.Errorf("%q was let through", path)
		}
		if after := state(t, h); after != before {
			t.Errorf("%q: a refused installation changed\n%s\nto\n%s", path, before, after)
		}
		if err := os.RemoveAll(pkg); err != nil {
			t.Fatal(err)
		}
	}
}

// state lists what an installation changes.
func state(t *testing.T, h Host) string {
	t.Helper()
	var out strings.Builder
	for _, dir := range []string{h.StateDir, h.UnitDir} {
		err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
			if !os.IsNotExist(err) {
				out.WriteString(path + "\n")
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out.String()
}
