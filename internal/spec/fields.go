package spec

//go:generate go test -run=TestTheCheckedInSchemaIsCurrent . -update

import (
	_ "embed"
	"slices"
)

// field is what there is to say about one option: the JSON Schema, the options'
// reference, the defaults and the checks all take it from here.
type field struct {
	// doc says what the option is, for people, and what null or no value means.
	doc string
	// value is the default where that depends on nothing else; nil means none.
	value any
	// enum are the values that a text may have; nil means any.
	enum []string
	// least and most bound a number; 0 and 0 mean that nothing does.
	least, most int64
	// zero says what is wrong with 0 where that would be taken for no value at all.
	zero string
	// empty is what an empty text is.
	empty emptiness
	// required fields have to be there.
	required bool
}

// emptiness is what an empty text is.
type emptiness int

const (
	refused emptiness = iota // an error of the document's form
	judged                   // an error that the option's own rule explains
	allowed                  // a value: no commands, no initrd, any address, an empty argument
)

// defaultOf returns the default of an option. It panics where fields has none of that
// type, which a test would find first.
func defaultOf[T any](path string) T { return fields[path].value.(T) }

// schema is fields as a JSON Schema (draft 2020-12), with the types of Spec.
//
//go:embed schema.json
var schema []byte

// Schema returns the JSON Schema of a spec.
func Schema() []byte { return slices.Clone(schema) }

// fields has an entry for each option by its path, and further ones for the elements
// of lists ([]) and of maps (.*) that have a rule.
var fields = map[string]field{
	"$schema": {doc: "The address of this JSON Schema, for editors. It is not used.", empty: allowed},
	"name":    {doc: "The VM's name: what systemd allows in an instance name, at most 63 bytes.", required: true},
	"arch":    {doc: "The guest's architecture. The default is the host's.", enum: []string{"x86_64", "aarch64"}},

	"hypervisor": {doc: "The hypervisor that runs the VM.", value: "qemu",
		enum: []string{"qemu", "cloud-hypervisor", "firecracker", "crosvm", "kvmtool", "stratovirt", "alioth"}},
	"cpu": {doc: "The CPU model that the guest sees. The default is the host's own. The VM runs under KVM where the host has that" +
		" for the guest's architecture. QEMU only.", empty: judged},
	"vcpu":              {doc: "The number of virtual CPUs.", value: 1, least: 1, zero: "0 is not possible; a VM has at least 1"},
	"mem":               {doc: "The amount of RAM in MiB.", value: 512, least: 1, zero: "0 is not possible; give the memory in MiB, such as 512"},
	"hugepageMem":       {doc: "Backs the guest's RAM with huge pages.", value: false},
	"hotplugMem":        {doc: "How much memory, in MiB, virtio-mem may add.", value: 0},
	"hotpluggedMem":     {doc: "How much of hotplugMem, in MiB, is plugged at the start. The default is all of it."},
	"balloon":           {doc: "Adds a virtio balloon device.", value: false},
	"initialBalloonMem": {doc: "The balloon's size, in MiB, when the VM starts.", value: 0},
	"deflateOnOOM":      {doc: "Lets the guest take memory back from the balloon when it runs out.", value: true},

	"user":   {doc: "The user to switch to when the runner is started as root.", empty: judged},
	"socket": {doc: "The hypervisor's control socket, relative to the state directory. The default is NAME.sock; null means none.", empty: judged},
	"preStart": {doc: "Shell commands that run, unprivileged, before anything else of a start. The hypervisor inherits what they export," +
		" their umask and their limits.", empty: allowed},
	"extraArgsScript": {doc: "A program that runs, unprivileged, at every start. Its one line of output is added to the hypervisor's arguments."},
	"binScripts":      {doc: "Further shell scripts, by the names they get in the package's bin directory."},
	"binScripts.*":    {empty: allowed},
	"prettyProcnames": {doc: "Names the hypervisor's process microvm@NAME.", value: true},

	"kernel":         {doc: "The path of the kernel image.", required: true},
	"initrdPath":     {doc: "The path of the initial RAM disk. It may be empty where the kernel finds its root without one.", empty: allowed},
	"kernelParams":   {doc: "Arguments for the kernel's command line."},
	"kernelParams[]": {empty: allowed},
	"storeOnDisk": {doc: "Attaches storeDisk as the first disk, read-only. The default is true where storeDisk is set and no share has" +
		" /nix/store as its source."},
	"storeDisk": {doc: "The path of the read-only store image."},
	"system":    {doc: "The guest's NixOS toplevel, for share/microvm/system."},

	"interfaces":                {doc: "The guest's network interfaces."},
	"interfaces[].type":         {doc: "How the interface reaches the network.", enum: []string{"user", "tap", "macvtap", "bridge"}, required: true},
	"interfaces[].id":           {doc: "The interface's name on the host, at most 15 bytes.", required: true},
	"interfaces[].mac":          {doc: "The guest's Ethernet address: six hexadecimal bytes with colons.", required: true},
	"interfaces[].tap":          {doc: "Options of type tap."},
	"interfaces[].tap.vhost":    {doc: "Moves the packet path into the kernel (vhost_net).", value: false},
	"interfaces[].macvtap":      {doc: "Options of type macvtap."},
	"interfaces[].macvtap.link": {doc: "The host's interface that the macvtap is attached to."},
	"interfaces[].macvtap.mode": {doc: "The mode of the macvtap, ip-link(8).", enum: []string{"private", "vepa", "bridge", "passthru", "source"}},
	"interfaces[].bridge":       {doc: "The bridge to join, for type bridge.", empty: judged},

	"forwardPorts":                 {doc: "Ports that are forwarded between the host and a user-mode network."},
	"forwardPorts[].from":          {doc: "host forwards a port of the host to the guest, guest an address in the guest's network to the host.", value: "host", enum: []string{"host", "guest"}},
	"forwardPorts[].proto":         {doc: "The protocol.", value: "tcp", enum: []string{"tcp", "udp"}},
	"forwardPorts[].host":          {doc: "The host's side.", required: true},
	"forwardPorts[].host.address":  {doc: "An IPv4 address. Empty means any.", empty: allowed},
	"forwardPorts[].host.port":     {doc: "The port.", least: 1, most: 65535, required: true},
	"forwardPorts[].guest":         {doc: "The guest's side.", required: true},
	"forwardPorts[].guest.address": {doc: "An IPv4 address. Empty means any.", empty: allowed},
	"forwardPorts[].guest.port":    {doc: "The port.", least: 1, most: 65535, required: true},

	"volumes":            {doc: "Disk images on the host."},
	"volumes[].image":    {doc: "The image's path, relative to the state directory unless it is absolute.", required: true},
	"volumes[].serial":   {doc: "The disk's serial number, which its name in the guest's /dev/disk/by-id has.", empty: judged},
	"volumes[].direct":   {doc: "Opens the image with O_DIRECT.", value: false},
	"volumes[].readOnly": {doc: "Attaches the image read-only.", value: false},
	"volumes[].shared": {doc: "For a disk that several VMs write at the same time, which their guests have to agree on: nothing else keeps them" +
		" apart. Every VM that has the disk has to set it.", value: false},
	"volumes[].label":           {doc: "The label of the file system."},
	"volumes[].mountPoint":      {doc: "Where the guest mounts it; used by the NixOS guest modules."},
	"volumes[].size":            {doc: "The size, in MiB, of an image that is created. It may be 0 only where autoCreate is false."},
	"volumes[].autoCreate":      {doc: "Creates the image and its file system where it does not exist.", value: true},
	"volumes[].mkfsExtraArgs":   {doc: "Further arguments for mkfs."},
	"volumes[].mkfsExtraArgs[]": {empty: allowed},
	"volumes[].fsType":          {doc: "The file system of an image that is created.", value: "ext4", enum: []string{"ext2", "ext3", "ext4", "xfs", "btrfs", "vfat"}},
	"volumes[].imageType":       {doc: "The image's format.", value: "raw", enum: []string{"raw", "qcow2", "vhd", "vhdx"}},

	"shares":          {doc: "Directories of the host that the guest can mount."},
	"shares[].tag":    {doc: "The name by which the guest mounts it.", required: true},
	"shares[].source": {doc: "The directory, relative to the state directory unless it is absolute.", required: true},
	"shares[].socket": {doc: "The socket of virtiofsd, relative to the state directory. The default is NAME-virtiofs-TAG.sock for proto virtiofs," +
		" which refuses null.", empty: judged},
	"shares[].mountPoint":    {doc: "Where the guest mounts it; used by the NixOS guest modules."},
	"shares[].proto":         {doc: "The protocol. virtiofs is served by virtiofsd, 9p by the hypervisor.", value: "9p", enum: []string{"9p", "virtiofs"}},
	"shares[].securityModel": {doc: "The security model of 9p.", value: "none", enum: []string{"passthrough", "none", "mapped", "mapped-file"}},
	"shares[].readOnly":      {doc: "Shares the directory read-only.", value: false},
	"shares[].cache":         {doc: "The cache policy of virtiofs.", value: "auto", enum: []string{"auto", "always", "metadata", "never"}},
	"shares[].posixAcl":      {doc: "Passes --posix-acl --xattr to virtiofsd.", value: true},
	"shares[].extraArgs":     {doc: "Further arguments for this share's virtiofsd."},
	"shares[].extraArgs[]":   {empty: allowed},

	"devices":                        {doc: "Devices of the host that are handed to the guest."},
	"devices[].bus":                  {doc: "The device's bus.", enum: []string{"pci", "usb"}, required: true},
	"devices[].path":                 {doc: "A PCI address (0000:01:00.0), or a usb-host selector of QEMU (vendorid=0xabcd,productid=0x0123).", required: true},
	"devices[].qemu":                 {doc: "How QEMU attaches the device."},
	"devices[].qemu.id":              {doc: "The id of QEMU's device."},
	"devices[].qemu.bus":             {doc: "The bus of QEMU's device, such as a root port."},
	"devices[].qemu.deviceExtraArgs": {doc: "Further properties of QEMU's device."},

	"vsock":     {doc: "The guest's address in AF_VSOCK, and what the host does with it."},
	"vsock.cid": {doc: "The CID. Without one the VM has no vsock.", least: 3, most: 1<<32 - 2},
	"vsock.ssh": {doc: "What the host does with the guest's SSH server on vsock."},
	"vsock.ssh.shutdown": {doc: "Asks the guest over SSH to go down where the hypervisor cannot, with a key that the guest is handed at every start.",
		value: true},
	"readiness": {doc: "What READY=1 means: the guest says so, the hypervisor (VMM) runs it, or nothing but that the hypervisor was executed." +
		" The default is chosen by the build.", enum: []string{"guest", "vmm", "none"}},

	"graphics":               {doc: "A display."},
	"graphics.enable":        {doc: "Turns the display on.", value: false},
	"graphics.backend":       {doc: "Where the display is shown.", value: "gtk", enum: []string{"gtk", "headless"}},
	"graphics.socket":        {doc: "The socket of the vhost-user GPU. The default is NAME-gpu.sock."},
	"graphics.vulkan":        {doc: "How the guest has Vulkan. The default is not at all.", enum: []string{"venus", "drm_native_context"}},
	"graphics.hostmem":       {doc: "The size of the GPU's host memory window with a unit, M or G. It exists with vulkan only.", value: "256M"},
	"graphics.crosvmPackage": {doc: "The package of crosvm, which is the vhost-user GPU of cloud-hypervisor and crosvm."},

	"machineId": {doc: "The VM's UUID for SMBIOS and systemd-machined. The default is derived from the name; null means none in SMBIOS.",
		empty: judged},
	"registerWithMachined": {doc: "Shows the VM in machinectl.", value: false},
	"credentialFiles":      {doc: "Files that the guest gets as systemd credentials, by the credentials' names."},
	"credentialFiles.*":    {empty: judged},

	"virtiofsd": {doc: "Options of every virtiofsd of the VM."},
	"virtiofsd.inodeFileHandles": {doc: "The --inode-file-handles of virtiofsd. null leaves it to virtiofsd.", value: "prefer",
		enum: []string{"never", "prefer", "mandatory"}},
	"virtiofsd.threadPoolSize": {doc: "A number of threads, or `nproc` in backquotes for one thread a core.", value: nprocWord},
	"virtiofsd.group":          {doc: "The group that owns the sockets. null means the group of the hypervisors' user.", value: "kvm"},
	"virtiofsd.extraArgs":      {doc: "Further arguments for virtiofsd."},
	"virtiofsd.extraArgs[]":    {empty: allowed},
	"virtiofsd.package":        {doc: "The package that has bin/virtiofsd. By default it is searched for on the host."},

	"qemu":                         {doc: "Options of hypervisor qemu."},
	"qemu.machine":                 {doc: "QEMU's machine type, such as microvm, q35 or virt. The default is microvm on x86_64 and virt on aarch64."},
	"qemu.machineOpts":             {doc: "Machine options in place of the default ones. An empty object means none. Without a value the default ones are kept."},
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
	"qemu.package":                 {doc: "The package that has bin/qemu-system-ARCH. By default it is searched for in PATH."},

	"cloud-hypervisor":                      {doc: "Options of hypervisor cloud-hypervisor."},
	"cloud-hypervisor.platformOEMStrings":   {doc: "OEM strings of the guest's SMBIOS."},
	"cloud-hypervisor.platformOEMStrings[]": {empty: allowed},
	"cloud-hypervisor.landlock": {doc: "Confines it to the VM's files by Landlock, where its version and the host's kernel offer that and the VM has" +
		" neither devices nor graphics.", value: true},
	"cloud-hypervisor.extraArgs":   {doc: "Further arguments."},
	"cloud-hypervisor.extraArgs[]": {empty: allowed},
	"cloud-hypervisor.package":     {doc: "The package that has bin/cloud-hypervisor. By default it is searched for in PATH."},

	"firecracker":               {doc: "Options of hypervisor firecracker."},
	"firecracker.cpu":           {doc: "A custom CPU template."},
	"firecracker.driveIoEngine": {doc: "The I/O engine of the disks.", value: "Async", enum: []string{"Async", "Sync"}},
	"firecracker.extraArgs":     {doc: "Further arguments."},
	"firecracker.extraArgs[]":   {empty: allowed},
	"firecracker.extraConfig":   {doc: "What to add to, or change in, the configuration file."},
	"firecracker.jailer": {doc: "Gives the VM's unit a root directory of its own with little more in it than the VM's files, in place of Firecracker's" +
		" jailer program."},
	"firecracker.package": {doc: "The package that has bin/firecracker. By default it is searched for in PATH."},

	"crosvm":             {doc: "Options of hypervisor crosvm."},
	"crosvm.extraArgs":   {doc: "Further arguments."},
	"crosvm.extraArgs[]": {empty: allowed},
	"crosvm.pivotRoot":   {doc: "The directory of crosvm's sandbox."},
	"crosvm.package":     {doc: "The package that has bin/crosvm. By default it is searched for in PATH."},

	"kvmtool":            {doc: "Options of hypervisor kvmtool."},
	"kvmtool.package":    {doc: "The package that has bin/lkvm. By default it is searched for in PATH."},
	"stratovirt":         {doc: "Options of hypervisor stratovirt."},
	"stratovirt.package": {doc: "The package that has bin/stratovirt. By default it is searched for in PATH."},
	"alioth":             {doc: "Options of hypervisor alioth."},
	"alioth.package":     {doc: "The package that has bin/alioth. By default it is searched for in PATH."},
}
