package hypervisor

import (
	"fmt"
	"slices"

	"microvm/internal/spec"
)

// tapQueues is the most queues of a tap or macvtap: MAX_TAP_QUEUES of Linux'
// drivers/net/tun.c and include/linux/if_tap.h.
const tapQueues = 256

// queueCount is how many queues an interface has that gets one for each CPU.
func queueCount(s *spec.Spec) int { return min(s.VCPU, tapQueues) }

// limits are the numbers that the table of capabilities bounds.
func (b *Builder) limits(s *spec.Spec, own Capabilities) spec.Faults {
	var faults spec.Faults
	if most := own.maxVCPU(s); most > 0 && s.VCPU > most {
		faults.Addf("vcpu", "%d is not possible; %s has %d at most", s.VCPU, whose(s), most)
	}
	switch most := own.maxMem(s); {
	case s.Mem < own.MinMem || most > 0 && s.Mem > most:
		faults.Addf("mem", "%d MiB is not possible; %s takes %d to %d", s.Mem, displayName(s.Hypervisor), own.MinMem, most)
	case most > 0 && s.HotplugMem > most-s.Mem:
		faults.Addf("hotplugMem", "%d MiB is not possible beside mem; %s takes %d MiB of both", s.HotplugMem, displayName(s.Hypervisor), most)
	}
	if n, room := deviceCount(s), own.MaxDevices[s.Arch]; room > 0 && n > room {
		faults.Addf("volumes", "%s has room for %d devices, and the spec has %d; merge volumes or shares", displayName(s.Hypervisor), room, n)
	}
	return faults
}

// whose names what a limit is of.
func whose(s *spec.Spec) string {
	if s.Hypervisor == "qemu" && s.QEMU.Machine != "" {
		return "QEMU's machine " + s.QEMU.Machine
	}
	return displayName(s.Hypervisor)
}

// displayName is how a hypervisor calls itself.
func displayName(hypervisor string) string {
	names := map[string]string{"qemu": "QEMU", "cloud-hypervisor": "Cloud Hypervisor", "firecracker": "Firecracker", "stratovirt": "StratoVirt"}
	if name, ok := names[hypervisor]; ok {
		return name
	}
	return hypervisor
}

// What KVM itself never has: refused also where the hypervisor starts with less
// than it is asked for.
var (
	kvmVCPU = map[string]int{"x86_64": 4096, "aarch64": 512}
	// physicalMiB is what 52 bits address.
	physicalMiB = 1 << (52 - 20)
)

// maxVCPU is the most CPUs that s may have.
func (c Capabilities) maxVCPU(s *spec.Spec) int {
	if s.Hypervisor == "kvmtool" { // it leaves out what is too much
		return kvmVCPU[s.Arch]
	}
	if most, ok := c.MaxVCPU[s.QEMU.Machine]; ok && s.Hypervisor == "qemu" {
		return most
	}
	return c.MaxVCPU[s.Arch]
}

// maxMem is the most memory that s may have, in MiB.
func (c Capabilities) maxMem(s *spec.Spec) int {
	if s.Hypervisor == "firecracker" { // it leaves out what is too much
		return physicalMiB
	}
	return c.MaxMem[s.Arch]
}

// alwaysThere are devices that a VM has of every spec: the random number
// generator, and Cloud Hypervisor's watchdog.
var alwaysThere = map[string]int{"cloud-hypervisor": 2, "crosvm": 1, "firecracker": 1}

// deviceCount counts the devices on the VM's one bus.
func deviceCount(s *spec.Spec) int {
	n := alwaysThere[s.Hypervisor] + len(s.Volumes) + len(s.Shares) + len(s.Interfaces) + len(s.Devices)
	for _, has := range []bool{*s.StoreOnDisk, s.Balloon, s.HotplugMem > 0, s.Vsock.CID != nil, s.Graphics.Enable} {
		if has {
			n++
		}
	}
	return n
}

// refuseOddPages refuses memory that huge pages cannot make up: on both
// architectures they have 2 MiB by default.
func refuseOddPages(s *spec.Spec) spec.Faults {
	var faults spec.Faults
	if s.HugepageMem && s.Mem%2 != 0 {
		faults.Addf("mem", "%d is odd, and huge pages have 2 MiB each; take %d", s.Mem, s.Mem+1)
	}
	return faults
}

// refuseBlocks refuses sizes of virtio-mem that are no multiple of a block: align
// MiB for the whole, 2 MiB for what is plugged in at the start.
func refuseBlocks(s *spec.Spec, align int) spec.Faults {
	var faults spec.Faults
	if s.HotplugMem%align != 0 {
		what := "is odd; virtio-mem plugs blocks of 2 MiB"
		if align != 2 {
			what = fmt.Sprintf("is no multiple of %d, which %s wants", align, displayName(s.Hypervisor))
		}
		faults.Addf("hotplugMem", "%d %s\nhint: take %d", s.HotplugMem, what, (s.HotplugMem/align+1)*align)
	}
	if *s.HotpluggedMem%2 != 0 {
		faults.Addf("hotpluggedMem", "%d is odd; virtio-mem plugs blocks of 2 MiB\nhint: take %d", *s.HotpluggedMem, *s.HotpluggedMem-1)
	}
	return faults
}

// noteCut warns of what a hypervisor cuts off without ending.
func noteCut(s *spec.Spec, p *Plan, own Capabilities) {
	if most := own.MaxVCPU[s.Arch]; s.Hypervisor == "kvmtool" && s.VCPU > most {
		p.Notes = append(p.Notes, fmt.Sprintf("warning: vcpu: kvmtool starts the VM with %d CPUs in place of %d; lower vcpu", most, s.VCPU))
	}
	if most := own.MaxMem[s.Arch]; s.Hypervisor == "firecracker" && s.Mem > most {
		p.Notes = append(p.Notes, fmt.Sprintf("warning: mem: Firecracker starts the VM with %d MiB in place of %d; lower mem", most, s.Mem))
	}
}

// countedQueues says which interfaces have a queue for each CPU.
func countedQueues(s *spec.Spec, own Capabilities) int {
	if !slices.Contains(own.TapMultiQueue, s.Arch) {
		return 1
	}
	return queueCount(s)
}
