package hypervisor

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"microvm/internal/spec"
)

// qemu compiles for QEMU 7.2 to 10. Its options are those of qemu(1) of these versions,
// and of hw/i386/microvm.c.
type qemu struct{}

// Limits of QEMU and its machines.
const (
	// maxFwCfgName is FW_CFG_MAX_FILE_PATH without the NUL, hw/nvram/fw_cfg.h.
	maxFwCfgName = 55
	// mmioTransports is the number of virtio-mmio devices of machine microvm with its
	// second I/O APIC, which by default it has if ACPI is on.
	mmioTransports = 24
	// fewTransports is their number without that.
	fewTransports = 8
	// pciSlots is the number of free slots of q35's root bus; microvm and virt have one
	// more.
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
	// pci means that the machine has a PCI bus; without one, virtio devices are on
	// virtio-mmio.
	pci bool
	// hub means that QEMU can connect one serial port to several back ends.
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
		if s.HugepageMem { // huge pages have 2 MiB
			less, more = 2046, 2050
		}
		p.Notes = append(p.Notes, fmt.Sprintf("warning: mem: QEMU may hang with exactly 2048 MiB (%d and %d work)", less, more))
	}
	p.KVM = qemuKVM(s)
	a := &qemuArgs{s: s, p: p, pci: qemuNeedsPCI(s, hub), hub: hub}
	a.add(program, "-name", comma(s.Name), "-M", a.machine(), "-m", a.memory(), "-smp", strconv.Itoa(s.VCPU))
	a.add("-nodefaults", "-no-user-config")
	// If the guest reboots, QEMU exits, and the service manager starts it again.
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

// largeMachine returns the machine with the devices that microvm does not have.
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

// hub reports whether QEMU has chardev hub, which connects a serial port to several back
// ends.
func (b *Builder) hub(program string) bool { return b.atLeast(program, 9, 2) }

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

// virtio returns the name of a virtio device on the bus of this machine.
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
		// Nothing needs the interval timer and the old interrupt controller, see clock.
		opts["pic"], opts["pit"] = "off", "off"
		opts["rtc"] = "on"
		opts["pcie"] = onOff(a.pci)
		opts["usb"] = onOff(hasUSB(a.s))
	}
	return opts
}

// cpu returns the CPU model of the spec, or max: the host's CPU under KVM, and all
// features that TCG emulates without it. SGX crashes machine microvm,
// https://gitlab.com/qemu-project/qemu/-/issues/2142.
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

// sharedMemory reports whether another process, virtiofsd, maps the guest's memory.
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
	for _, param := range a.s.KernelParams { // last, as the last one counts
		words = append(words, Literal(param))
	}
	return strings.Join(words, " ")
}

// kernelLine returns the command line with what machine microvm appends without ACPI: one
// argument for each virtio-mmio device (hw/i386/microvm.c).
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

// clock returns the kernel's argument for the rate of the time stamp counter, which under
// TCG is the host's. KVM tells the guest itself. Without KVM, the kernel can measure the
// rate only by the interval timer, and with the reduced ACPI of machine microvm it has no
// timer interrupt before that. Under TCG the measurement often fails (one boot in three,
// with QEMU 7.2 and 10.0), and then the guest hangs forever.
func (a *qemuArgs) clock() []string {
	switch {
	case !isMicrovm(a.s) || a.s.QEMU.MachineOpts != nil:
		return nil
	case !mayUseKVM(a.s):
		return []string{"tsc_early_khz=" + TSCKHz}
	}
	return []string{"tsc_early_khz=" + TSCKHzWithoutKVM}
}

// kernelConsole returns the kernel's console arguments. The last one is the serial port,
// so /dev/console goes to the journal.
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

// console connects the serial port to standard output, which is the journal, and to a
// socket for users. QEMU before 9.2 cannot connect one port to both, so there the socket
// gets a virtio console. A hub skips a back end that is closed, and the end of standard
// input closes stdio in both directions, so standard input must not end.
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
	a.p.Notes = append(a.p.Notes, "QEMU before 9.2 cannot connect the serial console to a socket as well: "+a.p.Console+" is a second console, hvc0")
	a.add("-serial", "chardev:stdio")
}

// secondConsole adds the virtio console on its own bus, after all devices of microvm.nix
// and of the spec's arguments and script, so that those keep their slots.
func (a *qemuArgs) secondConsole() {
	if *a.s.QEMU.SerialConsole && !a.hub {
		before := len(a.argv)
		a.add("-device", a.virtio("serial")+",id=microvm-serial", "-device", "virtconsole,chardev=console,bus=microvm-serial.0")
		a.p.Last = len(a.argv) - before
	}
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}
