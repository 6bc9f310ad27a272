package hypervisor

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"microvm/internal/spec"
)

// qemu compiles for QEMU 7.2 to 10; options as in qemu(1) of those versions.
type qemu struct{}

// qemuArgs collects the argument vector of one VM.
type qemuArgs struct {
	s    *spec.Spec
	p    *Plan
	argv []string
	// pci says that the machine has a PCI bus; without one, virtio devices sit
	// on virtio-mmio.
	pci bool
	// hub says that QEMU can send one serial port to several back ends.
	hub bool
}

func (qemu) compile(b *Builder, s *spec.Spec, p *Plan) error {
	program := program(s.QEMU.Package, "qemu-system-"+s.Arch, "qemu-system-"+s.Arch)
	control := (*Control)(nil)
	if s.Socket.Value != nil {
		control = &Control{Method: "qmp", Socket: *s.Socket.Value}
	}
	var err error
	faults := qemuFaults(s)
	p.Readiness, err = readiness(s, true, control, "")
	if err := asFaults(faults, err); err != nil {
		return err
	}
	p.Shutdown = qemuShutdown(s, control)
	if s.Balloon {
		p.Balloon = control
	}
	if s.Mem == 2048 {
		p.Notes = append(p.Notes, "warning: mem: QEMU may hang with exactly 2048 MiB; take 2047 or 2049")
	}
	p.KVM = qemuKVM(s)
	a := &qemuArgs{s: s, p: p, pci: qemuNeedsPCI(s), hub: b.atLeast(program, 9, 2)}
	a.add(program, "-name", comma(s.Name), "-M", a.machine(), "-m", a.memory(), "-smp", strconv.Itoa(s.VCPU))
	a.add("-nodefaults", "-no-user-config")
	// A guest on machine microvm cannot power off; its reboot ends QEMU instead.
	a.add("-no-reboot")
	a.add("-cpu", a.cpu())
	a.boot()
	a.sandbox()
	if control != nil {
		a.add("-qmp", "unix:"+comma(control.Socket)+",server=on,wait=off")
	}
	a.console()
	a.add("-device", a.virtio("rng"))
	a.identity()
	a.display()
	a.rootPorts()
	a.memoryDevices()
	a.disks()
	a.shares()
	a.interfaces()
	a.devices()
	a.vsock()
	for _, arg := range s.QEMU.ExtraArgs {
		a.add(Literal(arg))
	}
	p.Argv = a.argv
	return nil
}

// atLeast asks for the program's version; the newest is assumed where it
// cannot be asked.
func (b *Builder) atLeast(program string, major, minor int) bool {
	if b.Version == nil {
		return true
	}
	haveMajor, haveMinor, err := b.Version(program)
	if err != nil {
		return true
	}
	return haveMajor > major || haveMajor == major && haveMinor >= minor
}

func isMicrovm(s *spec.Spec) bool { return strings.HasPrefix(s.QEMU.Machine, "microvm") }

func qemuFaults(s *spec.Spec) spec.Faults {
	var faults spec.Faults
	if isMicrovm(s) && s.Arch != "x86_64" {
		faults.Addf("qemu.machine", "microvm exists on x86_64 only; use virt on %s", s.Arch)
	}
	if isMicrovm(s) && s.HotplugMem > 0 {
		faults.Addf("hotplugMem", "QEMU's machine microvm has no virtio-mem; set qemu.machine to q35")
	}
	if isMicrovm(s) && s.CPU != nil && qemuNeedsPCI(s) {
		faults.Addf("qemu.machine", "microvm finds no clock under emulation (cpu is set) once it has a PCI bus, which shares, several queues, graphics and devices need; set qemu.machine to q35")
	}
	if isMicrovm(s) && len(s.QEMU.PCIeRootPorts) > 0 {
		faults.Addf("qemu.pcieRootPorts", "QEMU's machine microvm has no room for root ports; set qemu.machine to q35")
	}
	if s.HugepageMem && s.HotplugMem > 0 {
		faults.Addf("hugepageMem", "does not go with hotplugMem under qemu; choose one")
	}
	if s.Balloon && s.Socket.Value == nil {
		faults.Addf("balloon", "is set through the control socket; set socket")
	}
	for i, n := range s.Interfaces {
		if n.Type == "bridge" && s.User != nil {
			faults.Addf(fmt.Sprintf("interfaces[%d].type", i), "bridge does not go with user: qemu-bridge-helper has to be started by an account that may")
		}
	}
	return faults
}

// qemuNeedsPCI says whether something in s does not work on virtio-mmio:
// passthrough, shares (vhost-user and 9p in numbers), graphics, and several
// queues, which need an interrupt each.
func qemuNeedsPCI(s *spec.Spec) bool {
	multiQueue := s.VCPU > 1 && slices.ContainsFunc(s.Interfaces, queued)
	return !isMicrovm(s) || len(s.Shares) > 0 || s.Graphics.Enable || multiQueue ||
		slices.ContainsFunc(s.Devices, func(d spec.Device) bool { return d.Bus == "pci" })
}

// qemuKVM: machine microvm cannot fall back to emulation, see machineOpts.
func qemuKVM(s *spec.Spec) KVM {
	switch {
	case s.CPU != nil || s.QEMU.MachineOpts != nil:
		return KVMUnused
	case isMicrovm(s):
		return KVMRequired
	}
	return KVMWanted
}

// queued says that an interface gets one queue for each CPU: the user network
// and the bridge helper have one only.
func queued(n spec.Interface) bool { return n.Type == "tap" || n.Type == "macvtap" }

func qemuShutdown(s *spec.Spec, control *Control) Shutdown {
	switch {
	case control == nil:
		return Shutdown{Method: ShutdownNone, Why: "socket is null, so QEMU cannot be asked: it gets SIGTERM at once"}
	case isMicrovm(s):
		return Shutdown{Method: ShutdownCtrlAltDel, Control: control, Why: "machine microvm has a keyboard and no power button"}
	}
	return Shutdown{Method: ShutdownPowerButton, Control: control, Why: "machine " + s.QEMU.Machine + " has an ACPI power button"}
}

func (a *qemuArgs) add(words ...string) { a.argv = append(a.argv, words...) }

// virtio names the device on the bus that this machine has.
func (a *qemuArgs) virtio(kind string) string {
	if a.pci {
		return "virtio-" + kind + "-pci"
	}
	return "virtio-" + kind + "-device"
}

// comma escapes a value inside a comma-separated option: QEMU doubles commas.
func comma(value string) string { return Literal(strings.ReplaceAll(value, ",", ",,")) }

func (a *qemuArgs) machine() string {
	opts := a.s.QEMU.MachineOpts
	if opts == nil {
		opts = a.machineOpts()
	}
	words := []string{a.s.QEMU.Machine}
	for _, name := range slices.Sorted(maps.Keys(opts)) {
		words = append(words, name+"="+comma(opts[name]))
	}
	if a.sharedMemory() || a.s.HugepageMem {
		words = append(words, "memory-backend=mem")
	}
	return strings.Join(words, ",")
}

func (a *qemuArgs) machineOpts() map[string]string {
	accel := "kvm:tcg"
	if a.s.CPU != nil {
		accel = "tcg"
	}
	if a.s.Arch == "aarch64" {
		return map[string]string{"accel": accel, "gic-version": "max"}
	}
	opts := map[string]string{"accel": accel, "acpi": "on", "mem-merge": "on"}
	if isMicrovm(a.s) {
		opts["rtc"] = "on"
		if a.s.CPU != nil {
			// With ACPI the guest takes it that there is no PIT, has nothing to
			// calibrate its clock against, and hangs. KVM tells it the frequency.
			opts["acpi"] = "off"
		} else {
			opts["pic"], opts["pit"] = "off", "off"
		}
		opts["pcie"] = onOff(a.pci)
		opts["usb"] = onOff(a.usb())
	}
	return opts
}

func (a *qemuArgs) usb() bool {
	return slices.ContainsFunc(a.s.Devices, func(d spec.Device) bool { return d.Bus == "usb" })
}

// cpu is max, which is the host's CPU under KVM and everything that TCG can do
// without. SGX crashes machine microvm (QEMU issue 2142).
func (a *qemuArgs) cpu() string {
	switch {
	case a.s.CPU != nil:
		return Literal(*a.s.CPU)
	case a.s.Arch == "x86_64":
		return "max,-sgx"
	}
	return "max"
}

func (a *qemuArgs) memory() string {
	if a.s.HotplugMem == 0 {
		return fmt.Sprintf("%dM", a.s.Mem)
	}
	return fmt.Sprintf("%dM,maxmem=%dM", a.s.Mem, a.s.Mem+a.s.HotplugMem)
}

// sharedMemory says that another process maps the guest's memory: a virtiofsd.
func (a *qemuArgs) sharedMemory() bool { return len(a.p.Shares) > 0 }

func (a *qemuArgs) boot() {
	a.add("-kernel", Literal(a.s.Kernel))
	if a.s.InitrdPath != "" {
		a.add("-initrd", Literal(a.s.InitrdPath))
	}
	words := slices.Concat(a.kernelConsole(), []string{"reboot=t", "panic=-1"}, a.s.KernelParams)
	a.add("-append", Literal(strings.Join(words, " ")))
}

// kernelConsole ends in the serial port, which thereby is /dev/console and
// goes to the journal.
func (a *qemuArgs) kernelConsole() []string {
	if !*a.s.QEMU.SerialConsole {
		return nil
	}
	var words []string
	if !a.hub {
		words = append(words, "console=hvc0")
	}
	if a.s.Arch == "aarch64" {
		return append(words, "console=ttyAMA0")
	}
	return append(words, "earlyprintk=ttyS0", "console=ttyS0")
}

// sandbox turns on QEMU's own seccomp filter, as far as what QEMU has to start
// itself allows.
func (a *qemuArgs) sandbox() {
	if a.p.Bridge {
		return // qemu-bridge-helper has to gain a capability
	}
	spawn := "deny"
	if slices.ContainsFunc(a.s.ForwardPorts, func(f spec.ForwardPort) bool { return f.From == "guest" }) {
		spawn = "allow" // one nc for each connection
	}
	a.add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn="+spawn+",resourcecontrol=deny")
}

// console connects the serial port to the journal, which is standard output,
// and to a socket that people can attach to. QEMU before 9.2 cannot split one
// port, so the socket gets a virtio console of its own there.
func (a *qemuArgs) console() {
	a.add("-chardev", "stdio,id=stdio,signal=off")
	if !*a.s.QEMU.SerialConsole {
		return
	}
	a.p.Console = a.s.Name + "-console.sock"
	a.p.StaleSockets = append(a.p.StaleSockets, a.p.Console)
	a.add("-chardev", "socket,id=console,path="+comma(a.p.Console)+",server=on,wait=off")
	if a.hub {
		a.add("-chardev", "hub,id=serial,chardevs.0=stdio,chardevs.1=console", "-serial", "chardev:serial")
		return
	}
	a.add("-serial", "chardev:stdio", "-device", a.virtio("serial"), "-device", "virtconsole,chardev=console")
}

func (a *qemuArgs) identity() {
	if isMicrovm(a.s) {
		a.add("-device", "i8042") // for ctrl-alt-del
	}
	if a.s.MachineID.Value != nil {
		a.add("-smbios", "type=1,uuid="+*a.s.MachineID.Value)
	}
	for _, name := range slices.Sorted(maps.Keys(a.s.CredentialFiles)) {
		a.add("-fw_cfg", "name=opt/io.systemd.credentials/"+name+",file="+comma(a.s.CredentialFiles[name]))
	}
	if a.p.Readiness.Mode == ReadyGuest {
		a.add("-fw_cfg", "name=opt/io.systemd.credentials/vmm.notify_socket,string=vsock-stream:2:"+NotifyPort)
	}
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
		backend := fmt.Sprintf("memory-backend-memfd,id=mem,size=%dM,share=%s", a.s.Mem, onOff(a.sharedMemory()))
		if a.s.HugepageMem {
			backend += ",hugetlb=on"
		}
		a.add("-object", backend)
	}
	if a.s.Balloon {
		balloon := a.virtio("balloon") + ",id=balloon0,free-page-reporting=on"
		if *a.s.DeflateOnOOM {
			balloon += ",deflate-on-oom=on"
		}
		a.add("-device", balloon)
	}
	if a.s.HotplugMem > 0 {
		backend := "memory-backend-ram"
		if a.sharedMemory() {
			backend = "memory-backend-memfd,share=on"
		}
		a.add("-object", fmt.Sprintf("%s,id=vmem0,size=%dM", backend, a.s.HotplugMem))
		a.add("-device", fmt.Sprintf("virtio-mem-pci,id=vm0,memdev=vmem0,requested-size=%dM", *a.s.HotpluggedMem))
	}
}

func (a *qemuArgs) disks() {
	if *a.s.StoreOnDisk {
		a.add("-drive", "id=store,format=raw,read-only=on,if=none,aio=threads,file="+comma(a.s.StoreDisk),
			"-device", a.virtio("blk")+",drive=store")
	}
	for i, v := range a.s.Volumes {
		id := "volume" + strconv.Itoa(i)
		drive := fmt.Sprintf("id=%s,format=%s,if=none,discard=unmap,read-only=%s", id, qemuFormat(v.ImageType), onOff(v.ReadOnly))
		if v.Direct {
			drive += ",cache=none,aio=native"
		} else {
			drive += ",aio=threads"
		}
		device := a.virtio("blk") + ",drive=" + id
		if v.Serial != nil {
			device += ",serial=" + comma(*v.Serial)
		}
		a.add("-drive", drive+",file="+comma(v.Image), "-device", device)
	}
}

// qemuFormat is QEMU's name for an image type.
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
		if queued(n) && a.s.VCPU > 1 {
			// One vector for each direction of each queue, one for changes of the
			// configuration, one for the control queue.
			device += fmt.Sprintf(",mq=on,vectors=%d", 2*a.s.VCPU+2)
		}
		a.add("-netdev", a.netdev(id, n), "-device", device)
	}
}

func (a *qemuArgs) netdev(id string, n spec.Interface) string {
	switch n.Type {
	case "user":
		return "user,id=" + id + a.forwards()
	case "bridge":
		dev := "bridge,id=" + id + ",br=" + *n.Bridge
		if strings.HasPrefix(a.s.QEMU.Package, "/nix/store/") {
			// NixOS keeps the copy that may gain a capability here.
			dev += ",helper=/run/wrappers/bin/qemu-bridge-helper"
		}
		return dev
	case "macvtap":
		fds := make([]string, a.s.VCPU)
		for queue := range fds {
			fds[queue] = MacvtapFD(n.ID, queue)
		}
		if len(fds) == 1 {
			return "tap,id=" + id + ",fd=" + fds[0]
		}
		return "tap,id=" + id + ",fds=" + strings.Join(fds, ":")
	}
	dev := "tap,id=" + id + ",ifname=" + n.ID + ",script=no,downscript=no"
	if n.Tap.Vhost {
		dev += ",vhost=on"
	}
	if a.s.VCPU > 1 {
		dev += ",queues=" + strconv.Itoa(a.s.VCPU)
	}
	return dev
}

func (a *qemuArgs) forwards() string {
	var out strings.Builder
	for _, f := range a.s.ForwardPorts {
		if f.From == "guest" {
			host := f.Host.Address
			if host == "" {
				host = "127.0.0.1"
			}
			fmt.Fprintf(&out, ",guestfwd=%s:%s:%d-cmd:nc %s %d", f.Proto, f.Guest.Address, f.Guest.Port, host, f.Host.Port)
			continue
		}
		fmt.Fprintf(&out, ",hostfwd=%s:%s:%d-%s:%d", f.Proto, f.Host.Address, f.Host.Port, f.Guest.Address, f.Guest.Port)
	}
	return out.String()
}

func (a *qemuArgs) devices() {
	if a.usb() && !a.s.Graphics.Enable {
		a.add("-device", "qemu-xhci")
	}
	for _, d := range a.s.Devices {
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

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}
