package statedir

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// tempPrefix marks what a crash may leave behind; the next change removes it.
const tempPrefix = ".microvm-new-"

// tempName is a name beside path that nothing has.
func tempName(path string) string {
	var random [6]byte
	_, _ = rand.Read(random[:]) // never fails, crypto/rand
	return filepath.Join(filepath.Dir(path), tempPrefix+filepath.Base(path)+"-"+hex.EncodeToString(random[:]))
}

// writeFile replaces the file at path, whatever it is.
func writeFile(path string, data []byte, mode fs.FileMode) error {
	tmp := tempName(path)
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode) //nolint:gosec // a new name of ours
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Close())
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, errors.Join(err, os.Remove(tmp)))
	}
	return nil
}

// writeLink replaces what is at path by a symbolic link.
func writeLink(target, path string) error {
	tmp := tempName(path)
	if err := os.Symlink(target, tmp); err != nil {
		return fmt.Errorf("make link %s: %w", path, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("make link %s: %w", path, errors.Join(err, os.Remove(tmp)))
	}
	return nil
}

// removeLeftoversOf removes what a crash left of the changes of one file. Unlike
// removeLeftovers it does not disturb who changes another just now.
func removeLeftoversOf(path string) error {
	entries, err := os.ReadDir(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for leftovers: %w", err)
	}
	for _, e := range entries {
		if e.IsDir() || !strings.HasPrefix(e.Name(), tempPrefix+filepath.Base(path)+"-") {
			continue
		}
		if err := os.Remove(filepath.Join(filepath.Dir(path), e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove leftover: %w", err)
		}
	}
	return nil
}

// removeLeftovers removes what a crash left in dir. Entries that are not
// root's cannot be ours and stay.
func removeLeftovers(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("look for leftovers: %w", err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), tempPrefix) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("remove leftover: %w", err)
		}
	}
	return nil
}
