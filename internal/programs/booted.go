package programs

import (
	"errors"
	"io"
	"io/fs"

	"microvm/internal/exit"
	"microvm/internal/statedir"
	"microvm/internal/unit"
)

// SetBooted is microvm-set-booted up|down NAME: it pins and unpins the package that a
// start uses. It returns the exit code.
func SetBooted(args []string, host statedir.Host, stderr io.Writer) int {
	program := unit.SetBooted.Program
	if len(args) != 2 || args[0] != "up" && args[0] != "down" {
		return exit.Report(stderr, program, "", exit.Usagef("usage: %s up|down NAME", program))
	}
	vm, err := host.VM(args[1])
	if err != nil {
		return exit.Report(stderr, program, "", exit.Config(err))
	}
	if args[0] == "down" {
		// Before the package is unpinned, which names the images.
		_ = exit.Report(stderr, program, vm.Name, recordVolumes(vm))
		return exit.Report(stderr, program, vm.Name, vm.ClearBooted())
	}
	if err := vm.SetBooted(); err != nil {
		return exit.Report(stderr, program, vm.Name, vm.PackageError(err))
	}
	// A failure to record does not prevent the start.
	_ = exit.Report(stderr, program, vm.Name, recordVolumes(vm))
	return exit.CodeOK
}

// recordVolumes records the file systems of the booted VM's images.
func recordVolumes(vm statedir.VM) error {
	if !vm.Adopted() {
		return nil // a VM of microvm.nix, which has no record
	}
	p, err := vm.Booted()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = p.Close() }()
	plan, err := p.Plan()
	if err != nil {
		return err
	}
	images := make([]string, len(plan.Volumes))
	for i, v := range plan.Volumes {
		images[i] = v.Image
	}
	return vm.RecordVolumes(images)
}
