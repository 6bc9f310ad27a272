package hypervisor

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"microvm/internal/spec"
)

// cloudHypervisor compiles for Cloud Hypervisor 20 to 54; options as
// "cloud-hypervisor --help" of version 54 and the release notes of the others.
type cloudHypervisor struct{}

// vsockSocket is the Unix socket of a vsock multiplexer, in the state directory.
const vsockSocket = "notify.vsock"

// Limits of Cloud Hypervisor.
const (
	// chBlock is VIRTIO_MEM_ALIGN_SIZE in MiB, virtio-devices/src/mem.rs.
	chBlock = 128
	// chOldCPUs is what version 48 lifted.
	chOldCPUs = 254
)

// chArgs collects the argument vector of one VM.
type chArgs struct {
	s    *spec.Spec
	p    *Plan
	argv []string
	// own are the values that extraArgs gives for options that are ours as well;
	// rest is everything else in it.
	own  map[string][]string
	rest []string
	// repeat says that an option is given once a value: from 30 until 36, when
	// the program read its arguments by argh.
	repeat bool
	// imageType says that --disk knows image_type, since 52; older ones look.
	imageType bool
	// locks says that it locks its disks, since 46; what cannot be asked may.
	locks bool
	// hasLandlock says that there is --landlock, since 41.
	hasLandlock bool
	// uuid is the key of the guest's UUID in --platform, which has another name
	// since 53.
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
		// From 54 on: it locks this file while it has the socket, and leaves it
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
		if word != "--watchdog" { // ours already, and it is taken once only
			a.add(Literal(word))
		}
	}
	p.Argv = a.argv
	return nil
}

// askVersion finds out what this version of the program takes.
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

// landlock confines Cloud Hypervisor to its VM's files. It sees itself to those
// that its options name (vmm/src/vm_config.rs), less the directory of a vsock
// whose path is relative and what it reads of a tap. Of a passed through device
// it allows the wrong file, as of 53.
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
		a.p.Notes = append(a.p.Notes, "Cloud Hypervisor is confined to the VM's files where the host's kernel has Landlock of version 3 (Linux 6.2)")
		return
	}
	a.rest = slices.DeleteFunc(a.rest, func(word string) bool { return word == "--landlock" })
	a.add(words...)
}

// kernelLine is the command line as it is: Cloud Hypervisor adds nothing.
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
		faults.Addf("vcpu", "%d is not possible; Cloud Hypervisor before 48 has %d at most", s.VCPU, chOldCPUs)
	}
	own, _ := chOptions(s)
	if with, err := withVsock(s, own["--vsock"]); err != nil {
		faults.Addf(path, "%v", err)
	} else {
		faults = append(faults, refuseReadiness(with, s.Socket.Value != nil)...)
	}
	if _, ok := optionKey(own["--cpus"], "boot"); ok {
		faults.Addf(path, "--cpus has boot=, which is option vcpu; take it out here")
	}
	if _, ok := optionKey(own["--platform"], "oem_strings"); ok {
		faults.Addf(path, "--platform has oem_strings=, which is option cloud-hypervisor.platformOEMStrings; move them there")
	}
	if cid, ok := optionKey(own["--vsock"], "cid"); ok && s.Vsock.CID != nil && cid != strconv.FormatInt(*s.Vsock.CID, 10) {
		faults.Addf(path, "--vsock has cid=%s, and vsock.cid is %d\nhint: take one of them out", cid, *s.Vsock.CID)
	}
	for i, text := range s.CloudHypervisor.PlatformOEMStrings {
		if strings.ContainsAny(text, ",[]\"") {
			faults.Addf(fmt.Sprintf("cloud-hypervisor.platformOEMStrings[%d]", i), "%q has one of , [ ] \", which end the string for Cloud Hypervisor; encode it", text)
		}
	}
	return faults
}

// withVsock is the spec with the CID that --vsock in extraArgs gives, where it
// has none of its own.
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

// addAll gives an option its values in the program's own way.
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

// merged joins our part of an option and what extraArgs adds to it.
func (a *chArgs) merged(option string, ours ...string) string {
	for _, v := range a.own[option] {
		ours = append(ours, Literal(v))
	}
	return strings.Join(ours, ",")
}

// vsock is the context ID that extraArgs gives, and the multiplexer's socket.
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

// shared says that another process maps the guest's memory.
func (a *chArgs) shared() bool { return len(a.p.Shares) > 0 || a.s.Graphics.Enable }

func (a *chArgs) memory() string {
	memory := fmt.Sprintf("size=%dM", a.s.Mem)
	if a.shared() {
		memory += ",shared=on" // which excludes merging
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

// commandLine names the serial port only where it goes to the journal: a user's
// own choice may have no console there.
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

// platform hands the guest its identity and the credential with the address for
// its notifications, as SMBIOS strings: systemd.exec(5), systemd(1).
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
