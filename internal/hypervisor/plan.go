// Package hypervisor turns a spec into the plan of one VM: the hypervisor's
// argument vector and everything the host's helpers have to do for it. There
// is one file a hypervisor; what each can do is data, in capabilities.json.
//
// Written against QEMU 7.2 to 10, Cloud Hypervisor 20 to 54, Firecracker 1.5 to
// 1.17-dev, crosvm of 2025 and 2026 (it has no releases), kvmtool of August 2024 (nor has
// it), StratoVirt 2.4 and 2.5 and Alioth 0.12; each file says from which of their
// documents and sources.
package hypervisor

import (
	"path/filepath"
	"slices"
)

// PlanVersion is the version of the runner.json format that this code writes.
// A reader refuses a newer one.
const PlanVersion = 1

// Plan is share/microvm/runner.json of a runner package: everything that was
// decided when the package was built. At run time nothing is decided again.
// Paths are absolute, or relative to the VM's state directory.
type Plan struct {
	// Version is PlanVersion.
	Version int `json:"version"`
	// Foreign marks a package that runs by its own bin/microvm-run, which is Argv: one
	// that has no runner.json, whose plan is made up from the text files, and one whose
	// bin/microvm-run is another than was written with the plan. It is never written.
	Foreign    bool   `json:"-"`
	Name       string `json:"name"`
	Hypervisor string `json:"hypervisor"`
	Arch       string `json:"arch"`
	// CompiledFor are the versions of the hypervisor for which the plan would be
	// the same; nil where none of its decisions depends on that.
	CompiledFor *Versions `json:"compiledFor,omitempty"`
	// System is the guest's NixOS toplevel; empty where the guest is something else.
	System string `json:"system,omitempty"`
	// MemMiB and VCPU are what the guest has at the start.
	MemMiB int `json:"memMiB,omitempty"`
	VCPU   int `json:"vcpu,omitempty"`
	// HugePagesMiB is how much of the host's huge pages the guest's memory takes.
	HugePagesMiB int `json:"hugePagesMiB,omitempty"`

	// Argv is the hypervisor's command line. Argv[0] is an absolute path, or a
	// name that is looked up in PATH at the start. Arguments may hold
	// placeholders, see Placeholder.
	Argv []string `json:"argv"`
	// Last is how many of Argv's arguments stay behind those of ExtraArgsScript.
	Last int `json:"last,omitempty"`
	// Landlock are arguments behind those of Argv, on a host whose kernel has
	// Landlock as Cloud Hypervisor wants it; they confine it to its VM's files.
	Landlock []string `json:"landlock,omitempty"`
	// ProcessName replaces argv[0] in the process list; empty keeps it.
	ProcessName string `json:"processName,omitempty"`
	// Vmlinux is a compressed kernel whose ELF image the package holds as
	// VmlinuxFile, because the hypervisor starts no other; it is not written.
	Vmlinux string `json:"-"`
	// KVM says what a host without a usable /dev/kvm means for the VM.
	KVM KVM `json:"kvm,omitempty"`
	// HoldStdin says that standard input, unless it is a terminal, has to be one
	// that never ends: a pipe whose other end the hypervisor holds itself.
	HoldStdin bool `json:"holdStdin,omitempty"`
	// TerminalStdin says that standard input has to be a terminal: where it is
	// none, a pseudoterminal whose other end the hypervisor holds itself.
	TerminalStdin bool `json:"terminalStdin,omitempty"`
	// Env are further variables, KEY=VALUE, for the hypervisor.
	Env []string `json:"env,omitempty"`
	// User to switch to when the runner is started as root; empty means none.
	User string `json:"user,omitempty"`
	// PreStart holds the spec's shell commands. They run unprivileged before all else
	// of a start, and their shell goes on: its environment, umask and limits are the
	// hypervisor's.
	PreStart string `json:"preStart,omitempty"`
	// BeforeStart holds shell commands that the hypervisor itself needs, as those
	// that start another process of it. They run right before it, unprivileged.
	BeforeStart string `json:"beforeStart,omitempty"`
	// ExtraArgsScript is a program whose line of output is added to Argv.
	ExtraArgsScript string `json:"extraArgsScript,omitempty"`
	// Files are host files that must exist and be readable, with what they are.
	Files []File `json:"files,omitempty"`
	// StaleSockets are removed, beneath the state directory, before the start.
	StaleSockets []string `json:"staleSockets,omitempty"`
	// StaleFiles are regular files that the hypervisor leaves in the state
	// directory; they are removed when it is gone.
	StaleFiles []string `json:"staleFiles,omitempty"`
	// StaleDirs are directories that it makes there and leaves; they go then, if empty.
	StaleDirs []string `json:"staleDirs,omitempty"`
	// Generated are files to be written, mode 0600, into the state directory
	// before the start (firecracker's configuration).
	Generated []GeneratedFile `json:"generated,omitempty"`

	Volumes []Volume `json:"volumes,omitempty"`
	// Interfaces are all network interfaces; Taps and Macvtaps are what the helpers
	// make for those of these types.
	Interfaces []Interface `json:"interfaces,omitempty"`
	HostPorts  []HostPort  `json:"hostPorts,omitempty"`
	Taps       []Tap       `json:"taps,omitempty"`
	Macvtaps   []Macvtap   `json:"macvtaps,omitempty"`
	Shares     []Share     `json:"shares,omitempty"`
	// NinePShares are directories that the hypervisor serves by itself.
	NinePShares []NinePShare `json:"ninePShares,omitempty"`
	PCI         []PCI        `json:"pci,omitempty"`
	USB         []string     `json:"usb,omitempty"`
	// Bridge says that an interface joins a bridge through qemu-bridge-helper,
	// which cannot work under NoNewPrivileges=.
	Bridge bool `json:"bridge,omitempty"`
	// Devices are nodes of the host's, beside /dev/kvm, that the hypervisor opens
	// and that a module makes which may be loaded a moment later.
	Devices []string `json:"devices,omitempty"`
	// Namespaces says that the hypervisor makes namespaces for a sandbox of its
	// own, which the unit otherwise forbids.
	Namespaces bool `json:"namespaces,omitempty"`
	// Jail is nil where the hypervisor sees the host's files.
	Jail     *Jail  `json:"jail,omitempty"`
	VsockCID *int64 `json:"vsockCid,omitempty"`

	Shutdown  Shutdown  `json:"shutdown"`
	Readiness Readiness `json:"readiness"`
	// Balloon is nil where the VM has none.
	Balloon *Control `json:"balloon,omitempty"`
	// Console is the Unix socket of the serial console; empty means none.
	Console string `json:"console,omitempty"`
	// Machined is nil where the VM is not registered with systemd-machined.
	Machined *Machined `json:"machined,omitempty"`
	// Scripts are further programs of the package, or text around ours, by the names
	// that they have below bin.
	Scripts map[string]string `json:"scripts,omitempty"`
	// Programs are the digests, SHA-256 in hexadecimal, of those of the package's
	// programs that hosts run, by their paths, as they were written with this plan:
	// what somebody has put in the place of one is to run. Nil in packages of before.
	Programs map[string]string `json:"programs,omitempty"`
	// Notes are remarks for the person who builds or shows the plan, such as
	// why readiness is what it is. Warnings among them start with "warning: ".
	Notes []string `json:"notes,omitempty"`
}

// Jail is a root directory of the VM's own. It always has the host's programs,
// the packages and the VM's state directory; these files are there as well, by
// absolute paths, where the host has them.
type Jail struct {
	ReadOnly []string `json:"readOnly,omitempty"`
	Writable []string `json:"writable,omitempty"`
}

// KVM is how much a VM depends on /dev/kvm.
type KVM string

// What a VM makes of /dev/kvm.
const (
	KVMUnused   KVM = ""         // it is emulated in any case
	KVMWanted   KVM = "wanted"   // without, it is emulated, slowly
	KVMRequired KVM = "required" // without, it does not boot
)

// File is a host file that the hypervisor needs.
type File struct {
	// Role names it in messages: kernel, initrd, storeDisk, credentialFiles.NAME.
	Role string `json:"role"`
	Path string `json:"path"`
}

// GeneratedFile is written into the state directory at every start. Its content
// may hold placeholders.
type GeneratedFile struct {
	Path    string `json:"path"`
	Content string `json:"content"`
}

// Volume is an image that must exist before the start.
type Volume struct {
	Image string `json:"image"`
	// SizeMiB of the image; 0 where it is not created by us.
	SizeMiB       int      `json:"sizeMiB,omitempty"`
	AutoCreate    bool     `json:"autoCreate,omitempty"`
	ReadOnly      bool     `json:"readOnly,omitempty"`
	FSType        string   `json:"fsType,omitempty"`
	Label         string   `json:"label,omitempty"`
	MkfsExtraArgs []string `json:"mkfsExtraArgs,omitempty"`
	ImageType     string   `json:"imageType,omitempty"`
	// Shared says that other VMs may write it at the same time.
	Shared bool `json:"shared,omitempty"`
	// KeepLock says that the hypervisor takes no lock that others see: the one that
	// the launcher takes stays with it, by an open descriptor.
	KeepLock bool `json:"keepLock,omitempty"`
	// Probed says that the hypervisor takes the image's type from its first bytes,
	// which the guest of a raw disk can write.
	Probed bool `json:"probed,omitempty"`
}

// Interface is a network interface of the guest.
type Interface struct {
	// Type is user, tap, macvtap or bridge.
	Type string `json:"type"`
	// ID is, for tap and macvtap, the interface's name on the host.
	ID string `json:"id,omitempty"`
	// MAC is the guest's address, in lower case with colons; empty where a package of
	// before does not tell it.
	MAC string `json:"mac,omitempty"`
	// Bridge is what an interface of type bridge joins.
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
	// Address is empty for all of the host's.
	Address string `json:"address,omitempty"`
	Port    int    `json:"port"`
}

// Tap is one tap interface.
type Tap struct {
	ID string `json:"id"`
	// VnetHdr and MultiQueue are the flags the device is created with.
	VnetHdr    bool `json:"vnetHdr,omitempty"`
	MultiQueue bool `json:"multiQueue,omitempty"`
}

// Macvtap is one macvtap interface; the hypervisor gets Queues descriptors, or
// opens the device itself where that is 0.
type Macvtap struct {
	ID     string `json:"id"`
	MAC    string `json:"mac"`
	Link   string `json:"link"`
	Mode   string `json:"mode"`
	Queues int    `json:"queues"`
}

// Share is a directory served by virtiofsd (9p shares need no daemon).
type Share struct {
	Tag    string `json:"tag"`
	Source string `json:"source"`
	// Socket is relative to the state directory; see SocketIn for packages of
	// microvm.nix.
	Socket string `json:"socket"`
	// SocketGroup owns the socket; empty means the hypervisor user's group.
	SocketGroup string `json:"socketGroup,omitempty"`
	// Virtiofsd is the program; empty means a search in the usual places.
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
	// PassTag gives virtiofsd --tag, which crosvm needs.
	PassTag bool `json:"passTag,omitempty"`
}

// SocketIn is the share's socket as a path of the VM's directory dir. A package of
// microvm.nix can have a whole path, and one that is elsewhere: it returns false for
// that, and then nobody here makes the socket, serves it or removes it.
func (s *Share) SocketIn(dir string) (rel string, ok bool) {
	if !filepath.IsAbs(s.Socket) {
		return s.Socket, true
	}
	rel, err := filepath.Rel(dir, s.Socket)
	return rel, err == nil && rel != "." && filepath.IsLocal(rel)
}

// NinePShare is a directory that the hypervisor serves by 9p, as its own user.
type NinePShare struct {
	Tag string `json:"tag"`
	// Source is absolute, or relative to the state directory.
	Source        string `json:"source"`
	ReadOnly      bool   `json:"readOnly,omitempty"`
	SecurityModel string `json:"securityModel,omitempty"`
}

// PCI is one PCI device handed to the guest.
type PCI struct {
	Address string `json:"address"`
}

// Control names a hypervisor's control interface.
type Control struct {
	// Method is qmp, cloud-hypervisor, firecracker, crosvm, kvmtool.
	Method string `json:"method"`
	// Socket is relative to the state directory.
	Socket string `json:"socket,omitempty"`
	// Program is the control program for crosvm, as Argv[0] is.
	Program string `json:"program,omitempty"`
	// Memory is the VM's, in MiB, for a balloon whose hypervisor does not tell it;
	// 0 where it does.
	Memory int `json:"memory,omitempty"`
	// GuestTells says that kvmtool's guest may be asked how much it has.
	GuestTells bool `json:"guestTells,omitempty"`
}

// Shutdown methods: what asks the guest to go down.
const (
	ShutdownNone         = "none"           // SIGTERM at once
	ShutdownScript       = "script"         // foreign package: its bin/microvm-shutdown
	ShutdownCtrlAltDel   = "ctrl-alt-del"   // key events (QMP), SendCtrlAltDel (firecracker)
	ShutdownPowerButton  = "power-button"   // ACPI power button
	ShutdownGuestOverSSH = "ssh-over-vsock" // the guest itself, asked through ssh
)

// Shutdown is how the guest is asked to go down.
type Shutdown struct {
	// Method is one of the Shutdown constants.
	Method string `json:"method"`
	// Control is where Method is sent; nil for none, script and ssh-over-vsock.
	Control *Control `json:"control,omitempty"`
	// SSH is how to log in to the guest; nil for every other method.
	SSH *SSH `json:"ssh,omitempty"`
	// Why explains the choice, for microvm show.
	Why string `json:"why,omitempty"`
}

// SSH is how the host logs in to the guest, as root, over vsock port 22.
type SSH struct {
	// Key is the file, in the state directory, that has the private key of this
	// start; the guest gets the public one, see ShutdownKey.
	Key string `json:"key"`
	// Command makes the guest go down, so that the hypervisor exits.
	Command string `json:"command"`
	// VsockSocket is the Unix socket of the hypervisor's vsock multiplexer; empty
	// means vhost-vsock.
	VsockSocket string `json:"vsockSocket,omitempty"`
}

// Readiness modes: when READY=1 is said.
const (
	ReadyGuest = "guest" // the guest said so over vsock
	ReadyVMM   = "vmm"   // the control socket says the VM is running
	ReadyNone  = "none"  // the hypervisor was executed
)

// Readiness is what READY=1 means for this VM.
type Readiness struct {
	Mode string `json:"mode"`
	// Control answers for mode vmm.
	Control *Control `json:"control,omitempty"`
	// VsockSocket is, for mode guest, the Unix socket of the hypervisor's vsock
	// multiplexer; empty means vhost-vsock.
	VsockSocket string `json:"vsockSocket,omitempty"`
	// Why explains the choice, for microvm build and show.
	Why string `json:"why,omitempty"`
}

// Machined is the registration with systemd-machined.
type Machined struct {
	UUID string `json:"uuid"`
}
