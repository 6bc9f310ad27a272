package statedir

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"microvm/internal/mode"
)

const maxRecord = 1 << 20

// recordAttempts is more than all other helpers of a VM can remove its directory.
const recordAttempts = 100

// recordPause is the longest pause between two attempts.
const recordPause = time.Millisecond

// WriteRecord keeps what a helper did, or is about to do, for the VM, under
// the helper's name. It is root's and lives until RemoveRecord or the next boot.
func (v VM) WriteRecord(piece string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("record %s of %s: %w", piece, v.Name, err)
	}
	err = v.inRuntimeDir(func() error { return writeFile(filepath.Join(v.RuntimeDir(), piece+".json"), data, 0o644) })
	if err != nil {
		return fmt.Errorf("record %s of %s: %w", piece, v.Name, err)
	}
	return nil
}

// inRuntimeDir makes the VM's runtime directory and calls write, which makes a
// file in it.
func (v VM) inRuntimeDir(write func() error) error {
	for attempt := 1; ; attempt++ {
		err := mode.DirAll(v.RuntimeDir(), mode.Public) // not secret, and written by root only
		if err == nil {
			err = write()
		}
		if err == nil {
			return nil
		}
		// Another helper, still ending the run before, removes the directory for
		// being empty.
		removed := errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist)
		if !removed || attempt == recordAttempts {
			return err
		}
		// Two on slow processors were seen to fall into step.
		time.Sleep(rand.N(recordPause)) //nolint:gosec // not a secret
	}
}

// ReadRecord reads what WriteRecord kept. It returns false where there is none.
func (v VM) ReadRecord(piece string, value any) (bool, error) {
	path := filepath.Join(v.RuntimeDir(), piece+".json")
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read record: %w", err)
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxRecord))
	if err != nil {
		return false, fmt.Errorf("read record %s: %w", path, err)
	}
	if err := json.Unmarshal(data, value); err != nil {
		return false, fmt.Errorf("read record %s: %w", path, err)
	}
	return true, nil
}

// RemoveRecord forgets what WriteRecord kept, or was killed while it did, and the
// VM's directory with it where that was the last.
func (v VM) RemoveRecord(piece string) error {
	path := filepath.Join(v.RuntimeDir(), piece+".json")
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove record: %w", err)
	}
	if err := removeLeftoversOf(path); err != nil {
		return err
	}
	return v.removeRuntimeDir()
}

// removeRuntimeDir removes the VM's runtime directory where it is empty.
func (v VM) removeRuntimeDir() error {
	err := unix.Rmdir(v.RuntimeDir())
	if err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove %s: %w", v.RuntimeDir(), err)
	}
	return nil
}
