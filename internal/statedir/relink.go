package statedir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"microvm/internal/printable"
	"microvm/internal/safepath"
)

// Relink gives the units of all installed VMs what this version gives a VM that it
// installs now, takes over those of microvm.nix, and calls reload, where it is not
// nil, if anything changed. It is for an upgrade of this program, and for a host
// that comes to it. A VM that cannot be relinked does not keep the others from it.
func (h Host) Relink(ctx context.Context, reload func(context.Context) error) error {
	if os.Geteuid() != 0 {
		return errors.New("relinking needs root; run it with sudo")
	}
	names, err := h.Names()
	if err != nil || len(names) == 0 {
		return err
	}
	account, err := h.Account()
	if err != nil {
		return err
	}
	unlock, err := h.lock()
	if err != nil {
		return err
	}
	defer unlock()
	var errs error
	changed := false
	for _, name := range names {
		vm := VM{Host: h, Name: name}
		if !vm.Installed() {
			continue
		}
		work := vm.relink
		if !vm.Adopted() {
			work = func() (bool, error) { return vm.takeOver(account.GID) }
		}
		one, err := work()
		if err != nil {
			errs = errors.Join(errs, fmt.Errorf("%s: %w", name, err))
		}
		changed = changed || one
	}
	if changed && reload != nil {
		errs = errors.Join(errs, reload(ctx))
	}
	return errs
}

// relink is Relink of one VM.
func (v VM) relink() (changed bool, err error) {
	p, err := v.Current()
	if err != nil {
		return false, err
	}
	defer func() { _ = p.Close() }()
	plan, err := p.Plan()
	if err != nil {
		return false, err
	}
	changed, err = v.linkUnits(plan)
	return changed, errors.Join(err, v.keepFromCollection())
}

// takeOver makes a VM of microvm.nix one of ours, whether it runs or not: it keeps
// its package, what it was started with, and its data. Its directory belongs to the
// hypervisors' user, who could have chosen any package of root's; as with microvm.nix
// its word counts this once. A directory that is root's stays what root made of it.
func (v VM) takeOver(gid int) (changed bool, err error) {
	target, err := os.Readlink(filepath.Join(v.Dir(), "current"))
	if err != nil {
		return false, fmt.Errorf("read what is installed: %w", err)
	}
	p, err := v.Host.openTrusted(target)
	if err != nil {
		return false, err
	}
	defer func() { _ = p.Close() }()
	plan, err := p.Plan()
	if err != nil {
		return false, err
	}
	if _, err := v.dropIns(plan); err != nil {
		return false, err
	}
	kept, err := v.Host.keep(p, v.Name)
	if err != nil {
		return false, err
	}
	// What is replaced is replaced at once, and what goes goes last: a crash leaves a
	// VM that is taken over by the next call.
	if err := v.ownDir(gid); err != nil {
		return false, err
	}
	from := Origin{TakenOver: true, Claimed: v.flakeOfMicrovmNix()}
	err = errors.Join(
		v.adoptBooted(),
		writeLink(kept, filepath.Join(v.Dir(), "current")),
	)
	if err != nil {
		return false, err
	}
	if err := errors.Join(v.makeRecord(), v.record(from)); err != nil {
		return false, err
	}
	if err := v.clean(); err != nil {
		return false, err
	}
	changed, err = v.linkUnits(plan)
	return changed, errors.Join(err, v.switchTo(kept), v.keepFromCollection())
}

// flakeOfMicrovmNix is what the VM's directory says of where it comes from.
func (v VM) flakeOfMicrovmNix() string {
	const most = 4096
	dir, err := safepath.OpenDir(v.Dir())
	if err != nil {
		return ""
	}
	defer safepath.Close(dir)
	f, err := safepath.OpenFile(dir, "flake")
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil || len(text) == most {
		return ""
	}
	return printable.Line(strings.TrimSpace(string(text)))
}
