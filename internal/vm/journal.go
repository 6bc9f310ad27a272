package vm

import (
	"context"
	"fmt"
	"os/exec"
	"time"

	"microvm/internal/printable"
)

// JournalLimit is how long a call of journalctl may take whose output is optional.
const JournalLimit = 15 * time.Second

// syncJournal waits until all messages so far are in the journal, as the last one may
// be missing otherwise. It needs root, and does nothing for other users.
func syncJournal(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, JournalLimit/3)
	defer cancel()
	_ = exec.CommandContext(ctx, "journalctl", "--sync").Run()
}

// LastLines returns the last n lines that the processes of units logged since a time. A
// zero time means no limit. It returns nil if the journal cannot be read.
func LastLines(ctx context.Context, n int, since time.Time, units ...string) []string {
	args := []string{"--quiet", "--no-pager", "--output=cat", fmt.Sprintf("--lines=%d", n)}
	if !since.IsZero() {
		args = append(args, fmt.Sprintf("--since=@%d.%06d", since.Unix(), since.Nanosecond()/1000))
	}
	for _, u := range units {
		// Not --unit=, which adds systemd's own messages about the unit.
		args = append(args, "_SYSTEMD_UNIT="+u)
	}
	ctx, cancel := context.WithTimeout(ctx, JournalLimit)
	defer cancel()
	syncJournal(ctx)
	out, err := exec.CommandContext(ctx, "journalctl", args...).Output() //nolint:gosec // names that are validated
	if err != nil {
		return nil
	}
	return printable.LastLines(string(out), n)
}
