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
Requires=microvm-set-booted@%i.service microvm-tap-interfaces@%i.service
After=microvm-set-booted@%i.service microvm-tap-interfaces@%i.service
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
		// It returns when the hypervisor is gone, as the service manager wants it.
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
	return pkg
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
