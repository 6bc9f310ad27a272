package spec

import (
	"cmp"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
)

// defaultStateDir is where the directories of VMs are, unless the host says
// otherwise by MICROVM_STATE_DIR.
const defaultStateDir = "/var/lib/microvms"

// Dir returns the VM's state directory.
func (s *Spec) Dir() string { return filepath.Join(cmp.Or(s.StateDir, defaultStateDir), s.Name) }

// inStateDir is the path of an image, as a path of the VM's state directory where
// it is one, for comparisons.
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

// Validate reports every rule that the spec breaks, as Faults. It expects the
// defaults to be set. What depends on the hypervisor is checked where the spec
// is compiled.
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

// Warnings are remarks about a valid spec that its author will want to see.
func (s *Spec) Warnings() []string {
	var out []string
	if s.Mem < 32 {
		out = append(out, fmt.Sprintf("mem: %d MiB is very little; a Linux guest hardly boots with less than 32", s.Mem))
	}
	for i, vol := range s.Volumes {
		if vol.Label != nil && !*vol.AutoCreate {
			out = append(out, fmt.Sprintf("volumes[%d].label: the image is not created here (autoCreate is false), so it has to have the label %q already", i, *vol.Label))
		}
	}
	return slices.Concat(out, s.mountPointWarnings(), s.machinedWarnings())
}

// mountPointWarnings tell of what is mounted over something else, or not at all:
// of two volumes, or two shares, of one mount point the guest's module mounts the
// first, and who writes the guest's fstab has to choose.
func (s *Spec) mountPointWarnings() []string {
	var out []string
	seen := map[string]string{}
	add := func(path, mountPoint string) {
		if mountPoint == "" {
			return
		}
		mountPoint = filepath.Clean(mountPoint)
		if first, twice := seen[mountPoint]; twice {
			out = append(out, fmt.Sprintf("%s: %s is the mount point of %s as well, and the guest shows one of the two; give each a mount point of its own", path, mountPoint, first))
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

// machinedWarnings: systemd-machined takes what can be a host name, which is less
// than what systemd takes in the name of a unit; the VM starts all the same.
func (s *Spec) machinedWarnings() []string {
	if !s.RegisterWithMachined || hostName().MatchString(s.Name) {
		return nil
	}
	return []string{fmt.Sprintf("registerWithMachined: systemd-machined takes no machine with the name %q, so machinectl will not show it; use letters, digits, \"-\" and \".\" in the name, or set registerWithMachined to false", s.Name)}
}

type validator struct {
	spec   *Spec
	faults Faults
}

// check records err, where there is one, under path.
func (v *validator) check(path string, err error) {
	if err != nil {
		v.faults.Addf(path, "%v", err)
	}
}

// enum checks value against the table of fields. index replaces [] in the path.
func (v *validator) enum(path, value string, index ...int) {
	values := fields[path].enum
	if slices.Contains(values, value) {
		return
	}
	for _, i := range index {
		path = strings.Replace(path, "[]", fmt.Sprintf("[%d]", i), 1)
	}
	v.faults.Addf(path, "%s", Unknown(value, values))
	v.faults.yield() // a hypervisor may have fewer of them
}

// bounds returns the least and the greatest number that an option may be.
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
		v.faults.Addf("cpu", "is empty; name a CPU model, or leave the field out for the host's own")
	}
	if s.User != nil && !userName().MatchString(*s.User) {
		v.faults.Addf("user", "%q is no user name; it begins with a small letter or _, and has small letters, digits, _ and - only", *s.User)
	}
	if s.Kernel == "" {
		v.faults.Addf("kernel", "is missing; give the path of a kernel image, such as /boot/vmlinuz")
	}
	for path, value := range map[string]string{"kernel": s.Kernel, "initrdPath": s.InitrdPath, "storeDisk": s.StoreDisk, "system": s.System} {
		v.absolute(path, value)
	}
	v.packagePaths()
	v.texts("kernelParams", s.KernelParams)
	if *s.StoreOnDisk && s.StoreDisk == "" {
		v.faults.Addf("storeDisk", "is missing, but storeOnDisk is true; give the image's path or set storeOnDisk to false")
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
		v.faults.Addf(path, "%q has to be an absolute path; begin it with /", value)
	}
	v.check(path, validateText(value))
}

func (v *validator) memory() {
	s := v.spec
	if s.VCPU < 1 {
		v.faults.Addf("vcpu", "%d is not possible; a VM has at least 1", s.VCPU)
	}
	if s.Mem < 1 {
		v.faults.Addf("mem", "%d is not possible; give the memory in MiB, such as 512", s.Mem)
	}
	if s.HotplugMem < 0 {
		v.faults.Addf("hotplugMem", "%d is negative; give MiB from 0 on", s.HotplugMem)
	}
	if *s.HotpluggedMem < 0 || *s.HotpluggedMem > max(s.HotplugMem, 0) {
		v.faults.Addf("hotpluggedMem", "%d is not between 0 and hotplugMem (%d); lower it, or raise hotplugMem", *s.HotpluggedMem, s.HotplugMem)
	}
	if s.InitialBalloonMem < 0 || s.InitialBalloonMem >= s.Mem {
		v.faults.Addf("initialBalloonMem", "%d is not between 0 and less than mem (%d); lower it, or raise mem", s.InitialBalloonMem, s.Mem)
	}
	if s.InitialBalloonMem > 0 && !s.Balloon {
		v.faults.Addf("initialBalloonMem", "needs balloon; set balloon to true")
		v.faults.yield()
	}
}

func (v *validator) guest() {
	s := v.spec
	if least, most := bounds("vsock.cid"); s.Vsock.CID != nil && (*s.Vsock.CID < least || *s.Vsock.CID > most) {
		v.faults.Addf("vsock.cid", "%d is reserved or out of range; choose one from %d to %d", *s.Vsock.CID, least, most)
	}
	if s.MachineID.Value != nil && !uuid().MatchString(*s.MachineID.Value) {
		v.faults.Addf("machineId", "%q is no UUID; write 8-4-4-4-12 hexadecimal digits, as uuidgen prints", *s.MachineID.Value)
	}
	for _, name := range slices.Sorted(maps.Keys(s.CredentialFiles)) {
		at := "credentialFiles." + name
		if !credentialName().MatchString(name) || name == "." || name == ".." {
			v.faults.Addf(at, "%q is no credential name; use letters, digits, \"-\", \"_\" and \".\"", name)
		}
		if s.CredentialFiles[name] == "" {
			v.faults.Addf(at, "is empty; give the credential's file")
		}
		v.absolute(at, s.CredentialFiles[name])
	}
	v.enum("graphics.backend", s.Graphics.Backend)
	if s.Graphics.Vulkan != nil {
		v.enum("graphics.vulkan", *s.Graphics.Vulkan)
	}
	if !memorySize().MatchString(s.Graphics.HostMem) {
		v.faults.Addf("graphics.hostmem", "%q is no size; write a number with M or G, such as 256M", s.Graphics.HostMem)
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
			v.faults.Addf(fmt.Sprintf("cloud-hypervisor.platformOEMStrings[%d]", i), "%q holds oem_strings; give only the string itself", word)
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

// topLevel returns the first member of a path; faults are grouped by it.
func topLevel(path string) string {
	if end := strings.IndexAny(path, ".["); end >= 0 {
		return path[:end]
	}
	return path
}

// unique notices values that are used twice.
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
		u.v.faults.Addf(path, "%q is already used by %s; choose another", value, first)
		return
	}
	u.seen[value] = path
}
