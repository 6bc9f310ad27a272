package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestAKilledVirtiofsdOrSupervisorHeals: QEMU does not connect to another
// virtiofsd, and a guest cannot mount its share again while the old mount is in
// use. So the VM is restarted, and its share works again.
func TestAKilledVirtiofsdOrSupervisorHeals(t *testing.T) {
	in(t, "container")
	sh(t, "mkdir -p /srv/heal && echo hello > /srv/heal/hello")
	name := install(t, spec("heal", func(s map[string]any) {
		s["shares"] = []any{map[string]any{"tag": "a", "source": "/srv/heal", "proto": "virtiofs"}}
		s["volumes"] = []any{map[string]any{"image": "data.img", "size": 64, "label": "data"}}
		s["kernelParams"] = []string{"mvguest.mount=data:/data:ext4", "mvguest.mount=a:/a:virtiofs", "mvguest.read=/a/hello"}
	}))
	// A guest that waits for a share that is dead does not go down.
	const short = "/run/systemd/system/microvm@heal.service.d"
	sh(t, "mkdir -p "+short+" && printf '[Service]\\nEnvironment=MICROVM_STOP_TIMEOUT=20\\n' > "+short+"/t.conf && systemctl daemon-reload")
	t.Cleanup(func() { _, _ = try("rm -r " + short + "; systemctl daemon-reload") })
	sh(t, "systemctl start microvm@"+name)
	for i, kill := range []string{"kill -9 $(pgrep -x virtiofsd)", "kill -9 $(systemctl show -P MainPID microvm-virtiofsd@heal)"} {
		eventually(t, 60*time.Second, fmt.Sprintf("test $(%s | grep -c 'test guest is up') = %d", logs(name), i+1))
		pid := sh(t, "systemctl show -P MainPID microvm@"+name)
		began := time.Now()
		sh(t, kill)
		eventually(t, 120*time.Second, "p=$(systemctl show -P MainPID microvm@heal) && test $p != 0 -a $p != "+pid+" && systemctl is-active microvm@heal microvm-virtiofsd@heal")
		t.Logf("%s: back after %s", kill, time.Since(began).Round(time.Millisecond))
	}
	eventually(t, 60*time.Second, fmt.Sprintf("test $(%s | grep -cF 'read /a/hello: \"hello') = 3", logs(name)))
	log := sh(t, logs(name))
	if !strings.Contains(log, "a: virtiofsd") || !strings.Contains(log, "killed by SIGKILL") {
		t.Errorf("the log does not name the cause:\n%s", log)
	}
	sh(t, "systemctl stop microvm@"+name)
	nothingLeft(t, name)
	eventually(t, 5*time.Second, "no_process virtiofsd")
}

func TestAVMWhoseShareKeepsFailingDoesNotStart(t *testing.T) {
	in(t, "container")
	name := install(t, spec("badshare", func(s map[string]any) {
		s["shares"] = []any{map[string]any{"tag": "a", "source": "a", "proto": "virtiofs", "extraArgs": []string{"--cache=nonsense"}}}
	}))
	began := time.Now()
	out, err := try("timeout 300 systemctl start microvm@" + name)
	t.Logf("systemctl start returned after %s: %v: %s", time.Since(began).Round(time.Millisecond), err, out)
	if err == nil || strings.Contains(err.Error(), "124") {
		t.Errorf("systemctl start: %v", err)
	}
	if log := sh(t, logs(name)); !strings.Contains(log, `share "a": virtiofsd failed 6 times in a row`) || !strings.Contains(log, "nonsense") {
		t.Errorf("the log does not name the cause:\n%s", log)
	}
	sh(t, "systemctl stop microvm@"+name)
	nothingLeft(t, name)
	eventually(t, 5*time.Second, "no_process virtiofsd")
}

// TestAShareIsNotLedAwayByTheGuestOfAnother: a guest is root in its share, and
// its links look like an operator's. The two are different VMs, whose packages
// tell what their guests write.
func TestAShareIsNotLedAwayByTheGuestOfAnother(t *testing.T) {
	in(t, "container")
	sh(t, "mkdir -p /srv/taken/real && ln -sfn /etc /srv/taken/pub && ln -sfn taken /srv/way")
	t.Cleanup(func() { _, _ = try("rm -r /srv/taken /srv/way") })
	share := func(source string) func(map[string]any) {
		return func(s map[string]any) {
			s["shares"] = []any{map[string]any{"tag": "a", "source": source, "proto": "virtiofs"}}
		}
	}
	install(t, spec("taker", share("/srv/taken")))
	name := install(t, spec("taken", share("/srv/taken/pub")))
	if out, err := try("systemctl start microvm-virtiofsd@" + name); err == nil {
		t.Errorf("the share is served: %s", out)
	}
	if code := sh(t, "systemctl show -P ExecMainStatus microvm-virtiofsd@"+name); code != "78" {
		t.Errorf("exit code %s, want 78", code)
	}
	want := `share "a": open source "/srv/taken/pub": "pub" is a symbolic link inside share "a" of VM "taker" (source "/srv/taken")`
	if log := sh(t, logs(name)); !strings.Contains(log, want) {
		t.Errorf("the log does not say %s:\n%s", want, log)
	}
	// An operator's link, in a directory that no guest writes, is followed.
	other := install(t, spec("wayfarer", share("/srv/way/real")))
	sh(t, "systemctl start microvm-virtiofsd@"+other)
	sh(t, "systemctl stop microvm-virtiofsd@"+other)
	eventually(t, 5*time.Second, "no_process virtiofsd")
}

// TestAGuestLeavesNoSetUserIDFileInAShareElsewhere has a real guest try; what else
// it may not do is in the tests of internal/virtiofsd.
func TestAGuestLeavesNoSetUserIDFileInAShareElsewhere(t *testing.T) {
	in(t, "container")
	sh(t, "mkdir -p /srv/plant")
	t.Cleanup(func() { _, _ = try("rm -r /srv/plant") })
	name := install(t, spec("planter", func(s map[string]any) {
		s["shares"] = []any{map[string]any{"tag": "a", "source": "/srv/plant", "proto": "virtiofs"}}
		s["kernelParams"] = []string{"mvguest.mount=a:/a:virtiofs"}
	}))
	sh(t, "systemctl start microvm@"+name)
	waitFor(t, name, "test guest is up")
	out := sh(t, "(echo setuid /a/su; echo mknod /a/sda; echo write /a/plain hello; echo down) | timeout 300 microvm console "+name+" 2>&1")
	for _, want := range []string{"setuid (<nil>) (operation not permitted)", "mknod (operation not permitted)", "wrote (<nil>)"} {
		if !strings.Contains(out, want) {
			t.Errorf("the guest does not say %q:\n%s", want, out)
		}
	}
	if got := sh(t, "cd /srv/plant && stat -c '%n %u %a' *"); got != "plain 0 644\nsu 0 755" {
		t.Errorf("the guest left %q", got)
	}
	if log := sh(t, logs(name)); !strings.Contains(log, "a: the guest asked for file mode 4755: refused") {
		t.Errorf("the log does not say what was refused:\n%s", log)
	}
}

// TestSharesOfTheVMsOwnDirectoryAreThereAfterTheInstallation, so that a service can
// fill them before the first start; and a reboot of the host leaves them alone.
func TestSharesOfTheVMsOwnDirectoryAreThereAfterTheInstallation(t *testing.T) {
	in(t, "container")
	const dir = "/var/lib/microvms/within"
	words := []string{"mvguest.read=/all/nine/hello", "mvguest.write=/all/written"}
	var shares []any
	for tag, share := range map[string][2]string{"all": {".", "9p"}, "nine": {"./nine", "9p"}, "whole": {dir + "/whole", "9p"}, "fs": {"sub/./fs", "virtiofs"}, "fsw": {dir + "/fsw", "virtiofs"}} {
		shares = append(shares, map[string]any{"tag": tag, "source": share[0], "proto": share[1]})
		words = append(words, "mvguest.mount="+tag+":/"+tag+":"+share[1])
		if tag != "all" {
			words = append(words, "mvguest.read=/"+tag+"/hello")
		}
	}
	name := install(t, spec("within", func(s map[string]any) { s["shares"], s["kernelParams"] = shares, words }))
	const look = "cd " + dir + " && stat -c '%n %U:%G %a' . nine whole sub sub/fs fsw"
	want := ". root:kvm 1775\nnine microvm:kvm 775\nwhole microvm:kvm 775\nsub root:root 755\nsub/fs microvm:kvm 775\nfsw microvm:kvm 775"
	if got := sh(t, look); got != want {
		t.Errorf("after the installation there are\n%s\nwant\n%s", got, want)
	}
	for _, d := range []string{"nine", "whole", "sub/fs", "fsw"} {
		sh(t, "runuser -u microvm -- sh -c 'echo from "+d+" > "+dir+"/"+d+"/hello'")
	}
	sh(t, "systemctl start microvm@"+name)
	waitFor(t, name, "test guest is up")
	for _, text := range []string{`read /all/nine/hello: "from nine`, `read /nine/hello: "from nine`, `read /whole/hello: "from whole`, `read /fs/hello: "from sub/fs`, `read /fsw/hello: "from fsw`, "write /all/written: (<nil>)"} {
		waitFor(t, name, text)
	}
	sh(t, "systemctl stop microvm@"+name)
	nothingLeft(t, name)
	sh(t, "systemd-tmpfiles --create --remove --boot --prefix=/var/lib/microvms --prefix=/run/microvm")
	if got := sh(t, look); got != want {
		t.Errorf("after a boot of the host there are\n%s\nwant\n%s", got, want)
	}
}
