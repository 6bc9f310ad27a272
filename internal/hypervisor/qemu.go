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

// qemu compiles for QEMU 7.2 to 10; options as in qemu(1) of those versions and
// in hw/i386/microvm.c.
type qemu struct{}

// Limits of QEMU and its machines.
const (
	// maxFwCfgName is FW_CFG_MAX_FILE_PATH less its NUL, hw/nvram/fw_cfg.h.
	maxFwCfgName = 55
	// mmioTransports is how many virtio-mmio devices machine microvm has with
	// its second I/O APIC, which it has by default where ACPI is on.
	mmioTransports = 24
	// fewTransports are those without that one.
	fewTransports = 8
	// pciSlots of q35's root bus are free; microvm and virt have one more.
	pciSlots = 30
)

// credentialPrefix is where systemd looks for credentials in fw_cfg,
// systemd.exec(5).
const credentialPrefix = "opt/io.systemd.credentials/"

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
	program := qemuProgram(s)
	control := (*Control)(nil)
	if s.Socket.Value != nil {
		control = &Control{Method: "qmp", Socket: *s.Socket.Value}
	}
	hub := b.hub(program)
	p.Readiness = readiness(s, true, control, "")
	var err error
	if p.Shutdown, err = qemuShutdown(s, control); err != nil {
		return err
	}
	if s.Balloon {
		p.Balloon = control
	}
	if s.Mem == 2048 {
		less, more := 2047, 2049
		if s.HugepageMem { // they come in pairs of MiB
			less, more = 2046, 2050
		}
		p.Notes = append(p.Notes, fmt.Sprintf("warning: mem: QEMU may hang with exactly 2048 MiB; take %d or %d", less, more))
	}
	p.KVM = qemuKVM(s)
	a := &qemuArgs{s: s, p: p, pci: qemuNeedsPCI(s, hub), hub: hub}
	a.add(program, "-name", comma(s.Name), "-M", a.machine(), "-m", a.memory(), "-smp", strconv.Itoa(s.VCPU))
	a.add("-nodefaults", "-no-user-config")
	// A guest that reboots ends QEMU, and the service manager starts it anew.
	a.add("-no-reboot")
	a.add("-cpu", a.cpu())
	a.boot()
	a.sandbox(b, program)
	if control != nil {
		a.add("-qmp", "unix:"+comma(control.Socket)+",server=on,wait=off")
	}
	a.console()
	a.identity()
	a.devices()
	for _, arg := range s.QEMU.ExtraArgs {
		a.add(Literal(arg))
	}
	a.secondConsole()
	p.Argv = a.argv
	return nil
}

// largeMachine is the machine that has what microvm has not.
func largeMachine(s *spec.Spec) string {
	if s.Arch == "aarch64" {
		return "virt"
	}
	return "q35"
}

func isMicrovm(s *spec.Spec) bool { return strings.HasPrefix(s.QEMU.Machine, "microvm") }

func qemuProgram(s *spec.Spec) string {
	return programOf(s.QEMU.Package, "qemu-system-"+s.Arch, "qemu-system-"+s.Arch)
}

// hub says that QEMU has chardev hub, which sends one serial port to several.
func (b *Builder) hub(program string) bool { return b.atLeast(program, 9, 2) }

func (qemu) faults(b *Builder, s *spec.Spec) spec.Faults {
	faults := slices.Concat(refuseBalloon(s), refuseReadiness(s, s.Socket.Value != nil))
	hub := b.hub(qemuProgram(s))
	n := qemuDevices(s, hub)
	if usbSlot(s, true) {
		n++
	}
	if qemuNeedsPCI(s, hub) && n > pciSlots {
		remedy := ", or set devices[].qemu.bus to ports of qemu.pcieRootPorts"
		if isMicrovm(s) { // it has no room for such ports
			remedy = ""
		}
		faults.Addf("qemu.machine", "%s has room for %d devices and the spec has %d; merge volumes or shares%s", s.QEMU.Machine, pciSlots, n, remedy)
	}
	if isMicrovm(s) && s.Arch != "x86_64" {
		faults.Addf("qemu.machine", "microvm exists on x86_64 only; use virt on %s", s.Arch)
	}
	if isMicrovm(s) && s.HotplugMem > 0 {
		faults.Addf("hotplugMem", "QEMU's machine microvm has no virtio-mem; set qemu.machine to %s", largeMachine(s))
	}
	if isMicrovm(s) && len(s.QEMU.PCIeRootPorts) > 0 {
		faults.Addf("qemu.pcieRootPorts", "QEMU's machine microvm has no room for root ports; set qemu.machine to %s", largeMachine(s))
	}
	faults = slices.Concat(faults, refuseBlocks(s, 2), refuseOddPages(s), refuseHostCPU(s), refuseOwnMachine(s, hub), refuseIDs(s))
	for _, name := range slices.Sorted(maps.Keys(s.CredentialFiles)) {
		if limit := maxFwCfgName - len(credentialPrefix); len(name) > limit {
			faults.Addf("credentialFiles."+name, "the name is %d bytes; QEMU's fw_cfg has room for %d", len(name), limit)
		}
	}
	if _, taken := s.CredentialFiles[notifySocket]; taken && s.Vsock.CID != nil && (s.Readiness == "" || s.Readiness == ReadyGuest) {
		faults.Addf("credentialFiles."+notifySocket, "is what the guest is told itself where it reports readiness\nhint: take it out, or set readiness to %q", ReadyVMM)
	}
	if console := s.Name + "-console.sock"; *s.QEMU.SerialConsole && socketOf(s, console) != "" {
		faults.Addf(socketOf(s, console), "%q is the serial console's socket\nhint: choose another name", console)
	}
	return faults
}

// notifySocket is the credential by which systemd knows whom to notify, systemd(1).
const notifySocket = "vmm.notify_socket"

// socketOf is the option that has the socket of that name, or "".
func socketOf(s *spec.Spec, name string) string {
	if s.Socket.Value != nil && *s.Socket.Value == name {
		return "socket"
	}
	for i, share := range s.Shares {
		if share.Socket.Value != nil && *share.Socket.Value == name {
			return fmt.Sprintf("shares[%d].socket", i)
		}
	}
	if s.Graphics.Enable && s.Graphics.Socket == name {
		return "graphics.socket"
	}
	return ""
}

// refuseOwnMachine refuses machine options of the spec's own that leave machine
// microvm without the bus that a device is to be on: it has neither by default.
func refuseOwnMachine(s *spec.Spec, hub bool) spec.Faults {
	var faults spec.Faults
	if !isMicrovm(s) || s.QEMU.MachineOpts == nil {
		return nil
	}
	if (qemuNeedsPCI(s, hub) || hasUSB(s)) && isOff(s.QEMU.MachineOpts["acpi"]) {
		faults.Addf("qemu.machineOpts", "have acpi=off, and the spec has devices on PCI or USB, which machine microvm has with ACPI only\nhint: leave acpi out, or machineOpts")
		return faults
	}
	if qemuNeedsPCI(s, hub) && !isOn(s.QEMU.MachineOpts["pcie"]) {
		faults.Addf("qemu.machineOpts", "have no pcie=on, and the spec has devices that need PCI\nhint: add \"pcie\": \"on\", or leave machineOpts out")
	}
	if hasUSB(s) && !s.Graphics.Enable && !isOn(s.QEMU.MachineOpts["usb"]) {
		faults.Addf("qemu.machineOpts", "have no usb=on, and the spec has USB devices\nhint: add \"usb\": \"on\", or leave machineOpts out")
	}
	return faults
}

// isOn says whether a machine's option is on, in the words of QEMU's
// qapi_bool_parse.
func isOn(value string) bool { return slices.Contains([]string{"on", "yes", "true", "y"}, value) }

// refuseIDs refuses names of devices that QEMU does not take, util/id.c.
func refuseIDs(s *spec.Spec) spec.Faults {
	var faults spec.Faults
	check := func(path, id string) {
		if !wellFormedID(id) {
			faults.Addf(path, "%q is no name of a device for QEMU\nhint: begin with a letter, and use letters, digits, \"-\", \".\" and \"_\"", id)
		}
	}
	for i, p := range s.QEMU.PCIeRootPorts {
		check(fmt.Sprintf("qemu.pcieRootPorts[%d].id", i), p.ID)
	}
	for i, d := range s.Devices {
		if d.QEMU.ID != nil {
			check(fmt.Sprintf("devices[%d].qemu.id", i), *d.QEMU.ID)
		}
	}
	return faults
}

func wellFormedID(id string) bool {
	for i, c := range []byte(id) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') && (i == 0 || strings.IndexByte("-._", c) < 0) {
			return false
		}
	}
	return id != ""
}

// qemuNeedsPCI says whether devices are on PCI, which is what microvm.nix decides
// by: every machine but microvm, passthrough, shares and graphics. A guest names its
// networks after the bus. More devices than there are transports need it as well.
func qemuNeedsPCI(s *spec.Spec, hub bool) bool {
	return !isMicrovm(s) || len(s.Shares) > 0 || s.Graphics.Enable || qemuDevices(s, hub) > qemuTransports(s) ||
		slices.ContainsFunc(s.Devices, func(d spec.Device) bool { return d.Bus == "pci" })
}

// qemuTransports is how many virtio-mmio devices machine microvm has room for.
func qemuTransports(s *spec.Spec) int {
	opts := s.QEMU.MachineOpts
	if isOff(opts["acpi"]) || isOff(opts["ioapic2"]) {
		return fewTransports
	}
	return mmioTransports
}

func isOff(value string) bool { return slices.Contains([]string{"off", "no", "false", "n"}, value) }

// qemuDevices counts what sits on the machine's own bus.
func qemuDevices(s *spec.Spec, hub bool) int {
	n := 1 + len(s.Volumes) + len(s.Shares) + len(s.Interfaces) + len(s.QEMU.PCIeRootPorts) // with the random number generator
	for _, has := range []bool{
		*s.StoreOnDisk,
		s.Balloon,
		s.HotplugMem > 0,
		s.Vsock.CID != nil,
		*s.QEMU.SerialConsole && !hub,
		s.Graphics.Enable, // with a controller for its keyboard, which is next
		s.Graphics.Enable,
	} {
		if has {
			n++
		}
	}
	for _, d := range s.Devices {
		if d.Bus == "pci" && d.QEMU.Bus == nil {
			n++
		}
	}
	return n
}

func hasUSB(s *spec.Spec) bool {
	return slices.ContainsFunc(s.Devices, func(d spec.Device) bool { return d.Bus == "usb" })
}

// queued says that an interface gets one queue for each CPU: the user network
// and the bridge helper have one only.
func queued(n spec.Interface) bool { return n.Type == "tap" || n.Type == "macvtap" }

func qemuShutdown(s *spec.Spec, control *Control) (Shutdown, error) {
	switch {
	case control == nil:
		return viaGuest(s, "socket is null, so QEMU cannot be asked", "")
	case isMicrovm(s):
		return Shutdown{Method: ShutdownCtrlAltDel, Control: control, Why: "machine microvm has a keyboard and no power button"}, nil
	}
	return Shutdown{Method: ShutdownPowerButton, Control: control, Why: "machine " + s.QEMU.Machine + " has an ACPI power button"}, nil
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
	opts := maps.Clone(a.s.QEMU.MachineOpts)
	if opts == nil {
		opts = a.machineOpts()
	} else if a.s.CPU == nil && opts["accel"] == "" {
		opts["accel"] = withKVM
	}
	if hasAccelOption(a.s) {
		delete(opts, "accel")
	}
	words := []string{Literal(a.s.QEMU.Machine)}
	for _, name := range slices.Sorted(maps.Keys(opts)) {
		words = append(words, Literal(name)+"="+comma(opts[name]))
	}
	if a.sharedMemory() || a.s.HugepageMem {
		words = append(words, "memory-backend=mem")
	}
	return strings.Join(words, ",")
}

func (a *qemuArgs) machineOpts() map[string]string {
	if a.s.Arch == "aarch64" {
		return map[string]string{"accel": withKVM, "gic-version": "max"}
	}
	opts := map[string]string{"accel": withKVM, "acpi": "on", "mem-merge": "on"}
	if isMicrovm(a.s) {
		// The interval timer and the old interrupt controller stay out: nothing
		// needs them, see clock.
		opts["pic"], opts["pit"] = "off", "off"
		opts["rtc"] = "on"
		opts["pcie"] = onOff(a.pci)
		opts["usb"] = onOff(hasUSB(a.s))
	}
	return opts
}

// cpu is max, which is the host's CPU under KVM and everything that TCG can do
// without; or the model that the spec names. SGX crashes machine microvm (QEMU
// issue 2142).
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
	a.add("-append", a.commandLine())
}

func (a *qemuArgs) commandLine() string {
	words := slices.Concat(a.kernelConsole(), []string{"reboot=t", "panic=-1"}, a.clock(), shutdownWords(a.p))
	for _, param := range a.s.KernelParams { // last, for the last one counts
		words = append(words, Literal(param))
	}
	return strings.Join(words, " ")
}

// kernelLine has, behind the command line, what machine microvm tells a guest of
// its devices where it has no ACPI to tell by (hw/i386/microvm.c).
func (qemu) kernelLine(b *Builder, s *spec.Spec) (string, error) {
	hub := b.hub(qemuProgram(s))
	a := &qemuArgs{s: s, p: &Plan{}, pci: qemuNeedsPCI(s, hub), hub: hub}
	var control *Control
	if s.Socket.Value != nil {
		control = &Control{Method: "qmp", Socket: *s.Socket.Value}
	}
	var err error
	a.p.Shutdown, err = qemuShutdown(s, control)
	line := a.commandLine()
	opts := s.QEMU.MachineOpts
	if isMicrovm(s) && !a.pci && isOff(opts["acpi"]) && !isOff(opts["auto-kernel-cmdline"]) {
		line += strings.Repeat(" virtio_mmio.device=512@0xfeb00000:28", qemuDevices(s, hub))
	}
	return line, err
}

// clock tells a guest on machine microvm how fast its time stamp counter is,
// which under TCG is the host's. KVM tells the guest itself. Without KVM, the
// machine has nothing to measure the counter by but the interval timer, and its
// reduced ACPI gives the kernel no timer interrupt before that measurement is
// done: where it fails, which under TCG is a matter of luck (one boot in three,
// seen with QEMU 7.2 and 10.0), the guest hangs for good.
func (a *qemuArgs) clock() []string {
	switch {
	case !isMicrovm(a.s) || a.s.QEMU.MachineOpts != nil:
		return nil
	case !mayUseKVM(a.s):
		return []string{"tsc_early_khz=" + TSCKHz}
	}
	return []string{"tsc_early_khz=" + TSCKHzWithoutKVM}
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

// console connects the serial port to the journal, which is standard output,
// and to a socket that people can attach to. QEMU before 9.2 cannot split one
// port, so the socket gets a virtio console of its own there. A hub passes over
// a side that is closed, and standard input at its end closes stdio for both
// directions, so it is not to end.
func (a *qemuArgs) console() {
	a.add("-chardev", "stdio,id=stdio,signal=off")
	if !*a.s.QEMU.SerialConsole {
		return
	}
	a.p.Console = a.s.Name + "-console.sock"
	a.p.StaleSockets = append(a.p.StaleSockets, a.p.Console)
	a.add("-chardev", "socket,id=console,path="+comma(a.p.Console)+",server=on,wait=off")
	if a.hub {
		a.p.HoldStdin = true
		a.add("-chardev", "hub,id=serial,chardevs.0=stdio,chardevs.1=console", "-serial", "chardev:serial")
		return
	}
	a.p.Notes = append(a.p.Notes, "QEMU before 9.2 cannot show the serial console on a socket as well: "+a.p.Console+" is a second console, hvc0")
	a.add("-serial", "chardev:stdio")
}

// secondConsole is on a bus of its own, and behind all that microvm.nix and the
// user's own arguments and script add: each of those keeps its slot.
func (a *qemuArgs) secondConsole() {
	if *a.s.QEMU.SerialConsole && !a.hub {
		before := len(a.argv)
		a.add("-device", a.virtio("serial")+",id=microvm-serial", "-device", "virtconsole,chardev=console,bus=microvm-serial.0")
		a.p.Last = len(a.argv) - before
	}
}

// devices gives each device its place: QEMU puts them into free slots as they
// come, and a guest knows its networks and its cards by the slot. The order is
// microvm.nix's.
func (a *qemuArgs) devices() {
	a.add("-device", a.virtio("rng"))
	a.rootPorts()
	// The machine's own controller is there before all devices; one on PCI is not.
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

// usbSlot says that a USB controller takes a slot behind the networks. Machine
// microvm has one of its own, and with PCI this one as well, unused: as in
// microvm.nix, so that what comes next has the same slot.
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

// credentialSlots makes fw_cfg larger where there are many credentials: of its 32
// files the machine needs up to 20 itself, and QEMU aborts where one more is added
// (hw/nvram/fw_cfg.c). The property is there since 2.9.
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

// backend is memory that the hypervisor's helpers may map, too.
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

// storeDisk goes through threads: io_uring is faster on some hosts, but QEMU does not
// start where the kernel has it turned off (kernel.io_uring_disabled), and what
// goes through a ring passes the seccomp filter by. With O_DIRECT the kernel's
// own asynchronous calls are as fast and everywhere.
//
// What is only read is not locked: QEMU wants to know that nobody writes, and
// takes the read lock of another hypervisor, over the whole file, for somebody
// who might ("consistent read"). The launcher's lock says it better, see KeepLock.
func (a *qemuArgs) storeDisk() {
	if *a.s.StoreOnDisk {
		a.add("-drive", "id=store,format=raw,read-only=on,if=none,aio=threads,file.locking=off,file="+comma(a.s.StoreDisk),
			"-device", a.virtio("blk")+",drive=store")
	}
}

// volumes go through threads as the store's disk does, see there.
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

// qemuFile is the path of an image such that QEMU does not take what is before a
// colon for a protocol, block.c.
func qemuFile(path string) string {
	before, _, found := strings.Cut(path, ":")
	if !found || strings.Contains(before, "/") {
		return path
	}
	return "./" + path
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
		if queued(n) && a.s.VCPU > 1 && a.pci {
			// On virtio-mmio all queues would share one interrupt; the guest has one
			// there, and the tap's others rest. One vector for each direction of each queue, one for changes of the
			// configuration, one for the control queue.
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
			// NixOS keeps the copy that may gain a capability here.
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

// forwards are the forwarded ports, which belong to the first user network: a
// port of the host can be bound once.
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
		// A chardev in place of the command would connect once, when QEMU starts,
		// and carry all of the guest's connections in one.
		fmt.Fprintf(&out, ",guestfwd=%s:%s:%d-cmd:nc %s %d", f.Proto, f.Guest.Address, f.Guest.Port, host, f.Host.Port)
	}
	return out.String()
}

// passedThrough adds the host's devices on these buses.
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

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}
