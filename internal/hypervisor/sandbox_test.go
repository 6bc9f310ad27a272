package hypervisor

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"microvm/internal/spec"
)

// sandboxOf returns the value of -sandbox, and the plan.
func sandboxOf(t *testing.T, members string, seccomp func(string) (bool, error)) (string, *Plan) {
	t.Helper()
	s, err := spec.Parse([]byte(`{"name":"web","arch":"x86_64","kernel":"/k",` + members + `}`))
	if err != nil {
		t.Fatalf("%s: %v", members, err)
	}
	p, err := (&Builder{Seccomp: seccomp}).Compile(s)
	if err != nil {
		t.Fatalf("%s: %v", members, err)
	}
	var all []string
	for i, word := range p.Argv {
		if word == "-sandbox" || word == "--sandbox" {
			all = append(all, p.Argv[i+1])
		}
	}
	return strings.Join(all, " "), p
}

// TestQEMUsSandboxLeavesWhatAVMNeeds: it allows what the VM needs, and no more.
func TestQEMUsSandboxLeavesWhatAVMNeeds(t *testing.T) {
	const (
		strict  = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
		spawn   = "on,obsolete=deny,elevateprivileges=deny,spawn=allow,resourcecontrol=deny"
		program = "on,obsolete=deny,elevateprivileges=allow,spawn=allow,resourcecontrol=deny"
		pin     = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=allow"
	)
	extra := func(words ...string) string { return `"qemu":{"extraArgs":["` + strings.Join(words, `","`) + `"]}` }
	for members, want := range map[string]string{
		`"vcpu":1`:                   strict,
		`"graphics":{"enable":true}`: spawn,
		`"graphics":{"enable":true,"vulkan":"venus"}`:                                        spawn,
		`"interfaces":[{"type":"bridge","id":"a","mac":"02:00:00:00:00:01","bridge":"br0"}]`: "",
		`"interfaces":[{"type":"user","id":"a","mac":"02:00:00:00:00:01"}],"forwardPorts":[{"from":"guest","host":{"port":1},"guest":{"port":2,"address":"10.0.2.9"}}]`: program,
		extra("-netdev", "tap,id=x,ifname=x,script=/path/up"):                      program,
		extra("-netdev", "tap,id=x,ifname=x,script=no,downscript=/path/down"):      program,
		extra("-netdev", "tap,id=x"):                                               program,
		extra("-nic", "tap,model=virtio"):                                          program,
		extra("-netdev", "tap,id=x,ifname=x,script=no,downscript=no"):              strict,
		extra("-netdev", "tap,id=x,fd=7"):                                          strict,
		extra("-netdev", `{\"type\":\"tap\",\"id\":\"x\",\"script\":\"/up\"}`):     program,
		extra("-netdev", "tap,id=x,helper=/run/wrappers/bin/qemu-bridge-helper"):   "",
		extra("-netdev", "bridge,id=x,br=br0"):                                     "",
		extra("-nic", "bridge,br=br0"):                                             "",
		extra("-netdev", "user,id=x,smb=/srv"):                                     program,
		extra("-netdev", "user,id=x,guestfwd=tcp:10.0.2.9:1-cmd:nc a 1"):           program,
		extra("-netdev", "user,id=x,hostfwd=tcp::1-:1"):                            strict,
		extra("-netdev", "passt,id=x"):                                             program,
		extra("-netdev", "stream,id=x,addr.type=unix,addr.path=/run/passt.socket"): strict,
		extra("-netdev", "vhost-user,id=x,chardev=c"):                              strict,
		extra("-device", "virtio-gpu-gl,venus=on,blob=true"):                       spawn,
		extra("-device", "virtio-gpu-gl"):                                          strict,
		extra("-display", "gtk,gl=on"):                                             spawn,
		extra("-display", "vnc=:1"):                                                strict,
		extra("-incoming", "exec:cat /x"):                                          program,
		extra("-incoming", "unix:/x"):                                              strict,
		extra("-run-with", "user=alice"):                                           program,
		extra("-run-with", "chroot=/x"):                                            strict,
		extra("-object", "thread-context,id=t,cpu-affinity=0"):                     pin,
		extra("-sandbox", "on,spawn=allow"):                                        "on,spawn=allow",
		extra("--sandbox", "off", "-netdev", "user,id=x,smb=/srv"):                 "off",
	} {
		got, p := sandboxOf(t, members, nil)
		if got != want {
			t.Errorf("%s: -sandbox %q, want %q", members, got, want)
		}
		if allows := strings.Contains(want, "=allow") && strings.HasPrefix(want, "on,obsolete") && want != pin; allows != slices.ContainsFunc(p.Notes, func(n string) bool {
			return strings.Contains(n, "start programs") || strings.Contains(n, "start nc")
		}) {
			t.Errorf("%s: the notes name what starts programs: %q", members, p.Notes)
		}
		if bridge := strings.Contains(members, "bridge"); p.Bridge != bridge {
			t.Errorf("%s: Bridge is %t, which allows the helper to gain its capability", members, p.Bridge)
		}
		if passt := strings.Contains(members, `"passt,`); p.Namespaces != passt {
			t.Errorf("%s: Namespaces is %t, which passt needs", members, p.Namespaces)
		}
	}
}

// TestAQEMUWithoutSeccompGetsNoSandbox: it would refuse the option.
func TestAQEMUWithoutSeccompGetsNoSandbox(t *testing.T) {
	for name, c := range map[string]struct {
		seccomp func(string) (bool, error)
		has     bool
	}{
		"without":             {func(string) (bool, error) { return false, nil }, false},
		"with":                {func(string) (bool, error) { return true, nil }, true},
		"one not to be asked": {func(string) (bool, error) { return false, errors.New("not found") }, true},
	} {
		got, p := sandboxOf(t, `"vcpu":1`, c.seccomp)
		if (got != "") != c.has {
			t.Errorf("%s: -sandbox %q", name, got)
		}
		if said := strings.Contains(strings.Join(p.Notes, "\n"), "without seccomp"); said == c.has {
			t.Errorf("%s: notes %q", name, p.Notes)
		}
	}
}
