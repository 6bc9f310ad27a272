package hypervisor

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"microvm/internal/spec"
)

// Capabilities describes what one hypervisor supports. The table is a JSON file, as the
// NixOS modules and the documentation read it too.
type Capabilities struct {
	// Interfaces, Shares, Devices and ImageTypes are the values of the options
	// interfaces[].type, shares[].proto, devices[].bus and volumes[].imageType.
	Interfaces []string `json:"interfaces"`
	Shares     []string `json:"shares"`
	Devices    []string `json:"devices"`
	ImageTypes []string `json:"imageTypes"`
	// Archs are the guests' architectures; Shutdown are those with a graceful
	// shutdown; PowerOff are those whose guest can turn its machine off. On the others,
	// the guest ends the hypervisor by a reboot.
	Archs    []string `json:"archs"`
	Shutdown []string `json:"shutdown"`
	PowerOff []string `json:"powerOff"`
	// Vmlinux are the architectures for which the Nix modules use the kernel's ELF file
	// vmlinux, as every version of the hypervisor boots that; for the others they use the
	// compressed image.
	Vmlinux []string `json:"vmlinux"`
	// Vsock is vhost, unix (a socket multiplexer) or none.
	Vsock string `json:"vsock"`

	Balloon           bool `json:"balloon"`
	InitialBalloonMem bool `json:"initialBalloonMem"`
	HotplugMem        bool `json:"hotplugMem"`
	HugepageMem       bool `json:"hugepageMem"`
	ForwardPorts      bool `json:"forwardPorts"`
	Graphics          bool `json:"graphics"`
	CPU               bool `json:"cpu"`
	CredentialFiles   bool `json:"credentialFiles"`
	// GuestReadiness means that vmm.notify_socket can be passed to the guest.
	GuestReadiness bool `json:"guestReadiness"`
	// TapMultiQueue are the architectures where an interface has one queue per CPU.
	TapMultiQueue []string `json:"tapMultiQueue"`
	TapVhost      bool     `json:"tapVhost"`
	MacvtapByFD   bool     `json:"macvtapByFD"`
	// VolumeSerial and VolumeDirect are volumes[].serial and volumes[].direct.
	VolumeSerial bool `json:"volumeSerial"`
	VolumeDirect bool `json:"volumeDirect"`
	// VolumeShared is volumes[].shared.
	VolumeShared bool `json:"volumeShared"`
	// ReadOnly9p is shares[].readOnly for 9p; for virtiofs, virtiofsd implements it.
	ReadOnly9p bool `json:"readOnly9p"`
	// MaxVCPU is the maximum number of CPUs by the guest's architecture, or by QEMU's
	// machine: the lower one of the hypervisor's limit and KVM's (4096 on x86_64,
	// CONFIG_KVM_MAX_NR_VCPUS; 512 on aarch64, VGIC_V3_MAX_CPUS).
	MaxVCPU map[string]int `json:"maxVcpu"`
	// MinMem and MaxMem bound the memory, in MiB; MaxMem is by the architecture. Physical
	// addresses have at most 52 bits.
	MinMem int            `json:"minMem"`
	MaxMem map[string]int `json:"maxMem"`
	// MaxDevices is the maximum number of devices on the only PCI bus, by the
	// architecture; empty if there is no such limit, or one of another kind.
	MaxDevices map[string]int `json:"maxDevices"`
	// Control is the protocol of the control interface, as in Control.Method; empty if
	// there is none.
	Control string `json:"control"`
}

//go:embed capabilities.json
var capabilitiesJSON []byte

// Table returns the capabilities of every hypervisor, by name. It returns the same map
// each time, which callers must not change.
func Table() (map[string]Capabilities, error) { return readTable() }

var readTable = sync.OnceValues(func() (map[string]Capabilities, error) {
	table := map[string]Capabilities{}
	d := json.NewDecoder(strings.NewReader(string(capabilitiesJSON)))
	d.DisallowUnknownFields()
	if err := d.Decode(&table); err != nil {
		return nil, fmt.Errorf("read the table of capabilities: %w", err)
	}
	return table, nil
})

// use is one capability that a spec needs.
type use struct {
	path, what string
	supports   func(Capabilities) bool
	// value is the value of an option that has a list of allowed values, and has returns
	// those that a hypervisor supports. For other options has is nil.
	value string
	has   func(Capabilities) []string
}

// uses lists the capabilities that s needs.
func uses(s *spec.Spec) []use {
	var out []use
	add := func(wanted bool, path, what string, supports func(Capabilities) bool) {
		if wanted {
			out = append(out, use{path: path, what: what, supports: supports})
		}
	}
	choose := func(path, value, what string, has func(Capabilities) []string) {
		out = append(out, use{path, what, func(c Capabilities) bool { return slices.Contains(has(c), value) }, value, has})
	}
	add(true, "arch", s.Arch+" guests", func(c Capabilities) bool { return slices.Contains(c.Archs, s.Arch) })
	for i, n := range s.Interfaces {
		choose(fmt.Sprintf("interfaces[%d].type", i), n.Type, "interfaces of type "+n.Type, func(c Capabilities) []string { return c.Interfaces })
		add(n.Tap.Vhost, fmt.Sprintf("interfaces[%d].tap.vhost", i), "vhost-net", func(c Capabilities) bool { return c.TapVhost })
	}
	for i, share := range s.Shares {
		choose(fmt.Sprintf("shares[%d].proto", i), share.Proto, share.Proto+" shares", func(c Capabilities) []string { return c.Shares })
		add(share.ReadOnly && share.Proto == "9p", fmt.Sprintf("shares[%d].readOnly", i), "read-only 9p shares", func(c Capabilities) bool { return c.ReadOnly9p })
	}
	for i, d := range s.Devices {
		choose(fmt.Sprintf("devices[%d].bus", i), d.Bus, d.Bus+" devices", func(c Capabilities) []string { return c.Devices })
	}
	for i, v := range s.Volumes {
		choose(fmt.Sprintf("volumes[%d].imageType", i), v.ImageType, v.ImageType+" images", func(c Capabilities) []string { return c.ImageTypes })
		add(v.Serial != nil, fmt.Sprintf("volumes[%d].serial", i), "serial numbers of volumes", func(c Capabilities) bool { return c.VolumeSerial })
		add(v.Direct, fmt.Sprintf("volumes[%d].direct", i), "direct I/O of volumes", func(c Capabilities) bool { return c.VolumeDirect })
		add(v.Shared, fmt.Sprintf("volumes[%d].shared", i), "volumes that several VMs write", func(c Capabilities) bool { return c.VolumeShared })
	}
	add(s.CPU != nil, "cpu", "CPU models", func(c Capabilities) bool { return c.CPU })
	add(s.HugepageMem, "hugepageMem", "huge pages", func(c Capabilities) bool { return c.HugepageMem })
	add(s.HotplugMem > 0, "hotplugMem", "virtio-mem", func(c Capabilities) bool { return c.HotplugMem })
	add(s.Balloon, "balloon", "balloons", func(c Capabilities) bool { return c.Balloon })
	add(s.InitialBalloonMem > 0, "initialBalloonMem", "balloons that are inflated at the start", func(c Capabilities) bool { return c.InitialBalloonMem })
	add(len(s.ForwardPorts) > 0, "forwardPorts", "forwarded ports", func(c Capabilities) bool { return c.ForwardPorts })
	add(s.Graphics.Enable, "graphics.enable", "graphics", func(c Capabilities) bool { return c.Graphics })
	add(len(s.CredentialFiles) > 0, "credentialFiles", "credentials", func(c Capabilities) bool { return c.CredentialFiles })
	add(s.Readiness == ReadyGuest, "readiness", "readiness reported by the guest", func(c Capabilities) bool { return c.GuestReadiness })
	return out
}

// unsupported returns a fault for each capability that s needs and its hypervisor does
// not have. The remedies name the hypervisors that have it.
func unsupported(s *spec.Spec) (spec.Faults, error) {
	table, err := Table()
	if err != nil {
		return nil, err
	}
	own, ok := table[s.Hypervisor]
	if !ok {
		return nil, fmt.Errorf("hypervisor %q has no row in the table of capabilities", s.Hypervisor)
	}
	var faults spec.Faults
	for _, u := range uses(s) {
		if u.supports(own) {
			continue
		}
		var can []string
		for _, name := range slices.Sorted(maps.Keys(table)) {
			if u.supports(table[name]) {
				can = append(can, name)
			}
		}
		if len(can) == 0 && u.has != nil && len(u.has(own)) > 0 {
			faults.AddUnknown(u.path, u.value, u.has(own))
			continue
		}
		f := faults.Addf(u.path, "%s does not support %s", displayName(s.Hypervisor), u.what)
		if len(can) > 0 {
			f.Hintf("supported by: %s", strings.Join(can, ", "))
		} else {
			f.Hintf("no hypervisor supports it, so remove it")
		}
	}
	return faults, nil
}
