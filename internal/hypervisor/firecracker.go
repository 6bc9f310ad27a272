package hypervisor

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"microvm/internal/spec"
)

// firecracker compiles for Firecracker 1.5 to 1.17-dev. The configuration file follows its
// src/firecracker/swagger/firecracker.yaml.
type firecracker struct{}

// Files for Firecracker, which are written into the state directory.
const (
	firecrackerConfig   = "firecracker.json"
	firecrackerTemplate = "firecracker-cpu.json"
)

// object is a JSON object.
type object = map[string]any

// firecrackerTransports is its number of interrupts for virtio-mmio devices on x86_64
// (GSI_LEGACY_START to GSI_LEGACY_END, src/vmm/src/arch/x86_64/layout.rs).
const firecrackerTransports = 19

// firecrackerPCI reports whether devices are on a PCI bus, and not on virtio-mmio.
func firecrackerPCI(b *Builder, s *spec.Spec) bool {
	return b.atLeast(firecrackerProgram(s), 1, 13) || slices.Contains(s.Firecracker.ExtraArgs, "--enable-pci")
}

func firecrackerProgram(s *spec.Spec) string {
	return programOf(s.Firecracker.Package, "firecracker", "firecracker")
}

func (firecracker) faults(b *Builder, s *spec.Spec) spec.Faults {
	faults := slices.Concat(refuseBalloon(s), refuseReadiness(s, s.Socket.Value != nil))
	if n := deviceCount(s); n > firecrackerTransports && s.Arch == "x86_64" && !firecrackerPCI(b, s) {
		faults.Addf("volumes", "too many devices: Firecracker before 1.13 supports %d, and the spec has %d", firecrackerTransports, n).
			Hintf("merge volumes")
	}
	if s.Firecracker.Jailer {
		_, hidden := firecrackerJail(s)
		faults = append(faults, hidden...)
	}
	return faults
}

func (firecracker) compile(b *Builder, s *spec.Spec, p *Plan) error {
	program := firecrackerProgram(s)
	control := controlOf(s, "firecracker")
	p.Readiness = readiness(s, true, control, vsockSocket)
	p.KVM = KVMRequired
	var err error
	if p.Shutdown, err = firecrackerShutdown(s, control); err != nil {
		return err
	}
	if s.Balloon {
		p.Balloon = control
	}
	if s.Vsock.CID != nil {
		p.StaleSockets = append(p.StaleSockets, vsockSocket)
	}
	if err := firecrackerFiles(s, p, b.older(program, 1, 8)); err != nil {
		return err
	}
	p.Argv = []string{program, "--config-file", firecrackerConfig}
	if control == nil {
		p.Argv = append(p.Argv, "--no-api")
	} else {
		p.Argv = append(p.Argv, "--api-sock", Literal(control.Socket))
	}
	if b.atLeast(program, 1, 13) {
		p.Argv = append(p.Argv, "--enable-pci")
	}
	for _, word := range s.Firecracker.ExtraArgs {
		p.Argv = append(p.Argv, Literal(word))
	}
	if s.Firecracker.Jailer {
		p.Jail, _ = firecrackerJail(s)
		p.Notes = append(p.Notes, "firecracker.jailer applies to the VM's unit only, not to microvm run in the foreground")
	}
	return nil
}

// kernelLine returns boot_args of the configuration with what Firecracker adds
// (src/vmm/src/builder.rs): arguments for a root device, for the serial port on aarch64
// and, without PCI, pci=off and one for each device.
func (firecracker) kernelLine(b *Builder, s *spec.Spec) (string, error) {
	control := controlOf(s, "firecracker")
	p := &Plan{Readiness: readiness(s, true, control, vsockSocket)}
	var err error
	if p.Shutdown, err = firecrackerShutdown(s, control); err != nil {
		return "", err
	}
	config := firecrackerBase(s, p, b.older(firecrackerProgram(s), 1, 8))
	extra, _ := literals(s.Firecracker.ExtraConfig).(object)
	merge(config, extra)
	boot, _ := config["boot-source"].(object)
	line, _ := boot["boot_args"].(string)
	drives, _ := config["drives"].([]any)
	for _, d := range drives {
		if drive, _ := d.(object); drive["is_root_device"] == true {
			line += firecrackerRoot(drive)
		}
	}
	if s.Arch == "aarch64" && strings.Contains(line, "console=") {
		line += " earlycon=uart,mmio,0x40002000"
	}
	if firecrackerPCI(b, s) {
		return line, nil
	}
	line += " pci=off"
	if s.Arch == "x86_64" {
		line += strings.Repeat(" virtio_mmio.device=4K@0xc0001000:23", firecrackerDevices(config))
	}
	return line, nil
}

func firecrackerRoot(drive object) string {
	access := " rw"
	if drive["is_read_only"] == true {
		access = " ro"
	}
	if id, _ := drive["partuuid"].(string); id != "" {
		return " root=PARTUUID=" + id + access
	}
	return " root=/dev/vda" + access
}

// firecrackerDevices counts the devices of a configuration.
func firecrackerDevices(config object) int {
	n := 0
	for _, key := range []string{"drives", "network-interfaces", "pmem"} {
		list, _ := config[key].([]any)
		n += len(list)
	}
	for _, key := range []string{"balloon", "entropy", "memory-hotplug", "vsock"} {
		if config[key] != nil {
			n++
		}
	}
	return n
}

func firecrackerShutdown(s *spec.Spec, control *Control) (Shutdown, error) {
	switch {
	case s.Arch != "x86_64":
		return viaGuest(s, "Firecracker has a keyboard, and with it ctrl-alt-del, on x86_64 only", vsockSocket)
	case control == nil:
		return viaGuest(s, "socket is null, so Firecracker cannot be asked", vsockSocket)
	}
	return Shutdown{Method: ShutdownCtrlAltDel, Control: control, Why: "Firecracker has a keyboard and no power button"}, nil
}

// firecrackerFiles adds the configuration file, with extraConfig merged into it, and the
// CPU template. oldKeyboard is for versions before 1.8.
func firecrackerFiles(s *spec.Spec, p *Plan, oldKeyboard bool) error {
	config := firecrackerBase(s, p, oldKeyboard)
	if s.Firecracker.CPU != nil {
		template, err := jsonText(literals(s.Firecracker.CPU))
		if err != nil {
			return fmt.Errorf("firecracker.cpu: %w", err)
		}
		p.Generated = append(p.Generated, GeneratedFile{Path: firecrackerTemplate, Content: template})
		config["cpu-config"] = firecrackerTemplate
	}
	extra, _ := literals(s.Firecracker.ExtraConfig).(object)
	merge(config, extra)
	text, err := jsonText(config)
	if err != nil {
		return fmt.Errorf("firecracker.extraConfig: %w", err)
	}
	p.Generated = append(p.Generated, GeneratedFile{Path: firecrackerConfig, Content: text})
	return nil
}

func firecrackerBase(s *spec.Spec, p *Plan, oldKeyboard bool) object {
	own := []string{serialConsole(s), "reboot=k", "panic=-1"}
	if s.Arch == "x86_64" {
		// Probing for parts that the keyboard controller does not have takes a second
		// of boot. Since 1.8 ACPI describes the controller, and without that
		// description it has no interrupt.
		own = append(own, "i8042.noaux", "i8042.nomux", "i8042.dumbkbd")
		if oldKeyboard {
			own = append(own, "i8042.nopnp")
		}
	}
	boot := object{"kernel_image_path": elfKernel(s, p), "boot_args": kernelCommandLine(s, p, own...)}
	if s.InitrdPath != "" {
		boot["initrd_path"] = Literal(s.InitrdPath)
	}
	machine := object{"vcpu_count": s.VCPU, "mem_size_mib": s.Mem}
	if s.Arch == "x86_64" {
		// With SMT, the number of CPUs must be even.
		machine["smt"] = s.VCPU%2 == 0
	}
	config := object{"boot-source": boot, "machine-config": machine, "drives": firecrackerDrives(s), "entropy": object{}}
	keepLocks(p)
	var interfaces []any
	for _, n := range s.Interfaces {
		interfaces = append(interfaces, object{"iface_id": Literal(n.ID), "host_dev_name": Literal(n.ID), "guest_mac": n.MAC})
	}
	if interfaces != nil {
		config["network-interfaces"] = interfaces
	}
	if s.Vsock.CID != nil {
		config["vsock"] = object{"guest_cid": *s.Vsock.CID, "uds_path": vsockSocket}
	}
	if s.Balloon {
		config["balloon"] = object{"amount_mib": s.InitialBalloonMem, "deflate_on_oom": *s.DeflateOnOOM, "stats_polling_interval_s": 1}
	}
	return config
}

func firecrackerDrives(s *spec.Spec) []any {
	drives := []any{}
	add := func(id, path string, readOnly bool) {
		drives = append(drives, object{
			"drive_id": id, "path_on_host": Literal(path), "is_root_device": false, "is_read_only": readOnly,
			"io_engine": s.Firecracker.DriveIoEngine,
			// A flush of the guest writes to the disk; the default, Unsafe, ignores it.
			"cache_type": "Writeback",
		})
	}
	if *s.StoreOnDisk {
		add("store", s.StoreDisk, true)
	}
	for i, v := range s.Volumes {
		add("volume"+strconv.Itoa(i), v.Image, v.ReadOnly)
	}
	return drives
}

// merge merges src into dst, recursively for objects; other values are replaced.
func merge(dst, src object) {
	for key, value := range src {
		inner, ok := value.(object)
		base, both := dst[key].(object)
		if ok && both {
			merge(base, inner)
			continue
		}
		dst[key] = value
	}
}

// literals returns a JSON value of the spec with all its strings escaped by Literal.
func literals(value any) any {
	switch v := value.(type) {
	case string:
		return Literal(v)
	case object:
		out := make(object, len(v))
		for key, inner := range v {
			out[Literal(key)] = literals(inner)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, inner := range v {
			out[i] = literals(inner)
		}
		return out
	}
	return value
}

func jsonText(value any) (string, error) {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(value); err != nil {
		return "", err
	}
	return out.String(), nil
}
