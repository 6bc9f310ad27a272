package statedir

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"microvm/internal/mode"
)

// Attempt is a start that did not become ready and that systemd tries again. A client
// that waits for its job sees the result "canceled", as it does if the VM is stopped
// meanwhile. With this record it can tell the two apart, at any later time.
type Attempt struct {
	// Job is the id of the start job that waited for it. systemd reuses no id before
	// the next boot.
	Job uint32
	// Result is $SERVICE_RESULT and Status $EXIT_STATUS, systemd.exec(5).
	Result, Status string
	// Helper is the VM's helper unit that had failed by then, empty if none had.
	Helper string
}

// attemptFile returns the path of the record. It is not in the VM's own runtime
// directory, which is removed with the last record of a helper.
func (v VM) attemptFile() string {
	return filepath.Join(v.Host.RuntimeDir, ".attempt-"+v.Name+".json")
}

// WriteAttempt records the last attempt that failed. Every user may read it.
func (v VM) WriteAttempt(a Attempt) error {
	data, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("record failed start of %s: %w", v.Name, err)
	}
	if err := mode.DirAll(v.Host.RuntimeDir, mode.Public); err != nil {
		return fmt.Errorf("record failed start of %s: %w", v.Name, err)
	}
	return writeFile(v.attemptFile(), data, 0o644)
}

// LastAttempt returns the attempt that WriteAttempt recorded, and false if there is
// none.
func (v VM) LastAttempt() (Attempt, bool, error) {
	f, err := os.OpenFile(v.attemptFile(), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return Attempt{}, false, nil
	}
	if err != nil {
		return Attempt{}, false, fmt.Errorf("read record of failed start: %w", err)
	}
	defer func() { _ = f.Close() }()
	var a Attempt
	data, err := io.ReadAll(io.LimitReader(f, maxRecord))
	if err == nil {
		err = json.Unmarshal(data, &a)
	}
	if err != nil {
		return Attempt{}, false, fmt.Errorf("read record of failed start %s: %w", f.Name(), err)
	}
	return a, true, nil
}

// forgetAttempt removes the record of WriteAttempt.
func (v VM) forgetAttempt() error {
	if err := os.Remove(v.attemptFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove record of failed start: %w", err)
	}
	return removeLeftoversOf(v.attemptFile())
}
