package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// modesOf is all that the command made for a VM, with modes and owners, and without
// what is the same for all.
func modesOf(t *testing.T, name string) string {
	t.Helper()
	out := sh(t, fmt.Sprintf(`cd / && { stat -c '%%n %%f %%U:%%G' var/lib/microvms/.store var/lib/microvms/.origin
find var/lib/microvms/%[1]s var/lib/microvms/.origin/%[1]s "$(readlink var/lib/microvms/%[1]s/current | cut -c2-)" etc/systemd/system.control/microvm@%[1]s.service.* run/microvm/%[1]s -printf '%%p %%m %%u:%%g\n' 2>/dev/null
} | sed 's/%[1]s/NAME/g; s/[0-9a-f]\{32\}-/HASH-/' | sort`, name))
	return out
}

func TestWhatTheCommandMakesDoesNotDependOnTheUmask(t *testing.T) {
	in(t, "container")
	want := ""
	for _, mask := range []string{"022", "027", "077", "000"} {
		name := "mask" + mask
		path := writeSpec(t, spec(name, func(s map[string]any) { s["interfaces"] = []any{tap("vm-"+mask, 1)} }))
		t.Cleanup(func() { _, _ = try("microvm stop " + name + "; microvm rm -y " + name) })
		sh(t, fmt.Sprintf("umask %[2]s && microvm create %[1]s -s %[3]s && microvm start %[1]s", name, mask, path))
		// A VM that is up stays whole when somebody with another umask updates it.
		sh(t, fmt.Sprintf("sed -i 's/\"mem\":[0-9]*/\"mem\":300/; t; s/}$/,\"mem\":300}/' %[3]s && umask %[2]s && microvm update --restart %[1]s", name, mask, path))
		if out := sh(t, "systemctl is-active microvm@"+name); strings.TrimSpace(out) != "active" {
			t.Errorf("umask %s: the VM is %s", mask, out)
		}
		got := strings.ReplaceAll(modesOf(t, name), mask, "MASK")
		if want == "" {
			want = got
			if strings.Count(want, "\n") < 20 {
				t.Fatalf("only these were made:\n%s", want)
			}
		}
		if got != want {
			t.Errorf("umask %s: it made\n%s\nwant\n%s", mask, got, want)
		}
		if got := findings(t, name)["package access"]; got.Status != "ok" {
			t.Errorf("umask %s: %+v", mask, got)
		}
	}
	// One that an earlier version made is named, and mended by an installation.
	name := "mask022"
	sh(t, "microvm stop "+name+" && chmod 750 /var/lib/microvms/.store \"$(readlink /var/lib/microvms/"+name+"/current)\"")
	if got := findings(t, name)["package access"]; got.Status != "failed" || !strings.Contains(got.Detail, ".store keeps the hypervisors' user out") {
		t.Errorf("a store that is closed: %+v", got)
	}
	sh(t, "umask 027 && microvm update "+name+" && microvm start "+name)
}

func TestAStateDirectoryMayBeALinkOfRoots(t *testing.T) {
	in(t, "container")
	before := install(t, spec("onlink", func(s map[string]any) {
		s["volumes"] = []any{map[string]any{"image": "data.img", "size": 8}}
	}))
	sh(t, "mv /var/lib/microvms /srv/vms && ln -s /srv/vms /var/lib/microvms")
	t.Cleanup(func() {
		_, _ = try("microvm stop onlink; microvm stop late; true")
		_, _ = try("rm -f /var/lib/microvms && mv /srv/vms /var/lib/microvms")
	})
	want(t, 0, []string{"onlink"}, "list")
	want(t, 0, nil, "start", before)
	sh(t, "test -s /srv/vms/onlink/data.img")
	if got := findings(t)["state directory"]; got.Status != "ok" {
		t.Errorf("%+v", got)
	}
	if out, code := microvm(t, "list"); code != 0 || !strings.Contains(out, "current") {
		t.Errorf("what runs is not what is installed: %d, %s", code, out)
	}
	want(t, 0, nil, "gc")
	want(t, 0, nil, "stop", before)
	path := writeSpec(t, spec("late", nil))
	want(t, 0, nil, "create", "late", "-s", path, "--start")
	want(t, 0, nil, "stop", "late")
	want(t, 0, nil, "rm", "-y", "late")
	sh(t, "test ! -e /srv/vms/late && test -L /var/lib/microvms")
	// One that somebody else made is refused, and nothing is said to be empty.
	sh(t, "chown -h microvm /var/lib/microvms")
	out, code := microvm(t, "list")
	if code == 0 || !strings.Contains(out, "link /var/lib/microvms is owned by uid ") || !strings.Contains(out, "microvm: hint: ") {
		t.Errorf("a link of the hypervisors': %d, %s", code, out)
	}
	sh(t, "chown -h root /var/lib/microvms")
}

func TestAVMOnAMountOfItsOwnIsRemoved(t *testing.T) {
	in(t, "container")
	dir := "/var/lib/microvms/mounted"
	sh(t, "mkdir "+dir+" && mount -t tmpfs tmpfs "+dir)
	t.Cleanup(func() { _, _ = try("umount -l " + dir + "; rmdir " + dir) })
	path := writeSpec(t, spec("mounted", func(s map[string]any) {
		s["volumes"] = []any{map[string]any{"image": "data.img", "size": 8}}
	}))
	for range 2 {
		if out, _ := microvm(t, "list"); strings.Contains(out, "mounted") {
			t.Errorf("an empty mount is listed:\n%s", out)
		}
		want(t, 0, nil, "create", "mounted", "-s", path, "--start")
		want(t, 0, nil, "stop", "mounted")
		want(t, 0, []string{dir + " is a mount point of its own, and stays, empty"}, "rm", "-y", "mounted")
		if out := sh(t, "ls -A "+dir); out != "" {
			t.Errorf("left: %s", out)
		}
	}
	want(t, 0, nil, "create", "mounted", "-s", path, "--start")
	want(t, 0, nil, "stop", "mounted")
	want(t, 0, nil, "rm", "-y", "--keep-data", "mounted")
	sh(t, "test -s "+dir+"/data.img")
	want(t, 0, nil, "create", "mounted", "-s", path)
	sh(t, "mkdir "+dir+"/in && mount -t tmpfs tmpfs "+dir+"/in")
	want(t, 1, []string{"nothing was removed", "microvm: hint: run: umount " + dir + "/in"}, "rm", "-y", "mounted")
	sh(t, "umount "+dir+"/in")
	want(t, 0, nil, "rm", "-y", "mounted")
}

func TestRootRunsNoProgramOfAnotherUser(t *testing.T) {
	in(t, "container")
	sh(t, `mkdir -p /home/eve/ch/bin && chmod 755 /home /home/eve && cat > /home/eve/ch/bin/cloud-hypervisor <<'END'
#!/bin/sh
{ id -u; id -G; pwd; env; } >> /tmp/eve-ran-as 2>&1
echo cloud-hypervisor v54.0
END
chmod 755 /home/eve/ch/bin/cloud-hypervisor && chown -R 4321:4321 /home/eve && rm -f /tmp/eve-ran-as && touch /tmp/eve-ran-as && chmod 666 /tmp/eve-ran-as`)
	t.Cleanup(func() { _, _ = try("rm -rf /home/eve /tmp/eve-ran-as; microvm rm -y eves") })
	path := writeSpec(t, spec("eves", func(s map[string]any) {
		delete(s, "cpu") // which Cloud Hypervisor has not
		s["hypervisor"] = "cloud-hypervisor"
		s["cloud-hypervisor"] = map[string]any{"package": "/home/eve/ch"}
	}))
	t.Setenv("SECRET_OF_ROOT", "hunter2")
	want(t, 0, nil, "create", "eves", "-s", path)
	want(t, 0, nil, "update", "eves")
	want(t, 0, nil, "show", path)
	_, _ = microvm(t, "list", "--check")
	_, _ = microvm(t, "doctor", "eves")
	ran := sh(t, "cat /tmp/eve-ran-as")
	if strings.Count(ran, "65534\n65534\n/\n") < 5 {
		t.Errorf("it ran as\n%s", ran)
	}
	if strings.Contains(ran, "hunter2") || strings.HasPrefix(ran, "0\n") || strings.Contains(ran, "\n0\n") {
		t.Errorf("it ran with what is root's:\n%s", ran)
	}
	want(t, 0, []string{"--landlock"}, "show", "eves")
}
