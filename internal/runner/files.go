// Package runner builds and reads runner packages: directories that define completely how
// to run one VM, as data, and as a few programs for hosts that do not read runner.json.
// docs/conventions.md describes their files.
//
// A package may come from microvm.nix or from anyone else. Its files are read with bounds
// and every name in them is validated, so a plan that this package returns contains only
// names that are safe to use.
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
