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

// Capabilities is what one hypervisor supports. The table is data, because the
// NixOS modules and the documentation read the same file.
type Capabilities struct {
	// Interfaces, Shares, Devices and ImageTypes are the values of the options
	// interfaces[].type, shares[].proto, devices[].bus and volumes[].imageType.
	Interfaces []string `json:"interfaces"`
	Shares     []string `json:"shares"`
	Devices    []string `json:"devices"`
	ImageTypes []string `json:"imageTypes"`
	// Archs are the guests' architectures, Shutdown those with a graceful way
	// down, PowerOff those whose guest can turn its machine off: on the others it
	// ends the hypervisor by a reboot.
	Archs    []string `json:"archs"`
	Shutdown []string `json:"shutdown"`
	PowerOff []string `json:"powerOff"`
	// Vmlinux are the architectures whose kernel the Nix modules take as the ELF
	// file vmlinux, because that is what the hypervisor starts everywhere; on the
	// others they take the kernel's compressed image.
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
	// GuestReadiness says that the guest can be handed vmm.notify_socket.
	GuestReadiness bool `json:"guestReadiness"`
	// TapMultiQueue are the architectures where an interface has a queue for each
	// CPU.
	TapMultiQueue []string `json:"tapMultiQueue"`
	TapVhost      bool     `json:"tapVhost"`
	MacvtapByFD   bool     `json:"macvtapByFD"`
	// VolumeSerial and VolumeDirect are volumes[].serial and volumes[].direct.
	VolumeSerial bool `json:"volumeSerial"`
	VolumeDirect bool `json:"volumeDirect"`
	// VolumeShared is volumes[].shared: that it can leave a disk to others as well.
	VolumeShared bool `json:"volumeShared"`
	// ReadOnly9p is shares[].readOnly for 9p; virtiofsd does it for virtiofs.
	ReadOnly9p bool `json:"readOnly9p"`
	// MaxVCPU is the most CPUs by the guest's architecture, or by QEMU's machine: the
	// hypervisor's own limit, or KVM's where that is less or where it has none (4096
	// on x86_64, CONFIG_KVM_MAX_NR_VCPUS; 512 on aarch64, VGIC_V3_MAX_CPUS).
	MaxVCPU map[string]int `json:"maxVcpu"`
	// MinMem and MaxMem bound the memory in MiB; MaxMem goes by the architecture,
	// whose physical addresses have 52 bits.
	MinMem int            `json:"minMem"`
	MaxMem map[string]int `json:"maxMem"`
	// MaxDevices is the most devices of a VM's own on the one PCI bus, by the
	// architecture; empty where there is no such limit or one of another kind.
	MaxDevices map[string]int `json:"maxDevices"`
	// Control is the protocol of the control interface, as in Control.Method;
	// empty where there is none.
	Control string `json:"control"`
}

//go:embed capabilities.json
var capabilitiesJSON []byte

// Table returns the capabilities of every hypervisor, by name: the same map each
// time, which is only read.
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

// use is one capability that a spec asks for.
type use struct {
	path, what string
	supports   func(Capabilities) bool
	// value is one of an option's list of values, and has the list that a
	// hypervisor has; has is nil for anything else.
	value string
	has   func(Capabilities) []string
}

// uses lists what s asks of its hypervisor.
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
		add(v.Direct, fmt.Sprintf("volumes[%d].direct", i), "direct access to volumes", func(c Capabilities) bool { return c.VolumeDirect })
		add(v.Shared, fmt.Sprintf("volumes[%d].shared", i), "volumes that are shared with other VMs", func(c Capabilities) bool { return c.VolumeShared })
	}
	add(s.CPU != nil, "cpu", "emulated CPU", func(c Capabilities) bool { return c.CPU })
	add(s.HugepageMem, "hugepageMem", "huge pages", func(c Capabilities) bool { return c.HugepageMem })
	add(s.HotplugMem > 0, "hotplugMem", "virtio-mem", func(c Capabilities) bool { return c.HotplugMem })
	add(s.Balloon, "balloon", "balloon", func(c Capabilities) bool { return c.Balloon })
	add(s.InitialBalloonMem > 0, "initialBalloonMem", "balloon that is inflated at the start", func(c Capabilities) bool { return c.InitialBalloonMem })
	add(len(s.ForwardPorts) > 0, "forwardPorts", "forwarded ports", func(c Capabilities) bool { return c.ForwardPorts })
	add(s.Graphics.Enable, "graphics.enable", "graphics", func(c Capabilities) bool { return c.Graphics })
	add(len(s.CredentialFiles) > 0, "credentialFiles", "credentials", func(c Capabilities) bool { return c.CredentialFiles })
	add(s.Readiness == ReadyGuest, "readiness", "readiness by the guest", func(c Capabilities) bool { return c.GuestReadiness })
	return out
}

// unsupported lists what s asks for and its hypervisor cannot do, each with
// the hypervisors that can.
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
			faults.Addf(u.path, "%s", spec.Unknown(u.value, u.has(own)))
			continue
		}
		faults.Addf(u.path, "%s has no %s; %s", s.Hypervisor, u.what, whoCan(can))
	}
	return faults, nil
}

func whoCan(names []string) string {
	if len(names) == 0 {
		return "no hypervisor has; remove it"
	}
	return "these have: " + strings.Join(names, ", ")
}
