package statedir

import (
	"path/filepath"

	"microvm/internal/hypervisor"
	"microvm/internal/mounts"
	"microvm/internal/unit"
	"microvm/internal/virtiofsd"
)

// makeSources creates missing directories of shares in the state directory, owned by
// the hypervisors' user, so they can be filled before the first start. Errors are
// ignored: a start creates those that are still missing or reports why not, and a disk
// may be mounted by then.
func (v VM) makeSources(plan *hypervisor.Plan) {
	account, err := v.Host.Account()
	if err != nil {
		return
	}
	stateDir, err := v.Host.RealStateDir()
	if err != nil {
		return
	}
	for _, source := range sourcesOf(plan) {
		if !filepath.IsAbs(source) {
			source = filepath.Join(v.Dir(), source)
		}
		source = filepath.Clean(source)
		root, rel := stateDir, ""
		if own, ok := below(v.Dir(), source); ok {
			root, rel = filepath.Join(stateDir, v.Name), own
		} else if (unit.Facts{VM: v.Name, StateDir: v.Host.StateDir, Reserved: reserved}).Elsewhere(source) {
			rel, _ = below(v.Host.StateDir, source)
		}
		if rel != "" {
			_ = virtiofsd.MakeDir(root, rel, account.UID, account.GID, mounted)
		}
	}
}

// mounted reports whether all mount points at or above path are mounted.
func mounted(path string) bool {
	missing, err := mounts.Host.Missing(path)
	return err == nil && missing == nil
}

// sourcesOf returns the directories of the shares, by 9p and by virtiofs.
func sourcesOf(plan *hypervisor.Plan) []string {
	var out []string
	for _, s := range plan.NinePShares {
		out = append(out, s.Source)
	}
	for _, s := range plan.Shares {
		out = append(out, s.Source)
	}
	return out
}
