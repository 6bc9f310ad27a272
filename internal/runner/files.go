// Package runner builds and reads runner packages (contract 1 of the design):
// directories that define completely how to run one VM, as data and a few
// programs for hosts that know no runner.json.
//
// A package may be made by microvm.nix or by anyone else. Its text files are
// read with bounds and every name in them is validated, so that a plan that
// leaves this package holds only names that are safe to use.
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
