package hypervisor

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"microvm/internal/spec"
)

// faultsOf returns the paths of the faults that a hypervisor finds in a document.
func faultsOf(t *testing.T, hypervisor, members string) []string {
	t.Helper()
	var paths []string
	_, err := compileFor(t, hypervisor, members)
	faults, _ := err.(spec.Faults) // what Compile returns
	if err != nil && faults == nil {
		t.Fatal(err)
	}
	for _, f := range faults {
		paths = append(paths, f.Path)
	}
	return paths
}

// TestNumbersAreHeldToEachHypervisorsLimits: the maximum is compiled, and one more is
// refused.
func TestNumbersAreHeldToEachHypervisorsLimits(t *testing.T) {
	const vcpu, mem = `"vcpu":%d`, `"mem":%d`
	q35 := `"qemu":{"machine":"q35"},`
	arm := `"arch":"aarch64",`
	for name, c := range map[string]struct {
		hypervisor, members, path string
		last, step                int
	}{
		"CPUs of microvm":                    {"qemu", vcpu, "vcpu", 288, 1},
		"CPUs of q35":                        {"qemu", q35 + vcpu, "vcpu", 4096, 1},
		"CPUs of pc":                         {"qemu", `"qemu":{"machine":"pc"},` + vcpu, "vcpu", 255, 1},
		"CPUs of another machine":            {"qemu", `"qemu":{"machine":"pc-q35-9.0"},` + vcpu, "vcpu", 4096, 1},
		"CPUs of virt":                       {"qemu", arm + vcpu, "vcpu", 512, 1},
		"CPUs of Cloud Hypervisor":           {"cloud-hypervisor", vcpu, "vcpu", 4096, 1},
		"CPUs of Cloud Hypervisor on Arm":    {"cloud-hypervisor", arm + vcpu, "vcpu", 255, 1},
		"CPUs of Firecracker":                {"firecracker", vcpu, "vcpu", 32, 1},
		"CPUs of Firecracker on Arm":         {"firecracker", arm + vcpu, "vcpu", 32, 1},
		"CPUs of crosvm":                     {"crosvm", vcpu, "vcpu", 254, 1},
		"CPUs of crosvm on Arm":              {"crosvm", arm + vcpu, "vcpu", 512, 1},
		"CPUs of kvmtool":                    {"kvmtool", vcpu, "vcpu", 4096, 1},
		"CPUs of kvmtool on Arm":             {"kvmtool", arm + vcpu, "vcpu", 512, 1},
		"CPUs of StratoVirt":                 {"stratovirt", vcpu, "vcpu", 254, 1},
		"CPUs of alioth":                     {"alioth", vcpu, "vcpu", 4096, 1},
		"memory of microvm":                  {"qemu", mem, "mem", 1 << 32, 1},
		"memory of virt":                     {"qemu", arm + mem, "mem", 1 << 32, 1},
		"memory of Cloud Hypervisor":         {"cloud-hypervisor", mem, "mem", 1 << 32, 1},
		"memory of Firecracker":              {"firecracker", mem, "mem", 1 << 32, 1},
		"memory of Firecracker on Arm":       {"firecracker", arm + mem, "mem", 1 << 32, 1},
		"memory of crosvm":                   {"crosvm", mem, "mem", 1 << 32, 1},
		"memory of kvmtool":                  {"kvmtool", mem, "mem", 1 << 32, 1},
		"memory of alioth":                   {"alioth", mem, "mem", 1 << 32, 1},
		"memory of StratoVirt":               {"stratovirt", mem, "mem", 512 << 10, 1},
		"the least of StratoVirt":            {"stratovirt", mem, "mem", 128, -1},
		"memory to plug":                     {"qemu", q35 + `"mem":512,"hotpluggedMem":0,"hotplugMem":%d`, "hotplugMem", 1<<32 - 512, 2},
		"memory to plug of Cloud Hypervisor": {"cloud-hypervisor", `"hotpluggedMem":0,"hotplugMem":%d`, "hotplugMem", 256, 64},
		"plugged in odd blocks":              {"cloud-hypervisor", `"hotplugMem":128,"hotpluggedMem":%d`, "hotpluggedMem", 64, 1},
		"huge pages of Cloud Hypervisor":     {"cloud-hypervisor", `"hugepageMem":true,"mem":%d`, "mem", 512, 1},
	} {
		if got := faultsOf(t, c.hypervisor, fmt.Sprintf(c.members, c.last)); got != nil {
			t.Errorf("%s: %d is refused (%v)", name, c.last, got)
		}
		if got := faultsOf(t, c.hypervisor, fmt.Sprintf(c.members, c.last+c.step)); !slices.Equal(got, []string{c.path}) {
			t.Errorf("%s: of %d, %v are refused; want %s", name, c.last+c.step, got, c.path)
		}
	}
	for name := range backends {
		for _, members := range []string{`"vcpu":100000`, `"mem":99999999999`} {
			if len(faultsOf(t, name, members)) == 0 {
				t.Errorf("%s takes %s", name, members)
			}
		}
	}
}

// TestDevicesAreCounted for the hypervisors with one bus for all devices.
func TestDevicesAreCounted(t *testing.T) {
	for name, c := range map[string]struct {
		hypervisor, before string
		last               int
	}{
		"Cloud Hypervisor, with a vsock":   {"cloud-hypervisor", `"vsock":{"cid":3},`, 28},
		"crosvm, with a balloon":           {"crosvm", `"balloon":true,`, 29},
		"Firecracker without PCI":          {"firecracker", ``, 18},
		"Firecracker, made to have a PCI":  {"firecracker", `"firecracker":{"extraArgs":["--enable-pci"]},`, 30},
		"Firecracker on Arm":               {"firecracker", `"arch":"aarch64",`, 30},
		"QEMU's q35, with a console":       {"qemu", `"qemu":{"machine":"q35"},`, 28},
		"QEMU's microvm, moved to PCI too": {"qemu", ``, 28},
	} {
		if got := faultsOf(t, c.hypervisor, c.before+volumes(c.last)); got != nil {
			t.Errorf("%s: %d disks are refused (%v)", name, c.last, got)
		}
		if got := faultsOf(t, c.hypervisor, c.before+volumes(c.last+1)); len(got) != 1 {
			t.Errorf("%s: of %d disks, %v are refused", name, c.last+1, got)
		}
	}
}

// TestWhatIsCutIsWarnedOf: hypervisors that lower a number cause a warning.
func TestWhatIsCutIsWarnedOf(t *testing.T) {
	for _, c := range []struct {
		hypervisor, members, want string
	}{
		{"kvmtool", `"vcpu":255`, ""},
		{"kvmtool", `"vcpu":256`, "warning: vcpu: kvmtool starts the VM with 255 CPUs instead of 256"},
		{"firecracker", `"arch":"aarch64","mem":1046528`, ""},
		{"firecracker", `"arch":"aarch64","mem":1046529`, "warning: mem: Firecracker starts the VM with 1046528 MiB instead of 1046529"},
		{"firecracker", `"mem":1046529`, ""},
		{"qemu", `"mem":2048,"hugepageMem":true`, "warning: mem: QEMU may hang with exactly 2048 MiB (2046 and 2050 work)"},
	} {
		p, err := compileFor(t, c.hypervisor, c.members)
		if err != nil {
			t.Fatal(err)
		}
		var warnings []string
		for _, n := range p.Notes {
			if strings.HasPrefix(n, "warning: ") {
				warnings = append(warnings, n)
			}
		}
		if got := strings.Join(warnings, "\n"); got != c.want {
			t.Errorf("%s with %s warns %q, want %q", c.hypervisor, c.members, got, c.want)
		}
	}
}

// TestNoTapHasMoreQueuesThanLinuxAllows, however many CPUs there are.
func TestNoTapHasMoreQueuesThanLinuxAllows(t *testing.T) {
	for hypervisor, want := range map[string]string{"qemu": "queues=256", "cloud-hypervisor": "num_queues=512", "alioth": "qp=256"} {
		p, err := compileFor(t, hypervisor, `"vcpu":280,`+interfaces(1, "tap"))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(p.Argv, func(a string) bool { return strings.HasSuffix(a, want) || strings.Contains(a, want+",") }) {
			t.Errorf("%s: no %s in %q", hypervisor, want, p.Argv)
		}
	}
}

// TestNoKernelLineIsTooLongForItsKernel: a command line of the maximum length is compiled
// for each hypervisor, and one more byte is refused.
func TestNoKernelLineIsTooLongForItsKernel(t *testing.T) {
	tap := interfaces(1, "tap")
	for name, c := range map[string]struct {
		hypervisor, members string
		// adds is what the hypervisor adds, which is not in the plan.
		adds string
	}{
		"QEMU":                              {"qemu", tap, ""},
		"QEMU, with the guest asked":        {"qemu", `"socket":null,"vsock":{"cid":3}`, ""},
		"QEMU's virt":                       {"qemu", `"arch":"aarch64"`, ""},
		"QEMU without ACPI":                 {"qemu", `"qemu":{"machineOpts":{"acpi":"off"}},` + tap, strings.Repeat(" virtio_mmio.device=512@0xfeb00000:28", 3)},
		"QEMU that keeps silent":            {"qemu", `"qemu":{"machineOpts":{"acpi":"off","auto-kernel-cmdline":"off"}},` + tap, ""},
		"Cloud Hypervisor":                  {"cloud-hypervisor", tap, ""},
		"Cloud Hypervisor, its guest asked": {"cloud-hypervisor", `"socket":null,"vsock":{"cid":3}`, ""},
		"Firecracker without PCI":           {"firecracker", tap + `,"vsock":{"cid":3},"balloon":true,` + volumes(2), " pci=off" + strings.Repeat(" virtio_mmio.device=4K@0xc0001000:23", 6)},
		"Firecracker with PCI":              {"firecracker", `"firecracker":{"extraArgs":["--enable-pci"]},` + tap, ""},
		"Firecracker on Arm":                {"firecracker", `"arch":"aarch64","vsock":{"cid":3},` + tap, " earlycon=uart,mmio,0x40002000 pci=off"},
		"Firecracker with a root":           {"firecracker", `"firecracker":{"extraArgs":["--enable-pci"],"extraConfig":{"drives":[{"is_root_device":true,"is_read_only":true,"partuuid":"0eaa91a0-01"}]}}`, " root=PARTUUID=0eaa91a0-01 ro"},
		"crosvm":                            {"crosvm", tap, "panic=-1 console=ttyS0 "},
		"crosvm, with the guest asked":      {"crosvm", `"arch":"aarch64","vsock":{"cid":3}`, "panic=-1 console=ttyS0 "},
		"kvmtool":                           {"kvmtool", `"vsock":{"cid":3}`, ""},
		"StratoVirt":                        {"stratovirt", `"vsock":{"cid":3}`, strings.Repeat(" virtio_mmio.device=512@0xf0100000:15", 7)},
		"StratoVirt's virt":                 {"stratovirt", `"arch":"aarch64"`, ""},
		"alioth":                            {"alioth", `"vsock":{"cid":3}`, ""},
	} {
		line := func(fill int) string {
			var words []string // StratoVirt refuses long ones
			for fill > 200 {
				words, fill = append(words, `"`+strings.Repeat("y", 199)+`"`), fill-200
			}
			return c.members + `,"kernelParams":[` + strings.Join(append(words, `"`+strings.Repeat("x", fill)+`"`), ",") + `]`
		}
		p, err := compileFor(t, c.hypervisor, line(1))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		n, err := kernelLineLength(lineOf(t, p) + c.adds)
		if err != nil {
			t.Fatal(err)
		}
		room := maxKernelLine - n + 1
		if got := faultsOf(t, c.hypervisor, line(room)); got != nil {
			t.Errorf("%s: a line of %d bytes is refused (%v)", name, maxKernelLine, got)
		}
		if got := faultsOf(t, c.hypervisor, line(room+1)); !slices.Equal(got, []string{"kernelParams"}) {
			t.Errorf("%s: a line of %d bytes is not refused (%v)", name, maxKernelLine+1, got)
		}
	}
}

// lineOf returns the kernel's command line in a plan.
func lineOf(t *testing.T, p *Plan) string {
	t.Helper()
	for i, a := range p.Argv {
		if slices.Contains([]string{"-append", "--cmdline", "--params", "-p"}, a) {
			return p.Argv[i+1]
		}
	}
	for _, g := range p.Generated {
		if _, after, found := strings.Cut(g.Content, `"boot_args": "`); found {
			line, _, _ := strings.Cut(after, `"`)
			return line
		}
	}
	t.Fatalf("no command line in %q", p.Argv)
	return ""
}

// TestTheLongestKernelLineHasNoPlaceholderLeft: placeholders are counted with the length of
// their longest value.
func TestTheLongestKernelLineHasNoPlaceholderLeft(t *testing.T) {
	n, err := kernelLineLength("a " + keyCredential + " b=" + TSCKHz)
	if want := len("a systemd.set_credential_binary="+sshCredential+":") + len(longestKey) + len(" b=") + len(longestPort); err != nil || n != want {
		t.Errorf("counted %d bytes, want %d (%v)", n, want, err)
	}
}
