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
		faults.Addf("qemu.machine", "too many devices: %s supports %d, and the spec has %d", s.QEMU.Machine, pciSlots, n).
			Hintf("merge volumes or shares%s", remedy)
	}
	if isMicrovm(s) && s.Arch != "x86_64" {
		faults.Addf("qemu.machine", "microvm exists on x86_64 only").Hintf("set qemu.machine to virt")
	}
	if isMicrovm(s) && s.HotplugMem > 0 {
		faults.Addf("hotplugMem", "QEMU's machine microvm has no virtio-mem").Hintf("set qemu.machine to %s", largeMachine(s))
	}
	if isMicrovm(s) && len(s.QEMU.PCIeRootPorts) > 0 {
		faults.Addf("qemu.pcieRootPorts", "QEMU's machine microvm does not support root ports").
			Hintf("set qemu.machine to %s", largeMachine(s))
	}
	faults = slices.Concat(faults, refuseBlocks(s, 2), refuseOddPages(s), refuseHostCPU(s), refuseOwnMachine(s, hub), refuseIDs(s))
	for _, name := range slices.Sorted(maps.Keys(s.CredentialFiles)) {
		if limit := maxFwCfgName - len(credentialPrefix); len(name) > limit {
			faults.Addf("credentialFiles."+name, "credential name must be at most %d bytes for QEMU's fw_cfg, not %d", limit, len(name))
		}
	}
	if _, taken := s.CredentialFiles[notifySocket]; taken && s.Vsock.CID != nil && (s.Readiness == "" || s.Readiness == ReadyGuest) {
		faults.Addf("credentialFiles."+notifySocket, "is reserved, as it tells the guest where to report readiness").
			Hintf("remove it, or set readiness to %q", ReadyVMM)
	}
	if console := s.Name + "-console.sock"; *s.QEMU.SerialConsole && socketOf(s, console) != "" {
		faults.Addf(socketOf(s, console), "%q is the serial console's socket", console).Hintf("choose another name")
	}
	return faults
}

// notifySocket is the credential with the address to which systemd sends notifications,
// see systemd(1).
const notifySocket = "vmm.notify_socket"

// socketOf returns the option whose value is the socket of that name, or "".
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

// refuseOwnMachine refuses machine options of the spec without which machine microvm lacks
// the bus of a device: by default it has neither PCI nor USB.
func refuseOwnMachine(s *spec.Spec, hub bool) spec.Faults {
	var faults spec.Faults
	if !isMicrovm(s) || s.QEMU.MachineOpts == nil {
		return nil
	}
	if (qemuNeedsPCI(s, hub) || hasUSB(s)) && isOff(s.QEMU.MachineOpts["acpi"]) {
		faults.Addf("qemu.machineOpts", "acpi=off leaves machine microvm without PCI and USB, which devices of the spec need").
			Hintf("leave acpi out, or leave machineOpts out")
		return faults
	}
	if qemuNeedsPCI(s, hub) && !isOn(s.QEMU.MachineOpts["pcie"]) {
		faults.Addf("qemu.machineOpts", "pcie=on is required, as the spec has devices that need PCI").
			Hintf("add \"pcie\": \"on\", or leave machineOpts out")
	}
	if hasUSB(s) && !s.Graphics.Enable && !isOn(s.QEMU.MachineOpts["usb"]) {
		faults.Addf("qemu.machineOpts", "usb=on is required, as the spec has USB devices").
			Hintf("add \"usb\": \"on\", or leave machineOpts out")
	}
	return faults
}

// isOn reports whether a machine's option is on, as QEMU's qapi_bool_parse does.
func isOn(value string) bool { return slices.Contains([]string{"on", "yes", "true", "y"}, value) }

// refuseIDs refuses device ids that QEMU refuses, util/id.c.
func refuseIDs(s *spec.Spec) spec.Faults {
	var faults spec.Faults
	check := func(path, id string) {
		if !wellFormedID(id) {
			faults.Addf(path, "invalid device id %q", id).
				Hintf("use letters, digits, \"-\", \".\" and \"_\", and start with a letter")
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

// qemuNeedsPCI reports whether devices are on PCI. The rule is microvm.nix's, as guests
// name their network interfaces after the bus: every machine but microvm, passthrough,
// shares and graphics. More devices than there are transports need it as well.
func qemuNeedsPCI(s *spec.Spec, hub bool) bool {
	return !isMicrovm(s) || len(s.Shares) > 0 || s.Graphics.Enable || qemuDevices(s, hub) > qemuTransports(s) ||
		slices.ContainsFunc(s.Devices, func(d spec.Device) bool { return d.Bus == "pci" })
}

// qemuTransports returns the number of virtio-mmio devices that machine microvm supports.
func qemuTransports(s *spec.Spec) int {
	opts := s.QEMU.MachineOpts
	if isOff(opts["acpi"]) || isOff(opts["ioapic2"]) {
		return fewTransports
	}
	return mmioTransports
}

func isOff(value string) bool { return slices.Contains([]string{"off", "no", "false", "n"}, value) }

// qemuDevices returns the number of devices on the machine's own bus.
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

// queued reports whether an interface has one queue per CPU. The user network and the
// bridge helper have one queue only.
func queued(n spec.Interface) bool { return n.Type == "tap" || n.Type == "macvtap" }
