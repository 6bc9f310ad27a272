package statedir

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"microvm/internal/hypervisor"
	"microvm/internal/mode"
	"microvm/internal/unit"
)

// linkUnits writes the drop-ins that the VM's units need for its plan in addition to
// the templates. It reports whether anything changed.
func (v VM) linkUnits(plan *hypervisor.Plan) (bool, error) {
	texts, err := v.dropIns(plan)
	if err != nil {
		return false, err
	}
	links, err := v.removeOldLinks()
	if err != nil {
		return false, err
	}
	dropIns, err := v.writeDropIns(texts)
	return links || dropIns, err
}

// removeOldLinks removes the links by which earlier versions made the VM's unit
// require its helpers: a unit whose requirement failed is not tried again.
func (v VM) removeOldLinks() (changed bool, err error) {
	dir := filepath.Join(v.Host.UnitDir, unit.RequiresDir(v.Name))
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("read unit links of %s: %w", v.Name, err)
	}
	for _, e := range entries {
		if !unit.OwnRequire(e.Name()) {
			continue
		}
		changed = true
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return false, fmt.Errorf("remove unit link: %w", err)
		}
	}
	_ = os.Remove(dir) // fails unless empty
	return changed, nil
}

// dropIns returns the texts of the drop-ins of a VM of that plan on this host, by their
// paths; see unit.DropIns.
func (v VM) dropIns(plan *hypervisor.Plan) (map[string]string, error) {
	facts := unit.Facts{
		VM:       v.Name,
		StateDir: v.Host.StateDir, Reserved: reserved,
		RuntimeDir: v.RuntimeDir(), LibexecDir: v.Host.LibexecDir,
		Booted: v.bootedPlan(),
		Behind: func(path string) string { return behindLinks(path, nil) },
		BehindLocal: func() func(string) string {
			remote := sync.OnceValue(remoteMounts)
			return func(path string) string { return behindLinks(path, remote()) }
		}(),
		JailFile: jailFile,
	}
	if v.Host.SystemdVersion != nil {
		facts.Systemd = v.Host.SystemdVersion()
	}
	return unit.DropIns(plan, facts)
}

// bootedPlan returns the plan of the package that the VM was started with, nil if it
// was not started or the plan cannot be read.
func (v VM) bootedPlan() *hypervisor.Plan {
	p, err := v.Booted()
	if err != nil {
		return nil
	}
	defer func() { _ = p.Close() }()
	plan, err := p.Plan()
	if err != nil {
		return nil
	}
	return plan
}

// writeDropIns writes the drop-ins of texts, and removes those whose text is empty. It
// reports whether anything changed.
func (v VM) writeDropIns(texts map[string]string) (changed bool, err error) {
	for _, path := range slices.Sorted(maps.Keys(texts)) {
		one, err := v.writeDropIn(path, texts[path])
		if err != nil {
			return changed, err
		}
		changed = changed || one
	}
	return changed, nil
}

// dropInMode is the mode of unit files, which every user may read.
const dropInMode = 0o644

func (v VM) writeDropIn(name, text string) (changed bool, err error) {
	path := filepath.Join(v.Host.UnitDir, name)
	dir, wanted := filepath.Dir(path), text != ""
	have, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("read drop-in: %w", err)
	}
	switch {
	case wanted && string(have) == text:
		return false, errors.Join(mode.Ensure(dir, mode.Public), os.Chmod(path, dropInMode))
	case !wanted && have == nil:
		return false, nil
	case !wanted:
		err = os.Remove(path)
		_ = os.Remove(dir) // fails unless empty
		return true, err
	}
	if err := mode.Ensure(dir, mode.Public); err != nil {
		return false, fmt.Errorf("create drop-in: %w", err)
	}
	return true, writeFile(path, []byte(text), dropInMode)
}
