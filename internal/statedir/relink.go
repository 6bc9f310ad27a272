package statedir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"microvm/internal/exit"
	"microvm/internal/printable"
	"microvm/internal/safepath"
)

// Relink writes the drop-ins of all installed VMs as this version does for a new VM,
// and takes over the VMs of microvm.nix. It is for an upgrade of this program, and for
// a host that moves to it. It calls reload if anything changed; reload may be nil. An
// error of one VM does not stop it from relinking the others.
func (h Host) Relink(ctx context.Context, reload func(context.Context) error) error {
	if os.Geteuid() != 0 {
		return exit.WithHint(errors.New("relinking requires root"), "run it with sudo")
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

// takeOver takes over a VM of microvm.nix, whether it runs or not. The VM keeps its
// package, the one that it was started with, and its data. The hypervisors' user owns
// its directory, and could have made its links lead to any package that root owns; as
// with microvm.nix, they are trusted this once.
func (v VM) takeOver(gid int) (changed bool, err error) {
	target, err := os.Readlink(filepath.Join(v.Dir(), "current"))
	if err != nil {
		return false, fmt.Errorf("read installed package: %w", err)
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
	// Links are replaced atomically, and files are removed last: after a crash the next
	// call takes over the VM.
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

// flakeOfMicrovmNix returns the flake reference in the VM's directory, which is not
// trusted, "" if there is none.
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
