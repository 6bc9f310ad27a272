package spec

import (
	"cmp"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
)

// defaultStateDir is the directory of VMs of a host without MICROVM_STATE_DIR.
const defaultStateDir = "/var/lib/microvms"

// Dir returns the VM's state directory.
func (s *Spec) Dir() string { return filepath.Join(cmp.Or(s.StateDir, defaultStateDir), s.Name) }

// inStateDir returns path, cleaned and relative to the VM's state directory if it is
// inside that.
func (s *Spec) inStateDir(path string) string {
	path = filepath.Clean(path)
	if inside, err := filepath.Rel(s.Dir(), path); err == nil && filepath.IsAbs(path) && filepath.IsLocal(inside) {
		return inside
	}
	return path
}

var (
	uuid           = pattern(`^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$`)
	credentialName = pattern(`^[a-zA-Z0-9_.\-]{1,255}$`)
	userName       = pattern(`^[a-z_][a-z0-9_\-]{0,31}$`)
	memorySize     = pattern(`^[1-9][0-9]*[MG]$`)
	hostName       = pattern(`^[a-zA-Z0-9]([a-zA-Z0-9\-]*[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9\-]*[a-zA-Z0-9])?)*$`)
	labelLimits    = map[string]int{"ext2": 16, "ext3": 16, "ext4": 16, "xfs": 12, "btrfs": 255, "vfat": 11}
)

// Validate returns every rule that the spec breaks, as Faults. The defaults must be set.
// Rules that depend on the hypervisor are checked by package hypervisor.
func (s *Spec) Validate() error {
	v := &validator{spec: s}
	v.machine()
	v.memory()
	v.interfaces()
	v.forwardPorts()
	v.volumes()
	v.shares()
	v.devices()
	v.guest()
	v.sections()
	return v.faults.Err()
}

// Warnings returns remarks about a valid spec, for its author.
func (s *Spec) Warnings() []string {
	var out []string
	if s.Mem < 32 {
		out = append(out, fmt.Sprintf("mem: %d MiB is very little: few Linux guests boot with less than 32", s.Mem))
	}
	for i, vol := range s.Volumes {
		if vol.Label != nil && !*vol.AutoCreate {
			out = append(out, fmt.Sprintf("volumes[%d].label: autoCreate is false, so the image must already have the label %q", i, *vol.Label))
		}
	}
	return slices.Concat(out, s.mountPointWarnings(), s.machinedWarnings())
}

// mountPointWarnings returns a warning for each mount point that is used twice. The
// guest's NixOS module mounts the first volume or share of a mount point only, and the
// author of another guest's fstab has to choose.
func (s *Spec) mountPointWarnings() []string {
	var out []string
	seen := map[string]string{}
	add := func(path, mountPoint string) {
		if mountPoint == "" {
			return
		}
		mountPoint = filepath.Clean(mountPoint)
		if first, twice := seen[mountPoint]; twice {
			out = append(out, fmt.Sprintf("%s: %s is already the mount point of %s, and the guest sees only one of the two", path, mountPoint, first))
			return
		}
		seen[mountPoint] = path
	}
	for i, vol := range s.Volumes {
		if vol.MountPoint != nil {
			add(fmt.Sprintf("volumes[%d].mountPoint", i), *vol.MountPoint)
		}
	}
	for i, share := range s.Shares {
		add(fmt.Sprintf("shares[%d].mountPoint", i), share.MountPoint)
	}
	return out
}

// machinedWarnings returns a warning if systemd-machined refuses the VM's name, which
// must be a host name; an instance name of a unit allows more. The VM starts anyway.
func (s *Spec) machinedWarnings() []string {
	if !s.RegisterWithMachined || hostName().MatchString(s.Name) {
		return nil
	}
	return []string{fmt.Sprintf("registerWithMachined: %q is not a host name, so machinectl does not show the VM", s.Name)}
}

type validator struct {
	spec   *Spec
	faults Faults
}

// check appends err as a fault at path, unless err is nil.
func (v *validator) check(path string, err error) { v.faults.Add(path, err) }

// enum checks value against table fields. The indices replace [] in the path.
func (v *validator) enum(path, value string, index ...int) {
	values := fields[path].enum
	if slices.Contains(values, value) {
		return
	}
	for _, i := range index {
		path = strings.Replace(path, "[]", fmt.Sprintf("[%d]", i), 1)
	}
	v.faults.AddUnknown(path, value, values).yield() // a hypervisor may have fewer of them
}

// bounds returns the least and the greatest number that the option at path allows.
func bounds(path string) (least, most int64) { return fields[path].least, fields[path].most }

func (v *validator) texts(path string, words []string) {
	for i, w := range words {
		v.check(fmt.Sprintf("%s[%d]", path, i), validateText(w))
	}
}

func (v *validator) machine() {
	s := v.spec
	v.check("name", ValidateVMName(s.Name))
	v.enum("arch", s.Arch)
	v.enum("hypervisor", s.Hypervisor)
	if s.Readiness != "" {
		v.enum("readiness", s.Readiness)
	}
	if s.CPU != nil && *s.CPU == "" {
		v.faults.Addf("cpu", "is empty").Hintf("set a CPU model, or leave the field out for the host's own")
	}
	if s.User != nil && !userName().MatchString(*s.User) {
		v.faults.Addf("user", "invalid user name %q", *s.User).
			Hintf("use lower-case letters, digits, \"_\" and \"-\", and start with a letter or \"_\"")
	}
	if s.Kernel == "" {
		v.faults.Addf("kernel", "is required").Hintf("set the path of a kernel image, such as /boot/vmlinuz")
	}
	for path, value := range map[string]string{"kernel": s.Kernel, "initrdPath": s.InitrdPath, "storeDisk": s.StoreDisk, "system": s.System} {
		v.absolute(path, value)
	}
	v.packagePaths()
	v.texts("kernelParams", s.KernelParams)
	if *s.StoreOnDisk && s.StoreDisk == "" {
		v.faults.Addf("storeDisk", "is required, as storeOnDisk is true").Hintf("set the image's path, or set storeOnDisk to false")
	}
	if s.Socket.Value != nil {
		v.check("socket", ValidateSocketPath(*s.Socket.Value, len(s.Dir())))
	}
	for _, name := range slices.Sorted(maps.Keys(s.BinScripts)) {
		v.check("binScripts."+name, ValidateWord("script name", name))
	}
}

func (v *validator) absolute(path, value string) {
	if value == "" {
		return
	}
	if !filepath.IsAbs(value) {
		v.faults.Addf(path, "invalid path %q: must be absolute", value)
	}
	v.check(path, validateText(value))
}

func (v *validator) memory() {
	s := v.spec
	if s.VCPU < 1 {
		v.faults.Addf("vcpu", "must be at least 1, not %d", s.VCPU)
	}
	if s.Mem < 1 {
		v.faults.Addf("mem", "must be at least 1, not %d", s.Mem)
	}
	if s.HotplugMem < 0 {
		v.faults.Addf("hotplugMem", "must be at least 0, not %d", s.HotplugMem)
	}
	if *s.HotpluggedMem < 0 || *s.HotpluggedMem > max(s.HotplugMem, 0) {
		v.faults.Addf("hotpluggedMem", "must be from 0 to hotplugMem (%d), not %d", s.HotplugMem, *s.HotpluggedMem)
	}
	if s.InitialBalloonMem < 0 || s.InitialBalloonMem >= s.Mem {
		v.faults.Addf("initialBalloonMem", "must be at least 0 and less than mem (%d), not %d", s.Mem, s.InitialBalloonMem)
	}
	if s.InitialBalloonMem > 0 && !s.Balloon {
		v.faults.Addf("initialBalloonMem", "requires balloon").Hintf("set balloon to true").yield()
	}
}

func (v *validator) guest() {
	s := v.spec
	if least, most := bounds("vsock.cid"); s.Vsock.CID != nil && (*s.Vsock.CID < least || *s.Vsock.CID > most) {
		v.faults.Addf("vsock.cid", "must be from %d to %d, not %d", least, most, *s.Vsock.CID)
	}
	if s.MachineID.Value != nil && !uuid().MatchString(*s.MachineID.Value) {
		v.faults.Addf("machineId", "invalid UUID %q", *s.MachineID.Value).Hintf("create one with: uuidgen")
	}
	for _, name := range slices.Sorted(maps.Keys(s.CredentialFiles)) {
		at := "credentialFiles." + name
		if !credentialName().MatchString(name) || name == "." || name == ".." {
			v.faults.Addf(at, "invalid credential name %q", name).Hintf(plainLetters)
		}
		if s.CredentialFiles[name] == "" {
			v.faults.Addf(at, "is empty").Hintf("set the path of the credential's file")
		}
		v.absolute(at, s.CredentialFiles[name])
	}
	v.enum("graphics.backend", s.Graphics.Backend)
	if s.Graphics.Vulkan != nil {
		v.enum("graphics.vulkan", *s.Graphics.Vulkan)
	}
	if !memorySize().MatchString(s.Graphics.HostMem) {
		v.faults.Addf("graphics.hostmem", "invalid size %q: must be a number with M or G, such as 256M", s.Graphics.HostMem)
	}
	if s.Graphics.Enable {
		v.check("graphics.socket", ValidateSocketPath(s.Graphics.Socket, len(s.Dir())))
	}
}

func (v *validator) sections() {
	s := v.spec
	if s.Virtiofsd.InodeFileHandles.Value != nil {
		v.enum("virtiofsd.inodeFileHandles", *s.Virtiofsd.InodeFileHandles.Value)
	}
	v.enum("firecracker.driveIoEngine", s.Firecracker.DriveIoEngine)
	for path, words := range map[string][]string{
		"virtiofsd.extraArgs":        s.Virtiofsd.ExtraArgs,
		"qemu.extraArgs":             s.QEMU.ExtraArgs,
		"cloud-hypervisor.extraArgs": s.CloudHypervisor.ExtraArgs,
		"firecracker.extraArgs":      s.Firecracker.ExtraArgs,
		"crosvm.extraArgs":           s.Crosvm.ExtraArgs,
	} {
		v.texts(path, words)
	}
	for i, word := range s.CloudHypervisor.PlatformOEMStrings {
		if strings.Contains(word, "oem_strings") {
			v.faults.Addf(fmt.Sprintf("cloud-hypervisor.platformOEMStrings[%d]", i), "%q contains oem_strings", word).
				Hintf("write only the string itself")
		}
	}
	ports := newUnique(v)
	for i, p := range s.QEMU.PCIeRootPorts {
		at := fmt.Sprintf("qemu.pcieRootPorts[%d].id", i)
		v.check(at, ValidateWord("port id", p.ID))
		ports.add(at, p.ID)
	}
	slices.SortStableFunc(v.faults, func(a, b Fault) int { return strings.Compare(topLevel(a.Path), topLevel(b.Path)) })
}

// topLevel returns the first element of a path. Faults are grouped by it.
func topLevel(path string) string {
	if end := strings.IndexAny(path, ".["); end >= 0 {
		return path[:end]
	}
	return path
}

// unique reports values that are used twice.
type unique struct {
	v    *validator
	seen map[string]string
}

func newUnique(v *validator) *unique { return &unique{v: v, seen: map[string]string{}} }

func (u *unique) add(path, value string) {
	if value == "" || value == "." {
		return
	}
	if first, twice := u.seen[value]; twice {
		u.v.faults.Addf(path, "%q is already used by %s", value, first)
		return
	}
	u.seen[value] = path
}
