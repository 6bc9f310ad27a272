package stop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"microvm/internal/exit"
	"microvm/internal/runner"
)

// runScript runs a foreign package's own program, as we are: unprivileged. What
// it prints goes to the log.
func (s *stopping) runScript(ctx context.Context) error {
	program := filepath.Join(s.Package, runner.ShutdownProgram)
	cmd := exec.CommandContext(ctx, program) //nolint:gosec // unprivileged, as the package's microvm-run
	cmd.Dir = s.Dir
	log := &lineLog{logf: s.Logf, prefix: "microvm-shutdown: "}
	cmd.Stdout, cmd.Stderr = log, log
	// What it left running may hold its output open.
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("run %s: %w", program, err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case <-s.Process.Gone():
		// Some such programs wait on the socket of a hypervisor that is gone.
		_ = cmd.Process.Kill()
		<-done
		return nil
	case err := <-done:
		log.flush()
		if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
			return fmt.Errorf("%s: %w", program, err)
		}
		return nil
	}
}

// lineLog logs what a program prints, line by line.
type lineLog struct {
	logf    exit.Logf
	prefix  string
	partial []byte
}

const maxLogLine = 1024

// Write implements io.Writer.
func (l *lineLog) Write(p []byte) (int, error) {
	l.partial = append(l.partial, p...)
	for {
		end := bytes.IndexByte(l.partial, '\n')
		if end < 0 && len(l.partial) < maxLogLine {
			return len(p), nil
		}
		if end < 0 {
			end = len(l.partial) - 1
		}
		l.log(l.partial[:end+1])
		l.partial = l.partial[end+1:]
	}
}

func (l *lineLog) flush() {
	l.log(l.partial)
	l.partial = nil
}

func (l *lineLog) log(line []byte) {
	if text := strings.TrimSpace(string(line)); text != "" {
		l.logf("%s%s", l.prefix, text)
	}
}
