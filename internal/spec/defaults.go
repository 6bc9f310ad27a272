package spec

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"runtime"
)

// Defaults that the options' reference documents.
const (
	DefaultHypervisor = "qemu"
	DefaultVCPU       = 1
	DefaultMem        = 512
	DefaultFSType     = "ext4"
)

// SetDefaults fills in every field that has a documented default. Afterwards
// each pointer to a bool is set and each Optional is present.
func (s *Spec) SetDefaults() {
	setDefault(&s.Arch, hostArch())
	setDefault(&s.Hypervisor, DefaultHypervisor)
	setDefault(&s.VCPU, DefaultVCPU)
	setDefault(&s.Mem, DefaultMem)
	setPointer(&s.HotpluggedMem, s.HotplugMem)
	setPointer(&s.DeflateOnOOM, true)
	setPointer(&s.PrettyProcnames, true)
	setOptional(&s.Socket, s.Name+".sock")
	setOptional(&s.MachineID, DefaultMachineID(s.Name))
	setPointer(&s.StoreOnDisk, s.StoreDisk != "" && !s.sharesStore())
	s.setListDefaults()
	setPointer(&s.Vsock.SSH.Shutdown, true)
	setDefault(&s.Graphics.Backend, "gtk")
	setDefault(&s.Graphics.Socket, s.Name+"-gpu.sock")
	setDefault(&s.Graphics.HostMem, "256M")
	setOptional(&s.Virtiofsd.InodeFileHandles, "prefer")
	setPointer(&s.Virtiofsd.ThreadPoolSize, ThreadPoolSize{NProc: true})
	setOptional(&s.Virtiofsd.Group, "kvm")
	setDefault(&s.QEMU.Machine, map[string]string{"aarch64": "virt"}[s.Arch])
	setDefault(&s.QEMU.Machine, "microvm")
	setPointer(&s.QEMU.SerialConsole, true)
	setPointer(&s.CloudHypervisor.Landlock, true)
	setDefault(&s.Firecracker.DriveIoEngine, "Async")
	s.plainPaths()
}

func (s *Spec) setListDefaults() {
	for i := range s.ForwardPorts {
		setDefault(&s.ForwardPorts[i].From, "host")
		setDefault(&s.ForwardPorts[i].Proto, "tcp")
	}
	for i := range s.Volumes {
		setPointer(&s.Volumes[i].AutoCreate, true)
		setDefault(&s.Volumes[i].FSType, DefaultFSType)
		setDefault(&s.Volumes[i].ImageType, "raw")
	}
	for i := range s.Shares {
		share := &s.Shares[i]
		setDefault(&share.Proto, "9p")
		setDefault(&share.SecurityModel, "none")
		setDefault(&share.Cache, "auto")
		setPointer(&share.PosixACL, true)
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

// DefaultMachineID derives a VM's UUID from its name. The derivation is the one
// of microvm.nix, so that a VM that moves over keeps its identity.
func DefaultMachineID(name string) string {
	sum := sha256.Sum256([]byte("microvm.nix:" + name))
	h := hex.EncodeToString(sum[:])
	return fmt.Sprintf("%s-%s-%s-%s-%s", h[0:8], h[8:12], h[12:16], h[16:20], h[20:32])
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
