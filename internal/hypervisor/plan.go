// Package hypervisor turns a spec into the plan of one VM: the hypervisor's argument
// vector and everything that the host's helpers do for it. Every hypervisor has a file;
// what each supports is a table, capabilities.json.
//
// It is written for QEMU 7.2 to 10, Cloud Hypervisor 20 to 54, Firecracker 1.5 to
// 1.17-dev, crosvm of 2025 and 2026 and kvmtool of August 2024 (neither has releases),
// StratoVirt 2.4 and 2.5, and Alioth 0.12. Each file names the documents and sources that
// it follows.
package hypervisor

import (
	"path/filepath"
	"slices"
)

// PlanVersion is the version of the format of runner.json that is written. Newer ones are
// refused when a plan is read.
const PlanVersion = 1

// Plan is share/microvm/runner.json of a runner package: everything that was decided when
// the package was built. Nothing is decided at run time. Paths are absolute, or relative
// to the VM's state directory.
type Plan struct {
	// Version is PlanVersion.
	Version int `json:"version"`
	// Foreign means that the package is run by its own bin/microvm-run, which is Argv.
	// Either it has no runner.json, and the plan comes from its text files, or its
	// bin/microvm-run is not the one that was written with the plan. It is not stored.
	Foreign    bool   `json:"-"`
	Name       string `json:"name"`
	Hypervisor string `json:"hypervisor"`
	Arch       string `json:"arch"`
	// CompiledFor are the versions of the hypervisor for which the plan is the same; nil
	// if no decision depends on the version.
	CompiledFor *Versions `json:"compiledFor,omitempty"`
	// System is the guest's NixOS toplevel; empty if the guest is not NixOS.
	System string `json:"system,omitempty"`
	// MemMiB and VCPU are what the guest has at the start.
	MemMiB int `json:"memMiB,omitempty"`
	VCPU   int `json:"vcpu,omitempty"`
	// HugePagesMiB is how much memory in the host's huge pages the guest uses.
	HugePagesMiB int `json:"hugePagesMiB,omitempty"`

	// Argv is the hypervisor's command line. Argv[0] is an absolute path, or a name
	// that is looked up in PATH when the VM starts. Arguments may contain placeholders,
	// see Expand.
	Argv []string `json:"argv"`
	// Last is the number of arguments at the end of Argv that come after those of
	// ExtraArgsScript.
	Last int `json:"last,omitempty"`
	// Landlock are arguments that are appended to Argv if the host's kernel has the
	// Landlock version that Cloud Hypervisor requires; they confine it to its VM's files.
	Landlock []string `json:"landlock,omitempty"`
	// ProcessName replaces argv[0] in the process list; empty keeps it.
	ProcessName string `json:"processName,omitempty"`
	// Vmlinux is a compressed kernel whose ELF image the package contains as
	// VmlinuxFile, for a hypervisor that boots only ELF images. It is not stored.
	Vmlinux string `json:"-"`
	// KVM is how much the VM depends on a usable /dev/kvm.
	KVM KVM `json:"kvm,omitempty"`
	// HoldStdin means that standard input, unless it is a terminal, must never end: it
	// is a pipe whose other end the hypervisor itself holds.
	HoldStdin bool `json:"holdStdin,omitempty"`
	// TerminalStdin means that standard input must be a terminal: if it is not, it
	// becomes a pseudoterminal whose other end the hypervisor itself holds.
	TerminalStdin bool `json:"terminalStdin,omitempty"`
	// Env are further environment variables, KEY=VALUE, of the hypervisor.
	Env []string `json:"env,omitempty"`
	// User to switch to when the runner is started as root; empty means none.
	User string `json:"user,omitempty"`
	// PreStart contains the spec's shell commands. They run unprivileged, first when the
	// VM starts, in the process that becomes the hypervisor: it inherits their
	// environment, umask and limits.
	PreStart string `json:"preStart,omitempty"`
	// BeforeStart contains shell commands that the hypervisor itself needs, such as to
	// start a second process. They run unprivileged, right before it.
	BeforeStart string `json:"beforeStart,omitempty"`
	// ExtraArgsScript is a program that prints one line, which is added to Argv.
	ExtraArgsScript string `json:"extraArgsScript,omitempty"`
	// Files are host files that must exist and be readable.
	Files []File `json:"files,omitempty"`
	// StaleSockets are sockets in the state directory that are removed before the start.
	StaleSockets []string `json:"staleSockets,omitempty"`
	// StaleFiles are regular files that the hypervisor leaves in the state directory;
	// they are removed after it has exited.
	StaleFiles []string `json:"staleFiles,omitempty"`
	// StaleDirs are directories that it leaves there; they are removed then, if empty.
	StaleDirs []string `json:"staleDirs,omitempty"`
	// Generated are files that are written into the state directory, with mode 0600,
	// before the start (Firecracker's configuration).
	Generated []GeneratedFile `json:"generated,omitempty"`

	Volumes []Volume `json:"volumes,omitempty"`
	// Interfaces are all network interfaces; Taps and Macvtaps are those that the
	// helpers create on the host.
	Interfaces []Interface `json:"interfaces,omitempty"`
	HostPorts  []HostPort  `json:"hostPorts,omitempty"`
	Taps       []Tap       `json:"taps,omitempty"`
	Macvtaps   []Macvtap   `json:"macvtaps,omitempty"`
	Shares     []Share     `json:"shares,omitempty"`
	// NinePShares are directories that the hypervisor itself serves.
	NinePShares []NinePShare `json:"ninePShares,omitempty"`
	PCI         []PCI        `json:"pci,omitempty"`
	USB         []string     `json:"usb,omitempty"`
	// Bridge means that an interface joins a bridge through qemu-bridge-helper, which
	// does not work under NoNewPrivileges=.
	Bridge bool `json:"bridge,omitempty"`
	// Devices are device nodes, in addition to /dev/kvm, that the hypervisor opens. They
	// may appear only when a kernel module has been loaded.
	Devices []string `json:"devices,omitempty"`
	// Namespaces means that the hypervisor creates namespaces for its own sandbox, which
	// the unit otherwise forbids.
	Namespaces bool `json:"namespaces,omitempty"`
	// Jail is nil if the hypervisor sees the host's files.
	Jail     *Jail  `json:"jail,omitempty"`
	VsockCID *int64 `json:"vsockCid,omitempty"`

	Shutdown  Shutdown  `json:"shutdown"`
	Readiness Readiness `json:"readiness"`
	// Balloon is nil if the VM has none that can be set.
	Balloon *Control `json:"balloon,omitempty"`
	// Console is the Unix socket of the serial console; empty means none.
	Console string `json:"console,omitempty"`
	// Machined is nil if the VM is not registered with systemd-machined.
	Machined *Machined `json:"machined,omitempty"`
	// Scripts are further programs of the package, or commands around ours, by their
	// names in bin.
	Scripts map[string]string `json:"scripts,omitempty"`
	// Programs are the SHA-256 digests, in hexadecimal, of the package's programs that
	// hosts run, by their paths, as they were written with this plan. A program with
	// another digest was replaced on purpose and runs instead of the plan. Nil in older
	// packages.
	Programs map[string]string `json:"programs,omitempty"`
	// Notes are remarks for users who build or show the plan. Warnings among them begin
	// with "warning: ".
	Notes []string `json:"notes,omitempty"`
}

// Jail is the VM's own root directory. It always contains the host's programs, the
// packages and the VM's state directory. The files listed here, by absolute paths, are
// added if the host has them.
type Jail struct {
	ReadOnly []string `json:"readOnly,omitempty"`
	Writable []string `json:"writable,omitempty"`
}

// KVM is how much a VM depends on /dev/kvm.
type KVM string

// Values of KVM.
const (
	KVMUnused   KVM = ""         // the VM is always emulated
	KVMWanted   KVM = "wanted"   // without KVM, the VM is emulated, slowly
	KVMRequired KVM = "required" // without KVM, the VM does not boot
)

// File is a host file that the hypervisor needs.
type File struct {
	// Role is its name in messages: kernel, initrdPath, storeDisk, credentialFiles.NAME.
	Role string `json:"role"`
	Path string `json:"path"`
}

// GeneratedFile is written into the state directory at every start. Its content may
// contain placeholders.
type GeneratedFile struct {
	Path    string `json:"path"`
	Content string `json:"content"`
}

// Volume is an image that exists, or is created, before the start.
type Volume struct {
	Image string `json:"image"`
	// SizeMiB is the size of an image that is created; otherwise it may be 0.
	SizeMiB       int      `json:"sizeMiB,omitempty"`
	AutoCreate    bool     `json:"autoCreate,omitempty"`
	ReadOnly      bool     `json:"readOnly,omitempty"`
	FSType        string   `json:"fsType,omitempty"`
	Label         string   `json:"label,omitempty"`
	MkfsExtraArgs []string `json:"mkfsExtraArgs,omitempty"`
	ImageType     string   `json:"imageType,omitempty"`
	// Shared means that other VMs may write it at the same time.
	Shared bool `json:"shared,omitempty"`
	// KeepLock means that the hypervisor takes no lock that other hypervisors see. The
	// lock that is taken before it starts is kept then: it inherits the open descriptor.
	KeepLock bool `json:"keepLock,omitempty"`
	// Probed means that the hypervisor detects the image's type by its first bytes, which
	// the guest of a raw disk can write.
	Probed bool `json:"probed,omitempty"`
}

// Interface is a network interface of the guest.
type Interface struct {
	// Type is user, tap, macvtap or bridge.
	Type string `json:"type"`
	// ID is the interface's name on the host, for types tap and macvtap.
	ID string `json:"id,omitempty"`
	// MAC is the guest's address, in lower case with colons; it may be empty in older
	// packages.
	MAC string `json:"mac,omitempty"`
	// Bridge is the bridge that an interface of type bridge joins.
	Bridge string `json:"bridge,omitempty"`
}

// Bridges returns the names of the bridges that interfaces join, each once.
func (p *Plan) Bridges() []string {
	var out []string
	for _, n := range p.Interfaces {
		if n.Bridge != "" && !slices.Contains(out, n.Bridge) {
			out = append(out, n.Bridge)
		}
	}
	return out
}

// HostPort is a port of the host that the VM listens on.
type HostPort struct {
	// Proto is tcp or udp.
	Proto string `json:"proto"`
	// Address is empty for all addresses of the host.
	Address string `json:"address,omitempty"`
	Port    int    `json:"port"`
}

// Tap is one tap interface.
type Tap struct {
	ID string `json:"id"`
	// VnetHdr and MultiQueue are the flags with which the device is created.
	VnetHdr    bool `json:"vnetHdr,omitempty"`
	MultiQueue bool `json:"multiQueue,omitempty"`
}

// Macvtap is one macvtap interface. The hypervisor gets Queues descriptors; if that is 0,
// it opens the device itself.
type Macvtap struct {
	ID     string `json:"id"`
	MAC    string `json:"mac"`
	Link   string `json:"link"`
	Mode   string `json:"mode"`
	Queues int    `json:"queues"`
}

// Share is a directory that virtiofsd serves.
type Share struct {
	Tag    string `json:"tag"`
	Source string `json:"source"`
	// Socket is relative to the state directory. In packages of microvm.nix it may be
	// absolute, see SocketIn.
	Socket string `json:"socket"`
	// SocketGroup owns the socket; empty means the group of the hypervisors' user.
	SocketGroup string `json:"socketGroup,omitempty"`
	// Virtiofsd is the path of the program; empty means to search the usual places.
	Virtiofsd string `json:"virtiofsd,omitempty"`
	// ReadOnly shares are served with virtiofsd's --readonly.
	ReadOnly bool `json:"readOnly,omitempty"`
	// Cache is virtiofsd's --cache.
	Cache            string   `json:"cache,omitempty"`
	PosixACL         bool     `json:"posixAcl,omitempty"`
	InodeFileHandles string   `json:"inodeFileHandles,omitempty"`
	ThreadPoolNProc  bool     `json:"threadPoolNproc,omitempty"`
	ThreadPoolSize   int      `json:"threadPoolSize,omitempty"`
	ExtraArgs        []string `json:"extraArgs,omitempty"`
	// PassTag passes --tag to virtiofsd, which crosvm requires.
	PassTag bool `json:"passTag,omitempty"`
}

// SocketIn returns the share's socket relative to the VM's directory dir. A package of
// microvm.nix can have an absolute path. If that is outside of dir, SocketIn returns
// false, and the socket must not be created, served or removed.
func (s *Share) SocketIn(dir string) (rel string, ok bool) {
	if !filepath.IsAbs(s.Socket) {
		return s.Socket, true
	}
	rel, err := filepath.Rel(dir, s.Socket)
	return rel, err == nil && rel != "." && filepath.IsLocal(rel)
}

// NinePShare is a directory that the hypervisor serves over 9p, as its own user.
type NinePShare struct {
	Tag string `json:"tag"`
	// Source is absolute, or relative to the state directory.
	Source        string `json:"source"`
	ReadOnly      bool   `json:"readOnly,omitempty"`
	SecurityModel string `json:"securityModel,omitempty"`
}

// PCI is one PCI device that is passed through to the guest.
type PCI struct {
	Address string `json:"address"`
}

// Control describes a hypervisor's control interface.
type Control struct {
	// Method is qmp, cloud-hypervisor, firecracker, crosvm or kvmtool.
	Method string `json:"method"`
	// Socket is relative to the state directory.
	Socket string `json:"socket,omitempty"`
	// Program is the control program for crosvm, in the form of Argv[0].
	Program string `json:"program,omitempty"`
	// Memory is the VM's memory, in MiB, for the balloon of a hypervisor that does not
	// report it; otherwise 0.
	Memory int `json:"memory,omitempty"`
	// GuestTells means that kvmtool's guest may be asked how much memory it has.
	GuestTells bool `json:"guestTells,omitempty"`
}

// Shutdown methods: how the guest is asked to shut down.
const (
	ShutdownNone         = "none"           // SIGTERM at once
	ShutdownScript       = "script"         // foreign package: its bin/microvm-shutdown
	ShutdownCtrlAltDel   = "ctrl-alt-del"   // key events (QMP), SendCtrlAltDel (firecracker)
	ShutdownPowerButton  = "power-button"   // ACPI power button
	ShutdownGuestOverSSH = "ssh-over-vsock" // a command in the guest, through ssh
)

// Shutdown is how the guest is asked to shut down.
type Shutdown struct {
	// Method is one of the Shutdown constants.
	Method string `json:"method"`
	// Control is the interface for Method; nil for none, script and ssh-over-vsock.
	Control *Control `json:"control,omitempty"`
	// SSH is how to log in to the guest; nil for all other methods.
	SSH *SSH `json:"ssh,omitempty"`
	// Why is the reason of the choice, for microvm build and show.
	Why string `json:"why,omitempty"`
}

// SSH is how the host logs in to the guest, as root, over vsock port 22.
type SSH struct {
	// Key is the file, in the state directory, with the private key of this start; the
	// guest gets the public one, see ShutdownKey.
	Key string `json:"key"`
	// Command shuts the guest down, so that the hypervisor exits.
	Command string `json:"command"`
	// VsockSocket is the Unix socket of the hypervisor's vsock multiplexer; empty
	// means vhost-vsock.
	VsockSocket string `json:"vsockSocket,omitempty"`
}

// Readiness modes: when READY=1 is sent.
const (
	ReadyGuest = "guest" // the guest has reported it over vsock
	ReadyVMM   = "vmm"   // the control socket reports that the VM runs
	ReadyNone  = "none"  // the hypervisor was executed
)

// Readiness is what READY=1 means for this VM.
type Readiness struct {
	Mode string `json:"mode"`
	// Control is the interface that is asked in mode vmm.
	Control *Control `json:"control,omitempty"`
	// VsockSocket is, for mode guest, the Unix socket of the hypervisor's vsock
	// multiplexer; empty means vhost-vsock.
	VsockSocket string `json:"vsockSocket,omitempty"`
	// Why is the reason of the choice, for microvm build and show.
	Why string `json:"why,omitempty"`
}

// Machined is the registration with systemd-machined.
type Machined struct {
	UUID string `json:"uuid"`
}
