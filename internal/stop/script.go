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

// runScript runs a foreign package's shutdown program, unprivileged as this process
// is, and logs its output.
func (s *stopping) runScript(ctx context.Context) error {
	program := filepath.Join(s.Package, runner.ShutdownProgram)
	cmd := exec.CommandContext(ctx, program) //nolint:gosec // unprivileged, as the package's microvm-run
	cmd.Dir = s.Dir
	log := &lineLog{logf: s.Logf, prefix: "microvm-shutdown: "}
	cmd.Stdout, cmd.Stderr = log, log
	// A process that it left running may keep its output open.
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("run %s: %w", program, err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case <-s.Process.Gone():
		// Some such programs wait on the socket of a hypervisor that has exited.
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

// lineLog is an io.Writer that logs a program's output, line by line.
type lineLog struct {
	logf    exit.Logf
	prefix  string
	partial []byte
}

// maxLogLine is where a longer line is broken.
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
