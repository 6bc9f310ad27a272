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

// maxRecord is the maximum size of a record, in bytes.
const maxRecord = 1 << 20

// recordAttempts is more often than all other helpers of a VM can remove its directory.
const recordAttempts = 100

// recordPause is the longest pause between two attempts.
const recordPause = time.Millisecond

// WriteRecord records what a helper did or is about to do for the VM. piece is the
// helper's name. Only root can change the record, which exists until RemoveRecord or
// the next boot.
func (v VM) WriteRecord(piece string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("write record %s of VM %s: %w", piece, v.Name, err)
	}
	err = v.inRuntimeDir(func() error { return writeFile(filepath.Join(v.RuntimeDir(), piece+".json"), data, 0o644) })
	if err != nil {
		return fmt.Errorf("write record %s of VM %s: %w", piece, v.Name, err)
	}
	return nil
}

// inRuntimeDir creates the VM's runtime directory and calls write, which creates a file
// in it.
func (v VM) inRuntimeDir(write func() error) error {
	for attempt := 1; ; attempt++ {
		err := mode.DirAll(v.RuntimeDir(), mode.Public) // not secret
		if err == nil {
			err = write()
		}
		if err == nil {
			return nil
		}
		// Another helper, which is still ending the previous run, may remove the empty
		// directory.
		removed := errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist)
		if !removed || attempt == recordAttempts {
			return err
		}
		// Without a random pause, two on slow processors were seen to fall into step.
		time.Sleep(rand.N(recordPause)) //nolint:gosec // not a secret
	}
}

// ReadRecord reads a record of WriteRecord into value, as json.Unmarshal does. It
// returns false if there is none.
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

// RemoveRecord removes a record of WriteRecord, also of one that was killed halfway, and
// the VM's runtime directory if it is empty then.
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

// removeRuntimeDir removes the VM's runtime directory if it is empty.
func (v VM) removeRuntimeDir() error {
	err := unix.Rmdir(v.RuntimeDir())
	if err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove %s: %w", v.RuntimeDir(), err)
	}
	return nil
}
