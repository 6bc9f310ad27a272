package statedir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// SetBooted pins booted to the package that current leads to now, after
// checking that it is root's. Everything that a start does reads booted.
func (v VM) SetBooted() error {
	p, err := v.Current()
	if err != nil {
		return err
	}
	defer func() { _ = p.Close() }()
	if _, err := p.Plan(); err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		return writeLink(p.Dir(), filepath.Join(v.Dir(), "booted"))
	}
	return v.giveBooted(p.Dir())
}

// giveBooted makes booted as the hypervisors' user, with CAP_CHOWN, and hands
// it to root. One that is not root's is trusted by nobody.
func (v VM) giveBooted(target string) error {
	path := filepath.Join(v.Dir(), "booted")
	tmp := tempName(path)
	if err := os.Symlink(target, tmp); err != nil {
		return fmt.Errorf("make link %s: %w", path, err)
	}
	// The rename comes before the change of owner: in a sticky directory only the
	// owner may.
	if err := unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, path, unix.RENAME_NOREPLACE); err != nil {
		return fmt.Errorf("make link %s: %w", path, errors.Join(err, os.Remove(tmp)))
	}
	if err := os.Lchown(path, 0, 0); err != nil {
		return fmt.Errorf("give %s to root: %w", path, errors.Join(err, os.Remove(path)))
	}
	return nil
}

// ClearBooted removes booted, and what a SetBooted left that was killed.
func (v VM) ClearBooted() error {
	path := filepath.Join(v.Dir(), "booted")
	err := os.Remove(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unpin the booted runner of %s: %w", v.Name, err)
	}
	return removeLeftoversOf(path)
}
