package spec

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"runtime"
)

// SetDefaults sets every absent field that has a documented default. Afterwards
// every pointer to a bool is set and every Optional is present.
func (s *Spec) SetDefaults() {
	setDefault(&s.Arch, hostArch())
	setDefault(&s.Hypervisor, defaultOf[string]("hypervisor"))
	setDefault(&s.VCPU, defaultOf[int]("vcpu"))
	setDefault(&s.Mem, defaultOf[int]("mem"))
	setPointer(&s.HotpluggedMem, s.HotplugMem)
	setPointer(&s.DeflateOnOOM, defaultOf[bool]("deflateOnOOM"))
	setPointer(&s.PrettyProcnames, defaultOf[bool]("prettyProcnames"))
	setOptional(&s.Socket, s.Name+".sock")
	setOptional(&s.MachineID, DefaultMachineID(s.Name))
	setPointer(&s.StoreOnDisk, s.StoreDisk != "" && !s.sharesStore())
	s.setListDefaults()
	setPointer(&s.Vsock.SSH.Shutdown, defaultOf[bool]("vsock.ssh.shutdown"))
	setDefault(&s.Graphics.Backend, defaultOf[string]("graphics.backend"))
	setDefault(&s.Graphics.Socket, s.Name+"-gpu.sock")
	setDefault(&s.Graphics.HostMem, defaultOf[string]("graphics.hostmem"))
	setOptional(&s.Virtiofsd.InodeFileHandles, defaultOf[string]("virtiofsd.inodeFileHandles"))
	setPointer(&s.Virtiofsd.ThreadPoolSize, ThreadPoolSize{NProc: true})
	setOptional(&s.Virtiofsd.Group, defaultOf[string]("virtiofsd.group"))
	setDefault(&s.QEMU.Machine, defaultMachine(s.Arch))
	setPointer(&s.QEMU.SerialConsole, defaultOf[bool]("qemu.serialConsole"))
	setPointer(&s.CloudHypervisor.Landlock, defaultOf[bool]("cloud-hypervisor.landlock"))
	setDefault(&s.Firecracker.DriveIoEngine, defaultOf[string]("firecracker.driveIoEngine"))
	s.plainPaths()
}

func (s *Spec) setListDefaults() {
	for i := range s.ForwardPorts {
		setDefault(&s.ForwardPorts[i].From, defaultOf[string]("forwardPorts[].from"))
		setDefault(&s.ForwardPorts[i].Proto, defaultOf[string]("forwardPorts[].proto"))
	}
	for i := range s.Volumes {
		setPointer(&s.Volumes[i].AutoCreate, defaultOf[bool]("volumes[].autoCreate"))
		setDefault(&s.Volumes[i].FSType, defaultOf[string]("volumes[].fsType"))
		setDefault(&s.Volumes[i].ImageType, defaultOf[string]("volumes[].imageType"))
	}
	for i := range s.Shares {
		share := &s.Shares[i]
		setDefault(&share.Proto, defaultOf[string]("shares[].proto"))
		setDefault(&share.SecurityModel, defaultOf[string]("shares[].securityModel"))
		setDefault(&share.Cache, defaultOf[string]("shares[].cache"))
		setPointer(&share.PosixACL, defaultOf[bool]("shares[].posixAcl"))
		if share.Proto == "virtiofs" {
			setOptional(&share.Socket, s.Name+"-virtiofs-"+share.Tag+".sock")
		}
		share.Socket.Present = true
	}
}

func (s *Spec) sharesStore() bool {
	for _, share := range s.Shares {
		if filepath.Clean(share.Source) == "/nix/store" {
			return true
		}
	}
	return false
}

// DefaultMachineID derives a VM's UUID from its name, as microvm.nix does: a VM that
// is moved from there keeps its identity.
func DefaultMachineID(name string) string {
	sum := sha256.Sum256([]byte("microvm.nix:" + name))
	h := hex.EncodeToString(sum[:])
	return fmt.Sprintf("%s-%s-%s-%s-%s", h[0:8], h[8:12], h[12:16], h[16:20], h[20:32])
}

// defaultMachine returns QEMU's machine type for guests of an architecture. On aarch64
// there is no machine microvm.
func defaultMachine(arch string) string {
	if arch == "aarch64" {
		return "virt"
	}
	return "microvm"
}

func hostArch() string {
	if runtime.GOARCH == "arm64" {
		return "aarch64"
	}
	return "x86_64"
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func setPointer[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}

func setOptional[T any](field *Optional[T], value T) {
	if !field.Present {
		*field = Some(value)
	}
}
