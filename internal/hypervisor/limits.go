package hypervisor

import (
	"fmt"
	"slices"

	"microvm/internal/spec"
)

// tapQueues is the maximum number of queues of a tap or macvtap: MAX_TAP_QUEUES in Linux'
// drivers/net/tun.c and include/linux/if_tap.h.
const tapQueues = 256

// queueCount returns the number of queues of an interface that has one per CPU.
func queueCount(s *spec.Spec) int { return min(s.VCPU, tapQueues) }

// limits checks the numbers that the table of capabilities bounds.
func (b *Builder) limits(s *spec.Spec, own Capabilities) spec.Faults {
	var faults spec.Faults
	if most := own.maxVCPU(s); most > 0 && s.VCPU > most {
		faults.Addf("vcpu", "must be at most %d for %s, not %d", most, whose(s), s.VCPU)
	}
	switch most := own.maxMem(s); {
	case s.Mem < own.MinMem || most > 0 && s.Mem > most:
		faults.Addf("mem", "must be from %d to %d MiB for %s, not %d", own.MinMem, most, displayName(s.Hypervisor), s.Mem)
	case most > 0 && s.HotplugMem > most-s.Mem:
		faults.Addf("hotplugMem", "must be at most %d MiB in addition to mem for %s, not %d", most-s.Mem, displayName(s.Hypervisor), s.HotplugMem)
	}
	if n, room := deviceCount(s), own.MaxDevices[s.Arch]; room > 0 && n > room {
		faults.Addf("volumes", "too many devices: %s supports %d, and the spec has %d", displayName(s.Hypervisor), room, n).
			Hintf("merge volumes or shares")
	}
	return faults
}

// whose returns the name of what has a limit: the hypervisor, or QEMU's machine.
func whose(s *spec.Spec) string {
	if s.Hypervisor == "qemu" && s.QEMU.Machine != "" {
		return "QEMU's machine " + s.QEMU.Machine
	}
	return displayName(s.Hypervisor)
}

// displayName returns a hypervisor's name as its project writes it.
func displayName(hypervisor string) string {
	names := map[string]string{"qemu": "QEMU", "cloud-hypervisor": "Cloud Hypervisor", "firecracker": "Firecracker", "stratovirt": "StratoVirt"}
	if name, ok := names[hypervisor]; ok {
		return name
	}
	return hypervisor
}

// Limits of KVM itself. They count where the hypervisor lowers a number that is too high
// instead of refusing it.
var (
	kvmVCPU = map[string]int{"x86_64": 4096, "aarch64": 512}
	// physicalMiB is how much memory 52 bits address.
	physicalMiB = 1 << (52 - 20)
)

// maxVCPU returns the maximum number of CPUs of s; 0 means no limit.
func (c Capabilities) maxVCPU(s *spec.Spec) int {
	if s.Hypervisor == "kvmtool" { // it lowers what is too much
		return kvmVCPU[s.Arch]
	}
	if most, ok := c.MaxVCPU[s.QEMU.Machine]; ok && s.Hypervisor == "qemu" {
		return most
	}
	return c.MaxVCPU[s.Arch]
}

// maxMem returns the maximum memory of s, in MiB; 0 means no limit.
func (c Capabilities) maxMem(s *spec.Spec) int {
	if s.Hypervisor == "firecracker" { // it lowers what is too much
		return physicalMiB
	}
	return c.MaxMem[s.Arch]
}

// alwaysThere is the number of devices that every VM has: the random number generator, and
// Cloud Hypervisor's watchdog.
var alwaysThere = map[string]int{"cloud-hypervisor": 2, "crosvm": 1, "firecracker": 1}

// deviceCount returns the number of devices on the VM's only bus.
func deviceCount(s *spec.Spec) int {
	n := alwaysThere[s.Hypervisor] + len(s.Volumes) + len(s.Shares) + len(s.Interfaces) + len(s.Devices)
	for _, has := range []bool{*s.StoreOnDisk, s.Balloon, s.HotplugMem > 0, s.Vsock.CID != nil, s.Graphics.Enable} {
		if has {
			n++
		}
	}
	return n
}

// refuseOddPages refuses memory that is not a multiple of huge pages, which have 2 MiB by
// default on both architectures.
func refuseOddPages(s *spec.Spec) spec.Faults {
	var faults spec.Faults
	if s.HugepageMem && s.Mem%2 != 0 {
		faults.Addf("mem", "must be even for huge pages of 2 MiB, not %d", s.Mem).Hintf("use %d", s.Mem+1)
	}
	return faults
}

// refuseBlocks refuses sizes of virtio-mem that are not a multiple of a block: align MiB
// for hotplugMem, 2 MiB for what is plugged in at the start.
func refuseBlocks(s *spec.Spec, align int) spec.Faults {
	var faults spec.Faults
	if s.HotplugMem%align != 0 {
		faults.Addf("hotplugMem", "must be a multiple of %d for %s, not %d", align, displayName(s.Hypervisor), s.HotplugMem).
			Hintf("use %d", (s.HotplugMem/align+1)*align)
	}
	if *s.HotpluggedMem%2 != 0 {
		faults.Addf("hotpluggedMem", "must be a multiple of 2 for virtio-mem, not %d", *s.HotpluggedMem).Hintf("use %d", *s.HotpluggedMem-1)
	}
	return faults
}

// noteCut adds warnings for numbers that a hypervisor lowers without failing.
func noteCut(s *spec.Spec, p *Plan, own Capabilities) {
	if most := own.MaxVCPU[s.Arch]; s.Hypervisor == "kvmtool" && s.VCPU > most {
		p.Notes = append(p.Notes, fmt.Sprintf("warning: vcpu: kvmtool starts the VM with %d CPUs instead of %d", most, s.VCPU))
	}
	if most := own.MaxMem[s.Arch]; s.Hypervisor == "firecracker" && s.Mem > most {
		p.Notes = append(p.Notes, fmt.Sprintf("warning: mem: Firecracker starts the VM with %d MiB instead of %d", most, s.Mem))
	}
}

// countedQueues returns the number of queues of a tap or macvtap.
func countedQueues(s *spec.Spec, own Capabilities) int {
	if !slices.Contains(own.TapMultiQueue, s.Arch) {
		return 1
	}
	return queueCount(s)
}
