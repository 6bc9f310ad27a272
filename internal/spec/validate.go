package spec

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
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

func (v *validator) interfaces() {
	ids, macs := newUnique(v), newUnique(v)
	for i, n := range v.spec.Interfaces {
		at := fmt.Sprintf("interfaces[%d]", i)
		v.enum("interfaces[].type", n.Type, i)
		v.interfaceID(at+".id", n)
		v.check(at+".mac", ValidateMAC(n.MAC))
		ids.add(at+".id", n.ID)
		macs.add(at+".mac", strings.ToLower(n.MAC))
		v.bridge(at, n)
		v.macvtap(at, i, n)
		if n.Tap.Vhost && n.Type != "tap" {
			v.faults.Addf(at+".tap.vhost", "is for type tap, and this interface has type %s; remove it", n.Type)
		}
	}
}

// interfaceID checks the name that a tap or macvtap has on the host. lo is there
// before any of ours.
func (v *validator) interfaceID(at string, n Interface) {
	switch {
	case n.Type != "tap" && n.Type != "macvtap":
		v.check(at, ValidateInterfaceLabel(n.ID))
	case n.ID == "lo":
		v.faults.Addf(at, "%q is the host's own interface\nhint: choose another name, such as \"vm-web\"", n.ID)
	case n.Type == "macvtap" && strings.Contains(n.ID, "}"):
		// The plan has the id in a placeholder, which ends there.
		v.faults.Addf(at, "%q holds \"}\", which the name of a macvtap cannot\nhint: use letters, digits, \"-\", \"_\" and \".\"", n.ID)
	default:
		v.check(at, ValidateInterfaceName(n.ID))
	}
}

func (v *validator) bridge(at string, n Interface) {
	switch {
	case n.Type == "bridge" && n.Bridge == nil:
		v.faults.Addf(at+".bridge", "is missing; name the bridge that an interface of type bridge joins")
	case n.Type == "bridge":
		v.check(at+".bridge", ValidateInterfaceName(*n.Bridge))
	case n.Bridge != nil:
		v.faults.Addf(at+".bridge", "is for type bridge, and this interface has type %s; remove one of the two", n.Type)
	}
}

func (v *validator) macvtap(at string, i int, n Interface) {
	if n.Type != "macvtap" {
		if n.Macvtap != (Macvtap{}) {
			v.faults.Addf(at+".macvtap", "is for type macvtap, and this interface has type %s; remove one of the two", n.Type)
		}
		return
	}
	if n.Macvtap.Link == "" {
		v.faults.Addf(at+".macvtap.link", "is missing; name the host's interface to stand on, such as \"eth0\"")
	} else {
		v.check(at+".macvtap.link", ValidateInterfaceName(n.Macvtap.Link))
	}
	v.enum("interfaces[].macvtap.mode", n.Macvtap.Mode, i)
}

func (v *validator) forwardPorts() {
	hasUser := slices.ContainsFunc(v.spec.Interfaces, func(n Interface) bool { return n.Type == "user" })
	if len(v.spec.ForwardPorts) > 0 && !hasUser {
		v.faults.Addf("forwardPorts", "needs an interface of type user; add one, or remove the ports")
		v.faults.yield()
	}
	for i, p := range v.spec.ForwardPorts {
		at := fmt.Sprintf("forwardPorts[%d]", i)
		v.enum("forwardPorts[].from", p.From, i)
		v.enum("forwardPorts[].proto", p.Proto, i)
		v.endpoint(at+".host", p.Host)
		v.endpoint(at+".guest", p.Guest)
		if p.From == "guest" && p.Proto == "udp" {
			v.faults.Addf(at+".proto", "the user network forwards only tcp from the guest; write tcp")
		}
		if p.From == "guest" && p.Guest.Address == "" {
			v.faults.Addf(at+".guest.address", "is missing; give the address in the guest's network that is forwarded, such as 10.0.2.10")
		}
	}
}

func (v *validator) endpoint(at string, e Endpoint) {
	if least, most := bounds("forwardPorts[].host.port"); int64(e.Port) < least || int64(e.Port) > most {
		v.faults.Addf(at+".port", "%d is not a port; give one from %d to %d", e.Port, least, most)
	}
	if e.Address == "" {
		return
	}
	if a, err := netip.ParseAddr(e.Address); err != nil || !a.Is4() {
		v.faults.Addf(at+".address", "%q is no IPv4 address; write one such as \"127.0.0.1\", or leave it out", e.Address)
	}
}

func (v *validator) volumes() {
	images := newUnique(v)
	for i, vol := range v.spec.Volumes {
		at := fmt.Sprintf("volumes[%d]", i)
		v.image(at, vol)
		images.add(at+".image", v.spec.inStateDir(vol.Image))
		v.enum("volumes[].imageType", vol.ImageType, i)
		if vol.MountPoint != nil {
			v.absolute(at+".mountPoint", *vol.MountPoint)
		}
		if vol.Serial != nil && (len(*vol.Serial) > 20 || *vol.Serial == "") {
			v.faults.Addf(at+".serial", "%q is %d bytes; virtio-blk allows 1 to 20", *vol.Serial, len(*vol.Serial))
		}
		v.texts(at+".mkfsExtraArgs", vol.MkfsExtraArgs)
		if vol.Shared && vol.ImageType != "raw" && !vol.ReadOnly {
			// Each hypervisor keeps the tables of such an image in its memory.
			v.faults.Addf(at+".shared", "a %s image can be written by one VM at a time\nhint: convert it to raw, or set readOnly", vol.ImageType)
		}
		if *vol.AutoCreate {
			v.created(at, i, vol)
		}
	}
}

func (v *validator) image(at string, vol Volume) {
	if vol.Image == "" {
		v.faults.Addf(at+".image", "is missing; give the image's path, such as \"data.img\"")
		return
	}
	v.check(at+".image", validatePath(vol.Image))
}

func (v *validator) created(at string, i int, vol Volume) {
	v.enum("volumes[].fsType", vol.FSType, i)
	if vol.Size < 1 {
		v.faults.Addf(at+".size", "is missing; give the image's size in MiB, or set autoCreate to false")
	}
	if vol.ImageType != "raw" && vol.ImageType != "" {
		v.faults.Addf(at+".autoCreate", "makes raw images only; set it to false, or imageType to raw")
	}
	if limit := labelLimits[vol.FSType]; vol.Label != nil && limit > 0 && len(*vol.Label) > limit {
		v.faults.Addf(at+".label", "%q is %d bytes; %s allows %d", *vol.Label, len(*vol.Label), vol.FSType, limit)
	}
	if vol.Label != nil {
		v.check(at+".label", validateText(*vol.Label))
		v.fatLabel(at+".label", vol.FSType, *vol.Label)
	}
}

// fatLabel refuses what mkfs.fat does not take, which are the characters that a
// directory entry of FAT has no room for.
func (v *validator) fatLabel(at, fsType, label string) {
	if i := strings.IndexAny(label, `*?.,;:/\|+=<>[]"`); fsType == "vfat" && i >= 0 {
		v.faults.Addf(at, "%q holds %q, which no label of vfat can\nhint: use letters, digits, \"-\", \"_\" and blanks", label, label[i])
	}
}

func (v *validator) shares() {
	tags, sockets := newUnique(v), v.sockets()
	for i, share := range v.spec.Shares {
		at := fmt.Sprintf("shares[%d]", i)
		v.enum("shares[].proto", share.Proto, i)
		v.enum("shares[].securityModel", share.SecurityModel, i)
		v.enum("shares[].cache", share.Cache, i)
		v.check(at+".tag", ValidateTag(share.Tag))
		v.tagLength(at, share)
		tags.add(at+".tag", share.Tag)
		if share.Source == "" {
			v.faults.Addf(at+".source", "is missing; give the directory to share")
		} else {
			v.check(at+".source", validateDirectory(share.Source))
		}
		v.absolute(at+".mountPoint", share.MountPoint)
		v.texts(at+".extraArgs", share.ExtraArgs)
		if share.Proto == "virtiofs" {
			v.virtiofs(at, share, sockets)
		}
	}
}

// sockets are those that the VM makes beside the ones of its shares.
func (v *validator) sockets() *unique {
	s, sockets := v.spec, newUnique(v)
	if s.Socket.Value != nil {
		sockets.add("socket", *s.Socket.Value)
	}
	if s.Graphics.Enable {
		sockets.add("graphics.socket", s.Graphics.Socket)
	}
	return sockets
}

func (v *validator) tagLength(at string, share Share) {
	limit := maxNinePTag
	if share.Proto == "virtiofs" {
		limit = maxVirtiofsTag
	}
	if len(share.Tag) > limit {
		v.faults.Addf(at+".tag", "%q is %d bytes; %s allows %d", share.Tag, len(share.Tag), share.Proto, limit)
	}
}

func (v *validator) virtiofs(at string, share Share, sockets *unique) {
	if share.Socket.Value == nil {
		v.faults.Addf(at+".socket", "is null; a virtiofs share needs a socket, such as %q", v.spec.Name+"-virtiofs-"+share.Tag+".sock")
		return
	}
	v.check(at+".socket", ValidateSocketPath(*share.Socket.Value, len(v.spec.Dir())))
	sockets.add(at+".socket", *share.Socket.Value)
	translates := func(arg string) bool {
		return strings.Contains(arg, "--translate-uid") || strings.Contains(arg, "--translate-gid")
	}
	if *share.PosixACL && slices.ContainsFunc(slices.Concat(v.spec.Virtiofsd.ExtraArgs, share.ExtraArgs), translates) {
		v.faults.Addf(at+".posixAcl", "does not go with --translate-uid or --translate-gid in extraArgs; set posixAcl to false")
	}
}

func (v *validator) devices() {
	paths := newUnique(v)
	for i, d := range v.spec.Devices {
		at := fmt.Sprintf("devices[%d]", i)
		v.enum("devices[].bus", d.Bus, i)
		paths.add(at+".path", d.Bus+" "+d.Path)
		if d.Bus == "pci" {
			v.check(at+".path", ValidatePCIAddress(d.Path))
			continue
		}
		if !strings.Contains(d.Path, "=") {
			v.faults.Addf(at+".path", "%q is no usb-host selector; write vendorid=0xabcd,productid=0x0123", d.Path)
		}
		v.check(at+".path", validateText(d.Path))
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
