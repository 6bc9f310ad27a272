package vm

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"microvm/internal/statedir"
	"microvm/internal/systemd"
	"microvm/internal/timeline"
	"microvm/internal/unit"
)

// NotUpError means that a VM's last start cannot be analyzed because the VM is not up.
type NotUpError struct {
	Name string
	// State is systemd's ActiveState of its unit.
	State string
}

// Error implements error.
func (e NotUpError) Error() string {
	return fmt.Sprintf("%s is %s, but only a successful start can be analyzed", e.Name, e.State)
}

// Hint returns the remedy, see package exit.
func (e NotUpError) Hint() string { return "see: microvm status " + e.Name }

// LastStart returns a VM's last start from systemd and the journal. The error is a
// NotUpError if the VM is not up.
func LastStart(ctx context.Context, v statedir.VM) (timeline.Timeline, error) {
	units, err := systemd.ListUnits(ctx, unit.All(v.Name)...)
	if err != nil {
		return timeline.Timeline{}, err
	}
	props, err := systemd.Properties(ctx, units...)
	if err != nil {
		return timeline.Timeline{}, err
	}
	own := props[unit.VM(v.Name)]
	if state := systemd.Property[string](own, "ActiveState"); state != "active" {
		if state == "" {
			state = "inactive"
		}
		return timeline.Timeline{}, NotUpError{v.Name, state}
	}
	s := timeline.Start{
		VM:        unitTimes(unit.Main.Name, own),
		Executed:  clock(own, "ExecMainStartTimestampMonotonic"),
		Restarted: systemd.Property[uint32](own, "NRestarts") > 0,
	}
	for _, name := range unit.All(v.Name) {
		if p, ok := props[name]; ok && name != unit.VM(v.Name) {
			piece := "install"
			if t, _, ok := unit.Parse(name); ok {
				piece = strings.TrimPrefix(t.Name, "microvm-")
			}
			s.Helpers = append(s.Helpers, unitTimes(piece, p))
		}
	}
	s.Log = startLog(ctx, own)
	return timeline.Of(s), nil
}

func unitTimes(name string, p map[string]dbus.Variant) timeline.Unit {
	return timeline.Unit{Name: name, Began: clock(p, "InactiveExitTimestampMonotonic"), Active: clock(p, "ActiveEnterTimestampMonotonic")}
}

// clock returns one of systemd's timestamps, which are in microseconds.
func clock(p map[string]dbus.Variant, name string) timeline.Clock {
	return time.Duration(systemd.Property[uint64](p, name)) * time.Microsecond
}

// startLog returns what the VM's unit logged in this start, up to READY, or nil if the
// journal cannot be read.
func startLog(ctx context.Context, p map[string]dbus.Variant) []timeline.Entry {
	id, ready := systemd.Property[[]byte](p, "InvocationID"), systemd.Property[uint64](p, "ActiveEnterTimestamp")
	if len(id) == 0 || ready == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, JournalLimit)
	defer cancel()
	syncJournal(ctx)
	// The output of the guest after that is not needed, and may be long.
	const after = 1000000
	until := fmt.Sprintf("--until=@%d.%06d", (ready+after)/1000000, (ready+after)%1000000)
	//nolint:gosec // arguments of our own
	out, err := exec.CommandContext(ctx, "journalctl", "--quiet", "--output=json", "--output-fields=MESSAGE,"+timeline.ReadyField+","+timeline.ReportField, until,
		"_SYSTEMD_INVOCATION_ID="+hex.EncodeToString(id)).Output()
	if err != nil {
		return nil
	}
	return readEntries(out)
}

// readEntries parses the JSON output of journalctl, one entry a line. A field that is
// not text is an array of bytes, and a field that occurs twice an array of strings,
// systemd.journal-fields(7). Such entries are skipped.
func readEntries(out []byte) []timeline.Entry {
	var log []timeline.Entry
	for line := range bytes.Lines(out) {
		var fields map[string]string
		if json.Unmarshal(line, &fields) != nil {
			continue
		}
		at, err := strconv.ParseInt(fields["__MONOTONIC_TIMESTAMP"], 10, 64)
		if err != nil {
			continue
		}
		log = append(log, timeline.Entry{
			At: time.Duration(at) * time.Microsecond, Text: strings.TrimRight(fields["MESSAGE"], "\r"),
			Ready: timeline.Micros(fields[timeline.ReadyField]), Report: timeline.Micros(fields[timeline.ReportField]),
		})
	}
	return log
}
