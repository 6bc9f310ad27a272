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

// Attempt is a start that did not become ready and that the service manager
// tries again. Whoever waits for its job is told that the job was canceled, as
// they are when somebody stops the VM meanwhile; by this record they can tell
// the one from the other, however late they look.
type Attempt struct {
	// Job is the id of the start job that was waiting for it. The service manager
	// gives each to one job only, until the next boot.
	Job uint32
	// Result is $SERVICE_RESULT and Status $EXIT_STATUS of it, systemd.exec(5).
	Result, Status string
	// Helper is the VM's helper unit that had failed by then; empty where none had.
	Helper string
}

// attemptFile is not in the VM's own runtime directory: that goes with the last
// record of a helper, and this one outlives the attempt.
func (v VM) attemptFile() string {
	return filepath.Join(v.Host.RuntimeDir, ".attempt-"+v.Name+".json")
}

// WriteAttempt records the last attempt that failed. Everybody may read it.
func (v VM) WriteAttempt(a Attempt) error {
	data, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("record a failed start of %s: %w", v.Name, err)
	}
	if err := mode.DirAll(v.Host.RuntimeDir, mode.Public); err != nil {
		return fmt.Errorf("record a failed start of %s: %w", v.Name, err)
	}
	return writeFile(v.attemptFile(), data, 0o644)
}

// LastAttempt reads what WriteAttempt recorded; false where there is nothing.
func (v VM) LastAttempt() (Attempt, bool, error) {
	f, err := os.OpenFile(v.attemptFile(), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return Attempt{}, false, nil
	}
	if err != nil {
		return Attempt{}, false, fmt.Errorf("read the record of a failed start: %w", err)
	}
	defer func() { _ = f.Close() }()
	var a Attempt
	data, err := io.ReadAll(io.LimitReader(f, maxRecord))
	if err == nil {
		err = json.Unmarshal(data, &a)
	}
	if err != nil {
		return Attempt{}, false, fmt.Errorf("read the record of a failed start, %s: %w", f.Name(), err)
	}
	return a, true, nil
}

// forgetAttempt removes what WriteAttempt recorded.
func (v VM) forgetAttempt() error {
	if err := os.Remove(v.attemptFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the record of a failed start: %w", err)
	}
	return removeLeftoversOf(v.attemptFile())
}
