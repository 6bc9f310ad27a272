package programs

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"microvm/internal/exit"
	"microvm/internal/statedir"
	"microvm/internal/stop"
	"microvm/internal/systemd"
	"microvm/test/need"
)

func TestTheVariableGoesBeforeTheUnitsTime(t *testing.T) {
	var log bytes.Buffer
	t.Setenv("MICROVM_STOP_TIMEOUT", "33")
	if got := stopTimes(context.Background(), statedir.VM{Name: "none"}, exit.Logger(&log, wrapper)); got != stop.Within(33*time.Second) || log.Len() > 0 {
		t.Errorf("%+v, %s", got, &log)
	}
}

// TestWithoutAManagerAStopTakesTheDefaultTimes, in a mount namespace where none
// is to be seen.
func TestWithoutAManagerAStopTakesTheDefaultTimes(t *testing.T) {
	if systemd.Running() {
		need.Root(t)
		program, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		again := exec.Command(need.Program(t, "unshare"), "--mount", "/bin/sh", "-c", `mount -t tmpfs none /run && exec "$0" "$@"`,
			program, "-test.run=^"+t.Name()+"$", "-test.v")
		out, err := again.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
			t.Errorf("where no manager is to be seen: %v\n%s", err, out)
		}
		return
	}
	var log bytes.Buffer
	t.Setenv("MICROVM_STOP_TIMEOUT", "")
	if got := stopTimes(context.Background(), statedir.VM{Name: "none"}, exit.Logger(&log, wrapper)); got != stop.DefaultTimes || !strings.Contains(log.String(), "TimeoutStopSec= of microvm@none.service") {
		t.Errorf("without a manager: %+v, %s", got, &log)
	}
}

func TestASilentManagerIsNotWaitedFor(t *testing.T) {
	began := time.Now()
	_, err := bounded(context.Background(), 20*time.Millisecond, func(context.Context) (int, error) { select {} })
	if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took > 5*time.Second {
		t.Errorf("%v after %s", err, took)
	}
}
