// Package installer is the install-microvm program: it puts a runner package
// in place for the next start of a VM.
package installer

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"microvm/internal/helper"
	"microvm/internal/statedir"
	"microvm/internal/systemd"
)

const usage = `usage: install-microvm -p PACKAGE [--flake REF | --spec FILE] [--toplevel PATH] NAME
       install-microvm --relink

Makes the runner package PACKAGE the one that the next start of VM NAME uses.
A running VM keeps what it was started with.

With --relink, after an upgrade of microvm, it makes the drop-ins of the units of
all installed VMs anew.
`

// Run does what the arguments say and returns the exit code.
func Run(ctx context.Context, args []string, host statedir.Host, stdout, stderr io.Writer) int {
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
		_, _ = fmt.Fprint(stdout, usage)
		return helper.ExitOK
	}
	if err == nil && *relink && len(args) == 1 {
		return helper.Report(stderr, program, "", errors.Join(believeAnother(ctx, host), host.Relink(ctx, systemd.Reload)))
	}
	if err == nil && *relink {
		err = errors.New("--relink takes no other arguments")
	}
	if err == nil && (flags.NArg() != 1 || *pkg == "") {
		err = errors.New("a package and exactly one name are needed, as in: install-microvm -p PACKAGE NAME")
	}
	if err == nil && from.Flake != "" && from.Spec != "" {
		err = errors.New("--flake and --spec exclude each other; name the one that updates are to come from")
	}
	if err != nil {
		_, _ = fmt.Fprintf(stderr, "%s: %v\n%s", program, err, usage)
		return helper.ExitUsage
	}
	vm, err := host.VM(flags.Arg(0))
	if err != nil {
		return helper.Report(stderr, program, "", helper.Config(err))
	}
	return helper.Report(stderr, program, vm.Name, errors.Join(believeAnother(ctx, host), vm.Install(ctx, *pkg, from, systemd.Reload)))
}

// believeAnother looks for VMs that microvm.nix started after we did, on a host that
// went back and comes again. Once they are installed, nobody can tell any more.
func believeAnother(ctx context.Context, host statedir.Host) error {
	if os.Geteuid() != 0 || !systemd.Running() {
		return nil
	}
	const unit = "microvm-set-booted@"
	units, err := systemd.ListUnits(ctx, unit+"*.service")
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
		vm, err := host.VM(strings.TrimSuffix(strings.TrimPrefix(u.Name, unit), ".service"))
		if err != nil || !ok {
			continue
		}
		errs = errors.Join(errs, vm.BelieveAnother(time.UnixMicro(int64(started)))) //nolint:gosec // microseconds since 1970
	}
	return errs
}
