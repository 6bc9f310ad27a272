package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The units of microvm.nix in what matters here: programs of the package, links
// that the hypervisors' user owns, helpers that are required.
var unitsOfMicrovmNix = map[string]string{
	"microvm@": `[Unit]
Requires=microvm-set-booted@%i.service microvm-tap-interfaces@%i.service microvm-pci-devices@%i.service microvm-virtiofsd@%i.service
After=microvm-set-booted@%i.service microvm-tap-interfaces@%i.service microvm-pci-devices@%i.service microvm-virtiofsd@%i.service
ConditionPathExists=/var/lib/microvms/%i/current/bin/microvm-run
[Service]
WorkingDirectory=/var/lib/microvms/%i
ExecStart=/var/lib/microvms/%i/current/bin/microvm-run
ExecStop=/var/lib/microvms/%i/booted/bin/microvm-shutdown
TimeoutSec=150
Restart=always
RestartSec=5s
User=microvm
Group=kvm
SyslogIdentifier=microvm@%i
LimitMEMLOCK=infinity
`,
	"microvm-set-booted@": `[Unit]
PartOf=microvm@%i.service
Before=microvm@%i.service
[Service]
Type=oneshot
RemainAfterExit=yes
WorkingDirectory=/var/lib/microvms/%i
ExecStart=/bin/sh -c 'rm -f booted; ln -s $(readlink current) booted'
ExecStop=/bin/rm booted
User=microvm
Group=kvm
`,
	"microvm-tap-interfaces@": `[Unit]
PartOf=microvm@%i.service
Before=microvm@%i.service
After=microvm-set-booted@%i.service
ConditionPathExists=/var/lib/microvms/%i/current/bin/tap-up
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/var/lib/microvms/%i/current/bin/tap-up
ExecStop=/var/lib/microvms/%i/booted/bin/tap-down
`,
	"microvm-pci-devices@": `[Unit]
PartOf=microvm@%i.service
Before=microvm@%i.service
ConditionPathExists=/var/lib/microvms/%i/current/bin/pci-setup
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/var/lib/microvms/%i/current/bin/pci-setup
`,
	"microvm-virtiofsd@": `[Unit]
PartOf=microvm@%i.service
Before=microvm@%i.service
After=local-fs.target microvm-set-booted@%i.service
ConditionPathExists=/var/lib/microvms/%i/current/bin/virtiofsd-run
[Service]
Type=notify
NotifyAccess=all
WorkingDirectory=/var/lib/microvms/%i
ExecStart=/var/lib/microvms/%i/current/bin/virtiofsd-run
LimitNOFILE=1048576
PrivateTmp=yes
Restart=always
RestartSec=5s
KillMode=mixed
SyslogIdentifier=microvm-virtiofsd@%i
`,
}

// hostOfMicrovmNix is a host that has its units and its state directory until the
// function that it returns is called, which leaves ours and the directory.
func hostOfMicrovmNix(t *testing.T) (movesOver func()) {
	t.Helper()
	there := func() {
		for name, text := range unitsOfMicrovmNix {
			put(t, "/run/systemd/system/"+name+".service", text, 0o644)
		}
		sh(t, "systemctl daemon-reload")
	}
	gone := func() {
		for name := range unitsOfMicrovmNix {
			sh(t, "rm -f /run/systemd/system/"+name+".service")
		}
		sh(t, "systemctl daemon-reload")
	}
	sh(t, "mv /var/lib/microvms /var/lib/microvms.kept && install -d -o microvm -g kvm -m 775 /var/lib/microvms && mkdir -p /nix/store")
	t.Cleanup(func() {
		gone()
		sh(t, "rm -rf /nix /var/lib/microvms && mv /var/lib/microvms.kept /var/lib/microvms")
	})
	there()
	return gone
}

// packageOfMicrovmNix is a runner package as microvm.nix lays it out, which runs the
// hypervisor of s.
func packageOfMicrovmNix(t *testing.T, s map[string]any) string {
	t.Helper()
	name, _ := s["name"].(string)
	data, err := os.ReadFile(filepath.Join(build(t, s), "share/microvm/runner.json"))
	if err != nil {
		t.Fatal(err)
	}
	var plan struct{ Argv []string }
	if err := json.Unmarshal(data, &plan); err != nil {
		t.Fatal(err)
	}
	words := make([]string, len(plan.Argv))
	for i, w := range plan.Argv {
		words[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		// Without a timer of its own the guest has to be told.
		words[i] = regexp.MustCompile(`@{tsc-khz[a-z-]*}`).ReplaceAllLiteralString(words[i], `'$(awk '/cpu MHz/ { printf "%d", $4 * 1000; exit }' /proc/cpuinfo)'`)
	}
	id := "vm-" + name
	pkg := "/nix/store/00000000000000000000000000000000-microvm-qemu-" + name
	for path, text := range map[string]string{
		// QEMU's console ends with its standard input.
		"bin/microvm-run": "[ -p in ] || mkfifo in; exec " + strings.Join(words, " ") + " 0<>in",
		// It returns when the hypervisor has exited, as the service manager wants it.
		"bin/microvm-shutdown": `perl -MIO::Socket::UNIX -e '
			my $s = IO::Socket::UNIX->new(Peer => "` + name + `.sock") or die "connect: $!";
			print $s qq({"execute":"qmp_capabilities"}\n);
			print $s qq({"execute":"human-monitor-command","arguments":{"command-line":"sendkey ctrl-alt-delete"}}\n);
			$s->flush; 1 while <$s>'`,
		"bin/tap-up":   "ip tuntap add name " + id + " mode tap user microvm vnet_hdr && ip link set " + id + " up",
		"bin/tap-down": "ip link delete " + id,
	} {
		put(t, filepath.Join(pkg, path), "#!/bin/sh\n"+text+"\n", 0o755)
	}
	for path, text := range map[string]string{"hypervisor": "qemu\n", "tap-interfaces": id + "\n", "tap-flags": "vnet_hdr\n"} {
		put(t, filepath.Join(pkg, "share/microvm", path), text, 0o644)
	}
	putShares(t, pkg, s)
	putDevices(t, pkg, s)
	return pkg
}

// putShares adds what serves the virtiofs shares of s: supervisord with a virtiofsd
// for each, and a listener that notifies the service manager when all of them run.
func putShares(t *testing.T, pkg string, s map[string]any) {
	t.Helper()
	shares, _ := s["shares"].([]any)
	if len(shares) == 0 {
		return
	}
	conf := "[supervisord]\nnodaemon = true\nuser = root\n\n[eventlistener:told]\nevents = PROCESS_STATE\nbuffer_size = 64\ncommand = " + pkg + "/told\n"
	for _, one := range shares {
		share, _ := one.(map[string]any)
		tag, _ := share["tag"].(string)
		source, _ := share["source"].(string)
		socket, _ := share["socket"].(string)
		conf += "\n[program:virtiofsd-" + tag + "]\nstderr_syslog = true\nstdout_syslog = true\n" +
			"command = /usr/libexec/virtiofsd --socket-path=" + socket + " --socket-group=kvm --shared-dir=" + source + " --posix-acl --xattr --cache=auto --inode-file-handles=prefer\n"
		put(t, filepath.Join(pkg, "share/microvm/virtiofs", tag, "source"), source+"\n", 0o644)
		put(t, filepath.Join(pkg, "share/microvm/virtiofs", tag, "socket"), socket+"\n", 0o644)
	}
	put(t, pkg+"/supervisord.conf", conf, 0o644)
	put(t, pkg+"/told", fmt.Sprintf(`#!/usr/bin/python3
import subprocess, sys
up = 0
while True:
    print("READY", flush=True)
    event = dict(word.split(":") for word in sys.stdin.readline().split())
    sys.stdin.read(int(event["len"]))
    if event["eventname"] == "PROCESS_STATE_RUNNING":
        up += 1
    if up > %d:
        subprocess.run(["systemd-notify", "--ready"])
    print("RESULT 2\nOK", end="", flush=True)
`, len(shares)), 0o755)
	put(t, pkg+"/bin/virtiofsd-run", "#!/bin/sh\nexec supervisord --configuration "+pkg+"/supervisord.conf\n", 0o755)
}

// putDevices adds what takes the PCI devices of s from the host, which is not undone.
func putDevices(t *testing.T, pkg string, s map[string]any) {
	t.Helper()
	devices, _ := s["devices"].([]any)
	if len(devices) == 0 {
		return
	}
	script, list := "#!/bin/sh\nset -e\nmodprobe vfio-pci\n", ""
	for _, one := range devices {
		device, _ := one.(map[string]any)
		address, _ := device["path"].(string)
		script += "cd /sys/bus/pci/devices/" + address + "\n[ ! -e driver ] || echo " + address + " > driver/unbind\necho vfio-pci > driver_override\necho " + address +
			" > /sys/bus/pci/drivers_probe\nchown microvm:kvm /dev/vfio/$(basename $(readlink iommu_group))\n"
		list += address + "\n"
	}
	put(t, pkg+"/bin/pci-setup", script, 0o755)
	put(t, pkg+"/share/microvm/pci-devices", list, 0o644)
}

// createdByMicrovmNix is what its command leaves of a VM.
func createdByMicrovmNix(t *testing.T, name, pkg string) {
	t.Helper()
	dir := "/var/lib/microvms/" + name
	sh(t, fmt.Sprintf("install -d -o microvm -g kvm -m 775 %[1]s && cd %[1]s && ln -s %[2]s current && echo git+file:///etc/vms > flake && chown -h microvm:kvm current flake", dir, pkg))
	cleanUp(t, name)
}

// TestAVMOfMicrovmNixIsTakenOverWhileItRuns: nothing of the host's move restarts it;
// its next stop is a clean one, and its next start is as any other.
func TestAVMOfMicrovmNixIsTakenOverWhileItRuns(t *testing.T) {
	in(t, "container")
	movesOver := hostOfMicrovmNix(t)
	type guest struct{ name, pkg, ends string }
	guests := []guest{{name: "moved-cmd", ends: "stop"}, {name: "moved-dcl", ends: "stop"}, {name: "moved-res", ends: "restart"}, {name: "moved-bye", ends: "kill --signal=KILL"}}
	for i, g := range guests {
		s := spec(g.name, func(s map[string]any) {
			s["socket"] = g.name + ".sock"
			s["interfaces"] = []any{tap("vm-"+g.name, 0x70+i)}
		})
		guests[i].pkg = packageOfMicrovmNix(t, s)
		createdByMicrovmNix(t, g.name, guests[i].pkg)
		sh(t, "systemctl start microvm@"+g.name)
		waitFor(t, g.name, "test guest is up")
	}
	sh(t, "test $(stat -c %U /var/lib/microvms/moved-cmd/booted) = microvm")

	movesOver()
	// As a switch does: what is declared is installed, the rest is relinked.
	sh(t, "install-microvm -p "+guests[1].pkg+" --toplevel /nix/store moved-dcl && install-microvm --relink")
	for _, g := range guests {
		sh(t, "systemctl is-active microvm@"+g.name)
		wantListed(t, g.name, "active qemu current")
		sh(t, "systemctl "+g.ends+" microvm@"+g.name)
		log := sh(t, "journalctl -q -o cat -u microvm@"+g.name)
		if g.name != "moved-bye" && (!strings.Contains(log, "going down: signal interrupt") || strings.Contains(log, "SIG")) {
			t.Errorf("%s did not go down cleanly:\n%s", g.name, log)
		}
		if g.ends == "stop" {
			nothingLeft(t, g.name)
			eventually(t, patience, "no_link vm-"+g.name)
			sh(t, "systemctl start microvm@"+g.name)
		}
		eventually(t, patience, "test $(journalctl -q -o cat -u microvm@"+g.name+" | grep -c 'test guest is up') = 2")
		sh(t, "ip link show vm-"+g.name+" | grep 'alias microvm "+g.name+"' && systemctl stop microvm@"+g.name)
		nothingLeft(t, g.name)
		eventually(t, patience, "no_link vm-"+g.name)
	}
	// Where it comes from is for a person to say.
	want(t, 1, []string{"git+file:///etc/vms", "hint: ", "microvm create moved-cmd -f"}, "update", "moved-cmd")
	if got := sh(t, "cat /var/lib/microvms/moved-cmd/flake"); got != "git+file:///etc/vms" {
		t.Errorf("the directory says %q", got)
	}
	if got := sh(t, "stat -c '%U %a' /var/lib/microvms /var/lib/microvms/moved-cmd && stat -c %U /var/lib/microvms/moved-cmd/current"); got != "root 755\nroot 1775\nroot" {
		t.Errorf("owners and modes are %q", got)
	}
}

// TestASharedDirectoryOfMicrovmNixIsTakenOver: supervisord and its virtiofsds serve the
// guest until its next stop, nothing is left of them, and the next start has ours.
func TestASharedDirectoryOfMicrovmNixIsTakenOver(t *testing.T) {
	in(t, "container")
	movesOver := hostOfMicrovmNix(t)
	const name, dir = "super", "/var/lib/microvms/super"
	sh(t, "mkdir -p /srv/super/a /srv/super/b && echo one > /srv/super/a/early && echo two > /srv/super/b/early")
	t.Cleanup(func() { _, _ = try("rm -r /srv/super") })
	shares := []any{
		map[string]any{"tag": "a", "source": "/srv/super/a", "proto": "virtiofs", "socket": "super-virtiofs-a.sock"},
		map[string]any{"tag": "b", "source": "/srv/super/b", "proto": "virtiofs", "socket": dir + "/b.sock"},
	}
	pkg := packageOfMicrovmNix(t, spec(name, func(s map[string]any) {
		s["socket"], s["shares"] = "super.sock", shares
		s["interfaces"] = []any{tap("vm-super", 0x76)}
		s["kernelParams"] = []string{"mvguest.mount=a:/a:virtiofs", "mvguest.mount=b:/b:virtiofs", "mvguest.read=/a/early", "mvguest.read=/b/early"}
	}))
	createdByMicrovmNix(t, name, pkg)
	served := func(times int) {
		t.Helper()
		for _, text := range []string{`read /a/early: "one`, `read /b/early: "two`, "test guest is up"} {
			eventually(t, patience, fmt.Sprintf("test $(journalctl -q -o cat -u microvm@super | grep -cF '%s') = %d", text, times))
		}
	}
	sh(t, "systemctl start microvm@super")
	served(1)
	const left = "supervisord.pid super-virtiofs-a.sock super-virtiofs-a.sock.pid b.sock b.sock.pid"
	sh(t, "cd "+dir+" && ls "+left+"")
	before := sh(t, "systemctl show -P MainPID microvm-virtiofsd@super")

	movesOver()
	sh(t, "install-microvm --relink && systemctl is-active microvm@super microvm-virtiofsd@super")
	if now := sh(t, "systemctl show -P MainPID microvm-virtiofsd@super"); now != before {
		t.Errorf("what serves the shares was %s and is %s", before, now)
	}
	sh(t, "echo three > /srv/super/b/late && timeout 20 sh -c 'echo cat /b/late > "+dir+"/in'")
	eventually(t, patience, "journalctl -q -o cat -u microvm@super | grep three")
	wantListed(t, name, "active qemu current")

	sh(t, "systemctl stop microvm@super")
	if log := sh(t, "journalctl -q -o cat -u microvm@super"); !strings.Contains(log, "going down: signal interrupt") || strings.Contains(log, "SIG") {
		t.Errorf("it did not go down cleanly:\n%s", log)
	}
	nothingLeft(t, name)
	eventually(t, patience, "no_process virtiofsd && no_process supervisord")
	if out := sh(t, "cd "+dir+" && find . -name 'supervisord*' -o -name '*.sock*'"); out != "" {
		t.Errorf("it left %s", out)
	}

	sh(t, "systemctl start microvm@super")
	served(2)
	sh(t, "test $(ps -o comm= -p $(systemctl show -P MainPID microvm-virtiofsd@super)) = microvm-virtiof && no_process supervisord && systemctl stop microvm@super")
	nothingLeft(t, name)
	if out := sh(t, "systemctl list-units --failed --no-legend 'microvm*@super.service'"); out != "" {
		t.Errorf("failed: %s", out)
	}
}

// TestAPCIDeviceOfMicrovmNixIsGivenBack: its helper keeps no record of the driver that
// had it, and the kernel knows one.
func TestAPCIDeviceOfMicrovmNixIsGivenBack(t *testing.T) {
	in(t, "vm")
	movesOver := hostOfMicrovmNix(t)
	address, _ := card(t)
	driver := "readlink /sys/bus/pci/devices/" + address + "/driver | xargs basename"
	had := sh(t, driver)
	pkg := packageOfMicrovmNix(t, spec("passed", func(s map[string]any) {
		s["socket"] = "passed.sock"
		s["interfaces"] = []any{tap("vm-passed", 0x77)}
		s["devices"] = []any{map[string]any{"bus": "pci", "path": address}}
	}))
	createdByMicrovmNix(t, "passed", pkg)
	sh(t, "systemctl start microvm@passed")
	waitFor(t, "passed", "mac=52:54:00:00:00:01")
	movesOver()
	sh(t, "install-microvm --relink && systemctl is-active microvm@passed microvm-pci-devices@passed")
	// Nobody else gets it meanwhile.
	install(t, spec("wants", func(s map[string]any) {
		s["devices"] = []any{map[string]any{"bus": "pci", "path": address}}
	}))
	if out, err := try("systemctl start microvm-pci-devices@wants"); err == nil {
		t.Errorf("another VM got its card: %s", out)
	}
	sh(t, "journalctl -q -o cat -u microvm-pci-devices@wants | grep 'in use by VM \"passed\"'; systemctl stop microvm-pci-devices@wants microvm-set-booted@wants")
	for starts := 1; starts <= 2; starts++ {
		// Its script asks once, which a guest that still boots does not hear.
		eventually(t, patience, fmt.Sprintf("test $(journalctl -q -o cat -u microvm@passed | grep -c 'test guest is up') = %d", starts))
		sh(t, "systemctl stop microvm@passed")
		nothingLeft(t, "passed")
		eventually(t, patience, "test $("+driver+") = "+had)
		if override := sh(t, "cat /sys/bus/pci/devices/"+address+"/driver_override"); override != "(null)" {
			t.Errorf("it is reserved for %s", override)
		}
		if starts == 1 {
			// Its next start takes it, and knows from whom.
			sh(t, "systemctl start microvm@passed && grep "+had+" /run/microvm/passed/pci-devices.json")
		}
	}
}

// TestAVMThatNobodyTookOverIsStoppedCleanly: the stop is not root, and believes what
// the VM's user says.
func TestAVMThatNobodyTookOverIsStoppedCleanly(t *testing.T) {
	in(t, "container")
	movesOver := hostOfMicrovmNix(t)
	s := spec("left", func(s map[string]any) {
		s["socket"] = "left.sock"
		s["interfaces"] = []any{tap("vm-left", 0x75)}
	})
	createdByMicrovmNix(t, "left", packageOfMicrovmNix(t, s))
	sh(t, "systemctl start microvm@left")
	waitFor(t, "left", "test guest is up")
	movesOver()
	sh(t, "systemctl stop microvm@left")
	if log := sh(t, "journalctl -q -o cat -u microvm@left"); !strings.Contains(log, "going down: signal interrupt") || strings.Contains(log, "SIG") {
		t.Errorf("it did not go down cleanly:\n%s", log)
	}
	eventually(t, patience, "no_link vm-left")
	sh(t, "no_process -f '[l]eft.sock'")
}

// TestOurRunnerUnderTheUnitsOfMicrovmNix: its ExecStop= runs the package's
// bin/microvm-shutdown, in the service that it ends; and so it is for a VM that was
// started by our units when a host goes back.
func TestOurRunnerUnderTheUnitsOfMicrovmNix(t *testing.T) {
	in(t, "container")
	movesOver := hostOfMicrovmNix(t)
	pkg := build(t, spec("there", nil))
	sh(t, "cp -r "+pkg+" /nix/store/00000000000000000000000000000000-microvm-qemu-there")
	createdByMicrovmNix(t, "there", "/nix/store/00000000000000000000000000000000-microvm-qemu-there")
	clean := func() {
		t.Helper()
		log := sh(t, "journalctl -q -o cat -u microvm@there")
		if !strings.Contains(log, "going down: ") || !strings.Contains(log, "the hypervisor exited after") || strings.Contains(log, "SIG") || strings.Contains(log, "runs as a service") {
			t.Errorf("it did not go down cleanly:\n%s", log)
		}
	}
	sh(t, "systemctl start microvm@there")
	waitFor(t, "there", "test guest is up")
	if out, err := try("runuser -u microvm -- sh -c 'cd /var/lib/microvms/there && current/bin/microvm-shutdown'"); err == nil || !strings.Contains(out, "runs as a service") {
		t.Errorf("somebody else may end it behind the service manager's back: %v: %s", err, out)
	}
	sh(t, "systemctl stop microvm@there")
	clean()

	movesOver()
	sh(t, "install-microvm --relink && systemctl start microvm@there")
	eventually(t, patience, "test $(journalctl -q -o cat -u microvm@there | grep -c 'test guest is up') = 2")
	for name, text := range unitsOfMicrovmNix {
		put(t, "/run/systemd/system/"+name+".service", text, 0o644)
	}
	// As its switch does.
	sh(t, "systemctl daemon-reload && chown -h microvm:kvm /var/lib/microvms/there /var/lib/microvms/there/*")
	sh(t, "journalctl --rotate -q && journalctl -q --vacuum-time=1s && systemctl stop microvm@there")
	clean()
	sh(t, "test $(systemctl show -P Result microvm@there) = success")
}
