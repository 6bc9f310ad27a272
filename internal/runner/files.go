package runner

// Names inside a package.
const (
	dataDir           = "share/microvm"
	planFile          = dataDir + "/runner.json"
	tapFile           = dataDir + "/tap-interfaces"
	tapFlagsFile      = dataDir + "/tap-flags"
	macvtapFile       = dataDir + "/macvtap-interfaces"
	pciFile           = dataDir + "/pci-devices"
	usbFile           = dataDir + "/usb-devices"
	virtiofsDir       = dataDir + "/virtiofs"
	vsockFile         = dataDir + "/vsock-cid"
	hypervisorFile    = dataDir + "/hypervisor"
	systemLink        = dataDir + "/system"
	RunProgram        = "bin/microvm-run"
	ShutdownProgram   = "bin/microvm-shutdown"
	maxFile           = 1 << 20 // a plan has some kilobytes
	maxSharesInPack   = 256
	maxInterfacesPack = 4096
)
