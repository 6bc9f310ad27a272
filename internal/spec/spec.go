// Package spec holds the options of a microVM as Go types: the JSON document
// that people write by hand and that the NixOS modules write with
// builtins.toJSON (contract 2 of the design).
//
// Every field carries the name of the microvm.* option it stands for. The
// package parses a document, fills in the documented defaults and validates
// it; all faults are reported at once, each with its path. It knows no
// hypervisor's command line: what a given hypervisor cannot do is decided in
// package hypervisor, from the capabilities table.
package spec

// Spec describes one microVM. Sizes are in MiB unless a field says otherwise.
type Spec struct {
	// Schema is the address of the JSON Schema, for editors; it is not used.
	Schema string `json:"$schema,omitempty"`
	// Name of the VM: what systemd allows in an instance name, at most 63 bytes.
	Name string `json:"name"`
	// Arch is the guest's architecture: x86_64 or aarch64. Unset means the host's.
	Arch string `json:"arch,omitempty"`

	// Hypervisor that runs the VM.
	Hypervisor string `json:"hypervisor,omitempty"`
	// CPU is the model that the guest sees; nil means the host's own. It runs under
	// KVM where the host has that for the guest's architecture. QEMU only.
	CPU *string `json:"cpu,omitempty"`
	// VCPU is the number of virtual CPU cores.
	VCPU int `json:"vcpu,omitempty"`
	// Mem is the amount of RAM in MiB.
	Mem int `json:"mem,omitempty"`
	// HugepageMem backs the guest's RAM with huge pages.
	HugepageMem bool `json:"hugepageMem,omitempty"`
	// HotplugMem is the most memory, in MiB, that virtio-mem may add.
	HotplugMem int `json:"hotplugMem,omitempty"`
	// HotpluggedMem is how much of HotplugMem, in MiB, is plugged at the start;
	// nil means all of it.
	HotpluggedMem *int `json:"hotpluggedMem,omitempty"`
	// Balloon adds a virtio balloon device.
	Balloon bool `json:"balloon,omitempty"`
	// InitialBalloonMem is the balloon's size in MiB when the VM starts.
	InitialBalloonMem int `json:"initialBalloonMem,omitempty"`
	// DeflateOnOOM lets the guest take memory back when it runs out; nil means true.
	DeflateOnOOM *bool `json:"deflateOnOOM,omitempty"`

	// User to switch to when the runner is started as root.
	User *string `json:"user,omitempty"`
	// Socket is the hypervisor's control socket, relative to the state directory.
	// An absent field means NAME.sock; null means none.
	Socket Optional[string] `json:"socket,omitzero"`
	// PreStart holds shell commands that run, unprivileged, before all else of a start;
	// what they export, their umask and limits are the hypervisor's.
	PreStart string `json:"preStart,omitempty"`
	// ExtraArgsScript is a program whose one line of output is added to the
	// hypervisor's arguments at every start. It runs unprivileged.
	ExtraArgsScript *string `json:"extraArgsScript,omitempty"`
	// BinScripts are further shell snippets for the package's bin/ directory.
	BinScripts map[string]string `json:"binScripts,omitzero"`
	// PrettyProcnames names the hypervisor's process microvm@NAME; nil means true.
	PrettyProcnames *bool `json:"prettyProcnames,omitempty"`

	// Kernel is the path of the kernel image.
	Kernel string `json:"kernel"`
	// InitrdPath is the path of the initial RAM disk; may be empty where the
	// kernel finds its root without one.
	InitrdPath string `json:"initrdPath,omitempty"`
	// KernelParams are words for the kernel's command line.
	KernelParams []string `json:"kernelParams,omitzero"`
	// StoreOnDisk attaches StoreDisk as the first, read-only disk. Unset means
	// true where StoreDisk is set and no share has /nix/store as its source.
	StoreOnDisk *bool `json:"storeOnDisk,omitempty"`
	// StoreDisk is the path of the read-only store image.
	StoreDisk string `json:"storeDisk,omitempty"`
	// System is the guest's NixOS toplevel, for share/microvm/system.
	System string `json:"system,omitempty"`

	Interfaces   []Interface   `json:"interfaces,omitzero"`
	ForwardPorts []ForwardPort `json:"forwardPorts,omitzero"`
	Volumes      []Volume      `json:"volumes,omitzero"`
	Shares       []Share       `json:"shares,omitzero"`
	Devices      []Device      `json:"devices,omitzero"`

	Vsock Vsock `json:"vsock,omitzero"`
	// Readiness says what READY=1 means: guest, vmm or none; unset lets the
	// build choose.
	Readiness string   `json:"readiness,omitempty"`
	Graphics  Graphics `json:"graphics,omitzero"`

	// MachineID is the VM's UUID for SMBIOS and systemd-machined. Unset means
	// one derived from the name; null means none in SMBIOS.
	MachineID Optional[string] `json:"machineId,omitzero"`
	// RegisterWithMachined shows the VM in machinectl.
	RegisterWithMachined bool `json:"registerWithMachined,omitempty"`
	// CredentialFiles are files given to the guest as systemd credentials,
	// by credential name.
	CredentialFiles map[string]string `json:"credentialFiles,omitzero"`

	Virtiofsd       Virtiofsd       `json:"virtiofsd,omitzero"`
	QEMU            QEMU            `json:"qemu,omitzero"`
	CloudHypervisor CloudHypervisor `json:"cloud-hypervisor,omitzero"`
	Firecracker     Firecracker     `json:"firecracker,omitzero"`
	Crosvm          Crosvm          `json:"crosvm,omitzero"`
	Kvmtool         Kvmtool         `json:"kvmtool,omitzero"`
	Stratovirt      Stratovirt      `json:"stratovirt,omitzero"`
	Alioth          Alioth          `json:"alioth,omitzero"`
}

// Interface is one network interface of the guest.
type Interface struct {
	// Type is user, tap, macvtap or bridge.
	Type string `json:"type"`
	// ID is the interface's name on the host, at most 15 bytes.
	ID string `json:"id"`
	// MAC is the guest's address, six hexadecimal bytes with colons.
	MAC string `json:"mac"`
	// Tap applies to type tap.
	Tap Tap `json:"tap,omitzero"`
	// Macvtap applies to type macvtap.
	Macvtap Macvtap `json:"macvtap,omitzero"`
	// Bridge to join, for type bridge.
	Bridge *string `json:"bridge,omitempty"`
}

// Tap holds the options of a tap interface.
type Tap struct {
	// Vhost moves the packet path into the kernel (vhost_net).
	Vhost bool `json:"vhost,omitempty"`
}

// Macvtap holds the options of a macvtap interface.
type Macvtap struct {
	// Link is the host's interface to stand on.
	Link string `json:"link,omitempty"`
	// Mode is private, vepa, bridge, passthru or source.
	Mode string `json:"mode,omitempty"`
}

// ForwardPort forwards one port between the host and a user-mode network.
type ForwardPort struct {
	// From is host (host port to guest) or guest (guest address to host).
	From string `json:"from,omitempty"`
	// Proto is tcp or udp.
	Proto string   `json:"proto,omitempty"`
	Host  Endpoint `json:"host"`
	Guest Endpoint `json:"guest"`
}

// Endpoint is an IPv4 address, empty for any, and a port.
type Endpoint struct {
	Address string `json:"address,omitempty"`
	Port    int    `json:"port"`
}

// Volume is a disk image on the host.
type Volume struct {
	// Image is the file's path, relative to the state directory unless absolute.
	Image  string  `json:"image"`
	Serial *string `json:"serial,omitempty"`
	// Direct opens the image with O_DIRECT.
	Direct   bool `json:"direct,omitempty"`
	ReadOnly bool `json:"readOnly,omitempty"`
	// Shared is for a disk that several VMs are meant to write at the same time,
	// which their guests have to agree on: nothing keeps them apart. Every VM that
	// has the disk has to say so.
	Shared bool    `json:"shared,omitempty"`
	Label  *string `json:"label,omitempty"`
	// MountPoint in the guest; used by the NixOS guest modules.
	MountPoint *string `json:"mountPoint,omitempty"`
	// Size in MiB of an image that is created; 0 only where AutoCreate is false.
	Size int `json:"size,omitempty"`
	// AutoCreate makes the image and its file system when absent; nil means true.
	AutoCreate    *bool    `json:"autoCreate,omitempty"`
	MkfsExtraArgs []string `json:"mkfsExtraArgs,omitzero"`
	FSType        string   `json:"fsType,omitempty"`
	// ImageType is raw, qcow2, vhd or vhdx.
	ImageType string `json:"imageType,omitempty"`
}

// Share is a directory of the host that the guest can mount.
type Share struct {
	Tag string `json:"tag"`
	// Source is the directory, relative to the state directory unless absolute.
	Source string `json:"source"`
	// Socket of virtiofsd, relative to the state directory. An absent field
	// means NAME-virtiofs-TAG.sock for virtiofs; null is refused there.
	Socket     Optional[string] `json:"socket,omitzero"`
	MountPoint string           `json:"mountPoint,omitempty"`
	// Proto is 9p or virtiofs.
	Proto string `json:"proto,omitempty"`
	// SecurityModel of 9p: passthrough, none, mapped or mapped-file.
	SecurityModel string `json:"securityModel,omitempty"`
	ReadOnly      bool   `json:"readOnly,omitempty"`
	// Cache of virtiofs: auto, always, metadata or never.
	Cache string `json:"cache,omitempty"`
	// PosixACL passes --posix-acl --xattr to virtiofsd; nil means true.
	PosixACL *bool `json:"posixAcl,omitempty"`
	// ExtraArgs for this share's virtiofsd.
	ExtraArgs []string `json:"extraArgs,omitzero"`
}

// Device is a device of the host that is handed to the guest.
type Device struct {
	// Bus is pci or usb.
	Bus string `json:"bus"`
	// Path is a PCI address (0000:01:00.0) or a QEMU usb-host selector.
	Path string     `json:"path"`
	QEMU DeviceQEMU `json:"qemu,omitzero"`
}

// DeviceQEMU refines how QEMU attaches a device.
type DeviceQEMU struct {
	ID              *string `json:"id,omitempty"`
	Bus             *string `json:"bus,omitempty"`
	DeviceExtraArgs *string `json:"deviceExtraArgs,omitempty"`
}

// Vsock holds the guest's address in AF_VSOCK.
type Vsock struct {
	// CID from 3 on; nil means no vsock.
	CID *int64   `json:"cid,omitempty"`
	SSH VsockSSH `json:"ssh,omitzero"`
}

// VsockSSH holds what the host does with the guest's SSH server on vsock.
type VsockSSH struct {
	// Shutdown asks the guest to go down by it where the hypervisor cannot, with
	// a key that the guest is handed at every start; nil means true.
	Shutdown *bool `json:"shutdown,omitempty"`
}

// Graphics turns on a display.
type Graphics struct {
	Enable bool `json:"enable,omitempty"`
	// Backend is gtk or headless.
	Backend string `json:"backend,omitempty"`
	// Socket of the vhost-user GPU; unset means NAME-gpu.sock.
	Socket string `json:"socket,omitempty"`
	// Vulkan is venus or drm_native_context.
	Vulkan *string `json:"vulkan,omitempty"`
	// HostMem is the size of the GPU's host memory window with a unit, M or G; it
	// is there with Vulkan only.
	HostMem string `json:"hostmem,omitempty"`
	// CrosvmPackage provides the vhost-user GPU for cloud-hypervisor and crosvm.
	CrosvmPackage string `json:"crosvmPackage,omitempty"`
}

// Virtiofsd holds options for every virtiofsd of the VM.
type Virtiofsd struct {
	// InodeFileHandles is never, prefer or mandatory; an absent field means
	// prefer, null leaves it to virtiofsd.
	InodeFileHandles Optional[string] `json:"inodeFileHandles,omitzero"`
	// ThreadPoolSize is a number, or the word `nproc` in backquotes for one
	// thread a core.
	ThreadPoolSize *ThreadPoolSize `json:"threadPoolSize,omitempty"`
	// Group that owns the sockets; an absent field means kvm, null leaves the
	// socket to the hypervisor user's group.
	Group     Optional[string] `json:"group,omitzero"`
	ExtraArgs []string         `json:"extraArgs,omitzero"`
	// Package that has bin/virtiofsd; unset means a search on the host.
	Package string `json:"package,omitempty"`
}

// QEMU holds options for hypervisor qemu.
type QEMU struct {
	// Machine is QEMU's machine model: microvm, q35, virt, …
	Machine string `json:"machine,omitempty"`
	// MachineOpts replace the default machine options; nil keeps them.
	MachineOpts map[string]string `json:"machineOpts,omitzero"`
	ExtraArgs   []string          `json:"extraArgs,omitzero"`
	// SerialConsole connects the serial port; nil means true.
	SerialConsole *bool          `json:"serialConsole,omitempty"`
	PCIeRootPorts []PCIeRootPort `json:"pcieRootPorts,omitzero"`
	// Package that has bin/qemu-system-ARCH; unset means a search in PATH.
	Package string `json:"package,omitempty"`
}

// PCIeRootPort is one root port of QEMU's q35 and virt machines.
type PCIeRootPort struct {
	ID      string  `json:"id"`
	Bus     *string `json:"bus,omitempty"`
	Chassis *int    `json:"chassis,omitempty"`
	Slot    *string `json:"slot,omitempty"`
	Addr    *string `json:"addr,omitempty"`
}

// CloudHypervisor holds options for hypervisor cloud-hypervisor.
type CloudHypervisor struct {
	PlatformOEMStrings []string `json:"platformOEMStrings,omitzero"`
	// Landlock confines it to the VM's files where its version and the host's
	// kernel offer that, and the VM has neither devices nor graphics; nil means
	// true.
	Landlock  *bool    `json:"landlock,omitempty"`
	ExtraArgs []string `json:"extraArgs,omitzero"`
	Package   string   `json:"package,omitempty"`
}

// Firecracker holds options for hypervisor firecracker.
type Firecracker struct {
	// CPU is a custom CPU template.
	CPU map[string]any `json:"cpu,omitzero"`
	// DriveIoEngine is Async or Sync.
	DriveIoEngine string         `json:"driveIoEngine,omitempty"`
	ExtraArgs     []string       `json:"extraArgs,omitzero"`
	ExtraConfig   map[string]any `json:"extraConfig,omitzero"`
	// Jailer gives the VM's unit a root directory of its own, with little more in
	// it than the VM's files, in place of Firecracker's jailer program.
	Jailer  bool   `json:"jailer,omitempty"`
	Package string `json:"package,omitempty"`
}

// Crosvm holds options for hypervisor crosvm.
type Crosvm struct {
	ExtraArgs []string `json:"extraArgs,omitzero"`
	// PivotRoot is the directory of crosvm's sandbox.
	PivotRoot *string `json:"pivotRoot,omitempty"`
	Package   string  `json:"package,omitempty"`
}

// Kvmtool holds options for hypervisor kvmtool.
type Kvmtool struct {
	Package string `json:"package,omitempty"`
}

// Stratovirt holds options for hypervisor stratovirt.
type Stratovirt struct {
	Package string `json:"package,omitempty"`
}

// Alioth holds options for hypervisor alioth.
type Alioth struct {
	Package string `json:"package,omitempty"`
}
