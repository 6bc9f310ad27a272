// Package spec holds the options of a microVM as Go types. They are the JSON document
// that users write, or that the NixOS modules write with builtins.toJSON.
//
// Every field has the name of its microvm.* option. Table fields describes them all; the
// JSON Schema and the options' reference are generated from it. The package parses a
// document, sets the documented defaults and validates it. It reports all faults at
// once, each with its path. It knows nothing about single hypervisors: package
// hypervisor checks what they support, by its table of capabilities.
package spec

// Spec describes one microVM. Table fields has the meaning, the default and the allowed
// values of each field, by its path in the document. A pointer is nil, and an Optional
// absent, if the document has no value; SetDefaults sets those that have a default.
// Sizes are in MiB.
type Spec struct {
	// StateDir is the host's directory of VMs, on which the longest allowed socket
	// path depends; empty means /var/lib/microvms. It is not part of the document.
	StateDir string `json:"-"`

	Schema string `json:"$schema,omitempty"`
	Name   string `json:"name"`
	Arch   string `json:"arch,omitempty"`

	Hypervisor        string  `json:"hypervisor,omitempty"`
	CPU               *string `json:"cpu,omitempty"`
	VCPU              int     `json:"vcpu,omitempty"`
	Mem               int     `json:"mem,omitempty"`
	HugepageMem       bool    `json:"hugepageMem,omitempty"`
	HotplugMem        int     `json:"hotplugMem,omitempty"`
	HotpluggedMem     *int    `json:"hotpluggedMem,omitempty"`
	Balloon           bool    `json:"balloon,omitempty"`
	InitialBalloonMem int     `json:"initialBalloonMem,omitempty"`
	DeflateOnOOM      *bool   `json:"deflateOnOOM,omitempty"`

	User            *string           `json:"user,omitempty"`
	Socket          Optional[string]  `json:"socket,omitzero"`
	PreStart        string            `json:"preStart,omitempty"`
	ExtraArgsScript *string           `json:"extraArgsScript,omitempty"`
	BinScripts      map[string]string `json:"binScripts,omitzero"`
	PrettyProcnames *bool             `json:"prettyProcnames,omitempty"`

	Kernel       string   `json:"kernel"`
	InitrdPath   string   `json:"initrdPath,omitempty"`
	KernelParams []string `json:"kernelParams,omitzero"`
	StoreOnDisk  *bool    `json:"storeOnDisk,omitempty"`
	StoreDisk    string   `json:"storeDisk,omitempty"`
	System       string   `json:"system,omitempty"`

	Interfaces   []Interface   `json:"interfaces,omitzero"`
	ForwardPorts []ForwardPort `json:"forwardPorts,omitzero"`
	Volumes      []Volume      `json:"volumes,omitzero"`
	Shares       []Share       `json:"shares,omitzero"`
	Devices      []Device      `json:"devices,omitzero"`

	Vsock     Vsock    `json:"vsock,omitzero"`
	Readiness string   `json:"readiness,omitempty"`
	Graphics  Graphics `json:"graphics,omitzero"`

	MachineID            Optional[string]  `json:"machineId,omitzero"`
	RegisterWithMachined bool              `json:"registerWithMachined,omitempty"`
	CredentialFiles      map[string]string `json:"credentialFiles,omitzero"`

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
	Type    string  `json:"type"`
	ID      string  `json:"id"`
	MAC     string  `json:"mac"`
	Tap     Tap     `json:"tap,omitzero"`
	Macvtap Macvtap `json:"macvtap,omitzero"`
	Bridge  *string `json:"bridge,omitempty"`
}

// Tap holds the options of a tap interface.
type Tap struct {
	Vhost bool `json:"vhost,omitempty"`
}

// Macvtap holds the options of a macvtap interface.
type Macvtap struct {
	Link string `json:"link,omitempty"`
	Mode string `json:"mode,omitempty"`
}

// ForwardPort forwards one port between the host and a user-mode network.
type ForwardPort struct {
	From  string   `json:"from,omitempty"`
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
	Image         string   `json:"image"`
	Serial        *string  `json:"serial,omitempty"`
	Direct        bool     `json:"direct,omitempty"`
	ReadOnly      bool     `json:"readOnly,omitempty"`
	Shared        bool     `json:"shared,omitempty"`
	Label         *string  `json:"label,omitempty"`
	MountPoint    *string  `json:"mountPoint,omitempty"`
	Size          int      `json:"size,omitempty"`
	AutoCreate    *bool    `json:"autoCreate,omitempty"`
	MkfsExtraArgs []string `json:"mkfsExtraArgs,omitzero"`
	FSType        string   `json:"fsType,omitempty"`
	ImageType     string   `json:"imageType,omitempty"`
}

// Share is a directory of the host that the guest can mount.
type Share struct {
	Tag           string           `json:"tag"`
	Source        string           `json:"source"`
	Socket        Optional[string] `json:"socket,omitzero"`
	MountPoint    string           `json:"mountPoint,omitempty"`
	Proto         string           `json:"proto,omitempty"`
	SecurityModel string           `json:"securityModel,omitempty"`
	ReadOnly      bool             `json:"readOnly,omitempty"`
	Cache         string           `json:"cache,omitempty"`
	PosixACL      *bool            `json:"posixAcl,omitempty"`
	ExtraArgs     []string         `json:"extraArgs,omitzero"`
}

// Device is a device of the host that is passed through to the guest.
type Device struct {
	Bus  string     `json:"bus"`
	Path string     `json:"path"`
	QEMU DeviceQEMU `json:"qemu,omitzero"`
}

// DeviceQEMU holds options of how QEMU attaches a device.
type DeviceQEMU struct {
	ID              *string `json:"id,omitempty"`
	Bus             *string `json:"bus,omitempty"`
	DeviceExtraArgs *string `json:"deviceExtraArgs,omitempty"`
}

// Vsock holds the guest's address in AF_VSOCK.
type Vsock struct {
	CID *int64   `json:"cid,omitempty"`
	SSH VsockSSH `json:"ssh,omitzero"`
}

// VsockSSH holds the options of the guest's SSH server on vsock.
type VsockSSH struct {
	Shutdown *bool `json:"shutdown,omitempty"`
}

// Graphics holds the options of a display.
type Graphics struct {
	Enable        bool    `json:"enable,omitempty"`
	Backend       string  `json:"backend,omitempty"`
	Socket        string  `json:"socket,omitempty"`
	Vulkan        *string `json:"vulkan,omitempty"`
	HostMem       string  `json:"hostmem,omitempty"`
	CrosvmPackage string  `json:"crosvmPackage,omitempty"`
}

// Virtiofsd holds options for every virtiofsd of the VM.
type Virtiofsd struct {
	InodeFileHandles Optional[string] `json:"inodeFileHandles,omitzero"`
	ThreadPoolSize   *ThreadPoolSize  `json:"threadPoolSize,omitempty"`
	Group            Optional[string] `json:"group,omitzero"`
	ExtraArgs        []string         `json:"extraArgs,omitzero"`
	Package          string           `json:"package,omitempty"`
}

// QEMU holds options for hypervisor qemu.
type QEMU struct {
	Machine       string            `json:"machine,omitempty"`
	MachineOpts   map[string]string `json:"machineOpts,omitzero"`
	ExtraArgs     []string          `json:"extraArgs,omitzero"`
	SerialConsole *bool             `json:"serialConsole,omitempty"`
	PCIeRootPorts []PCIeRootPort    `json:"pcieRootPorts,omitzero"`
	Package       string            `json:"package,omitempty"`
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
	Landlock           *bool    `json:"landlock,omitempty"`
	ExtraArgs          []string `json:"extraArgs,omitzero"`
	Package            string   `json:"package,omitempty"`
}

// Firecracker holds options for hypervisor firecracker.
type Firecracker struct {
	CPU           map[string]any `json:"cpu,omitzero"`
	DriveIoEngine string         `json:"driveIoEngine,omitempty"`
	ExtraArgs     []string       `json:"extraArgs,omitzero"`
	ExtraConfig   map[string]any `json:"extraConfig,omitzero"`
	Jailer        bool           `json:"jailer,omitempty"`
	Package       string         `json:"package,omitempty"`
}

// Crosvm holds options for hypervisor crosvm.
type Crosvm struct {
	ExtraArgs []string `json:"extraArgs,omitzero"`
	PivotRoot *string  `json:"pivotRoot,omitempty"`
	Package   string   `json:"package,omitempty"`
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
