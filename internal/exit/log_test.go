package exit

import (
	"errors"
	"strings"
	"testing"
)

func TestALineOfALogBeginsWithTheProgram(t *testing.T) {
	var log strings.Builder
	logf := Logger(&log, "stand-in")
	logf("growing %s to %d MiB", "a.img", 8)
	logf("warning: %w; going on", WithHint(errors.New("no\x1b[2J lock"), "stop the other"))
	want := "stand-in: growing a.img to 8 MiB\nstand-in: warning: no lock; going on\nstand-in: hint: stop the other\n"
	if log.String() != want {
		t.Errorf("%q, want %q", log.String(), want)
	}
}
