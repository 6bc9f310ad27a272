package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const nic = `{"type":"tap","id":"%s","mac":"02:00:00:00:00:0%d"}`

func TestBadSpecsAreRefusedWithCauseAndRemedy(t *testing.T) {
	in(t, "container")
	x := func(more string) string { return `{"name":"x","kernel":"/k"` + more + `}` }
	long := fmt.Sprintf(nic, "sixteen-bytes-xx", 1)
	twice := fmt.Sprintf(nic, "a", 1) + "," + fmt.Sprintf(nic, "a", 2)
	for name, c := range map[string]struct{ spec, want string }{
		"an unknown field":          {x(`,"vcpus":2`), `vcpus: unknown option (did you mean "vcpu"?)`},
		"a wrong type":              {x(`,"mem":"512"`), `mem: must be an integer, not the string "512"`},
		"a long interface name":     {x(`,"interfaces":[` + long + `]`), `interfaces[0].id: invalid interface name "sixteen-bytes-xx": must be at most 15 bytes, not 16`},
		"a repeated interface":      {x(`,"interfaces":[` + twice + `]`), `interfaces[1].id: "a" is already used by interfaces[0].id`},
		"a repeated tag":            {x(`,"shares":[{"tag":"a","source":"/a"},{"tag":"a","source":"/b"}]`), `shares[1].tag: "a" is already used`},
		"a repeated image":          {x(`,"volumes":[{"image":"a","size":1},{"image":"a","size":1}]`), `volumes[1].image: "a" is already used`},
		"no kernel":                 {`{"name":"x"}`, `kernel: is required`},
		"a VM name that climbs":     {`{"name":"../x","kernel":"/k"}`, `invalid VM name "../x"`},
		"a VM name with a space":    {`{"name":"a b","kernel":"/k"}`, `invalid VM name "a b"`},
		"a VM name of 64 bytes":     {`{"name":"` + strings.Repeat("a", 64) + `","kernel":"/k"}`, `must be at most 63 bytes, not 64`},
		"virtio-mem on microvm":     {x(`,"hotplugMem":512`), `hotplugMem: QEMU's machine microvm has no virtio-mem`},
		"an initial balloon":        {x(`,"balloon":true,"initialBalloonMem":128`), `initialBalloonMem: `},
		"text after the document":   {x("") + " {}", `unexpected text after the end of the document`},
		"a document that is cut":    {`{"name":"x"`, `unexpected end of the document`},
		"a network of another kind": {x(`,"hypervisor":"firecracker","interfaces":[{"type":"user","id":"u","mac":"02:00:00:00:00:01"}]`), ``},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "spec.json")
			if err := os.WriteFile(file, []byte(c.spec), 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := try("microvm build " + file + " -o " + dir + "/out")
			if err == nil {
				t.Fatalf("accepted: %s", out)
			}
			if !strings.Contains(out, c.want) {
				t.Errorf("said %q, want %q", out, c.want)
			}
			if left := sh(t, "ls -A "+dir); left != "spec.json" {
				t.Errorf("left behind: %s", left)
			}
		})
	}
}

// TestFaultsOfEveryKindAreReportedAtOnce: an unknown option, a wrong type, a bad
// value, and what the hypervisor and its machine cannot do.
func TestFaultsOfEveryKindAreReportedAtOnce(t *testing.T) {
	in(t, "container")
	file := filepath.Join(t.TempDir(), "spec.json")
	text := `{"name":"x","kernel":"/k","vcpus":2,"mem":"512","vsock":{"cid":1},"balloon":true,"initialBalloonMem":64,"hotplugMem":512}`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, words := range [][]string{{"build", file, "-o", file + ".d"}, {"show", file}, {"create", "x", "-s", file}} {
		want(t, 1, []string{"vcpus: unknown", "mem: must be an integer", "vsock.cid: must be from 3", "initialBalloonMem: QEMU does not support", "hotplugMem: QEMU's machine"}, words...)
	}
}

func TestBadVMNamesAreRefusedByEveryProgram(t *testing.T) {
	in(t, "container")
	programs := []string{
		"install-microvm -p /tmp", "/usr/lib/microvm/microvm-set-booted up",
		"/usr/lib/microvm/microvm-tap-interfaces up", "/usr/lib/microvm/microvm-run-wrapper run",
	}
	for _, name := range []string{"../x", "a b", strings.Repeat("a", 64), ".x", ""} {
		for _, program := range programs {
			out, err := try(fmt.Sprintf("%s '%s'", program, name))
			if err == nil || !strings.Contains(out, "VM name") {
				t.Errorf("%s %q: %v, %s", program, name, err, out)
			}
		}
	}
}

// startFails starts a VM that must not start, and returns what was logged.
func startFails(t *testing.T, name string) string {
	t.Helper()
	if out, err := try("timeout 300 systemctl start microvm@" + name); err == nil {
		t.Fatalf("it started: %s", out)
	} else if strings.Contains(err.Error(), "124") {
		t.Fatal("systemctl start did not return")
	}
	log := sh(t, logs(name))
	// One that is not tried again leaves nothing by itself.
	if _, err := try("systemctl is-failed microvm@" + name); err != nil {
		_, _ = try("systemctl stop microvm@" + name)
	}
	nothingLeft(t, name)
	_, _ = try("systemctl stop microvm@" + name)
	return log
}

func TestBadHostsAreNamedInTheJournal(t *testing.T) {
	in(t, "container")
	volume := func(v map[string]any) func(map[string]any) {
		return func(s map[string]any) { s["volumes"] = []any{v} }
	}
	cases := []struct {
		title, name, harm, want string
		edit                    func(map[string]any)
	}{
		{"a kernel that went missing", "nokernel", "rm /root/vmlinuz", "kernel /root/vmlinuz: no such file or directory; put the file there",
			func(s map[string]any) { s["kernel"] = "/root/vmlinuz" }},
		{"an image that is not there", "noimage", "true", "data.img does not exist and autoCreate is off",
			volume(map[string]any{"image": "data.img", "autoCreate": false})},
		{"a directory that cannot be written to", "nowrite", "true", "has to be able to write to",
			volume(map[string]any{"image": "/usr/data.img", "size": 8})},
		{"an image that would shrink", "shrink", "setpriv --reuid microvm --regid kvm --clear-groups truncate -s 64M /var/lib/microvms/shrink/data.img", "shrinking would lose data",
			volume(map[string]any{"image": "data.img", "size": 8})},
		{"a tap whose name an interface has", "taken", "ip link add vm-taken type veth peer name vm-taken2", "the name is taken by a veth interface",
			func(s map[string]any) { s["interfaces"] = []any{tap("vm-taken", 1)} }},
		{"a hypervisor that is not installed", "nohyper", "true", "hypervisor /nowhere/bin/qemu-system-x86_64: no such file or directory",
			func(s map[string]any) { s["qemu"] = map[string]any{"package": "/nowhere"} }},
		{"a link that the VM's user made", "relinked",
			"cd /var/lib/microvms/relinked && rm current && setpriv --reuid microvm --regid kvm --clear-groups ln -s /tmp current",
			"is not trusted: it belongs to user", nil},
		{"a package where the VM's user can write", "writable",
			"cd /var/lib/microvms/writable && cp -r $(readlink current) pkg && ln -sfn /var/lib/microvms/writable/pkg current",
			"others than root can write to the directory", nil},
	}
	for _, c := range cases {
		t.Run(c.title, func(t *testing.T) {
			sh(t, "install -m 644 "+assets+"/vmlinuz /root/vmlinuz && chmod 755 /root")
			name := install(t, spec(c.name, c.edit))
			sh(t, c.harm)
			t.Cleanup(func() { _, _ = try("ip link delete vm-taken") })
			if log := startFails(t, name); !strings.Contains(log, c.want) {
				t.Errorf("the journal does not say %q:\n%s", c.want, log)
			}
		})
	}
}

func TestRunnerThatBelongsToAnotherUserIsNotInstalled(t *testing.T) {
	in(t, "container")
	pkg := build(t, spec("other", nil))
	sh(t, "chown -R nobody "+pkg)
	out, err := try("install-microvm -p " + pkg + " other")
	if err == nil || !strings.Contains(out, "is not trusted: it belongs to user") || !strings.Contains(out, "build it as root") {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := os.Stat("/var/lib/microvms/other"); err == nil {
		t.Error("a directory was left behind")
	}
}

func TestVMThatDoesNotExistIsNamed(t *testing.T) {
	in(t, "container")
	out, err := try("timeout 300 systemctl start microvm@nosuch")
	log := sh(t, logs("nosuch"))
	if err == nil || !strings.Contains(log, `VM "nosuch" not found`) {
		t.Errorf("%v: %s\n%s", err, out, log)
	}
}
