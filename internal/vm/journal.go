package vm

import (
	"context"
	"fmt"
	"os/exec"
	"time"

	"microvm/internal/printable"
)

// JournalLimit is how long the journal may take where its lines are an addition.
const JournalLimit = 15 * time.Second

// syncJournal waits until what was logged so far is in the journal; without it the
// last line may be missing. Only root may.
func syncJournal(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, JournalLimit/3)
	defer cancel()
	_ = exec.CommandContext(ctx, "journalctl", "--sync").Run()
}

// LastLines returns the last n lines that the processes of units wrote since a
// time; a zero time means ever. Where the journal cannot be read it is empty.
func LastLines(ctx context.Context, n int, since time.Time, units ...string) []string {
	args := []string{"--quiet", "--no-pager", "--output=cat", fmt.Sprintf("--lines=%d", n)}
	if !since.IsZero() {
		args = append(args, fmt.Sprintf("--since=@%d.%06d", since.Unix(), since.Nanosecond()/1000))
	}
	for _, u := range units {
		// Not --unit=, which adds what systemd itself says of the unit.
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
