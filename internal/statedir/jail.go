package statedir

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"microvm/internal/hypervisor"
	"microvm/internal/safepath"
	"microvm/internal/spec"
)

// The drop-ins of a jailed VM. What an operator may want otherwise comes before a
// drop-in of his own, override.conf; the mounts come after that of NixOS,
// overrides.conf, which sets the unit's own anew.
const (
	jailName     = "50-jail.conf"
	jailRootName = "zz-jail-root.conf"
)

// jailDropIn is what does not depend on the VM. The number of files is the default
// of Firecracker's jailer, src/jailer/src/resource_limits.rs.
const jailDropIn = `# Made by install-microvm: this VM is jailed (firecracker.jailer).
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

// jailDropIns are the texts of a VM's drop-ins by name, empty where the VM has
// none.
func (v VM) jailDropIns(plan *hypervisor.Plan) (map[string]string, error) {
	none := map[string]string{jailName: "", jailRootName: ""}
	if plan.Jail == nil {
		return none, nil
	}
	devices, root := jailDropIn, strings.Builder{}
	root.WriteString("# Made by install-microvm: the root directory of this VM, which is jailed\n# (firecracker.jailer).\n[Service]\nTemporaryFileSystem=/:ro\n")
	bind := func(directive, path string) { fmt.Fprintf(&root, "%s=-%s\n", directive, path) }
	// The linker's list of libraries, and what some of /usr/bin are links into. The
	// manager's socket is for ExecStopPost=, which has this root with all privileges,
	// too; it has mode 0700, so that only root of the host can connect.
	for _, path := range slices.Concat(hypervisor.JailPrograms, []string{"/etc/ld.so.cache", "/etc/alternatives", "/run/systemd/notify", "/run/systemd/private"}) {
		bind("BindReadOnlyPaths", path)
	}
	if dir := v.Host.LibexecDir; dir != "" && !strings.HasPrefix(dir, "/usr/") && !strings.HasPrefix(dir, nixStore) {
		if err := spec.ValidateJailPath(dir); err != nil {
			return nil, fmt.Errorf("the programs' directory: %w", err)
		}
		bind("BindReadOnlyPaths", dir)
	}
	// What the VM was started with.
	bind("BindReadOnlyPaths", v.RuntimeDir())
	for _, path := range []string{"/dev/kvm", "/dev/net/tun"} {
		bind("BindPaths", path)
	}
	for _, set := range []struct {
		directive, access string
		paths             []string
	}{{"BindReadOnlyPaths", "r", plan.Jail.ReadOnly}, {"BindPaths", "rw", plan.Jail.Writable}} {
		for _, path := range set.paths {
			err := spec.ValidateJailPath(path)
			if err == nil && strings.HasPrefix(path, v.Dir()+"/") {
				continue // there already, and not root's to follow
			}
			if err == nil {
				err = jailFile(path)
			}
			if err != nil {
				return nil, fmt.Errorf("a jailed VM cannot have %s: %w; move it, or fix what it says, or set firecracker.jailer to false", path, err)
			}
			bind(set.directive, path)
			if strings.HasPrefix(path, "/dev/") {
				devices += "DeviceAllow=" + path + " " + set.access + "\n"
			}
		}
	}
	// What a private /dev still shares with the host.
	for _, dir := range []string{"shm", "mqueue", "hugepages", "pts"} {
		root.WriteString("InaccessiblePaths=-/dev/" + dir + "\n")
	}
	// On aarch64 Firecracker reads the CPU's caches and registers there.
	if plan.Arch == "x86_64" {
		root.WriteString("InaccessiblePaths=-/sys\n")
	}
	return map[string]string{jailName: devices, jailRootName: root.String()}, nil
}

// jailFile says whether the service manager, which is root, may follow path at
// any later start: only root can make it lead to something else, and it leads to
// a file, or to nothing yet. See safepath.ForJail.
func jailFile(path string) error {
	place, err := safepath.WalkTrusted(path, safepath.ForJail)
	var u *safepath.UntrustedError
	switch {
	case errors.As(err, &u) && u.Foreign:
		return fmt.Errorf("%s belongs to user %d, who could put anything there; it has to be root's", u.Path, u.UID)
	case errors.As(err, &u):
		return fmt.Errorf("others than root can write to directory %s (mode %04o)", u.Path, u.Mode)
	case err != nil:
		return err
	}
	defer place.Close()
	if place.FD >= 0 && place.Stat.Mode&unix.S_IFMT == unix.S_IFDIR {
		return errors.New("it is a directory, and a jail has files only")
	}
	return nil
}
