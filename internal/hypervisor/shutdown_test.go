package hypervisor

import (
	"slices"
	"sort"
	"strings"
	"testing"
)

// handedOver returns how often the plan passes the public key to the guest.
func handedOver(p *Plan) int {
	n := 0
	for _, word := range p.Argv {
		n += strings.Count(word, keyCredential)
	}
	for _, g := range p.Generated {
		n += strings.Count(g.Content, keyCredential)
	}
	return n
}

// TestTheGuestIsAskedWhereTheHypervisorCannot: over SSH, with a key that it gets only then,
// and by a command that ends the hypervisor.
func TestTheGuestIsAskedWhereTheHypervisorCannot(t *testing.T) {
	const (
		cid       = `"vsock":{"cid":3}`
		off       = `"vsock":{"cid":3,"ssh":{"shutdown":false}}`
		noSocket  = `,"socket":null`
		arm       = `,"arch":"aarch64"`
		poweroff  = "systemctl poweroff -i || poweroff"
		reboot    = "systemctl reboot -i || reboot"
		readyNone = `,"readiness":"none"`
	)
	cases := []struct {
		hypervisor, members string
		command, mux        string // "" where it is not asked over SSH
		method, why         string
	}{
		{"alioth", cid, poweroff, "", ShutdownGuestOverSSH, "no control socket"},
		{"alioth", cid + arm, poweroff, "", ShutdownGuestOverSSH, "needs sshd in the guest"},
		{"alioth", cid + readyNone, poweroff, "", ShutdownGuestOverSSH, "else SIGTERM"},
		{"alioth", "", "", "", ShutdownNone, "without vsock.cid"},
		{"alioth", off, "", "", ShutdownNone, "vsock.ssh.shutdown is false"},
		{"alioth", cid + `,"kernelParams":["systemd.set_credential=ssh.ephemeral-authorized_keys-all:mine"]`, "", "", ShutdownNone, "of its own"},
		{"kvmtool", cid, reboot, "", ShutdownGuestOverSSH, "asked to reboot, which ends the hypervisor"},
		{"kvmtool", cid + arm, poweroff, "", ShutdownGuestOverSSH, "asked to power off"},
		{"stratovirt", cid, reboot, "", ShutdownGuestOverSSH, "no power button"},
		{"stratovirt", cid + arm, "", "", ShutdownPowerButton, "power button"},
		{"firecracker", cid, "", "", ShutdownCtrlAltDel, "keyboard"},
		{"firecracker", cid + noSocket, reboot, vsockSocket, ShutdownGuestOverSSH, "socket is null"},
		{"firecracker", cid + arm, poweroff, vsockSocket, ShutdownGuestOverSSH, "x86_64 only"},
		{"cloud-hypervisor", cid, "", "", ShutdownPowerButton, "power button"},
		{"cloud-hypervisor", cid + noSocket, poweroff, vsockSocket, ShutdownGuestOverSSH, "socket is null"},
		{"crosvm", cid, "", "", ShutdownPowerButton, "power button"},
		{"crosvm", cid + arm, poweroff, "", ShutdownGuestOverSSH, "x86_64 only"},
		{"crosvm", cid + noSocket, poweroff, "", ShutdownGuestOverSSH, "socket is null"},
		{"qemu", cid, "", "", ShutdownCtrlAltDel, "keyboard"},
		{"qemu", cid + noSocket, poweroff, "", ShutdownGuestOverSSH, "socket is null"},
		{"qemu", `"socket":null`, "", "", ShutdownNone, "without vsock.cid"},
	}
	for _, c := range cases {
		t.Run(c.hypervisor+" "+c.members, func(t *testing.T) {
			p, err := compileFor(t, c.hypervisor, c.members)
			if err != nil {
				t.Fatal(err)
			}
			if p.Shutdown.Method != c.method || !strings.Contains(p.Shutdown.Why, c.why) {
				t.Errorf("shut down by %s: %s; want %s: %s", p.Shutdown.Method, p.Shutdown.Why, c.method, c.why)
			}
			if c.command == "" {
				if n := handedOver(p); p.Shutdown.SSH != nil || n > 0 {
					t.Errorf("the guest gets the key %d times, for %v", n, p.Shutdown.SSH)
				}
				return
			}
			want := SSH{Key: ShutdownKeyFile, Command: c.command, VsockSocket: c.mux}
			if p.Shutdown.SSH == nil || *p.Shutdown.SSH != want {
				t.Errorf("asked by %+v, want %+v", p.Shutdown.SSH, want)
			}
			if n := handedOver(p); n != 1 {
				t.Errorf("the guest gets the key %d times: %q, %v", n, p.Argv, p.Generated)
			}
		})
	}
}

// TestTheKeyCountsInTheKernelsCommandLine: the key counts with its own length, not with that
// of its placeholder.
func TestTheKeyCountsInTheKernelsCommandLine(t *testing.T) {
	fits := func(n int) bool {
		_, err := compileFor(t, "kvmtool", `"vsock":{"cid":3},"kernelParams":["`+strings.Repeat("x", n)+`"]`)
		return err == nil
	}
	most := sort.Search(2000, func(n int) bool { return !fits(n + 1) })
	p, err := compileFor(t, "kvmtool", `"vsock":{"cid":3},"kernelParams":["`+strings.Repeat("x", most)+`"]`)
	if err != nil {
		t.Fatal(err)
	}
	line := p.Argv[slices.Index(p.Argv, "-p")+1]
	n := len(strings.NewReplacer(ShutdownKey, longestKey, NotifyPort, longestPort).Replace(line))
	if n != maxKernelLine {
		t.Errorf("at most %d bytes of kernelParams are accepted, with which the line has %d; want %d", most, n, maxKernelLine)
	}
}
