package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// nixosService is what the modules say of one unit, as golden/hosts.json of
// test/nix has it.
type nixosService struct {
	Unit, Service                                    map[string]any
	Environment                                      map[string]string
	Requires, Wants, After, Before, PartOf, WantedBy []string
	OverrideStrategy, Script                         string
}

// nixosHost is what the test hosts take of a NixOS host that was evaluated.
type nixosHost struct {
	Services  map[string]nixosService
	Autostart []string
	// Tmpfiles are the rules by file, path and kind.
	Tmpfiles map[string]map[string]map[string]map[string]string
}

func nixosHosts(t *testing.T) map[string]nixosHost {
	t.Helper()
	data, err := os.ReadFile(assets + "/nixos/hosts.json")
	if err != nil {
		t.Fatal(err)
	}
	var hosts map[string]nixosHost
	if err := json.Unmarshal(data, &hosts); err != nil {
		t.Fatal(err)
	}
	return hosts
}

// unitText is the unit file, or the drop-in, that NixOS makes of s. What depends on
// the test is replaced by r.
func (s nixosService) unitText(r *strings.Replacer) string {
	var b strings.Builder
	line := func(key string, value any) {
		_, _ = fmt.Fprintf(&b, "%s=%s\n", key, r.Replace(fmt.Sprint(value)))
	}
	settings := func(attributes map[string]any) {
		// In NixOS' order: TimeoutSec= sets what TimeoutStopSec= sets again.
		for _, key := range slices.Sorted(maps.Keys(attributes)) {
			value := attributes[key]
			values, isList := value.([]any)
			if !isList {
				values = []any{value}
			}
			for _, v := range values {
				line(key, v)
			}
		}
	}
	b.WriteString("[Unit]\n")
	settings(s.Unit)
	for key, units := range map[string][]string{"Requires": s.Requires, "Wants": s.Wants, "After": s.After, "Before": s.Before, "PartOf": s.PartOf} {
		line(key, strings.Join(units, " "))
	}
	b.WriteString("[Service]\n")
	settings(s.Service)
	for key, value := range s.Environment {
		line("Environment", fmt.Sprintf("%q", key+"="+value))
	}
	return b.String()
}

// nixosUnits is where the units of a NixOS host are.
const nixosUnits = "/etc/systemd/system/"

// nixosSwitch puts a host's units where NixOS puts them, read-only and in place of
// those of the switch before, and starts what every switch starts.
func nixosSwitch(t *testing.T, h nixosHost, policy, runner, toplevel string) {
	t.Helper()
	const store = "/nix/store/00000000000000000000000000000000-"
	name := "web"
	if len(h.Autostart) > 0 {
		name = h.Autostart[0]
	}
	r := strings.NewReplacer(
		store+"microvm/bin/", "/usr/bin/",
		store+"microvm-qemu-"+name, runner,
		store+"nixos-system-"+name, toplevel,
		"case keep in", "case "+policy+" in", "case stop in", "case "+policy+" in",
	)
	nixosClear(t)
	nixosPut(t, h.Services, r)
	for name, s := range h.Services {
		for _, target := range s.WantedBy {
			sh(t, fmt.Sprintf("mkdir -p %[1]s%[2]s.wants && ln -s %[1]s%[3]s.service %[1]s%[2]s.wants/", nixosUnits, target, name))
		}
	}
	var wants []string
	for _, vm := range h.Autostart {
		wants = append(wants, "microvm@"+vm+".service")
	}
	put(t, nixosUnits+"microvms.target.d/overrides.conf", "[Unit]\nWants="+strings.Join(wants, " ")+"\n", 0o644)
	// There it is a part of the store.
	sh(t, fmt.Sprintf("mount --bind %[1]s %[1]s && mount -o remount,bind,ro %[1]s && ! touch %[1]sx 2>/dev/null", nixosUnits))
	sh(t, "systemctl daemon-reload && systemctl start microvms.target $(systemctl show -P Wants microvms.target)")
}

// nixosPut writes services as NixOS does: units of their own, and drop-ins.
func nixosPut(t *testing.T, services map[string]nixosService, r *strings.Replacer) {
	t.Helper()
	put(t, "/etc/microvm/.of-the-test", "", 0o644)
	sh(t, "ln -sfn /usr/lib/microvm /etc/microvm/libexec")
	for name, s := range services {
		// A script is its text, where no store has it.
		script := s.Script
		if text, ok := s.Service["ExecStart"].(string); ok && script == "" && strings.Contains(text, "\n") {
			script = text
		}
		if script != "" {
			put(t, "/run/nixos/"+name, "#!/bin/bash\nset -e\n"+r.Replace(script), 0o755)
			s.Service = maps.Clone(s.Service)
			s.Service["ExecStart"] = "/run/nixos/" + name
		}
		path := nixosUnits + name + ".service"
		if s.OverrideStrategy == "asDropin" {
			path += ".d/overrides.conf"
		}
		put(t, path, s.unitText(r), 0o644)
	}
}

// nixosClear removes what nixosSwitch has put.
func nixosClear(t *testing.T) {
	t.Helper()
	sh(t, "! mountpoint -q "+nixosUnits+" || umount "+nixosUnits)
	sh(t, "cd "+nixosUnits+" && rm -rf /run/nixos /etc/microvm microvm@.service microvm-*@.service microvm@*.service.d microvm-*@*.service.d install-microvm-*.service microvm-orphans.service microvm-failing.service microvms.target.d microvms.target.wants sysinit-reactivation.target.wants")
}

func put(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// TestAVMOfANixOSHostFollowsItsSwitches takes the units that the NixOS modules
// evaluate to through the life of a declared VM: its first switch, one that changes
// it, and those after it has left the configuration, by each policy.
func TestAVMOfANixOSHostFollowsItsSwitches(t *testing.T) {
	in(t, "container")
	hosts := nixosHosts(t)
	with, without := hosts["with-a-vm-on-a-tap"], hosts["with-no-vm"]
	if len(with.Services) < 10 || !slices.Contains(with.Autostart, "web") || len(without.Services) == 0 {
		t.Fatalf("the evaluated hosts are %v", hosts)
	}
	t.Cleanup(func() {
		nixosClear(t)
		sh(t, "rm -f /var/lib/microvms/.declared; systemctl daemon-reload")
	})
	cleanUp(t, "web")
	toplevel := t.TempDir()
	guest := func(mem int) string {
		return build(t, spec("web", func(s map[string]any) {
			s["mem"] = mem
			s["interfaces"] = []any{tap("vm-web", 1)}
		}))
	}
	command := func() string {
		return sh(t, "tr '\\0' ' ' < /proc/$(systemctl show -P MainPID microvm@web)/cmdline")
	}

	nixosSwitch(t, with, "stop", guest(256), toplevel)
	wantListed(t, "web", "active qemu current")
	if got := sh(t, "readlink /var/lib/microvms/web/toplevel; cut -d' ' -f1 /var/lib/microvms/.declared"); got != toplevel+"\nweb" {
		t.Errorf("the installed system and the remembered VMs are %q", got)
	}
	sh(t, "ip link show vm-web && systemctl is-active microvm-tap-interfaces@web")
	want(t, 1, []string{"declared by this host", "nixos-rebuild switch"}, "rm", "--yes", "web")
	want(t, 1, []string{"declared by this host"}, "update", "web")

	// A switch installs what changed; the restart is the next start.
	before := sh(t, "systemctl show -P MainPID microvm@web")
	nixosSwitch(t, with, "stop", guest(300), toplevel)
	if got := sh(t, "systemctl show -P MainPID microvm@web"); got != before {
		t.Errorf("the VM was restarted: %s became %s", before, got)
	}
	wantListed(t, "web", "active qemu stale")
	sh(t, "systemctl restart microvm@web")
	if got := command(); !strings.Contains(got, " 300M ") {
		t.Errorf("after the restart the VM is %s", got)
	}
	waitFor(t, "web", "test guest is up")

	// It leaves the configuration.
	nixosSwitch(t, without, "keep", "", "")
	sh(t, "systemctl is-active microvm@web")
	eventually(t, 10*time.Second, "journalctl -q -o cat -u microvm-orphans | grep 'web is no longer declared and is left'")
	nixosSwitch(t, without, "stop", "", "")
	if out, err := try("is_down microvm@web"); err != nil {
		t.Errorf("by policy stop: %s", out)
	}
	sh(t, "test -L /var/lib/microvms/web/current")
	nothingLeft(t, "web")
	sh(t, "no_link vm-web")
	sh(t, "systemctl start microvm@web")
	nixosSwitch(t, without, "purge", "", "")
	if out := leftovers(t, "web"); out != "" {
		t.Errorf("policy purge left %s", out)
	}
	sh(t, "test ! -e /run/microvm/web && no_process -f '[m]icrovm@web' && no_link vm-web")
	if out := sh(t, "cat /var/lib/microvms/.declared"); out != "" {
		t.Errorf("the host remembers %q", out)
	}
}

// TestSettingsOfATemplateHoldForDeclaredVMs asks systemd what it reads of the units
// of two hosts: what their owners say of the templates, by options of the module's
// and by NixOS' own, is in effect beside what is said of one VM.
func TestSettingsOfATemplateHoldForDeclaredVMs(t *testing.T) {
	in(t, "container")
	hosts := nixosHosts(t)
	tests := map[string]map[string]string{
		"with-settings-of-its-own": {
			"microvm@web MemoryMax":                   "1073741824",
			"microvm@web Nice":                        "5",
			"microvm@web UMask":                       "0022",
			"microvm@web TimeoutStartUSec":            "10min",
			"microvm@web TimeoutStopUSec":             "6min 40s",
			"microvm@web RestartUSec":                 "1min",
			"microvm@web RestartSteps":                "0",
			"microvm@web ExecStartPre":                "argv[]=/bin/ip link set web master br0",
			"microvm@web ExecStopPost":                "argv[]=/bin/true",
			"microvm@web After":                       "zfs-mount.service",
			"microvm@web Wants":                       "db.service",
			"microvm@web Requires":                    "zfs-datasets@web.service",
			"microvm@web PartOf":                      "microvm-tap-interfaces@web.service",
			"microvm@web Environment":                 "OWN=1",
			"microvm@web BindPaths":                   "/srv/images",
			"microvm@web ExecStop":                    "argv[]=/etc/microvm/libexec/microvm-run-wrapper stop web",
			"microvm@web Type":                        "notify",
			"microvm-virtiofsd@web TimeoutStartUSec":  "20s",
			"microvm-virtiofsd@web TimeoutStopUSec":   "20s",
			"microvm-virtiofsd@web ExecStartPre":      "microvm-virtiofsd@-pre-start",
			"microvm-virtiofsd@web NoNewPrivileges":   "yes",
			"microvm-tap-interfaces@web ExecStopPost": "argv[]=/etc/microvm/libexec/microvm-tap-interfaces down web",
		},
		"with-everything-elsewhere": {
			"microvm@web WorkingDirectory":           "/srv/vms/web",
			"microvm@web BindPaths":                  "/srv/vms/web",
			"microvm@web TemporaryFileSystem":        "/srv/vms",
			"microvm@web User":                       "vmm",
			"microvm@web Group":                      "vmm",
			"microvm@web TimeoutStartUSec":           "1min",
			"microvm@web TimeoutStopUSec":            "5min",
			"microvm@web Environment":                "MICROVM_STATE_DIR=/srv/vms",
			"microvm-tap-interfaces@web Environment": "MICROVM_TAP_SCRIPT=",
		},
		"with-one-time-for-both": {
			"microvm@web TimeoutStartUSec": "20s",
			"microvm@web TimeoutStopUSec":  "20s",
		},
		"with-vms-of-other-accounts": {
			"microvm@db CapabilityBoundingSet": "cap_net_bind_service",
			"microvm@db PrivateUsers":          "no",
			"microvm@db BindPaths":             "/var/lib/microvms/db",
		},
		"with-a-vm-that-is-not-there-yet": {
			"microvm@later DropInPaths": "microvm@later.service.d/overrides.conf",
			"microvm@later User":        "microvm",
		},
	}
	t.Cleanup(func() {
		nixosClear(t)
		sh(t, "systemctl daemon-reload")
	})
	for name, properties := range tests {
		t.Run(name, func(t *testing.T) {
			services := maps.Clone(hosts["with-no-vm"].Services)
			maps.Copy(services, hosts[name].Services)
			nixosClear(t)
			nixosPut(t, services, strings.NewReplacer())
			sh(t, "systemctl daemon-reload")
			for what, want := range properties {
				unit, property, _ := strings.Cut(what, " ")
				if got := sh(t, fmt.Sprintf("systemctl show -P %s %s", property, unit)); got != want && !strings.Contains(" "+got+" ", want) {
					t.Errorf("%s of %s is %q, want %q", property, unit, got, want)
				}
			}
		})
	}
	// One that is not there is skipped, and fails nothing.
	services := maps.Clone(hosts["with-no-vm"].Services)
	maps.Copy(services, hosts["with-a-vm-that-is-not-there-yet"].Services)
	nixosClear(t)
	nixosPut(t, services, strings.NewReplacer())
	sh(t, "systemctl daemon-reload && systemctl start microvm@later")
	if got := sh(t, "systemctl show -P ActiveState microvm@later microvm-set-booted@later; systemctl --failed --no-legend --plain | grep later || true"); strings.Contains(got, "failed") || !strings.Contains(got, "inactive") {
		t.Errorf("a VM that is not there yet: %s", got)
	}
}

// TestAVMThatGetsAnotherNameKeepsItsTap: the one with the old name is down before the
// new one's helpers look at the interface.
func TestAVMThatGetsAnotherNameKeepsItsTap(t *testing.T) {
	in(t, "container")
	hosts := nixosHosts(t)
	before, after := hosts["with-a-vm-on-a-tap"], hosts["with-a-vm-that-has-another-name"]
	for name, service := range before.Services {
		if _, ok := after.Services[name]; !ok && strings.HasSuffix(name, "@") {
			after.Services[name] = service // the templates are the same
		}
	}
	t.Cleanup(func() {
		nixosClear(t)
		sh(t, "rm -f /var/lib/microvms/.declared; systemctl daemon-reload")
	})
	cleanUp(t, "web")
	cleanUp(t, "next")
	guest := func(name string) string {
		return build(t, spec(name, func(s map[string]any) { s["interfaces"] = []any{tap("vm-web", 1)} }))
	}
	toplevel := t.TempDir()
	nixosSwitch(t, before, "stop", guest("web"), toplevel)
	sh(t, "systemctl is-active microvm@web")
	nixosSwitch(t, after, "stop", guest("next"), toplevel)
	if out, err := try("is_down microvm@web"); err != nil {
		t.Errorf("the VM under its old name: %s", out)
	}
	sh(t, "systemctl is-active microvm@next microvm-tap-interfaces@next && ip link show vm-web")
	if got := sh(t, "systemctl show -P NRestarts microvm@next"); got != "0" {
		t.Errorf("the VM under its new name needed %s more tries", got)
	}
}

// TestNoRuleOfTmpfilesTakesDirectoriesFromRoot: as NixOS writes them, the module's
// rules hold against those of people, at boot and at a switch.
func TestNoRuleOfTmpfilesTakesDirectoriesFromRoot(t *testing.T) {
	in(t, "container")
	files := nixosHosts(t)["with-directories-of-the-hypervisors-user"].Tmpfiles
	// NixOS' own file of systemd.tmpfiles.rules.
	texts := map[string]string{"00-nixos": "d /var/lib/microvms 0755 microvm kvm - -\nZ /var/lib/microvms/web - microvm - - -\n"}
	for file, paths := range files {
		for path, rules := range paths {
			for kind, rule := range rules {
				words := []string{kind, path}
				for _, key := range []string{"mode", "user", "group"} {
					word := rule[key]
					if word == "" {
						word = "-"
					}
					words = append(words, word)
				}
				texts[file] += strings.Join(words, " ") + " - -\n"
			}
		}
	}
	if len(texts) < 5 {
		t.Fatalf("the files are %v", texts)
	}
	cleanUp(t, "web")
	t.Cleanup(func() {
		sh(t, "rm -f /etc/tmpfiles.d/*-microvm.conf /etc/tmpfiles.d/00-nixos.conf /etc/tmpfiles.d/20-own.conf; chown root:root /var/lib/microvms")
	})
	for file, text := range texts {
		put(t, "/etc/tmpfiles.d/"+file+".conf", text, 0o644)
	}
	sh(t, "install -d /var/lib/microvms/web && systemd-tmpfiles --create --remove --boot --prefix=/var/lib/microvms")
	if got := sh(t, "stat -c '%U:%G %a' /var/lib/microvms /var/lib/microvms/web"); got != "root:root 755\nroot:kvm 1775" {
		t.Errorf("after a boot the directories are %s", got)
	}
}
