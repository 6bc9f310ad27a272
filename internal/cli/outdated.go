package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	"microvm/internal/foreign"
	"microvm/internal/printable"
	"microvm/internal/statedir"
	"microvm/internal/term"
	"microvm/internal/vm"
)

// outdated reports whether an update of the VM would install another package.
func outdated(ctx context.Context, c *Command, v statedir.VM) (bool, error) {
	from, err := v.Origin()
	if err != nil {
		return false, err
	}
	current := filepath.Join(v.Dir(), "current")
	switch {
	case from.Toplevel != "":
		plan, ok := vm.PlanAt(current)
		// A package without a system was not built by NixOS.
		return ok && plan.System != "" && plan.System != from.Toplevel, nil
	case from.Flake != "":
		return outdatedFlake(ctx, v, from.Flake)
	case from.Spec != "":
		s, err := parseFor(v.Host, v.Name, from.Spec)
		if err != nil {
			return false, err
		}
		plan, err := newBuilder(c, foreign.InUnit).Compile(s)
		if err != nil {
			return false, err
		}
		installed, ok := vm.PlanAt(current)
		return !ok || !samePlan(plan, installed), nil
	}
	return false, nil
}

// outdatedFlake evaluates the VM's runner package. To evaluate its system would not be
// enough: the same system may get more memory.
func outdatedFlake(ctx context.Context, v statedir.VM, flake string) (bool, error) {
	var stderr bytes.Buffer
	out, err := nix(ctx, &stderr, "eval", "--raw", installable(flake, v.Name))
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		return false, fmt.Errorf("nix could not evaluate flake %s: %w%s", flake, err, term.Indent(printable.LastLines(stderr.String(), linesOfFailure)))
	}
	if err != nil {
		return false, err
	}
	current, err := filepath.EvalSymlinks(filepath.Join(v.Dir(), "current"))
	if err != nil {
		return false, fmt.Errorf("resolve the installed package: %w", err)
	}
	// Outside of the Nix store, a copy of the package is installed.
	if out = strings.TrimSpace(out); out != current {
		place, err := v.Place(out)
		return err != nil || place != current, nil
	}
	return false, nil
}
