package programs

import (
	"errors"
	"io"
	"io/fs"
	"os"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
	"microvm/internal/netif"
	"microvm/internal/runner"
	"microvm/internal/statedir"
	"microvm/internal/unit"
)

// target is the command line of a helper.
type target struct {
	// verb is "up" or "down".
	verb string
	vm   statedir.VM
	// pkg is the directory of a package, "" for the pinned one.
	pkg string
}

// parse parses "up|down [--package DIR] NAME".
func parse(program string, args []string, host statedir.Host) (target, error) {
	usage := exit.Usagef("usage: %s up|down [--package DIR] NAME", program)
	if len(args) < 2 || args[0] != "up" && args[0] != "down" {
		return target{}, usage
	}
	t := target{verb: args[0]}
	args = args[1:]
	if len(args) == 3 && args[0] == "--package" {
		t.pkg = args[1]
		args = args[2:]
	}
	if len(args) != 1 {
		return target{}, usage
	}
	if os.Geteuid() != 0 {
		return target{}, exit.WithHint(errors.New("needs root"), "run it with sudo")
	}
	var err error
	t.vm, err = host.VM(args[0])
	return t, exit.Config(err)
}

// plan reads the plan of the pinned package, or of the one on the command line, which
// must also be owned by root.
func (t target) plan() (*hypervisor.Plan, error) {
	var p *runner.Package
	var err error
	if t.pkg != "" {
		p, err = runner.OpenTrusted(t.pkg)
	} else {
		p, err = t.vm.Pinned()
	}
	if err != nil {
		return nil, t.vm.PackageError(err)
	}
	defer func() { _ = p.Close() }()
	plan, err := p.Plan()
	return plan, t.vm.PackageError(err)
}

// Tap is microvm-tap-interfaces up|down NAME: it creates and removes a VM's tap
// interfaces. It returns the exit code.
func Tap(args []string, host statedir.Host, stderr io.Writer) int {
	program := unit.Taps.Program
	t, err := parse(program, args, host)
	if err != nil {
		return exit.Report(stderr, program, t.vm.Name, err)
	}
	if t.verb == "down" {
		return exit.Report(stderr, program, t.vm.Name, interfacesDown(t.vm, unit.Taps.Record, func(p *hypervisor.Plan) (names []string) {
			for _, tap := range p.Taps {
				names = append(names, tap.ID)
			}
			return names
		}))
	}
	return exit.Report(stderr, program, t.vm.Name, tapUp(program, t, stderr))
}

func tapUp(program string, t target, stderr io.Writer) error {
	plan, err := t.plan()
	if err != nil {
		return err
	}
	account, err := t.vm.Host.Account()
	if err != nil {
		return err
	}
	if err := waiting(program, t.vm.Name, stderr, awaitTun); err != nil {
		return err
	}
	taps := netif.Taps{Alias: netif.Alias(t.vm.Name), Owner: account.UID, Script: os.Getenv("MICROVM_TAP_SCRIPT")}
	for _, tap := range plan.Taps {
		taps.Taps = append(taps.Taps, netif.Tap{Name: tap.ID, VnetHdr: tap.VnetHdr, MultiQueue: tap.MultiQueue})
	}
	var before netif.Record
	if _, err := t.vm.ReadRecord(unit.Taps.Record, &before); err != nil {
		return err
	}
	return taps.Up(before, func(r netif.Record) error { return t.vm.WriteRecord(unit.Taps.Record, r) })
}

// interfacesDown removes the interfaces in the VM's record, and the record. For a VM
// that microvm.nix started, which has none, it removes those that names returns.
func interfacesDown(vm statedir.VM, piece string, names func(*hypervisor.Plan) []string) error {
	var record netif.Record
	found, err := vm.ReadRecord(piece, &record)
	if err != nil {
		return err
	}
	if found {
		err = record.Down()
	} else {
		err = removeUnclaimed(vm, names)
	}
	if err != nil {
		return err
	}
	return vm.RemoveRecord(piece)
}

// removeUnclaimed removes the interfaces that microvm.nix created for this run.
func removeUnclaimed(vm statedir.VM, names func(*hypervisor.Plan) []string) error {
	plan, err := bootedPlan(vm)
	if err != nil || plan == nil {
		return err
	}
	account, err := vm.Host.Account()
	if err != nil {
		return err
	}
	return netif.RemoveUnclaimed(names(plan), account.UID, "/dev")
}

// bootedPlan returns the plan that the VM was started with, by this program or by
// microvm.nix; nil if it is not running.
func bootedPlan(vm statedir.VM) (*hypervisor.Plan, error) {
	p, err := vm.Booted()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = p.Close() }()
	return p.Plan()
}
