package unit

import (
	"path"
	"path/filepath"
	"slices"
	"strings"

	"microvm/internal/hypervisor"
)

// Facts are what the drop-ins of a VM depend on beside its plan. They are facts, so
// that the texts follow from them alone: who calls DropIns looks at the host.
type Facts struct {
	// VM is the VM's name.
	VM string
	// StateDir holds the directories of all VMs, and the names in Reserved, which
	// are no VM's.
	StateDir string
	Reserved []string
	// RuntimeDir is the VM's directory below /run.
	RuntimeDir string
	// LibexecDir holds our programs; empty where nobody knows.
	LibexecDir string
	// Systemd is the version of the service manager, 0 where it is not known.
	Systemd int
	// Booted is the plan of the package that the VM was started with, nil where
	// there is none.
	Booted *hypervisor.Plan
	// Behind returns where a path leads by links that only root can change; nil means
	// that there are no links. BehindLocal does not follow those that a server would
	// have to answer for.
	Behind, BehindLocal func(path string) string
	// JailFile says why the service manager, which is root, must not follow a path
	// at a later start; nil means that it may follow all.
	JailFile func(path string) error
}

// dir returns the VM's own directory.
func (f Facts) dir() string { return filepath.Join(f.StateDir, f.VM) }

// behind is where a path leads by resolve.
func behind(resolve func(string) string, path string) string {
	if resolve == nil {
		return path
	}
	return resolve(path)
}

// Names of drop-ins. What an operator may want otherwise comes before a drop-in of
// his own, override.conf; the mounts of a jail come after that of NixOS,
// overrides.conf, which sets the unit's own anew: drop-ins are read in the order of
// their names, whichever directory they are in, systemd.unit(5).
const (
	helpersName    = "50-helpers.conf"
	unneededName   = "50-unneeded.conf"
	bridgeName     = "50-bridge.conf"
	namespacesName = "50-namespaces.conf"
	jailName       = "50-jail.conf"
	jailRootName   = "zz-jail-root.conf"
	mountsName     = "50-mounts.conf"
	viewName       = "50-view.conf"
)

// DropIns returns the texts of all drop-ins that a VM can have, by their paths below
// the directory of the host's units; one that this VM is not to have is empty, and
// with the empty plan all are. An error says why a jailed VM cannot have what its plan wants.
func DropIns(plan *hypervisor.Plan, f Facts) (map[string]string, error) {
	jail, root, err := jailTexts(plan, f)
	if err != nil {
		return nil, err
	}
	helpers := inUse(plan, f.Booted)
	all := map[string]string{}
	add := func(t Template, name, text string) { all[path.Join(t.Of(f.VM)+".d", name)] = text }
	for _, t := range Templates() {
		if t.Lasting {
			add(t, unneededName, only(slices.ContainsFunc(helpers, t.Is), unneededText))
		}
	}
	add(Main, helpersName, helpersText(helpers, f.VM))
	add(Main, bridgeName, only(plan.Bridge, bridgeText))
	add(Main, namespacesName, only(plan.Namespaces, namespacesText))
	add(Main, jailName, jail)
	add(Main, jailRootName, root)
	add(Main, mountsName, mountsText(f, filesOf(plan)))
	add(Virtiofsd, mountsName, mountsText(f, sharesOf(plan)))
	add(Main, viewName, viewText(plan, f))
	return all, nil
}

// only is text if it is wanted.
func only(wanted bool, text string) string {
	if !wanted {
		return ""
	}
	return text
}

// inUse are the helpers that plan needs, and those of the package that the VM was
// started with: a helper that nothing wants any more stops, and would take away
// under a running VM what it made.
func inUse(plan, booted *hypervisor.Plan) []Template {
	out := Helpers(plan)
	if booted == nil {
		return out
	}
	for _, t := range Helpers(booted) {
		if !slices.ContainsFunc(out, t.Is) {
			out = append(out, t)
		}
	}
	return out
}

// unneededText stops a helper when no VM wants it.
const unneededText = `# Made by install-microvm: it does not outlive a VM that failed for good, or that
# never came to be started.
[Unit]
StopWhenUnneeded=yes
`

// helpersText wants helpers, and no others than the VM needs: a unit that is only
// skipped by its condition costs each start time. One that fails is
// started anew at each try of the VM, which it would not be if it were required.
// PartOf= stops and restarts the VM with its helper, as requiring it would; what
// registers a VM is done with it then.
func helpersText(helpers []Template, vm string) string {
	var wants, partOf []string
	for _, t := range helpers {
		wants = append(wants, t.Of(vm))
		if t.Lasting {
			partOf = append(partOf, t.Of(vm))
		}
	}
	if wants == nil {
		return ""
	}
	text := "# Made by install-microvm: the helpers that this VM needs.\n[Unit]\nWants=" + strings.Join(wants, " ") + "\n"
	if partOf != nil {
		text += "PartOf=" + strings.Join(partOf, " ") + "\n"
	}
	return text
}

// namespacesText lets crosvm make its own sandbox.
const namespacesText = `# Made by install-microvm: this VM's hypervisor makes namespaces for a sandbox of
# its own, one for each device.
[Service]
RestrictNamespaces=no
SystemCallFilter=
SystemCallFilter=~@clock @cpu-emulation @debug @module @obsolete @raw-io @reboot @swap
`

// bridgeText lets qemu-bridge-helper gain its capability.
const bridgeText = `# Made by install-microvm: this VM has an interface of type bridge, and
# qemu-bridge-helper gains CAP_NET_ADMIN when it is executed, which
# NoNewPrivileges= and everything that implies it would prevent.
[Service]
NoNewPrivileges=no
CapabilityBoundingSet=CAP_NET_ADMIN CAP_SETUID CAP_SETGID CAP_SETPCAP
PrivateUsers=no
RestrictAddressFamilies=
RestrictNamespaces=no
RestrictRealtime=no
LockPersonality=no
SystemCallFilter=
SystemCallArchitectures=
`
