package programs

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"

	"microvm/internal/exit"
	"microvm/internal/statedir"
)

const installUsage = `usage: install-microvm -p PACKAGE [--flake REF | --spec FILE] [--toplevel PATH] NAME
       install-microvm --relink

Makes the runner package PACKAGE the one that the next start of VM NAME uses.
A running VM keeps what it was started with.

With --relink, after an upgrade of microvm, it makes the drop-ins of the units of
all installed VMs anew.
`

// Install is install-microvm: it puts a runner package in place for the next start
// of a VM. reload tells the service manager of new drop-ins.
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
		return exit.Report(stderr, program, "", host.Relink(ctx, reload))
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
		code := exit.Report(stderr, program, "", exit.Usage(err))
		_, _ = fmt.Fprint(stderr, installUsage)
		return code
	}
	vm, err := host.VM(flags.Arg(0))
	if err != nil {
		return exit.Report(stderr, program, "", exit.Config(err))
	}
	return exit.Report(stderr, program, vm.Name, vm.Install(ctx, *pkg, from, reload))
}
