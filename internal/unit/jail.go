package unit

import (
	"fmt"
	"slices"
	"strings"

	"microvm/internal/hypervisor"
	"microvm/internal/spec"
)

// nixStore is only ever written by Nix.
const nixStore = "/nix/store/"

// jailText is what does not depend on the VM. The number of files is the default
// of Firecracker's jailer, src/jailer/src/resource_limits.rs.
const jailText = `# Made by install-microvm: this VM is jailed (firecracker.jailer).
[Service]
LimitNOFILE=2048
PrivateDevices=yes
DevicePolicy=closed
DeviceAllow=/dev/kvm rw
DeviceAllow=/dev/net/tun rw
ProcSubset=pid
# Not invisible: the stop command, in a user namespace of its own, would take the
# hypervisor for gone.
ProtectProc=noaccess
`

// jailTexts are the drop-ins of a jailed VM, for its limits and devices and for its
// root directory.
func jailTexts(plan *hypervisor.Plan, f Facts) (limits, root string, err error) {
	if plan.Jail == nil {
		return "", "", nil
	}
	var b strings.Builder
	limits = jailText
	b.WriteString("# Made by install-microvm: the root directory of this VM, which is jailed\n# (firecracker.jailer).\n[Service]\nTemporaryFileSystem=/:ro\n")
	bind := func(directive, path string) { fmt.Fprintf(&b, "%s=-%s\n", directive, path) }
	// The linker's list of libraries, and what some of /usr/bin are links into. The
	// manager's socket is for ExecStopPost=, which has this root with all privileges,
	// too; it has mode 0700, so that only root of the host can connect.
	for _, path := range slices.Concat(hypervisor.JailPrograms, []string{"/etc/ld.so.cache", "/etc/alternatives", "/run/systemd/notify", "/run/systemd/private"}) {
		bind("BindReadOnlyPaths", path)
	}
	if dir := f.LibexecDir; dir != "" && !strings.HasPrefix(dir, "/usr/") && !strings.HasPrefix(dir, nixStore) {
		if err := spec.ValidateJailPath(dir); err != nil {
			return "", "", fmt.Errorf("the programs' directory: %w", err)
		}
		bind("BindReadOnlyPaths", dir)
	}
	// What the VM was started with.
	bind("BindReadOnlyPaths", f.RuntimeDir)
	for _, path := range []string{"/dev/kvm", "/dev/net/tun"} {
		bind("BindPaths", path)
	}
	for _, set := range []struct {
		directive, access string
		paths             []string
	}{{"BindReadOnlyPaths", "r", plan.Jail.ReadOnly}, {"BindPaths", "rw", plan.Jail.Writable}} {
		for _, path := range set.paths {
			own, err := f.checkJailed(path)
			if err != nil {
				return "", "", fmt.Errorf("a jailed VM cannot have %s: %w; move it, or fix what it says, or set firecracker.jailer to false", path, err)
			}
			if own {
				continue
			}
			bind(set.directive, path)
			if strings.HasPrefix(path, "/dev/") {
				limits += "DeviceAllow=" + path + " " + set.access + "\n"
			}
		}
	}
	// What a private /dev still shares with the host.
	for _, dir := range []string{"shm", "mqueue", "hugepages", "pts"} {
		b.WriteString("InaccessiblePaths=-/dev/" + dir + "\n")
	}
	// On aarch64 Firecracker reads the CPU's caches and registers there.
	if plan.Arch == "x86_64" {
		b.WriteString("InaccessiblePaths=-/sys\n")
	}
	return limits, b.String(), nil
}

// checkJailed says why a jail cannot have a file of the host's. own are those in the
// VM's directory, which a jail has already, and which are not root's to follow.
func (f Facts) checkJailed(path string) (own bool, err error) {
	if err := spec.ValidateJailPath(path); err != nil {
		return false, err
	}
	if strings.HasPrefix(path, f.dir()+"/") {
		return true, nil
	}
	if f.JailFile == nil {
		return false, nil
	}
	return false, f.JailFile(path)
}
