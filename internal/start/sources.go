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

// sourceMode is that of a directory that is made for a share, as virtiofs has it.
const sourceMode = 0o775

// makeSources makes the 9p shares' directories beneath the state directory, where
// they are missing, and says which of the others is.
func makeSources(dir string, shares []hypervisor.NinePShare) error {
	for _, s := range shares {
		// One that is written as a whole path lies beneath it all the same.
		if rel, err := filepath.Rel(dir, s.Source); err == nil && filepath.IsLocal(rel) && rel != "." {
			s.Source = rel
		}
		if filepath.IsAbs(s.Source) {
			info, err := os.Stat(s.Source)
			if err == nil && !info.IsDir() {
				err = unix.ENOTDIR
			}
			if err != nil {
				return exit.WithHint(fmt.Errorf("share %q: source %s: %w", s.Tag, s.Source, cause(err)), "make the directory, or correct shares[].source in the spec")
			}
			continue
		}
		if err := makeSource(dir, s.Source); err != nil {
			return exit.WithHint(fmt.Errorf("share %q: make source %s: %w", s.Tag, s.Source, err),
				"no link is followed inside the state directory; remove what is in its place")
		}
	}
	return nil
}

// makeSource makes a directory beneath dir, level by level, and follows no link.
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
