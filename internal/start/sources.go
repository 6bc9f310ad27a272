package start

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
	"microvm/internal/mode"
	"microvm/internal/safepath"
)

// sourceMode is the mode of a directory that is created for a share, the same as for
// virtiofs.
const sourceMode = 0o775

// makeSources creates missing directories of 9p shares beneath the state directory,
// and returns an error for one that is missing elsewhere.
func makeSources(dir string, shares []hypervisor.NinePShare) error {
	for _, s := range shares {
		// An absolute path may be beneath it as well.
		if rel, err := filepath.Rel(dir, s.Source); err == nil && filepath.IsLocal(rel) && rel != "." {
			s.Source = rel
		}
		if filepath.IsAbs(s.Source) {
			info, err := os.Stat(s.Source)
			if err == nil && !info.IsDir() {
				err = unix.ENOTDIR
			}
			if err != nil {
				return exit.WithHint(fmt.Errorf("share %q: source %s: %w", s.Tag, s.Source, cause(err)), "create the directory, or correct shares[].source in the spec")
			}
			continue
		}
		if err := makeSource(dir, s.Source); err != nil {
			return exit.WithHint(fmt.Errorf("share %q: create source %s: %w", s.Tag, s.Source, err),
				"put a directory there: links inside the state directory are not followed")
		}
	}
	return nil
}

// makeSource creates a directory beneath dir with its parents, following no links.
func makeSource(dir, source string) error {
	at, err := safepath.OpenDir(dir)
	if err != nil {
		return err
	}
	defer safepath.Close(at)
	made, err := safepath.MkdirBeneath(at, source, mode.As(sourceMode))
	if err != nil {
		return err
	}
	safepath.Close(made)
	return nil
}
