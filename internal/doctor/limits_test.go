package doctor

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"microvm/internal/account"
	"microvm/internal/hypervisor"
	"microvm/internal/statedir"
	"microvm/test/need"
)

const nobody = 65534

// open makes the directories of a doctor's host searchable for all users.
func (d *Doctor) open(t *testing.T) {
	t.Helper()
	for path := d.Root; path != os.TempDir() && path != "/"; path = filepath.Dir(path) {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAccessIsThatOfTheAccount(t *testing.T) {
	need.Root(t)
	d := newDoctor(t, map[string]string{"shut/file": "", "open/file": "", "open/mine": "", "open/group": ""})
	d.open(t)
	err := errors.Join(
		os.Chmod(d.path("shut"), 0o750),
		os.Chmod(d.path("open/file"), 0o600),
		os.Chmod(d.path("open/mine"), 0o600), os.Chown(d.path("open/mine"), nobody, 0),
		os.Chmod(d.path("open/group"), 0o640), os.Chown(d.path("open/group"), 0, nobody),
		os.Symlink("mine", d.path("open/link")), os.Symlink("../shut/file", d.path("open/away")),
	)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path string
		mode uint32
		want string
	}{
		{"open/mine", unix.R_OK | unix.W_OK, ""},
		{"open/link", unix.R_OK, ""},
		{"open/group", unix.R_OK, ""},
		{"open/group", unix.W_OK, "is not writable by"},
		{"open/mine", unix.X_OK, "is not executable by"},
		{"open/file", unix.R_OK, "is not readable by"},
		{"shut/file", unix.R_OK, "shut is not searchable by the hypervisors' user"},
		{"open/away", unix.R_OK, "shut is not searchable by the hypervisors' user"},
		{"open/none", unix.R_OK, "not found"},
	} {
		got := accessAs(account.Account{UID: nobody, GID: nobody}, d.path(c.path), c.mode)
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s for %o: %q, want %q", c.path, c.mode, got, c.want)
		}
	}
	if euid, fsuid := os.Geteuid(), fsuidOf(t); euid != 0 || fsuid != "0" {
		t.Errorf("this process is now user %d, %s for files", euid, fsuid)
	}
	t.Run("an access list", func(t *testing.T) {
		// u::rw-, u:nobody:r--, g::---, m::r--, o::---: linux/posix_acl_xattr.h, little-endian.
		list := []byte{2, 0, 0, 0}
		for _, e := range [][3]uint32{{0x1, 6, ^uint32(0)}, {0x2, 4, nobody}, {0x4, 0, ^uint32(0)}, {0x10, 4, ^uint32(0)}, {0x20, 0, ^uint32(0)}} {
			list = binary.LittleEndian.AppendUint16(list, uint16(e[0]))
			list = binary.LittleEndian.AppendUint16(list, uint16(e[1]))
			list = binary.LittleEndian.AppendUint32(list, e[2])
		}
		if err := unix.Setxattr(d.path("open/file"), "system.posix_acl_access", list, 0); err != nil {
			t.Skipf("no access lists here: %v", err)
		}
		if why := accessAs(account.Account{UID: nobody, GID: nobody}, d.path("open/file"), unix.R_OK); why != "" {
			t.Errorf("an access list lets it: %s", why)
		}
	})
}

// fsuidOf returns the file system user id of the calling thread.
func fsuidOf(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) == 5 && f[0] == "Uid:" {
			return f[4]
		}
	}
	return "none"
}

func TestWhatTheHostLimitsIsNamed(t *testing.T) {
	d := newDoctor(t, map[string]string{
		"proc/meminfo":                                 "MemTotal:        2048000 kB\n",
		"proc/sys/user/max_user_namespaces":            "0\n",
		"proc/sys/user/max_mnt_namespaces":             "15000\n",
		"proc/sys/user/max_net_namespaces":             "0\n",
		"proc/sys/net/ipv4/ip_unprivileged_port_start": "1024\n",
		"srv/there": "", "srv/mine/x": "", "state/other/vmlinuz": "", "state/web/initrd": "",
	})
	d.open(t)
	if err := os.Chown(d.path("srv/mine"), os.Geteuid(), os.Getegid()); err != nil {
		t.Fatal(err)
	}
	vm := statedir.VM{Host: d.Host, Name: "web"}
	plan := &hypervisor.Plan{
		Name: "web", MemMiB: 2001, VCPU: 4096,
		Argv: []string{"qemu-system-x86_64"},
		HostPorts: []hypervisor.HostPort{
			{Proto: "tcp", Port: 80}, {Proto: "udp", Address: "127.0.0.1", Port: 5353}, {Proto: "tcp", Address: "127.0.0.1", Port: 22},
		},
		NinePShares: []hypervisor.NinePShare{
			{Tag: "gone", Source: d.path("srv/gone")}, {Tag: "file", Source: d.path("srv/there"), ReadOnly: true},
			{Tag: "data", Source: "data"}, {Tag: "ro", Source: d.path("srv/mine"), ReadOnly: true},
		},
	}
	plan.Files = []hypervisor.File{{Role: "kernel", Path: d.path("state/other/vmlinuz")}, {Role: "initrdPath", Path: d.path("state/web/initrd")}}
	d.limits(vm, plan)
	d.expect(t, "file kernel", Failed, "sees only the VM's own directory")
	d.expect(t, "memory", Failed, "the VM has 2001 MiB, this host only 2000")
	d.expect(t, "CPUs", Missing, "4096")
	d.expect(t, "sysctl user.max_user_namespaces", Failed, "217/USER")
	d.expect(t, "port tcp/80", Failed, "sysctl net.ipv4.ip_unprivileged_port_start=80")
	d.expect(t, "port tcp/22", Failed, "may only listen on ports from 1024")
	d.expect(t, "share gone", Failed, "not found")
	d.expect(t, "share file", Failed, "is not a directory")
	d.expect(t, "share data", OK, "will be created at the first start")
	d.expect(t, "share ro", OK, "served by the hypervisor")
	for _, f := range d.findings {
		if strings.Contains(f.Check, "5353") || strings.Contains(f.Check, "mnt") || strings.Contains(f.Check, "net_namespaces") {
			t.Errorf("%+v", f)
		}
	}
	if err := os.WriteFile(d.path("proc/sys/net/ipv4/ip_unprivileged_port_start"), []byte("0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d.findings = nil
	d.limits(vm, &hypervisor.Plan{Name: "web", MemMiB: 512, VCPU: 1, Bridge: true, Argv: plan.Argv})
	for _, f := range d.findings {
		if f.Status == Failed && f.Check != "package access" {
			t.Errorf("nothing is wrong: %+v", f)
		}
	}
}

func TestAPlanForOtherVersionsIsNamed(t *testing.T) {
	dir, err := os.MkdirTemp("/var/tmp", "microvm-doctor-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	program := filepath.Join(dir, "cloud-hypervisor")
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(program, []byte("#!/bin/sh\necho cloud-hypervisor v54.0\n"), 0o755), os.Chmod(program, 0o755)); err != nil {
		t.Fatal(err)
	}
	d := newDoctor(t, nil)
	for _, c := range []struct {
		versions     *hypervisor.Versions
		status, text string
	}{
		{&hypervisor.Versions{Unknown: true}, Failed, "was unknown when the VM was built"},
		{&hypervisor.Versions{From: "36.0", Before: "39.0"}, Failed, "54.0, but the VM was built for 36.0 or newer, before 39.0"},
		{&hypervisor.Versions{From: "52.0"}, OK, "54.0"},
	} {
		d.findings = nil
		d.compiledFor(&hypervisor.Plan{Name: "web", CompiledFor: c.versions}, program)
		d.expect(t, "hypervisor version", c.status, c.text)
	}
}
