package programs

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"microvm/internal/exit"
	"microvm/internal/statedir"
	"microvm/internal/systemd"
	"microvm/internal/unit"
)

const installUsage = `usage: install-microvm -p PACKAGE [--flake REF | --spec FILE] [--toplevel PATH] NAME
       install-microvm --relink

Install the runner package PACKAGE for the next start of VM NAME. A running VM
keeps the package that it was started with.

Options:
  -p, --package PACKAGE  directory of the runner package
  --flake REF            flake that updates are built from
  --spec FILE            spec that updates are built from
  --toplevel PATH        the NixOS system of the guest
  --relink               rewrite the drop-ins of all installed VMs' units, which
                         is necessary after an upgrade of microvm
`

// Install is install-microvm: it installs a runner package for the next start of a
// VM. reload makes the service manager load new drop-ins. Install returns the exit
// code.
func Install(ctx context.Context, args []string, host statedir.Host, reload func(context.Context) error, stdout, stderr io.Writer) int {
	const program = "install-microvm"
	flags := flag.NewFlagSet(program, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	var from statedir.Origin
	pkg := flags.String("p", "", "")
	flags.StringVar(pkg, "package", "", "")
	flags.StringVar(&from.Flake, "flake", "", "")
	flags.StringVar(&from.Spec, "spec", "", "")
	flags.StringVar(&from.Toplevel, "toplevel", "", "")
	relink := flags.Bool("relink", false, "")
	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		_, _ = fmt.Fprint(stdout, installUsage)
		return exit.CodeOK
	}
	if err == nil && *relink && len(args) == 1 {
		return exit.Report(stderr, program, "", errors.Join(findForeignStarts(ctx, host), host.Relink(ctx, reload)))
	}
	if err == nil && *relink {
		err = errors.New("--relink takes no other arguments")
	}
	if err == nil && (flags.NArg() != 1 || *pkg == "") {
		err = errors.New("-p PACKAGE and exactly one NAME are required")
	}
	if err == nil && from.Flake != "" && from.Spec != "" {
		err = errors.New("--flake and --spec are mutually exclusive")
	}
	if err != nil {
		code := exit.Report(stderr, program, "", exit.Usage(err))
		_, _ = fmt.Fprint(stderr, installUsage)
		return code
	}
	vm, err := host.VM(flags.Arg(0))
	if err != nil {
		return exit.Report(stderr, program, "", exit.Config(err))
	}
	return exit.Report(stderr, program, vm.Name, errors.Join(findForeignStarts(ctx, host), vm.Install(ctx, *pkg, from, reload)))
}

// findForeignStarts records which VMs microvm.nix started last, on a host that went
// back to microvm.nix and returns now. After an installation that can no longer be
// found out.
func findForeignStarts(ctx context.Context, host statedir.Host) error {
	if os.Geteuid() != 0 || !systemd.Running() {
		return nil
	}
	units, err := systemd.ListUnits(ctx, unit.SetBooted.Of("*"))
	if err != nil {
		return err
	}
	units = slices.DeleteFunc(units, func(u systemd.Unit) bool { return u.Active != "active" })
	properties, err := systemd.Properties(ctx, units...)
	if err != nil {
		return err
	}
	var errs error
	for _, u := range units {
		started, ok := properties[u.Name]["ExecMainStartTimestamp"].Value().(uint64)
		_, name, isOurs := unit.Parse(u.Name)
		vm, err := host.VM(name)
		if err != nil || !ok || !isOurs {
			continue
		}
		errs = errors.Join(errs, vm.BelieveAnother(time.UnixMicro(int64(started))))
	}
	return errs
}
