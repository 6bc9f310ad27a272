package hypervisor

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"microvm/internal/spec"
)

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
