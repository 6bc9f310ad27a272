package statedir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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
	return writeLink(p.Dir(), filepath.Join(v.Dir(), "booted"))
}

// ClearBooted removes booted.
func (v VM) ClearBooted() error {
	err := os.Remove(filepath.Join(v.Dir(), "booted"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unpin the booted runner of %s: %w", v.Name, err)
	}
	return nil
}
