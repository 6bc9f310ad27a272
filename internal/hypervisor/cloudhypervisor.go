package hypervisor

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"microvm/internal/spec"
)

// cloudHypervisor compiles for Cloud Hypervisor 20 to 54. Its options are those of
// "cloud-hypervisor --help" of version 54, and of the release notes of the others.
type cloudHypervisor struct{}

// vsockSocket is the path, in the state directory, of a vsock multiplexer's Unix socket.
const vsockSocket = "notify.vsock"

// Limits of Cloud Hypervisor.
const (
	// chBlock is VIRTIO_MEM_ALIGN_SIZE in MiB, virtio-devices/src/mem.rs.
	chBlock = 128
	// chOldCPUs is the maximum number of CPUs before version 48.
	chOldCPUs = 254
)

// chArgs collects the argument vector of one VM.
type chArgs struct {
	s    *spec.Spec
	p    *Plan
	argv []string
	// own are the values in extraArgs of options that we set as well; rest are all
	// other arguments in it.
	own  map[string][]string
	rest []string
	// repeat means that an option is repeated for each value: versions 30 to 35 parsed
	// their arguments with argh.
	repeat bool
	// imageType means that --disk has image_type, since 52; older ones probe.
	imageType bool
	// locks means that it locks its disks, since 46, or may if its version is unknown.
	locks bool
	// hasLandlock means that it has --landlock, since 41.
	hasLandlock bool
	// uuid is the key of the guest's UUID in --platform, which was renamed in 53.
	uuid string
}

func (cloudHypervisor) compile(b *Builder, s *spec.Spec, p *Plan) error {
	program := programOf(s.CloudHypervisor.Package, "cloud-hypervisor", "cloud-hypervisor")
	own, rest := chOptions(s)
	s, err := withVsock(s, own["--vsock"])
	if err != nil {
		return err
	}
	a := &chArgs{s: s, p: p, own: own, rest: rest}
	a.askVersion(b, program)
	control := controlOf(s, "cloud-hypervisor")
	cid, socket := a.vsock()
	p.VsockCID = s.Vsock.CID
	p.Readiness = readiness(s, true, control, socket)
	p.KVM = KVMRequired
	p.Shutdown, err = viaGuest(s, "socket is null, so Cloud Hypervisor cannot be asked", socket)
	if err != nil {
		return err
	}
	if control != nil {
		p.Shutdown = Shutdown{Method: ShutdownPowerButton, Control: control, Why: "Cloud Hypervisor has an ACPI power button"}
	}
	if s.Balloon {
		p.Balloon = control
	}
	a.add(program, "--cpus", a.merged("--cpus", "boot="+strconv.Itoa(s.VCPU)), "--memory", a.memory())
	kernel := Literal(s.Kernel)
	if b.older(program, 39, 0) {
		kernel = elfKernel(s, p)
	}
	a.add("--kernel", kernel)
	if s.InitrdPath != "" {
		a.add("--initramfs", Literal(s.InitrdPath))
	}
	a.add("--cmdline", a.commandLine(), "--seccomp", "true", "--watchdog")
	a.console()
	if platform := a.platform(); platform != "" {
		a.add("--platform", platform)
	}
	if control != nil {
		a.add("--api-socket", Literal(control.Socket))
		// Since 54 it locks this file while it has the socket, and does not remove it
		// (acquire_api_socket_lock, vmm/src/api/http/mod.rs).
		p.StaleFiles = append(p.StaleFiles, control.Socket+".lock")
	}
	if cid != "" || s.Vsock.CID != nil {
		a.add("--vsock", a.vsockOption(socket))
		p.StaleSockets = append(p.StaleSockets, socket)
	}
	a.balloon()
	a.gpu()
	a.disks()
	a.shares()
	a.interfaces()
	a.devices()
	a.landlock()
	for _, word := range a.rest {
		if word != "--watchdog" { // we add it, and it is allowed only once
			a.add(Literal(word))
		}
	}
	p.Argv = a.argv
	return nil
}

// askVersion finds out which options this version of the program has.
func (a *chArgs) askVersion(b *Builder, program string) {
	a.repeat = b.atLeast(program, 30, 0) && !b.atLeast(program, 36, 0)
	a.imageType = !b.older(program, 52, 0)
	a.locks = !b.older(program, 46, 0)
	a.hasLandlock = b.atLeast(program, 41, 0)
	a.uuid = "system_uuid"
	if a.s.MachineID.Value != nil && b.older(program, 53, 0) {
		a.uuid = "uuid"
	}
}

// landlock confines Cloud Hypervisor to its VM's files. By itself it allows the files
// that its options name (vmm/src/vm_config.rs), but not the directory of a vsock socket
// with a relative path, nor the files of a tap in /sys. For a device that is passed
// through, it allows the wrong file, as of 53.
func (a *chArgs) landlock() {
	asked := slices.Contains(a.rest, "--landlock")
	var rules []string
	a.rest, rules = cutValues(a.rest, "--landlock-rules")
	wanted := *a.s.CloudHypervisor.Landlock && a.hasLandlock && len(a.s.Devices) == 0 && !a.s.Graphics.Enable
	if !asked && !wanted {
		if len(rules) > 0 {
			a.rest = append(a.rest, append([]string{"--landlock-rules"}, rules...)...)
		}
		return
	}
	words := []string{"--landlock", "--landlock-rules", "path=.,access=rw"}
	if len(a.p.Taps) > 0 {
		words = append(words, "path=/sys/devices/virtual/net,access=r")
	}
	for _, rule := range rules {
		words = append(words, Literal(rule))
	}
	if !asked {
		a.p.Landlock = words
		a.p.Notes = append(a.p.Notes, "Landlock confines Cloud Hypervisor to the VM's files if the kernel has version 3 of it (Linux 6.2)")
		return
	}
	a.rest = slices.DeleteFunc(a.rest, func(word string) bool { return word == "--landlock" })
	a.add(words...)
}

// kernelLine returns the command line unchanged: Cloud Hypervisor adds nothing.
func (cloudHypervisor) kernelLine(_ *Builder, s *spec.Spec) (string, error) {
	own, rest := chOptions(s)
	with, err := withVsock(s, own["--vsock"])
	if err != nil {
		return "", err
	}
	a := &chArgs{s: with, p: &Plan{}, own: own, rest: rest}
	if s.Socket.Value == nil {
		_, socket := a.vsock()
		a.p.Shutdown, err = viaGuest(with, "", socket)
	}
	return a.commandLine(), err
}

func (cloudHypervisor) faults(b *Builder, s *spec.Spec) spec.Faults {
	const path = "cloud-hypervisor.extraArgs"
	faults := slices.Concat(refuseCharacters(s), refuseDisplay(s), refuseBalloon(s), refuseBlocks(s, chBlock), refuseOddPages(s))
	program := programOf(s.CloudHypervisor.Package, "cloud-hypervisor", "cloud-hypervisor")
	if s.VCPU > chOldCPUs && b.older(program, 48, 0) {
		faults.Addf("vcpu", "must be at most %d for Cloud Hypervisor before 48, not %d", chOldCPUs, s.VCPU)
	}
	own, _ := chOptions(s)
	if with, err := withVsock(s, own["--vsock"]); err != nil {
		faults.Addf(path, "%v", err)
	} else {
		faults = append(faults, refuseReadiness(with, s.Socket.Value != nil)...)
	}
	if _, ok := optionKey(own["--cpus"], "boot"); ok {
		faults.Addf(path, "--cpus must not have boot=").Hintf("set option vcpu")
	}
	if _, ok := optionKey(own["--platform"], "oem_strings"); ok {
		faults.Addf(path, "--platform must not have oem_strings=").
			Hintf("set option cloud-hypervisor.platformOEMStrings")
	}
	if cid, ok := optionKey(own["--vsock"], "cid"); ok && s.Vsock.CID != nil && cid != strconv.FormatInt(*s.Vsock.CID, 10) {
		faults.Addf(path, "--vsock has cid=%s, but vsock.cid is %d", cid, *s.Vsock.CID).Hintf("remove one of the two")
	}
	for i, text := range s.CloudHypervisor.PlatformOEMStrings {
		if strings.ContainsAny(text, ",[]\"") {
			faults.Addf(fmt.Sprintf("cloud-hypervisor.platformOEMStrings[%d]", i), "%q must not contain any of , [ ] \", which end the string for Cloud Hypervisor", text)
		}
	}
	return faults
}

// withVsock returns the spec with the CID of --vsock in extraArgs, if the spec itself has
// none.
func withVsock(s *spec.Spec, option []string) (*spec.Spec, error) {
	cid, ok := optionKey(option, "cid")
	if !ok || s.Vsock.CID != nil {
		return s, nil
	}
	n, err := strconv.ParseInt(cid, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("--vsock: cid=%s is not a number", cid)
	}
	with := *s
	with.Vsock.CID = &n
	return &with, nil
}

func (a *chArgs) add(words ...string) { a.argv = append(a.argv, words...) }

// addAll adds an option with its values in the syntax of this version.
func (a *chArgs) addAll(option string, values []string) {
	if len(values) == 0 {
		return
	}
	if !a.repeat {
		a.add(append([]string{option}, values...)...)
		return
	}
	for _, v := range values {
		a.add(option, v)
	}
}

// merged joins our values of an option and those in extraArgs.
func (a *chArgs) merged(option string, ours ...string) string {
	for _, v := range a.own[option] {
		ours = append(ours, Literal(v))
	}
	return strings.Join(ours, ",")
}

// vsock returns the context ID in extraArgs, or "", and the multiplexer's socket.
func (a *chArgs) vsock() (cid, socket string) {
	cid, _ = optionKey(a.own["--vsock"], "cid")
	socket, ok := optionKey(a.own["--vsock"], "socket")
	if !ok {
		socket = vsockSocket
	}
	return cid, socket
}

func (a *chArgs) vsockOption(socket string) string {
	var ours []string
	if _, ok := optionKey(a.own["--vsock"], "cid"); !ok {
		ours = append(ours, fmt.Sprintf("cid=%d", *a.s.Vsock.CID))
	}
	if _, ok := optionKey(a.own["--vsock"], "socket"); !ok {
		ours = append(ours, "socket="+socket)
	}
	return a.merged("--vsock", ours...)
}

// shared reports whether another process maps the guest's memory.
func (a *chArgs) shared() bool { return len(a.p.Shares) > 0 || a.s.Graphics.Enable }

func (a *chArgs) memory() string {
	memory := fmt.Sprintf("size=%dM", a.s.Mem)
	if a.shared() {
		memory += ",shared=on" // excludes merging
	} else {
		memory += ",mergeable=on"
	}
	if a.s.HugepageMem {
		memory += ",hugepages=on"
	}
	if a.s.HotplugMem > 0 {
		memory += fmt.Sprintf(",hotplug_method=virtio-mem,hotplug_size=%dM,hotplugged_size=%dM", a.s.HotplugMem, *a.s.HotpluggedMem)
	}
	return memory
}

// commandLine returns the kernel's command line. It names the serial port only if that
// goes to the journal: with a --serial of the user's own there may be no console.
func (a *chArgs) commandLine() string {
	var own []string
	if serial := a.own["--serial"]; len(serial) == 0 || serial[0] == "tty" {
		if a.s.Arch == "x86_64" {
			own = append(own, "earlyprintk=ttyS0")
		}
		own = append(own, serialConsole(a.s))
	}
	own = append(own, "reboot=t", "panic=-1")
	words := append([]string{strings.Join(own, " ")}, shutdownWords(a.p)...)
	for _, param := range a.s.KernelParams {
		words = append(words, Literal(param))
	}
	return strings.Join(words, " ")
}

func (a *chArgs) console() {
	for _, c := range []struct{ option, ours string }{{"--serial", "tty"}, {"--console", "null"}} {
		value := c.ours
		if own := a.own[c.option]; len(own) > 0 {
			value = Literal(own[len(own)-1])
		}
		a.add(c.option, value)
	}
}

// platform returns the value of --platform: the guest's UUID, and the credential with the
// address for its notifications as an SMBIOS string, see systemd.exec(5) and systemd(1).
func (a *chArgs) platform() string {
	var oem []string
	for _, text := range a.s.CloudHypervisor.PlatformOEMStrings {
		oem = append(oem, Literal(text))
	}
	if a.p.Readiness.Mode == ReadyGuest {
		oem = append(oem, "io.systemd.credential:vmm.notify_socket="+notifyAddress)
	}
	var ours []string
	if len(oem) > 0 {
		ours = append(ours, "oem_strings=["+strings.Join(oem, ",")+"]")
	}
	_, own := optionKey(a.own["--platform"], a.uuid)
	if _, other := optionKey(a.own["--platform"], "uuid"); !own && !other && a.s.MachineID.Value != nil {
		ours = append(ours, a.uuid+"="+*a.s.MachineID.Value)
	}
	return a.merged("--platform", ours...)
}

func (a *chArgs) balloon() {
	if !a.s.Balloon {
		return
	}
	balloon := fmt.Sprintf("size=%dM,free_page_reporting=on", a.s.InitialBalloonMem)
	if *a.s.DeflateOnOOM {
		balloon += ",deflate_on_oom=on"
	}
	a.add("--balloon", balloon)
}
