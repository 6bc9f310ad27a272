package helper

import (
	"io"

	"microvm/internal/statedir"
)

// SetBooted is microvm-set-booted up|down NAME: it pins and unpins the runner
// that a start uses.
func SetBooted(args []string, host statedir.Host, stderr io.Writer) int {
	const program = "microvm-set-booted"
	if len(args) != 2 || args[0] != "up" && args[0] != "down" {
		return Report(stderr, program, "", usageError("usage: microvm-set-booted up|down NAME"))
	}
	vm, err := host.VM(args[1])
	if err != nil {
		return Report(stderr, program, "", Config(err))
	}
	if args[0] == "down" {
		return Report(stderr, program, vm.Name, vm.ClearBooted())
	}
	return Report(stderr, program, vm.Name, PackageError(vm, vm.SetBooted()))
}
