package spec

//go:generate go test -run=TestTheCheckedInSchemaIsCurrent . -update

import (
	_ "embed"
	"slices"
)

// field describes one option. The JSON Schema, the options' reference, the defaults
// and the checks are all derived from it.
type field struct {
	// doc is the option's documentation: what it is, and what null or no value means.
	doc string
	// value is the default; nil means that there is none, or that it depends on other
	// options.
	value any
	// enum lists the values that a string may have; nil means any.
	enum []string
	// least and most bound a number; 0 means no bound.
	least, most int64
	// noZero refuses 0, which after decoding looks like an absent field.
	noZero bool
	// empty is what an empty string means.
	empty emptiness
	// required means that the document must have the field.
	required bool
}

// emptiness is what an empty string means.
type emptiness int

const (
	refused emptiness = iota // an error, reported when the document's form is checked
	judged                   // an error, reported by the option's own rule
	allowed                  // a value: no commands, no initrd, any address, an empty argument
)

// defaultOf returns the default of the option at path. It panics if fields has none of
// that type; tests make sure that it has.
func defaultOf[T any](path string) T { return fields[path].value.(T) }

// schema is the JSON Schema (draft 2020-12) that is generated from fields and from the
// types of Spec.
//
//go:embed schema.json
var schema []byte

// Schema returns a copy of the JSON Schema of a spec.
func Schema() []byte { return slices.Clone(schema) }

// fields has an entry for every option, by its path, and one for every kind of list
// element ([]) and map value (.*) that has a rule.
var fields = map[string]field{
	"$schema": {doc: "The URL of this JSON Schema, for editors. It is otherwise ignored.", empty: allowed},
	"name":    {doc: "The VM's name: letters, digits and the characters : _ - . (not - or . first), at most 63 bytes.", required: true},
	"arch":    {doc: "The guest's architecture. By default, the host's.", enum: []string{"x86_64", "aarch64"}},

	"hypervisor": {doc: "The hypervisor that runs the VM.", value: "qemu",
		enum: []string{"qemu", "cloud-hypervisor", "firecracker", "crosvm", "kvmtool", "stratovirt", "alioth"}},
	"cpu": {doc: "The CPU model that the guest sees. By default, the host's own CPU. The VM runs under KVM if the host has KVM" +
		" for the guest's architecture. QEMU only.", empty: judged},
	"vcpu":              {doc: "The number of virtual CPUs.", value: 1, least: 1, noZero: true},
	"mem":               {doc: "The amount of RAM in MiB.", value: 512, least: 1, noZero: true},
	"hugepageMem":       {doc: "Backs the guest's RAM with huge pages.", value: false},
	"hotplugMem":        {doc: "The most memory, in MiB, that virtio-mem can add.", value: 0},
	"hotpluggedMem":     {doc: "How much of hotplugMem, in MiB, is plugged when the VM starts. By default, all of it."},
	"balloon":           {doc: "Adds a virtio balloon device.", value: false},
	"initialBalloonMem": {doc: "The balloon's size, in MiB, when the VM starts.", value: 0},
	"deflateOnOOM":      {doc: "Lets the guest reclaim memory from the balloon when it runs out of memory.", value: true},

	"user":   {doc: "The user to switch to when the runner is started as root.", empty: judged},
	"socket": {doc: "The hypervisor's control socket, relative to the state directory. By default, NAME.sock; null means no control socket.", empty: judged},
	"preStart": {doc: "Shell commands that run, unprivileged, first when the VM starts. The hypervisor inherits the variables that they" +
		" export, their umask and their limits.", empty: allowed},
	"extraArgsScript": {doc: "A program that runs, unprivileged, at every start. It prints one line, which is added to the hypervisor's arguments."},
	"binScripts":      {doc: "Further shell scripts, by their names in the package's bin directory."},
	"binScripts.*":    {empty: allowed},
	"prettyProcnames": {doc: "Names the hypervisor's process microvm@NAME.", value: true},

	"kernel":         {doc: "The path of the kernel image.", required: true},
	"initrdPath":     {doc: "The path of the initial RAM disk. It may be empty if the kernel finds its root file system without one.", empty: allowed},
	"kernelParams":   {doc: "Arguments for the kernel's command line."},
	"kernelParams[]": {empty: allowed},
	"storeOnDisk": {doc: "Attaches storeDisk as the first disk, read-only. By default, true if storeDisk is set and no share has" +
		" /nix/store as its source."},
	"storeDisk": {doc: "The path of the image of the read-only Nix store."},
	"system":    {doc: "The guest's NixOS toplevel, to which share/microvm/system of the package links."},

	"interfaces":                {doc: "The guest's network interfaces."},
	"interfaces[].type":         {doc: "How the interface reaches the network.", enum: []string{"user", "tap", "macvtap", "bridge"}, required: true},
	"interfaces[].id":           {doc: "The interface's name on the host, at most 15 bytes.", required: true},
	"interfaces[].mac":          {doc: "The guest's Ethernet address: six hexadecimal bytes, separated by colons.", required: true},
	"interfaces[].tap":          {doc: "Options of type tap."},
	"interfaces[].tap.vhost":    {doc: "Uses vhost-net, which processes packets in the host's kernel.", value: false},
	"interfaces[].macvtap":      {doc: "Options of type macvtap."},
	"interfaces[].macvtap.link": {doc: "The host's interface that the macvtap is attached to."},
	"interfaces[].macvtap.mode": {doc: "The mode of the macvtap, see ip-link(8).", enum: []string{"private", "vepa", "bridge", "passthru", "source"}},
	"interfaces[].bridge":       {doc: "The bridge to join. For type bridge only.", empty: judged},

	"forwardPorts":                 {doc: "Ports that are forwarded between the host and a user-mode network."},
	"forwardPorts[].from":          {doc: "host forwards a port of the host to the guest; guest forwards an address in the guest's network to the host.", value: "host", enum: []string{"host", "guest"}},
	"forwardPorts[].proto":         {doc: "The protocol.", value: "tcp", enum: []string{"tcp", "udp"}},
	"forwardPorts[].host":          {doc: "The address and port on the host's side.", required: true},
	"forwardPorts[].host.address":  {doc: "An IPv4 address. Empty means any.", empty: allowed},
	"forwardPorts[].host.port":     {doc: "The port.", least: 1, most: 65535, required: true},
	"forwardPorts[].guest":         {doc: "The address and port on the guest's side.", required: true},
	"forwardPorts[].guest.address": {doc: "An IPv4 address. Empty means any.", empty: allowed},
	"forwardPorts[].guest.port":    {doc: "The port.", least: 1, most: 65535, required: true},

	"volumes":            {doc: "Disk images on the host."},
	"volumes[].image":    {doc: "The image's path, relative to the state directory unless it is absolute.", required: true},
	"volumes[].serial":   {doc: "The disk's serial number, which is part of its name in the guest's /dev/disk/by-id.", empty: judged},
	"volumes[].direct":   {doc: "Opens the image with O_DIRECT.", value: false},
	"volumes[].readOnly": {doc: "Attaches the image read-only.", value: false},
	"volumes[].shared": {doc: "Allows several VMs to write the disk at the same time. Their guests must coordinate their writes, as nothing else" +
		" does. Every VM that has the disk must set it.", value: false},
	"volumes[].label":           {doc: "The label of the file system."},
	"volumes[].mountPoint":      {doc: "The guest's mount point. Used by the NixOS guest modules."},
	"volumes[].size":            {doc: "The size, in MiB, of an image that is created. It may be 0 only if autoCreate is false."},
	"volumes[].autoCreate":      {doc: "Creates the image and its file system if it does not exist.", value: true},
	"volumes[].mkfsExtraArgs":   {doc: "Further arguments for mkfs."},
	"volumes[].mkfsExtraArgs[]": {empty: allowed},
	"volumes[].fsType":          {doc: "The file system of an image that is created.", value: "ext4", enum: []string{"ext2", "ext3", "ext4", "xfs", "btrfs", "vfat"}},
	"volumes[].imageType":       {doc: "The image's format.", value: "raw", enum: []string{"raw", "qcow2", "vhd", "vhdx"}},

	"shares":          {doc: "Directories of the host that the guest can mount."},
	"shares[].tag":    {doc: "The name by which the guest mounts the share.", required: true},
	"shares[].source": {doc: "The directory, relative to the state directory unless it is absolute.", required: true},
	"shares[].socket": {doc: "The socket of virtiofsd, relative to the state directory. By default, NAME-virtiofs-TAG.sock for proto virtiofs," +
		" for which it must not be null.", empty: judged},
	"shares[].mountPoint":    {doc: "The guest's mount point. Used by the NixOS guest modules."},
	"shares[].proto":         {doc: "The protocol. virtiofs is served by virtiofsd, 9p by the hypervisor.", value: "9p", enum: []string{"9p", "virtiofs"}},
	"shares[].securityModel": {doc: "The security model of 9p.", value: "none", enum: []string{"passthrough", "none", "mapped", "mapped-file"}},
	"shares[].readOnly":      {doc: "Shares the directory read-only.", value: false},
	"shares[].cache":         {doc: "The cache policy of virtiofs.", value: "auto", enum: []string{"auto", "always", "metadata", "never"}},
	"shares[].posixAcl":      {doc: "Passes --posix-acl --xattr to virtiofsd.", value: true},
	"shares[].extraArgs":     {doc: "Further arguments for this share's virtiofsd."},
	"shares[].extraArgs[]":   {empty: allowed},

	"devices":                        {doc: "Devices of the host that are passed through to the guest."},
	"devices[].bus":                  {doc: "The device's bus.", enum: []string{"pci", "usb"}, required: true},
	"devices[].path":                 {doc: "A PCI address (0000:01:00.0), or a usb-host selector of QEMU (vendorid=0xabcd,productid=0x0123).", required: true},
	"devices[].qemu":                 {doc: "How QEMU attaches the device."},
	"devices[].qemu.id":              {doc: "The id of QEMU's device."},
	"devices[].qemu.bus":             {doc: "The bus of QEMU's device, such as a root port."},
	"devices[].qemu.deviceExtraArgs": {doc: "Further properties of QEMU's device."},

	"vsock":     {doc: "The guest's address in AF_VSOCK, and its use by the host."},
	"vsock.cid": {doc: "The context ID (CID). Without one, the VM has no vsock.", least: 3, most: 1<<32 - 2},
	"vsock.ssh": {doc: "How the host uses the guest's SSH server on vsock."},
	"vsock.ssh.shutdown": {doc: "Shuts the guest down over SSH if the hypervisor cannot ask it to shut down. The guest gets the host's key at every start.",
		value: true},
	"readiness": {doc: "When the VM counts as started: when the guest reports it (guest), when the hypervisor reports that the guest runs" +
		" (vmm), or as soon as the hypervisor was executed (none). By default, the first of these that is possible.", enum: []string{"guest", "vmm", "none"}},

	"graphics":               {doc: "A display."},
	"graphics.enable":        {doc: "Turns the display on.", value: false},
	"graphics.backend":       {doc: "How the display is shown: in a GTK window, or not at all.", value: "gtk", enum: []string{"gtk", "headless"}},
	"graphics.socket":        {doc: "The socket of the vhost-user GPU. By default, NAME-gpu.sock."},
	"graphics.vulkan":        {doc: "The virtio-gpu context type that provides Vulkan to the guest. By default, the guest has no Vulkan.", enum: []string{"venus", "drm_native_context"}},
	"graphics.hostmem":       {doc: "The size of the GPU's host memory window, with unit M or G. Used with vulkan only.", value: "256M"},
	"graphics.crosvmPackage": {doc: "The package of crosvm, which provides the vhost-user GPU of cloud-hypervisor and crosvm."},

	"machineId": {doc: "The VM's UUID for SMBIOS and systemd-machined. By default, it is derived from the name; null means no UUID in SMBIOS.",
		empty: judged},
	"registerWithMachined": {doc: "Registers the VM with systemd-machined, so that machinectl shows it.", value: false},
	"credentialFiles":      {doc: "Files that the guest gets as systemd credentials, by the credentials' names."},
	"credentialFiles.*":    {empty: judged},

	"virtiofsd": {doc: "Options of every virtiofsd of the VM."},
	"virtiofsd.inodeFileHandles": {doc: "The --inode-file-handles of virtiofsd; null means virtiofsd's own default.", value: "prefer",
		enum: []string{"never", "prefer", "mandatory"}},
	"virtiofsd.threadPoolSize": {doc: "The number of threads, or `nproc` in backquotes for one thread per core.", value: nprocWord},
	"virtiofsd.group":          {doc: "The group that owns the sockets; null means the group of the hypervisors' user.", value: "kvm"},
	"virtiofsd.extraArgs":      {doc: "Further arguments for virtiofsd."},
	"virtiofsd.extraArgs[]":    {empty: allowed},
	"virtiofsd.package":        {doc: "The package that contains bin/virtiofsd. By default, virtiofsd is searched for on the host."},

	"qemu":                         {doc: "Options of hypervisor qemu."},
	"qemu.machine":                 {doc: "QEMU's machine type, such as microvm, q35 or virt. By default, microvm on x86_64 and virt on aarch64."},
	"qemu.machineOpts":             {doc: "Machine options, which replace the default ones. An empty object means no options. Without a value, the defaults are kept."},
	"qemu.machineOpts.*":           {empty: allowed},
	"qemu.extraArgs":               {doc: "Further arguments."},
	"qemu.extraArgs[]":             {empty: allowed},
	"qemu.serialConsole":           {doc: "Connects the serial port.", value: true},
	"qemu.pcieRootPorts":           {doc: "Root ports of the machines q35 and virt."},
	"qemu.pcieRootPorts[].id":      {doc: "The port's id.", required: true},
	"qemu.pcieRootPorts[].bus":     {doc: "The bus that the port is on."},
	"qemu.pcieRootPorts[].chassis": {doc: "The port's chassis number."},
	"qemu.pcieRootPorts[].slot":    {doc: "The port's slot number."},
	"qemu.pcieRootPorts[].addr":    {doc: "The port's address on its bus."},
	"qemu.package":                 {doc: "The package that contains bin/qemu-system-ARCH. By default, the program is searched for in PATH."},

	"cloud-hypervisor":                      {doc: "Options of hypervisor cloud-hypervisor."},
	"cloud-hypervisor.platformOEMStrings":   {doc: "OEM strings of the guest's SMBIOS."},
	"cloud-hypervisor.platformOEMStrings[]": {empty: allowed},
	"cloud-hypervisor.landlock": {doc: "Confines Cloud Hypervisor to the VM's files by Landlock, if its version and the host's kernel support it and the VM" +
		" has neither devices nor graphics.", value: true},
	"cloud-hypervisor.extraArgs":   {doc: "Further arguments."},
	"cloud-hypervisor.extraArgs[]": {empty: allowed},
	"cloud-hypervisor.package":     {doc: "The package that contains bin/cloud-hypervisor. By default, the program is searched for in PATH."},

	"firecracker":               {doc: "Options of hypervisor firecracker."},
	"firecracker.cpu":           {doc: "A custom CPU template."},
	"firecracker.driveIoEngine": {doc: "The I/O engine of the disks.", value: "Async", enum: []string{"Async", "Sync"}},
	"firecracker.extraArgs":     {doc: "Further arguments."},
	"firecracker.extraArgs[]":   {empty: allowed},
	"firecracker.extraConfig":   {doc: "Settings that are merged into the configuration file."},
	"firecracker.jailer": {doc: "Gives the VM's unit its own root directory, with little more in it than the VM's files. It replaces Firecracker's" +
		" jailer program."},
	"firecracker.package": {doc: "The package that contains bin/firecracker. By default, the program is searched for in PATH."},

	"crosvm":             {doc: "Options of hypervisor crosvm."},
	"crosvm.extraArgs":   {doc: "Further arguments."},
	"crosvm.extraArgs[]": {empty: allowed},
	"crosvm.pivotRoot":   {doc: "The empty directory that crosvm's sandbox uses as its root. Without one, crosvm runs without its sandbox."},
	"crosvm.package":     {doc: "The package that contains bin/crosvm. By default, the program is searched for in PATH."},

	"kvmtool":            {doc: "Options of hypervisor kvmtool."},
	"kvmtool.package":    {doc: "The package that contains bin/lkvm. By default, the program is searched for in PATH."},
	"stratovirt":         {doc: "Options of hypervisor stratovirt."},
	"stratovirt.package": {doc: "The package that contains bin/stratovirt. By default, the program is searched for in PATH."},
	"alioth":             {doc: "Options of hypervisor alioth."},
	"alioth.package":     {doc: "The package that contains bin/alioth. By default, the program is searched for in PATH."},
}
