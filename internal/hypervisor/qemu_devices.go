package hypervisor

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"microvm/internal/spec"
)

// devices adds the devices in the order of microvm.nix: QEMU assigns free slots in the
// order of its arguments, and guests name their network interfaces and cards by the slot.
func (a *qemuArgs) devices() {
	a.add("-device", a.virtio("rng"))
	a.rootPorts()
	// Machine microvm has its own USB controller; the one on PCI is added later.
	if isMicrovm(a.s) {
		a.passedThrough("pci", "usb")
	} else {
		a.passedThrough("pci")
	}
	a.storeDisk()
	a.display()
	a.memoryDevices()
	a.volumes()
	a.shares()
	a.interfaces()
	if usbSlot(a.s, a.pci) {
		a.add("-device", "qemu-xhci")
	}
	if !isMicrovm(a.s) {
		a.passedThrough("usb")
	}
	a.vsock()
}

// usbSlot reports whether a USB controller takes a slot after the network interfaces.
// Machine microvm has its own controller and, with PCI, this one as well: it is unused,
// but the next device has the same slot as in microvm.nix.
func usbSlot(s *spec.Spec, pci bool) bool {
	return hasUSB(s) && pci && (isMicrovm(s) || !s.Graphics.Enable)
}

func (a *qemuArgs) identity() {
	if isMicrovm(a.s) {
		a.add("-device", "i8042") // for ctrl-alt-del
	}
	// Machine microvm has no SMBIOS tables; QEMU itself still knows the UUID.
	if id := a.s.MachineID.Value; id != nil && isMicrovm(a.s) {
		a.add("-uuid", *id)
	} else if id != nil {
		a.add("-smbios", "type=1,uuid="+*id)
	}
	for _, name := range slices.Sorted(maps.Keys(a.s.CredentialFiles)) {
		a.add("-fw_cfg", "name="+credentialPrefix+name+",file="+comma(a.s.CredentialFiles[name]))
	}
	if a.p.Readiness.Mode == ReadyGuest {
		a.add("-fw_cfg", "name="+credentialPrefix+notifySocket+",string="+notifyAddress)
	}
	a.credentialSlots()
}

// credentialSlots enlarges fw_cfg for many credentials. Of its 32 files the machine uses
// up to 20, and QEMU aborts when there are more (hw/nvram/fw_cfg.c). The property exists
// since 2.9.
func (a *qemuArgs) credentialSlots() {
	const spare, machine = 10, 32
	if len(a.s.CredentialFiles) <= spare {
		return
	}
	device := "fw_cfg_io"
	if a.s.Arch == "aarch64" {
		device = "fw_cfg_mem"
	}
	a.add("-global", fmt.Sprintf("%s.x-file-slots=%d", device, machine+len(a.s.CredentialFiles)))
}

func (a *qemuArgs) display() {
	g := a.s.Graphics
	if !g.Enable {
		a.add("-display", "none")
		return
	}
	gpu := ""
	if g.Vulkan != nil {
		gpu = ",blob=true,hostmem=" + g.HostMem + "," + *g.Vulkan + "=on"
	}
	if g.Backend == "headless" {
		a.add("-display", "egl-headless", "-device", "virtio-gpu-gl"+gpu)
	} else {
		a.add("-display", "gtk,gl=on", "-device", "virtio-vga-gl"+gpu)
	}
	a.add("-device", "qemu-xhci", "-device", "usb-tablet", "-device", "usb-kbd")
}

func (a *qemuArgs) rootPorts() {
	for _, p := range a.s.QEMU.PCIeRootPorts {
		port := "pcie-root-port,id=" + p.ID
		if p.Bus != nil {
			port += ",bus=" + comma(*p.Bus)
		}
		if p.Chassis != nil {
			port += ",chassis=" + strconv.Itoa(*p.Chassis)
		}
		if p.Slot != nil {
			port += ",slot=" + comma(*p.Slot)
		}
		if p.Addr != nil {
			port += ",addr=" + comma(*p.Addr)
		}
		a.add("-device", port)
	}
}

func (a *qemuArgs) memoryDevices() {
	if a.sharedMemory() || a.s.HugepageMem {
		a.add("-object", a.backend("mem", a.s.Mem))
	}
	if a.s.Balloon {
		balloon := a.virtio("balloon") + ",id=balloon0,free-page-reporting=on"
		if *a.s.DeflateOnOOM {
			balloon += ",deflate-on-oom=on"
		}
		a.add("-device", balloon)
	}
	if a.s.HotplugMem > 0 {
		a.add("-object", a.backend("vmem0", a.s.HotplugMem))
		if a.s.HugepageMem {
			a.p.HugePagesMiB += a.s.HotplugMem
		}
		a.add("-device", fmt.Sprintf("virtio-mem-pci,id=vm0,memdev=vmem0,requested-size=%dM", *a.s.HotpluggedMem))
	}
}

// backend returns a memory back end, which other processes can map if necessary.
func (a *qemuArgs) backend(id string, mib int) string {
	if !a.sharedMemory() && !a.s.HugepageMem {
		return fmt.Sprintf("memory-backend-ram,id=%s,size=%dM", id, mib)
	}
	backend := fmt.Sprintf("memory-backend-memfd,id=%s,size=%dM,share=%s", id, mib, onOff(a.sharedMemory()))
	if a.s.HugepageMem {
		backend += ",hugetlb=on"
	}
	return backend
}

// storeDisk uses aio=threads. io_uring is faster on some hosts, but QEMU does not start if
// the kernel has it turned off (kernel.io_uring_disabled), and I/O through a ring bypasses
// the seccomp filter. With O_DIRECT, aio=native is as fast, and available everywhere.
//
// A disk that is only read is not locked by QEMU: it would want to know that no process
// writes it, and treats the read lock of another hypervisor, on the whole file, as one
// that might ("consistent read"). KeepLock replaces the lock.
func (a *qemuArgs) storeDisk() {
	if *a.s.StoreOnDisk {
		a.add("-drive", "id=store,format=raw,read-only=on,if=none,aio=threads,file.locking=off,file="+comma(a.s.StoreDisk),
			"-device", a.virtio("blk")+",drive=store")
	}
}

// volumes uses aio=threads like storeDisk, see there.
func (a *qemuArgs) volumes() {
	for i, v := range a.s.Volumes {
		id := "volume" + strconv.Itoa(i)
		drive := fmt.Sprintf("id=%s,format=%s,if=none,discard=unmap,read-only=%s", id, qemuFormat(v.ImageType), onOff(v.ReadOnly))
		if v.Direct {
			drive += ",cache=none,aio=native"
		} else {
			drive += ",aio=threads"
		}
		if v.ReadOnly {
			drive += ",file.locking=off"
			a.p.Volumes[i].KeepLock = true
		}
		device := a.virtio("blk") + ",drive=" + id
		if v.Shared {
			device += ",share-rw=on"
		}
		if v.Serial != nil {
			device += ",serial=" + comma(*v.Serial)
		}
		a.add("-drive", drive+",file="+comma(qemuFile(v.Image)), "-device", device)
	}
}

// qemuFile returns the path of an image, written so that QEMU does not treat what is
// before a colon as a protocol (block.c).
func qemuFile(path string) string {
	before, _, found := strings.Cut(path, ":")
	if !found || strings.Contains(before, "/") {
		return path
	}
	return "./" + path
}

// qemuFormat returns QEMU's name of an image type.
func qemuFormat(imageType string) string {
	if imageType == "vhd" {
		return "vpc"
	}
	return imageType
}

func (a *qemuArgs) shares() {
	for i, share := range a.s.Shares {
		id := "fs" + strconv.Itoa(i)
		if share.Proto == "virtiofs" {
			a.add("-chardev", "socket,id="+id+",path="+comma(*share.Socket.Value),
				"-device", "vhost-user-fs-pci,chardev="+id+",tag="+share.Tag)
			continue
		}
		a.add("-fsdev", "local,id="+id+",security_model="+share.SecurityModel+",readonly="+onOff(share.ReadOnly)+",path="+comma(share.Source),
			"-device", "virtio-9p-pci,fsdev="+id+",mount_tag="+share.Tag)
	}
}

func (a *qemuArgs) interfaces() {
	for i, n := range a.s.Interfaces {
		id := "net" + strconv.Itoa(i)
		device := a.virtio("net") + ",netdev=" + id + ",mac=" + n.MAC
		if a.pci {
			device += ",romfile="
		}
		if queued(n) && a.s.VCPU > 1 && a.pci {
			// One vector per direction of each queue, one for configuration changes, and
			// one for the control queue. On virtio-mmio all queues would share one
			// interrupt; there the guest has one queue, and the tap's others are unused.
			device += fmt.Sprintf(",mq=on,vectors=%d", 2*queueCount(a.s)+2)
		}
		a.add("-netdev", a.netdev(id, n), "-device", device)
	}
}

func (a *qemuArgs) netdev(id string, n spec.Interface) string {
	switch n.Type {
	case "user":
		return "user,id=" + id + a.forwards(n.ID)
	case "bridge":
		dev := "bridge,id=" + id + ",br=" + Literal(*n.Bridge)
		if strings.HasPrefix(filepath.Clean(a.s.QEMU.Package), "/nix/store/") {
			// The wrapper of NixOS, which has the necessary capability.
			dev += ",helper=/run/wrappers/bin/qemu-bridge-helper"
		}
		return dev
	case "macvtap":
		fds := make([]string, queueCount(a.s))
		for queue := range fds {
			fds[queue] = MacvtapFD(n.ID, queue)
		}
		if len(fds) == 1 {
			return "tap,id=" + id + ",fd=" + fds[0]
		}
		return "tap,id=" + id + ",fds=" + strings.Join(fds, ":")
	}
	dev := "tap,id=" + id + ",ifname=" + Literal(n.ID) + ",script=no,downscript=no"
	if n.Tap.Vhost {
		dev += ",vhost=on"
	}
	if a.s.VCPU > 1 {
		dev += ",queues=" + strconv.Itoa(queueCount(a.s))
	}
	return dev
}

// forwards returns the options of the forwarded ports, which belong to the first user
// network, as a port of the host can be bound only once.
func (a *qemuArgs) forwards(id string) string {
	first := slices.IndexFunc(a.s.Interfaces, func(n spec.Interface) bool { return n.Type == "user" })
	if a.s.Interfaces[first].ID != id {
		return ""
	}
	var out strings.Builder
	for _, f := range a.s.ForwardPorts {
		if f.From == "host" {
			fmt.Fprintf(&out, ",hostfwd=%s:%s:%d-%s:%d", f.Proto, f.Host.Address, f.Host.Port, f.Guest.Address, f.Guest.Port)
			continue
		}
		host := f.Host.Address
		if host == "" {
			host = "127.0.0.1"
		}
		// A chardev instead of the command would connect only once, when QEMU starts, and
		// mix all connections of the guest.
		fmt.Fprintf(&out, ",guestfwd=%s:%s:%d-cmd:nc %s %d", f.Proto, f.Guest.Address, f.Guest.Port, host, f.Host.Port)
	}
	return out.String()
}

// passedThrough adds the host's devices of these buses.
func (a *qemuArgs) passedThrough(buses ...string) {
	for _, d := range a.s.Devices {
		if !slices.Contains(buses, d.Bus) {
			continue
		}
		if d.Bus == "usb" {
			a.add("-device", "usb-host,"+Literal(d.Path))
			continue
		}
		device := "vfio-pci,host=" + d.Path + ",multifunction=on"
		if d.QEMU.ID != nil {
			device += ",id=" + comma(*d.QEMU.ID)
		}
		if d.QEMU.Bus != nil {
			device += ",bus=" + comma(*d.QEMU.Bus)
		}
		if d.QEMU.DeviceExtraArgs != nil {
			device += "," + Literal(*d.QEMU.DeviceExtraArgs)
		}
		a.add("-device", device)
	}
}

func (a *qemuArgs) vsock() {
	if a.s.Vsock.CID == nil {
		return
	}
	device := "vhost-vsock-device"
	if a.pci {
		device = "vhost-vsock-pci"
	}
	a.add("-device", fmt.Sprintf("%s,guest-cid=%d", device, *a.s.Vsock.CID))
}
