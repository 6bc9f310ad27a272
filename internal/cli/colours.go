package cli

import (
	"microvm/internal/term"
	"microvm/internal/vm"
)

func stateColour(state string) string {
	switch state {
	case "active":
		return term.Green
	case "failed":
		return term.Red
	case "inactive":
		return term.Dim
	}
	return term.Yellow
}

func runnerColour(runner string) string {
	switch runner {
	case vm.RunnerCurrent:
		return term.Green
	case vm.RunnerOutdated, vm.RunnerUnknown:
		return term.Red
	case vm.RunnerStale:
		return term.Yellow
	}
	return term.Dim
}
